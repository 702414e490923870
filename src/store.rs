//! The store: short delegations to the verbs.

use crate::batch::WriteBatch;
use crate::error::{Error, Result};
use crate::handle::Handle;
use crate::ids::{KeyspaceId, Seq, ShardId};
use crate::keyspace::Keyspace;
use crate::manifest::DEFAULT_KEYSPACE;
use crate::options::{Durability, Options};
use crate::plan::Plan;
use crate::ring::Ring;
use crate::scrub::Scrub;
use crate::state::Seams;
use crate::state::events::Events;
use crate::state::healing::Wish;
use crate::topology::{Planner, TopologyChange, TopologyView};
use crate::verbs;
use crate::verbs::heal::StoreHealth;
use crate::verbs::stats::Stats;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

/// An open store: a ring of virtual nodes over local shards. Cheap to clone; every method may be called from any thread.
///
/// Single keys and ranges are read and written with the methods of [`Keyspace`], which a store derefs to: they work on
/// its keyspace named `default`.
///
/// ```
/// # fn main() -> annulus::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// use annulus::Store;
/// let store = Store::open(dir.path().join("data"))?;
/// let seq = store.insert("user/42/cart", b"2 apples")?;
/// assert_eq!(store.get("user/42/cart")?.as_deref(), Some(&b"2 apples"[..]));
/// let (value, version) = store.get_versioned("user/42/cart")?.unwrap();
/// assert_eq!(version, seq);
/// store.remove("user/42/cart")?;
/// store.close()?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Store {
    default: Keyspace,
}

impl Store {
    /// Opens the store in the directory `dir`, or creates one there with all defaults: see [`Options::open`].
    ///
    /// # Errors
    /// As [`Options::open`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Store> {
        Options::new().open(dir)
    }

    pub(crate) fn open_with(dir: &Path, options: &Options, seams: Seams) -> Result<Store> {
        let handle = Arc::new(Handle::open(dir, options, seams)?);
        Ok(Store { default: Keyspace::new(handle, KeyspaceId(0), DEFAULT_KEYSPACE) })
    }

    fn handle(&self) -> &Handle {
        &self.default.handle
    }

    /// The keyspace of that name, made if it does not exist: 1 to 255 bytes of UTF-8 without control characters.
    ///
    /// # Errors
    /// `InvalidInput` for a name outside the limits, or if there are 65,536 keyspaces. `Busy` if as many have been dropped whose records
    /// are yet to leave a shard that is away. `Io` if the manifest, or what is left to be said of one that was dropped, cannot be
    /// written: then the keyspace was not made; `Poisoned` if the manifest cannot be put back as it was either: whether it was made shows after reopening.
    pub fn keyspace(&self, name: &str) -> Result<Keyspace> {
        let id = verbs::keyspaces::open(&self.handle().state, name)?;
        Ok(Keyspace::new(self.default.handle.clone(), id, name))
    }

    /// The names of all keyspaces, in order.
    ///
    /// # Errors
    /// `Closed` after a close.
    pub fn list_keyspaces(&self) -> Result<Vec<String>> {
        verbs::keyspaces::list(&self.handle().state)
    }

    /// Drops a keyspace with all that is in it, durably. Handles to it, and scans that are under way, get `NotFound`
    /// from here on; its space comes back in the background.
    ///
    /// # Errors
    /// `NotFound` if there is none of that name, `InvalidInput` for the default one, `Io` if the manifest cannot be
    /// written: then nothing was dropped. `Poisoned` if it can neither be written nor put back: whether the keyspace
    /// was dropped shows after reopening.
    pub fn drop_keyspace(&self, name: &str) -> Result<()> {
        verbs::keyspaces::drop(&self.handle().state, name)
    }

    /// Commits a batch with the store's durability: all of it or nothing, over all shards and keyspaces. Returns the
    /// version that all its writes share.
    ///
    /// # Errors
    /// As [`Keyspace::insert`]; `InvalidInput` also for a batch over 128 MiB, or one with a keyspace of another store
    /// or another opening of this one. Nothing of a batch that failed is visible, unless the error is `Poisoned`, or tells of a
    /// disk that does not answer.
    pub fn commit(&self, batch: WriteBatch) -> Result<Seq> {
        self.commit_with(batch, self.handle().state.settings.durability)
    }

    /// Commits a batch with a durability of its own.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub fn commit_with(&self, batch: WriteBatch, durability: Durability) -> Result<Seq> {
        let state = &self.handle().state;
        let drops = state.drops();
        for (instance, keyspace) in &batch.keyspaces {
            if *instance != state.instance {
                return Err(Error::invalid(
                    "the batch has a keyspace of another store, or of another opening",
                )
                .remedy("ask this store for the keyspace by name"));
            }
            state.check_keyspace(*keyspace)?;
        }
        verbs::write::commit(state, batch.finish()?, drops, durability)
    }

    /// Makes every commit so far survive a power cut.
    ///
    /// # Errors
    /// `Poisoned` if the journal fails or failed; `Unavailable` if its disk does not answer within [`write_timeout`](Options::write_timeout).
    pub fn sync(&self) -> Result<()> {
        verbs::write::sync(&self.handle().state)
    }

    /// Moves every commit so far from memory into the shards, durably, so that the next opening has nothing to replay.
    /// This happens by itself as memory fills.
    ///
    /// # Errors
    /// `Unavailable` if some key has no shard left that can take it; `Poisoned` if the journal failed.
    pub fn flush(&self) -> Result<()> {
        verbs::flush::flush(&self.handle().state)
    }

    /// Flushes and closes the store for all its handles. On return files and locks are released, and another process
    /// may open it. Closing again does nothing.
    ///
    /// Dropping the last handle closes as well, but leaves what is in memory to the journal.
    ///
    /// # Errors
    /// The first failure met; everything acknowledged is in the journal then, and the store is closed all the same. `Unavailable` where a disk does
    /// not answer within ten times [`shard_timeout`](Options::shard_timeout): its files are released when it does.
    pub fn close(&self) -> Result<()> {
        self.handle().close()
    }

    /// The ring as it is now: which shards a key lives on, and how even the load is.
    pub fn ring(&self) -> Ring {
        self.handle().state.ring()
    }

    /// Who is in the ring, who is joining, who has left.
    pub fn topology(&self) -> TopologyView {
        TopologyView::of(self.handle())
    }

    /// Begins to plan a change of the topology: other shards, weights, zones, another number of copies. See [`Planner`].
    pub fn plan(&self) -> Planner {
        Planner::new(self.default.handle.clone())
    }

    /// Begins to carry a plan out, and returns when every write goes to old and new owners: after a flush. The rest is done
    /// in the background, beside reads and writes; progress is kept over closings, kills and power cuts.
    ///
    /// # Errors
    /// `Busy` while another change is under way, while copies of an earlier one are still being removed from a shard that
    /// gains some, while a shard is compacted, or where a shard is to be made in a directory that a change which was given up has left
    /// and that cannot be cleared. `Stale` if the topology has changed since the plan was made, `Mismatch` if the plan is of another
    /// store. `Refused` if the plan has [problems](Plan::problems) that were not accepted, a shard among them that is to give or take copies and is
    /// offline; `Unavailable` if that was accepted, and for as long as it is so. `Foreign` or `InvalidInput` for the directory of a new shard.
    /// `Unavailable` as well if that directory's file system does not answer within [`shard_timeout`](crate::Options::shard_timeout).
    /// `Io`, `Unavailable` or `Poisoned` for the flush that it begins with. None of them has changed anything.
    pub fn apply(&self, plan: Plan) -> Result<TopologyChange> {
        TopologyChange::begin(&self.default.handle, &plan)
    }

    /// The change of the topology that is under way, if one is: also one that an earlier opening began.
    pub fn change(&self) -> Option<TopologyChange> {
        TopologyChange::current(&self.default.handle)
    }

    /// Removes the files of a shard that has left the ring, and forgets it. Its directory itself stays.
    ///
    /// # Errors
    /// `NotFound` if there is no such shard, `InvalidInput` if it has not left, `Busy` while it is still being read,
    /// `Foreign` if its directory holds something else by now, `Unavailable` if its disk does not answer, `Io`; `Poisoned` if the manifest can
    /// neither be written nor put back.
    pub fn drop_shard(&self, shard: ShardId) -> Result<()> {
        verbs::reshard::drop_shard(&self.handle().state, shard)
    }

    /// How the shards are: which serve, which are being healed, how many virtual nodes lack a copy.
    ///
    /// Returns within about a second, or [`shard_timeout`](Options::shard_timeout) where that is shorter, whatever the disks do:
    /// only what has been set aside is looked for on them, and of those that do not answer by then it is as it was last
    /// known ([`StoreHealth::silent`]).
    ///
    /// # Errors
    /// `Closed` after a close.
    ///
    /// ```
    /// # fn main() -> annulus::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let store = annulus::Store::open(dir.path().join("db"))?;
    /// let health = store.health()?;
    /// assert!(health.is_good());
    /// # Ok(()) }
    /// ```
    pub fn health(&self) -> Result<StoreHealth> {
        verbs::heal::health(&self.handle().state)
    }

    /// What happens to the store from its opening on: shards that fail, are healed, are found damaged. For alarms.
    ///
    /// ```
    /// # fn main() -> annulus::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let store = annulus::Store::open(dir.path().join("db"))?;
    /// let mut events = store.events();
    /// assert_eq!(events.try_next(), None, "nothing has happened yet");
    /// std::thread::spawn(move || {
    ///     for event in events {
    ///         eprintln!("{event:?}");
    ///     }
    /// });
    /// store.close()
    /// # }
    /// ```
    pub fn events(&self) -> Events {
        Events::new(self.handle().state.events.clone())
    }

    /// Makes a shard whole again, and returns when it is: one that is offline is opened again and brought up to date from the
    /// journal, or, where its files are damaged, gone or too old, set aside and rebuilt from its replicas. Unlike what happens by
    /// itself, a missing directory is made anew also where it may be that of a disk that is not mounted. For a shard that is
    /// well nothing is done. Reads and writes go on meanwhile.
    ///
    /// # Errors
    /// `NotFound` if there is no such shard; `Busy` if something else is being done for it; `Foreign` if its directory holds
    /// something else; `Unavailable` if some of it has no other owner that serves: then nothing has been changed; also if something must be flushed
    /// first, and another shard, whose disk is full for one, keeps that from being done; `Io`.
    pub fn repair(&self, shard: ShardId) -> Result<()> {
        verbs::heal::request(&self.handle().state, shard, Wish::Repair, None)
    }

    /// Sets a shard's files aside, whatever state they are in, and fills it anew from its replicas; returns when it serves
    /// again. Meanwhile its replicas answer: there is one copy fewer of what it holds. While the shard still serves, the others are
    /// first read through, and their damaged pages replaced from it.
    ///
    /// # Errors
    /// As [`repair`](Self::repair); `Unavailable` also if one of the others has damage that nobody can put right.
    pub fn rebuild(&self, shard: ShardId) -> Result<()> {
        verbs::heal::request(&self.handle().state, shard, Wish::Rebuild, None)
    }

    /// Rewrites a shard, so that it takes no more space than its records need: an engine beside the one that serves is filled
    /// from it, and takes its place. Needs the space of both at once. Returns when that is done; reads and writes go on
    /// meanwhile, with all copies. A process that ends before leaves the shard as it was.
    ///
    /// # Errors
    /// `NotFound` if there is no such shard; `Busy` if something else is being done for it, or the topology is changing;
    /// `Unavailable` if it does not serve, or if something must be flushed first and cannot be; `Io`, or `Corruption`, if what it holds cannot be read or written anew: then it is as it was.
    pub fn compact(&self, shard: ShardId) -> Result<()> {
        verbs::heal::request(&self.handle().state, shard, Wish::Compact, None)
    }

    /// Begins a scrub, or finds the one that is under way: every page of every shard is read and verified, and replicas are
    /// compared record by record; what is found is put right from the other replicas and told ([`events`](Self::events)).
    /// It works in the background, gives way to reads and writes, and goes on where it was after the store is opened again.
    ///
    /// # Errors
    /// `Closed` after a close.
    ///
    /// ```
    /// # fn main() -> annulus::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let store = annulus::Store::open(dir.path().join("db"))?;
    /// store.insert("order/17", b"paid")?;
    /// store.flush()?;
    /// let report = store.scrub()?.wait()?.expect("nobody cancelled it");
    /// assert_eq!((report.pages_left, report.records_unsettled), (0, 0));
    /// # Ok(()) }
    /// ```
    pub fn scrub(&self) -> Result<Scrub> {
        let number = verbs::scrub::begin(&self.handle().state)?;
        Ok(Scrub::new(self.default.handle.clone(), number))
    }

    /// Deletes the files of damaged engines that were kept of a shard ([`StoreHealth::quarantined`]).
    ///
    /// # Errors
    /// `NotFound` if there is no such shard, `Unavailable` if its disk does not answer within [`shard_timeout`](Options::shard_timeout), `Io`.
    pub fn drop_quarantined(&self, shard: ShardId) -> Result<()> {
        verbs::heal::drop_quarantined(&self.handle().state, shard)
    }

    /// Figures about the store at this moment, and warnings.
    ///
    /// Returns within about a second, or [`shard_timeout`](Options::shard_timeout) where that is shorter, whatever the disks do:
    /// only the sizes of the shards' files are asked of them, and of those that do not answer by then they are as they were
    /// last known, which a warning says.
    ///
    /// # Errors
    /// `Closed` after a close.
    pub fn stats(&self) -> Result<Stats> {
        verbs::stats::stats(&self.handle().state)
    }
}

impl Deref for Store {
    type Target = Keyspace;

    fn deref(&self) -> &Keyspace {
        &self.default
    }
}

impl Options {
    /// Opens the store in the directory `dir`, or creates it if the directory is empty or absent. Opening replays the
    /// part of the journal that is not in the shards: at most about half the memory budget, or, where a shard is there again that was
    /// away, up to what was kept for it ([`journal_retention`](Self::journal_retention)).
    ///
    /// # Errors
    /// `InvalidInput` for an option outside its limits, `Mismatch` for one that contradicts the existing store,
    /// `Locked` if the store is open already, `Foreign` for a directory of something else, `NotFound` if there is no
    /// store and none may be created, `Unsupported` for a format of another release, `Corruption` for damage that no
    /// replica makes up for, `Unavailable` if too many shards are missing, or if the store's own disk has not answered something for ten times
    /// [`shard_timeout`](Self::shard_timeout), or none of the copies of its journal has anything for twenty: what was begun then goes on when it does, and is closed at its end, `Refused` if the
    /// copies of the journal that are known to be complete are, or the manifest is older than a shard's copy of it, `Full` if there is no room for a segment of it, `Io`. None of them changes the store,
    /// but for the opening that goes on when its disk answers: where there was none, it makes one.
    pub fn open(&self, dir: impl AsRef<Path>) -> Result<Store> {
        Store::open_with(dir.as_ref(), self, Seams::real(self))
    }
}
