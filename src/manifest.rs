//! The manifest: what the store is (its shards, its ring, its keyspaces), in one small file that is replaced whole.
//!
//! Invariants: the manifest is written last when a store is created, so a directory with one is a whole store; every
//! change of it goes through [`Manifest::store`], which has made it durable on return; numbers of shards and keyspaces
//! are never used again.

mod given_up;

pub use given_up::{GivenUp, Kept};

use crate::disk::Disk;
use crate::envelope::{self, Kind, hex_bytes, hex128};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{KeyspaceId, ShardId};
use crate::limits;
use crate::ring::Topology;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The name of the file in the store's directory.
pub const FILE: &str = "MANIFEST";

/// The name of keyspace 0, which the methods of the store itself use and which always exists.
pub const DEFAULT_KEYSPACE: &str = "default";

pub const KIND: Kind = Kind {
    magic: b"ANNULUSM",
    version: 5,
    oldest: 1,
    name: "manifest",
    remedy: "restore it from a copy: every shard's IDENTITY file carries the manifest as it was last written",
};

/// The body of the manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Drawn at random when the store was created.
    #[serde(with = "hex128")]
    pub store: u128,
    /// Rises with every writing of this file, so that the newest of several copies is known.
    pub generation: u64,
    /// The engine that keeps the shards.
    pub engine: String,
    pub page_bytes: usize,
    pub shards: Vec<ShardEntry>,
    pub keyspaces: Vec<KeyspaceEntry>,
    pub next_keyspace: u32,
    pub next_shard: u32,
    pub topology: Topology,
    /// The change of the topology that is under way. Since version 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<ChangeEntry>,
    /// The copies of the journal; none: one, in the store's own directory. Since version 3.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub journals: Vec<JournalEntry>,
    /// A part of the journal that the user has given up, until that has been carried out. Since version 4, which is written only
    /// then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_up: Option<GivenUp>,
}

/// Where a copy of the journal lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JournalEntry {
    pub id: u32,
    /// Relative to the store's directory if it lies inside it, so that the whole store can be moved.
    pub path: PathBuf,
    /// How many file systems begin on the way there; 0 on the store's own. Where there are fewer, a disk is not mounted. Since version 5,
    /// which is written only where it is not 0.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mounts: u32,
}

/// How far a change of the topology has got. What is found of it at an opening is taken up from here, or rolled back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeEntry {
    pub next: Topology,
    pub step: ChangeStep,
    /// While copying: records below this internal key are on their new owners, durably; in hexadecimal digits.
    #[serde(default, with = "hex_bytes", skip_serializing_if = "Vec::is_empty")]
    pub position: Vec<u8>,
    /// Versions of records, and bytes of keys and values, that were copied up to there.
    #[serde(default)]
    pub records: u64,
    #[serde(default)]
    pub bytes: u64,
    /// The bytes that the plan foresaw.
    #[serde(default)]
    pub planned: u64,
}

/// What a change of the topology is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeStep {
    /// The directories of shards that join are being made. Found at an opening, it is rolled back.
    Preparing,
    /// New owners get what they gain, and every write.
    Copying,
    /// All has been copied, and is compared.
    Verifying,
}

/// What a shard is to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShardState {
    /// A member of the ring.
    #[default]
    Member,
    /// A member of the ring that a change leads to.
    Joining,
    /// No longer a member; its directory is kept until it is dropped.
    Retired,
    /// It was joining when the change was cancelled: its directory is to be cleared.
    Abandoned,
}

/// Where a shard lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardEntry {
    pub id: ShardId,
    /// Relative to the store's directory if it lies inside it, so that the whole store can be moved.
    pub path: PathBuf,
    /// Since version 2.
    #[serde(default, skip_serializing_if = "is_default")]
    pub state: ShardState,
    /// Whether it may hold records that it does not own and that nobody keeps up. Since version 2.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stale: bool,
    /// Whether its directory lies on another file system than the store's: then one that is missing or empty may be that of a
    /// disk that is not mounted. Since version 3.
    #[serde(default, skip_serializing_if = "is_default")]
    pub own_disk: bool,
}

impl ShardEntry {
    /// A member with nothing in it.
    pub fn new(id: ShardId, path: PathBuf) -> ShardEntry {
        ShardEntry { id, path, state: ShardState::Member, stale: false, own_disk: false }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A keyspace, or one that was dropped and still has records in the shards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyspaceEntry {
    pub id: KeyspaceId,
    pub name: String,
    #[serde(default)]
    pub dropped: bool,
}

impl Manifest {
    /// Reads and checks the manifest of the store in `dir`; none if there is no such file.
    pub fn load(disk: &dyn Disk, dir: &Path) -> Result<Option<Manifest>> {
        let path = dir.join(FILE);
        let failed = |e| envelope::unread(KIND, &path, e);
        let Some(bytes) = disk.read(&path).map_err(failed)? else {
            return Ok(None);
        };
        Self::decode(&path, &bytes).map(Some)
    }

    /// Decodes and checks the bytes of a manifest.
    pub fn decode(path: &Path, bytes: &[u8]) -> Result<Manifest> {
        let manifest: Manifest = envelope::decode(KIND, path, bytes)?;
        manifest.check().map_err(|what| {
            Error::corruption(format!("the manifest contradicts itself: {what}")).at(path).remedy(KIND.remedy)
        })?;
        Ok(manifest)
    }

    /// Makes this the store's manifest, durably.
    pub fn store(&self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        // Nobody could read it.
        self.check().map_err(|what| {
            Error::invalid(format!("the manifest would contradict itself: {what}"))
                .at(&path)
                .remedy("nothing was changed")
        })?;
        let bytes = self.encode()?;
        disk.replace(&path, &bytes).map_err(|e| Error::io("replace the manifest", &path, e))
    }

    /// The same, for one that is newer than what is there: of copies that differ the one counts that was written last.
    pub fn store_next(&mut self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        self.generation = self.generation.saturating_add(1);
        self.store(disk, dir)
    }

    /// The keyspace of that name, if it exists.
    pub fn keyspace(&self, name: &str) -> Option<&KeyspaceEntry> {
        self.keyspaces.iter().find(|k| k.name == name && !k.dropped)
    }

    /// Adds a keyspace and returns its number; the caller has seen that there is none of that name.
    pub fn add_keyspace(&mut self, name: &str) -> Result<KeyspaceId> {
        let dropped = self.keyspaces.iter().filter(|k| k.dropped).count();
        if self.keyspaces.len() - dropped >= limits::MAX_KEYSPACES {
            let message = format!("the store has its most keyspaces, {}", limits::MAX_KEYSPACES);
            return Err(Error::invalid(message).remedy("drop one that is no longer used"));
        }
        if dropped >= limits::MAX_KEYSPACES {
            let message =
                format!("{dropped} keyspaces have been dropped whose records are yet to leave the shards");
            return Err(Error::new(ErrorKind::Busy, message)
                .remedy("bring shards that are offline back, which the others wait for: see health()"));
        }
        let id = KeyspaceId(self.next_keyspace);
        self.next_keyspace = self.next_keyspace.checked_add(1).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "every number for a keyspace has been used in this store")
        })?;
        self.keyspaces.push(KeyspaceEntry { id, name: name.to_owned(), dropped: false });
        Ok(id)
    }

    fn check(&self) -> Result<(), String> {
        self.topology.validate().map_err(|e| e.to_string())?;
        let mut members: Vec<ShardId> = self.topology.members.iter().map(|m| m.id).collect();
        let mut shards: Vec<ShardId> = self.shards.iter().map(|s| s.id).collect();
        members.sort_unstable();
        shards.sort_unstable();
        if members.iter().any(|id| shards.binary_search(id).is_err()) {
            return Err("the ring names a shard that has no directory".into());
        }
        self.check_states(&members)?;
        if shards.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("two shards have the same number".into());
        }
        if shards.last().is_some_and(|id| id.0 >= self.next_shard) {
            return Err("a shard has a number that has not been given out".into());
        }
        let mut ids: Vec<u32> = self.keyspaces.iter().map(|k| k.id.0).collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair[0] == pair[1])
            || ids.last().is_some_and(|id| *id >= self.next_keyspace)
        {
            return Err("the numbers of the keyspaces are not unique".into());
        }
        let live = self.keyspaces.iter().filter(|k| !k.dropped);
        let mut names: Vec<&str> = live.map(|k| k.name.as_str()).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("two keyspaces have the same name".into());
        }
        let mut journals: Vec<u32> = self.journals.iter().map(|j| j.id).collect();
        journals.sort_unstable();
        if journals.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("two copies of the journal have the same number".into());
        }
        if !(256..=32 << 10).contains(&self.page_bytes) {
            return Err(format!("page_bytes is {}", self.page_bytes));
        }
        Ok(())
    }
}

impl Manifest {
    /// The shards of the ring, and those that are joining, agree with what the entries say.
    fn check_states(&self, members: &[ShardId]) -> Result<(), String> {
        let next: Vec<ShardId> = match &self.change {
            Some(change) => {
                change.next.validate().map_err(|e| e.to_string())?;
                if change.next.epoch <= self.topology.epoch {
                    return Err("the change under way leads to an older epoch".into());
                }
                change.next.members.iter().map(|m| m.id).collect()
            }
            None => Vec::new(),
        };
        for entry in &self.shards {
            let expected = match entry.state {
                ShardState::Member => members.contains(&entry.id),
                ShardState::Joining => next.contains(&entry.id) && !members.contains(&entry.id),
                ShardState::Retired | ShardState::Abandoned => {
                    !members.contains(&entry.id) && !next.contains(&entry.id)
                }
            };
            if !expected {
                return Err(format!("shard {} is {:?}, but the ring says otherwise", entry.id, entry.state));
            }
        }
        match next.iter().find(|id| !self.shards.iter().any(|s| s.id == **id)) {
            Some(id) => Err(format!("the change under way names shard {id}, which has no directory")),
            None => Ok(()),
        }
    }

    /// The directory of a shard.
    pub fn entry(&self, id: ShardId) -> Option<&ShardEntry> {
        self.shards.iter().find(|entry| entry.id == id)
    }
}

/// Checks the name of a keyspace against the limits.
pub fn check_keyspace_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > limits::MAX_KEYSPACE_NAME_BYTES {
        let most = limits::MAX_KEYSPACE_NAME_BYTES;
        return Err(Error::invalid(format!("a keyspace's name has 1 to {most} bytes, not {}", name.len())));
    }
    if name.chars().any(char::is_control) {
        return Err(Error::invalid("a keyspace's name has no control characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::ids::Epoch;
    use crate::ring::{Member, Partitioner};

    pub(super) fn manifest() -> Manifest {
        let member = |id| Member::new(ShardId(id));
        let topology = Topology::first(vec![member(0)], 1, 16, Partitioner::Whole).unwrap();
        let mut next = Topology::first(vec![member(0), member(1)], 1, 16, Partitioner::Whole).unwrap();
        next.epoch = Epoch(2);
        let joining = ShardEntry { state: ShardState::Joining, ..ShardEntry::new(ShardId(1), "b".into()) };
        let (position, planned) = (vec![0, 0, 0, 0, 0xff, 7], 9);
        Manifest {
            store: 1,
            generation: 3,
            engine: "sled-0.34".into(),
            page_bytes: 4096,
            next_shard: 2,
            shards: vec![ShardEntry { stale: true, ..ShardEntry::new(ShardId(0), "a".into()) }, joining],
            keyspaces: Vec::new(),
            next_keyspace: 1,
            topology,
            change: Some(ChangeEntry {
                next,
                step: ChangeStep::Copying,
                position,
                records: 4,
                bytes: 5,
                planned,
            }),
            journals: vec![JournalEntry { id: 4, path: "/mnt/a/journal".into(), mounts: 0 }],
            given_up: None,
        }
    }

    #[test]
    fn what_nobody_could_read_is_not_written() {
        let disk = crate::disk::SimDisk::new(1);
        let dir = Path::new("/store");
        disk.create_dir_all(dir).unwrap();
        let mut manifest = manifest();
        manifest.store(&disk, dir).unwrap();
        manifest.change = None;
        let error = manifest.store_next(&disk, dir).unwrap_err();
        assert!(
            error.to_string().contains("the manifest would contradict itself: shard 1 is Joining"),
            "{error}"
        );
        assert!(Manifest::load(&disk, dir).unwrap().is_some_and(|found| found.change.is_some()));
    }

    fn decoded(manifest: &Manifest) -> Result<Manifest> {
        Manifest::decode(Path::new("MANIFEST"), &manifest.encode()?)
    }

    #[test]
    fn keyspaces_that_have_been_dropped_leave_room_for_others_and_not_without_end() {
        let mut manifest = manifest();
        let dropped = |id| KeyspaceEntry { id: KeyspaceId(id), name: "gone".into(), dropped: true };
        manifest.keyspaces.extend((1..=limits::MAX_KEYSPACES as u32 - 1).map(dropped));
        manifest.next_keyspace = limits::MAX_KEYSPACES as u32;
        manifest.add_keyspace("there is room").unwrap();
        manifest.keyspaces.push(dropped(limits::MAX_KEYSPACES as u32 + 1));
        assert_eq!(manifest.add_keyspace("another").unwrap_err().kind(), ErrorKind::Busy);
        manifest.keyspaces.iter_mut().for_each(|keyspace| keyspace.dropped = false);
        assert_eq!(manifest.add_keyspace("another").unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn a_change_under_way_comes_back_as_it_was_written() {
        let manifest = manifest();
        let bytes = envelope::encode(KIND, &manifest).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(
            text.contains(r#""position":"00000000ff07""#) && text.contains(r#""state":"joining""#),
            "{text}"
        );
        assert_eq!(decoded(&manifest).unwrap(), manifest);
    }

    #[test]
    fn a_manifest_that_contradicts_itself_is_refused() {
        let breaks: [fn(&mut Manifest); 7] = [
            |m| m.journals.push(JournalEntry { id: 4, path: "elsewhere".into(), mounts: 0 }),
            |m| m.change = None,
            |m| m.shards[0].state = ShardState::Retired,
            |m| m.shards[1].state = ShardState::Member,
            |m| m.shards[1].state = ShardState::Abandoned,
            |m| drop(m.shards.pop()),
            |m| m.change.iter_mut().for_each(|change| change.next.epoch = Epoch(1)),
        ];
        for (number, break_it) in breaks.iter().enumerate() {
            let mut manifest = manifest();
            break_it(&mut manifest);
            let error = decoded(&manifest).map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corruption, "{number}");
        }
    }
}
