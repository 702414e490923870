//! What goes wrong, with which files, and when.

use crate::Random;

/// Files of a store that something goes wrong with. Shards lie in the store's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    Pages,
    Index,
    Seal,
    Shard,
    /// One of two copies.
    JournalCopy,
    /// The same, and after it the other copy is lost.
    LastCopy,
    /// The only copy.
    Journal,
    /// MANIFEST, SCRUB and what else is small in the store's own directory.
    Small,
    /// A file system of its own, on a device, for a shard.
    ShardDevice,
    /// The same for the journal, the only copy.
    JournalDevice,
}

/// The shard that is hit.
const SHARD: &str = "store/shards/0001/";

impl Target {
    pub const ALL: [Target; 10] = [
        Target::Pages,
        Target::Index,
        Target::Seal,
        Target::Shard,
        Target::JournalCopy,
        Target::LastCopy,
        Target::Journal,
        Target::Small,
        Target::ShardDevice,
        Target::JournalDevice,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Target::Pages => "a shard's pages",
            Target::Index => "a shard's index (sled)",
            Target::Seal => "SEAL, IDENTITY",
            Target::Shard => "a shard's directory, all of it",
            Target::JournalCopy => "journal, one of two copies",
            Target::LastCopy => "journal, one of two copies, then the other is lost",
            Target::Journal => "journal, the only copy",
            Target::Small => "MANIFEST, SCRUB, MIRRORS",
            Target::ShardDevice => "a shard's ext4",
            Target::JournalDevice => "the journal's ext4, the only copy",
        }
    }

    /// Whether a file, named by its path below what is mounted, is one of them.
    pub fn has(self, path: &str) -> bool {
        let name = path.rsplit('/').next().unwrap_or_default();
        let in_shard = path.starts_with(SHARD) && !path.contains("/quarantine-");
        match self {
            Target::Pages => in_shard && name == "pages",
            Target::Index => in_shard && path.contains("/index"),
            Target::Seal => in_shard && (name.starts_with("SEAL") || name.starts_with("IDENTITY")),
            Target::Shard => path.starts_with(SHARD) || path == SHARD.trim_end_matches('/'),
            Target::JournalCopy | Target::LastCopy => path.starts_with("store/journal-a"),
            Target::Journal => path.starts_with("store/journal"),
            Target::Small => {
                let small = ["MANIFEST", "SCRUB", "MIRRORS"].iter().any(|small| name.starts_with(small));
                small && path.matches('/').count() == 1
            }
            Target::ShardDevice | Target::JournalDevice => false,
        }
    }

    /// Whether a path lies where the files do: what is free there is asked of directories.
    pub fn is_on_disk_of(self, path: &str) -> bool {
        match self {
            Target::Pages | Target::Index | Target::Seal => path.starts_with(SHARD.trim_end_matches('/')),
            // Nobody asks for the sake of the small ones.
            Target::Small => false,
            _ => self.has(path),
        }
    }

    /// Whether writes may be refused, cleanly, since there is no other copy.
    pub fn may_refuse(self) -> bool {
        matches!(self, Target::Journal | Target::JournalDevice)
    }

    /// Whether it has a device of its own, which does not lie behind our file system.
    pub fn is_device(self) -> bool {
        matches!(self, Target::ShardDevice | Target::JournalDevice)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    WriteError,
    SyncError,
    ReadError,
    NoSpace,
    Quota,
    Lost,
    Flipped,
    Misdirected,
    Dead,
    Shutdown,
}

impl Fault {
    pub const ALL: [Fault; 10] = [
        Fault::WriteError,
        Fault::SyncError,
        Fault::ReadError,
        Fault::NoSpace,
        Fault::Quota,
        Fault::Lost,
        Fault::Flipped,
        Fault::Misdirected,
        Fault::Dead,
        Fault::Shutdown,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Fault::WriteError => "writes fail (EIO)",
            Fault::SyncError => "a sync fails (EIO), and what it was for is lost",
            Fault::ReadError => "reads fail (EIO)",
            Fault::NoSpace => "no space (ENOSPC)",
            Fault::Quota => "over quota (EDQUOT)",
            Fault::Lost => "a write is lost",
            Fault::Flipped => "a bit is flipped as it is written",
            Fault::Misdirected => "a write goes to the wrong place",
            Fault::Dead => "everything fails (EIO), and comes back",
            Fault::Shutdown => "ext4 is shut down, and mounted again",
        }
    }

    /// Whether the store is not told of it.
    pub fn is_silent(self) -> bool {
        matches!(self, Fault::Lost | Fault::Flipped | Fault::Misdirected)
    }

    /// Whether it goes on until it is lifted.
    fn lasts(self) -> bool {
        matches!(self, Fault::NoSpace | Fault::Quota | Fault::Dead)
    }

    /// Whether it befalls such an operation.
    fn befalls(self, operation: Operation) -> bool {
        match self {
            Fault::WriteError | Fault::Lost | Fault::Flipped | Fault::Misdirected => {
                matches!(operation, Operation::Write { .. })
            }
            Fault::SyncError => matches!(operation, Operation::Sync | Operation::Write { through: true, .. }),
            Fault::ReadError => operation == Operation::Read,
            Fault::NoSpace | Fault::Quota => {
                matches!(operation, Operation::Make | Operation::Write { grows: true, .. })
            }
            Fault::Dead => true,
            Fault::Shutdown => false,
        }
    }
}

/// What is asked of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Look,
    Read,
    Write { grows: bool, through: bool },
    Sync,
    Make,
    Name,
}

/// A fault that waits for its turn.
#[derive(Debug, Clone)]
pub struct Armed {
    pub fault: Fault,
    /// Operations that it lets pass first.
    skip: u64,
    /// Operations that it befalls.
    left: u64,
}

impl Armed {
    pub fn draw(target: Target, fault: Fault, random: &mut Random) -> Armed {
        let left = match fault {
            _ if fault.lasts() => u64::MAX,
            Fault::SyncError => 1,
            fault if fault.is_silent() => 1 + random.below(3),
            _ => 1 + random.below(20),
        };
        let is_busy = !matches!(target, Target::Index | Target::Seal | Target::Small);
        let skip = random.below(match (is_busy, fault) {
            (true, Fault::Dead) => 200,
            (true, _) => 12,
            (false, _) => 3,
        });
        Armed { fault, skip, left }
    }

    pub fn is_spent(&self) -> bool {
        self.left == 0
    }

    /// Whether this operation is one that it befalls.
    pub fn strikes(&mut self, operation: Operation) -> bool {
        if !self.fault.befalls(operation) || self.left == 0 {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.left -= u64::from(self.left != u64::MAX);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_lets_some_pass_befalls_some_and_is_over() {
        let mut armed = Armed { fault: Fault::WriteError, skip: 2, left: 1 };
        let write = Operation::Write { grows: false, through: false };
        let struck: Vec<bool> =
            [Operation::Sync, write, write, write, write].map(|op| armed.strikes(op)).to_vec();
        assert_eq!(struck, [false, false, false, true, false]);
        assert!(armed.is_spent());
        let mut full = Armed { fault: Fault::NoSpace, skip: 0, left: u64::MAX };
        assert!(!full.strikes(write), "what is there already has its space");
        assert!((0..9).all(|_| full.strikes(Operation::Make)));
    }

    #[test]
    fn files_are_told_apart_by_their_names() {
        let of = |path: &str| Target::ALL.into_iter().filter(|target| target.has(path)).collect::<Vec<_>>();
        assert_eq!(of("store/shards/0001/engine/pages"), [Target::Pages, Target::Shard]);
        assert_eq!(of("store/shards/0001/engine/index/db"), [Target::Index, Target::Shard]);
        assert_eq!(of("store/shards/0001/SEAL.tmp"), [Target::Seal, Target::Shard]);
        assert_eq!(of("store/shards/0002/SEAL"), []);
        assert_eq!(of("store/journal/0000000000000001.seg"), [Target::Journal]);
        assert_eq!(of("store/MANIFEST.tmp"), [Target::Small]);
        assert_eq!(of("store/journal-a/MIRRORS"), [Target::JournalCopy, Target::LastCopy, Target::Journal]);
    }
}
