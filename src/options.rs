//! What a user can choose, with every default, as plain data.
//!
//! Invariant: an unspecified option stays unspecified until a store is opened, so that an existing store's own choice
//! can stand.

use crate::error::{Error, Result};
use crate::limits;
use crate::ring::Partitioner;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// How much a write has survived by the time it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// In this process's memory: the death of the process may lose the last 100 ms of such writes, in order.
    Memory,
    /// Handed to the operating system: survives the death of the process, not a power cut.
    #[default]
    Process,
    /// On the disk: survives a power cut.
    Sync,
}

/// Whether shards that fail are healed by the store itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Heal {
    /// A shard that is back is brought up to date; one that is damaged is set aside and rebuilt from its replicas, in the
    /// background.
    #[default]
    Automatic,
    /// Nothing is done before [`Store::repair`](crate::Store::repair) asks for it; a shard that was full or did not answer
    /// stays offline as well.
    Manual,
}

/// One shard: a directory of its own, best on a disk of its own.
///
/// ```
/// use annulus::ShardOptions;
/// let shard = ShardOptions::new("/mnt/a/orders").zone("disk-a").weight(2.0);
/// assert_eq!(shard.weight, 2.0);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShardOptions {
    /// The directory. Created if absent; it must be empty, or this store's.
    pub path: PathBuf,
    /// The failure domain (a disk, a controller, a mount): replicas of a key lie in distinct zones where there are
    /// enough. All shards that name none share one.
    #[serde(default)]
    pub zone: String,
    /// The share of the data, relative to the other shards' weights. 1 unless set.
    #[serde(default = "one")]
    pub weight: f64,
}

fn one() -> f64 {
    1.0
}

impl ShardOptions {
    /// A shard in the directory `path`, in the common zone, of weight 1.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        ShardOptions { path: path.into(), zone: String::new(), weight: 1.0 }
    }

    /// Names the failure domain that the shard lies in.
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = zone.into();
        self
    }

    /// Sets the share of the data, relative to the other shards. It must be finite and above 0.
    pub fn weight(mut self, weight: f64) -> Self {
        self.weight = weight;
        self
    }
}

/// How to create or open a store. Plain data: it can be read from a configuration file with serde, under the names of the methods
/// (`shard` and `journal_dirs` are lists, durations are those of serde).
///
/// The store remembers its shards, replication factor, virtual nodes, partitioner, page size and journal directories. One of these that is not
/// set takes its default when the store is created, and the store's own value when it exists; one that is set and contradicts an existing
/// store makes [`open`](Options::open) fail with [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), but that shards may have moved, and
/// other journal directories take the place of those it has. All other options count for one opening, with their defaults where they are
/// not set: set them each time.
///
/// ```
/// # fn main() -> annulus::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// use annulus::{Durability, Options, Partitioner};
/// let store = Options::new()
///     .shards(3)
///     .replication_factor(2)
///     .partitioner(Partitioner::Delimiter(b'/'))
///     .memory_budget(64 << 20)
///     .durability(Durability::Sync)
///     .open(dir.path().join("orders"))?;
/// store.insert("user/42/cart", b"2 apples")?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    pub(crate) shard: Vec<ShardOptions>,
    pub(crate) shards: Option<usize>,
    pub(crate) replication_factor: Option<usize>,
    pub(crate) virtual_nodes: Option<u32>,
    pub(crate) partitioner: Option<Partitioner>,
    pub(crate) memory_budget: Option<u64>,
    pub(crate) durability: Durability,
    pub(crate) page_bytes: Option<usize>,
    #[serde(rename = "journal_segment_bytes", alias = "segment_bytes")]
    pub(crate) segment_bytes: Option<u64>,
    pub(crate) journal_retention: Option<u64>,
    #[serde(rename = "journal_dirs", alias = "journals")]
    pub(crate) journals: Vec<PathBuf>,
    pub(crate) accept_journal: Option<PathBuf>,
    pub(crate) accept_journal_loss: bool,
    pub(crate) existing_only: bool,
    pub(crate) leave_allocator: bool,
    pub(crate) heal: Heal,
    pub(crate) shard_timeout: Option<Duration>,
    pub(crate) write_timeout: Option<Duration>,
    pub(crate) quarantine_limit: Option<u64>,
    pub(crate) scrub_every: Option<Duration>,
}

impl Options {
    /// All defaults: 4 shards inside the store's directory, replication factor 2, 1024 virtual nodes, the whole key
    /// routed, 256 MiB of memory, `Durability::Process`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a shard in a directory of the caller's choosing. Excludes [`shards`](Self::shards).
    pub fn shard(mut self, shard: ShardOptions) -> Self {
        self.shard.push(shard);
        self
    }

    /// Sets the number of shards, all inside the store's directory. 4 unless set. Excludes [`shard`](Self::shard).
    pub fn shards(mut self, count: usize) -> Self {
        self.shards = Some(count);
        self
    }

    /// Sets the number of copies of every key, each on another shard. 2 unless set (1 with a single shard).
    pub fn replication_factor(mut self, factor: usize) -> Self {
        self.replication_factor = Some(factor);
        self
    }

    /// Sets the number of virtual nodes, a power of two from 16 to 1,048,576. 1024 unless set, or 128 a shard where
    /// that is more.
    pub fn virtual_nodes(mut self, count: u32) -> Self {
        self.virtual_nodes = Some(count);
        self
    }

    /// Sets which part of a key is hashed. Keys with the same routing part share their shards.
    pub fn partitioner(mut self, partitioner: Partitioner) -> Self {
        self.partitioner = Some(partitioner);
        self
    }

    /// Sets the memory for memtables and for caches (pages and the index over them) of all shards together, in bytes; at
    /// least 8 MiB, at most 1 PiB; 256 MiB unless set.
    /// The process's resident size stays within 1.3 times this, 64 MiB, and 2 MiB for each shard; values in flight, and pages that a scan
    /// that rests has at hand, are not counted.
    pub fn memory_budget(mut self, bytes: u64) -> Self {
        self.memory_budget = Some(bytes);
        self
    }

    /// Sets the durability of writes that do not name their own. `Process` unless set.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Sets the size of the pages that records are packed to in a shard, in bytes, from 256 to 32,768; 4,096 unless set. A
    /// larger value has a page of its own. Fixed at creation.
    pub fn page_bytes(mut self, bytes: usize) -> Self {
        self.page_bytes = Some(bytes);
        self
    }

    /// Sets the size of a journal segment, in bytes, from 64 KiB to 1 GiB. 16 MiB unless set. Segments that exist stay as they are.
    pub fn journal_segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = Some(bytes);
        self
    }

    /// Sets how much of the journal is kept for shards that are offline, and for archives that are behind
    /// ([`Store::archive`](crate::Store::archive)), in bytes. 1 GiB unless set. A shard that comes back after more has been written must be
    /// rebuilt; an archive has a gap. Where a shard is away that nobody can stand in for, writes are refused once it lacks more.
    ///
    /// What the open shards lack themselves, and files kept to be used again, come on top. It counts for one opening: a program that opens the
    /// store with less gives up what is kept beyond that. `u64::MAX` gives up nothing.
    pub fn journal_retention(mut self, bytes: u64) -> Self {
        self.journal_retention = Some(bytes);
        self
    }

    /// Adds a directory for the journal, in place of `journal` inside the store's directory, which it has unless one is named. With several,
    /// each holds a whole copy, best on a disk of its own: what was acknowledged with [`Durability::Sync`] survives the loss
    /// of all of them but one, and what `Process` promises is kept in each. To have a copy in the store's own directory
    /// as well, name that too: `store/journal`.
    ///
    /// The directories are made if absent; one that is new to the store must be empty, but for what this store has left there: another
    /// store's journal, or other files, are refused with [`ErrorKind::Foreign`](crate::ErrorKind::Foreign) and stay as they are. The store remembers them: leave them out later to
    /// take those it has. Naming others for an existing store changes them at opening: one that is added is filled (in the background, while
    /// the store serves), one that is left out is used no more, and its files stay; one that was moved is known again.
    ///
    /// A copy that cannot be written or synced is dropped at once, and durably known to be behind; writes go on with
    /// the others. [`stats`](crate::Store::stats) shows it with the cause, and warns. It is tried again every few seconds, and made
    /// anew while the store serves. Opening refuses, with [`ErrorKind::Refused`](crate::ErrorKind::Refused), a copy that
    /// lacks what was acknowledged without it, should no other be there: see [`accept_journal`](Self::accept_journal).
    ///
    /// Which copies are complete is also written in the store's own directory; if that cannot be done when a copy is lost, the
    /// journal takes no more writes until the store is opened again. A write waits for the slowest copy. One whose disk
    /// does not answer within [`shard_timeout`](Self::shard_timeout) after another's has is left behind as one that failed is, and made anew when it
    /// answers; where none answers, or there is only one, writes wait.
    ///
    /// ```
    /// # fn main() -> annulus::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    /// use annulus::{Durability, Options};
    /// let options = Options::new().journal_dir(a.join("journal")).journal_dir(b.join("journal"));
    /// let store = options.open(dir.path().join("orders"))?;
    /// store.insert_with("order/1", b"2 apples", Durability::Sync)?; // on both
    /// assert!(store.stats()?.journal.mirrors.iter().all(|mirror| mirror.good));
    /// # Ok(()) }
    /// ```
    pub fn journal_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.journals.push(path.into());
        self
    }

    /// Sets the directories for the journal, as [`journal_dir`](Self::journal_dir) adds one. At most 8.
    pub fn journal_dirs<P: Into<PathBuf>>(mut self, paths: impl IntoIterator<Item = P>) -> Self {
        self.journals = paths.into_iter().map(Into::into).collect();
        self
    }

    /// Takes the copy of the journal at `path` as it is, if none is known to be complete, or if all that are end below what the shards
    /// or an archive have; without effect otherwise. The path of a journal that was given no directory is `journal` in the store's.
    ///
    /// A last resort: what was acknowledged while this copy was left behind is lost for good, even should a later copy turn
    /// up; but for what shards have applied of it, which stays, and a scrub makes replicas equal. Damage within the copy stays an
    /// error, and changes nothing. An archive that has what is lost is added to no more.
    ///
    /// It must hold a journal: where all copies are lost, [`accept_journal_loss`](Self::accept_journal_loss) goes on without.
    /// Name it with [`journal_dir`](Self::journal_dir) as well where the store may not know of it, as with an older manifest: it is
    /// [`Refused`](crate::ErrorKind::Refused) otherwise, where nothing else tells of a journal that was moved, or the journal counts as lost.
    ///
    /// Numbers of writes go on at least 2^32 later, since those that were given up may still be held somewhere. A shard that is
    /// away meanwhile, or has not got as far as the others, is made anew when it comes back. An acceptance that is interrupted is gone on
    /// with by the next opening, for which this need not be said again where no copy was known to be complete.
    pub fn accept_journal(mut self, path: impl Into<PathBuf>) -> Self {
        self.accept_journal = Some(path.into());
        self
    }

    /// Makes opening fail where no store exists yet, in place of creating one.
    pub fn existing_only(mut self, existing_only: bool) -> Self {
        self.existing_only = existing_only;
        self
    }

    /// Keeps Annulus from holding glibc's `M_MMAP_THRESHOLD` at its initial 128 KiB, which it otherwise does for the
    /// whole process when a store is opened (on Linux with glibc, unless the environment sets it). Without that, and
    /// without another allocator, a process holds up to twice its budget.
    pub fn leave_allocator(mut self, leave: bool) -> Self {
        self.leave_allocator = leave;
        self
    }

    /// Opens a store whose journal is lost, in every directory that it had, from its shards, which this takes for whole as they are. What was
    /// acknowledged and not yet flushed is lost, and of a batch that was being flushed a part may be there; a scrub makes replicas equal. Without
    /// this, such an opening is refused and changes nothing. Of no effect while a directory of the journal has a segment: which of several
    /// copies to go by [`accept_journal`](Self::accept_journal) says.
    ///
    /// Where the store's own directory is lost as well, name the shards with [`shard`](Self::shard): each carries a copy of the manifest. The
    /// journal is begun anew in the directories that it had, or in those that [`journal_dir`](Self::journal_dir) names. Opening refuses while one
    /// of its disks is known not to be mounted; set this for one opening, and mount all disks first, since that is not known of each.
    ///
    /// Numbers of writes go on at least 2^32 later, since those that were given up may still be held somewhere. A copy of the journal that
    /// turns up later is not believed. A shard that is away meanwhile, or has not got as far as others which have all, is made anew when it
    /// comes back; where too few are there, nothing is changed. An acceptance that is interrupted is gone on with by the next opening that
    /// accepts, and by any as soon as the new journal counts.
    pub fn accept_journal_loss(mut self, accept: bool) -> Self {
        self.accept_journal_loss = accept;
        self
    }

    /// Whether shards that fail are healed by the store itself. Default: [`Heal::Automatic`].
    pub fn heal(mut self, heal: Heal) -> Self {
        self.heal = heal;
        self
    }

    /// How long a shard may take for one step of a flush, or to read what a get or a scan needs of its disk, before it is given up, and its
    /// replicas go on without it. Opening one may take ten times as long. So long one of several copies of the journal may take as well, after another one has done its part.
    /// Default: 60 seconds; from 10 milliseconds to a day. Set it well above what the
    /// slowest disk needs for a sync.
    ///
    /// ```
    /// use std::time::Duration;
    /// let options = annulus::Options::new().shard_timeout(Duration::from_secs(20));
    /// # let _ = options;
    /// ```
    pub fn shard_timeout(mut self, timeout: Duration) -> Self {
        self.shard_timeout = Some(timeout);
        self
    }

    /// How long who writes waits for the disks of the store's directory and of its journal: [`insert`](crate::Keyspace::insert) and all other
    /// writes, [`sync`](crate::Store::sync), [`keyspace`](crate::Store::keyspace) and [`drop_keyspace`](crate::Store::drop_keyspace); a
    /// [`flush`](crate::Store::flush) for what it needs of them. Then the call fails with
    /// [`Unavailable`](crate::ErrorKind::Unavailable). What it was to do goes on when the disk answers, so *it may come about or not*: a write can be
    /// seen meanwhile, and is lost with the process. Until it has ended other calls fail at once, and do nothing.
    ///
    /// Default: none, they wait as long as the disk does. From 10 milliseconds to a day. Each such call is done by a thread of the store's then, which
    /// takes some 10 to 30 microseconds more: little beside a write of [`Durability::Sync`], and several times what one of [`Durability::Process`]
    /// takes otherwise (`cargo bench --bench journal -- timeout`).
    ///
    /// ```
    /// use std::time::Duration;
    /// let options = annulus::Options::new().write_timeout(Duration::from_secs(10));
    /// # let _ = options;
    /// ```
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = Some(timeout);
        self
    }

    /// How many bytes of damaged engines are kept of each shard, once it has been rebuilt from its replicas; they are kept
    /// for whoever wants to look into the damage. Default: 1 GiB; 0 keeps none.
    pub fn quarantine_limit(mut self, bytes: u64) -> Self {
        self.quarantine_limit = Some(bytes);
        self
    }

    /// Reads and verifies every page of every shard, and compares replicas, this often, in the background
    /// ([`Store::scrub`](crate::Store::scrub)). Default: never by itself. At least one minute.
    pub fn scrub_every(mut self, period: Duration) -> Self {
        self.scrub_every = Some(period);
        self
    }

    /// Checks every limit that needs no look at a disk.
    pub(crate) fn validate(&self) -> Result<()> {
        let invalid = |message: String| Err(Error::invalid(message));
        if self.shards.is_some() && !self.shard.is_empty() {
            return invalid("both shard() and shards() are set; use one of them".into());
        }
        if self.shards.is_some_and(|n| n == 0 || n > limits::MAX_SHARDS)
            || self.shard.len() > limits::MAX_SHARDS
        {
            let found = self.shards.unwrap_or(self.shard.len());
            return invalid(format!(
                "the number of shards must be from 1 to {}, not {found}",
                limits::MAX_SHARDS
            ));
        }
        for shard in &self.shard {
            if !(shard.weight.is_finite() && shard.weight > 0.0) {
                let path = shard.path.display();
                return invalid(format!(
                    "the weight of {path} must be above 0 and finite, not {}",
                    shard.weight
                ));
            }
        }
        let shards = self.shard_count();
        if let Some(r) = self.replication_factor
            && (r == 0 || r > limits::MAX_REPLICATION_FACTOR)
        {
            let most = limits::MAX_REPLICATION_FACTOR;
            return invalid(format!("the replication factor must be from 1 to {most}, not {r}"));
        }
        if let (Some(r), Some(shards)) = (self.replication_factor, shards)
            && r > shards
        {
            return invalid(format!("the replication factor {r} is over the number of shards, {shards}"));
        }
        if let Some(q) = self.virtual_nodes
            && !(q.is_power_of_two() && (limits::MIN_VIRTUAL_NODES..=limits::MAX_VIRTUAL_NODES).contains(&q))
        {
            let (least, most) = (limits::MIN_VIRTUAL_NODES, limits::MAX_VIRTUAL_NODES);
            return invalid(format!("virtual_nodes must be a power of two from {least} to {most}, not {q}"));
        }
        if let Some(partitioner) = &self.partitioner {
            partitioner.validate()?;
        }
        if self.journals.len() > limits::MAX_JOURNALS {
            let (most, found) = (limits::MAX_JOURNALS, self.journals.len());
            return invalid(format!("the journal has at most {most} directories, not {found}"));
        }
        within("memory_budget", self.memory_budget, limits::MIN_MEMORY_BUDGET, 1 << 50)?;
        within("page_bytes", self.page_bytes.map(|b| b as u64), 256, 32 << 10)?;
        let least = Duration::from_millis(10);
        for (name, timeout) in [("shard_timeout", self.shard_timeout), ("write_timeout", self.write_timeout)]
        {
            if timeout.is_some_and(|timeout| !(least..=limits::MAX_SHARD_TIMEOUT).contains(&timeout)) {
                return invalid(format!("{name} must be from 10 milliseconds to a day"));
            }
        }
        let least = Duration::from_secs(60);
        if self.scrub_every.is_some_and(|period| !(least..=limits::MAX_SCRUB_PERIOD).contains(&period)) {
            return invalid("scrub_every must be from one minute to ten years".into());
        }
        within("journal_segment_bytes", self.segment_bytes, 64 << 10, 1 << 30)
    }

    fn shard_count(&self) -> Option<usize> {
        self.shards.or(if self.shard.is_empty() { None } else { Some(self.shard.len()) })
    }

    pub(crate) fn memory_budget_or_default(&self) -> u64 {
        self.memory_budget.unwrap_or(256 << 20)
    }

    pub(crate) fn segment_bytes_or_default(&self) -> u64 {
        self.segment_bytes.unwrap_or(16 << 20)
    }

    pub(crate) fn shard_timeout_or_default(&self) -> Duration {
        self.shard_timeout.unwrap_or(Duration::from_secs(60))
    }

    pub(crate) fn journal_retention_or_default(&self) -> u64 {
        self.journal_retention.unwrap_or(1 << 30)
    }
}

fn within(name: &str, value: Option<u64>, least: u64, most: u64) -> Result<()> {
    match value {
        Some(v) if v < least || v > most => {
            Err(Error::invalid(format!("{name} must be from {least} to {most} bytes, not {v}")))
        }
        _ => Ok(()),
    }
}
