//! Checkpoints, restores, exports and imports, as a user sees them.

mod archiver;
mod point;
mod times;

pub use archiver::Archiver;

use crate::backup::checkpoint::{Body, CHECKPOINTS, Checkpoint, CheckpointId, Source};
use crate::backup::layer::Reading;
use crate::backup::progress::{BackupProgress, Through, Watch};
use crate::backup::reader::CheckpointReader;
use crate::backup::stream::StreamReader;
use crate::backup::{BackupRepository, CheckpointOptions, Damage, Pour, Versions};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{KeyspaceId, Seq};
use crate::manifest::{DEFAULT_KEYSPACE, KeyspaceEntry};
use crate::options::{Options, ShardOptions};
use crate::record::KeyRange;
use crate::ring::{Partitioner, Ring};
use crate::state::Seams;
use crate::state::archives::ArchiveHold;
use crate::store::Store;
use crate::verbs;
use crate::verbs::restore::{Repaired, Tail};
use point::Point;
use std::collections::{BTreeMap, HashSet};
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::SystemTime;

impl Store {
    /// Puts a checkpoint of the store into a repository: what all keyspaces hold at one moment, with every batch whole. Returns its
    /// number there.
    ///
    /// Writes and reads go on meanwhile; old versions of what is overwritten are kept on disk until it is done. One replica of each
    /// record is saved. What an earlier checkpoint in the repository has is not written again, and what did not change since the
    /// last one that this opening of the store put there is not read again, as far as that is known in memory (16 MiB of keys). Extra memory: about
    /// 40 MiB, and 50 bytes for each object of the repository when it reads everything.
    ///
    /// On return the checkpoint is durable, and so is every write in it.
    ///
    /// # Errors
    /// `Locked` while somebody else writes to the repository, `Io` if that cannot be written, `Mismatch` if the archive there is of
    /// another history of the store, which a restore would go on with (another copy of the store has been archived, or writes that were archived
    /// have been given up with a part of the journal), or if the newest checkpoint there has writes that this store does not have (an older
    /// copy of the store was put back, or lives on beside it): nothing was written then. `Unavailable` or `Corruption` if some
    /// record cannot be read from any replica, `Poisoned` if the journal failed, `Closed`. What was written of the
    /// checkpoint does not count then, and is swept by the next one; where its last step of all failed, `list` has it, whole.
    pub fn checkpoint(&self, repository: &BackupRepository) -> Result<CheckpointId> {
        self.checkpoint_with(repository, CheckpointOptions::new())
    }

    /// The same with a label, a rate, or somebody who is told of the progress.
    ///
    /// # Errors
    /// As [`checkpoint`](Self::checkpoint), and `Cancelled` if the callback asked for that, `InvalidInput` for a label over 4 KiB.
    pub fn checkpoint_with(
        &self,
        repository: &BackupRepository,
        options: CheckpointOptions,
    ) -> Result<CheckpointId> {
        verbs::checkpoint::checkpoint(&self.handle.state, repository, &options, &|range, at| {
            self.pour(range, at)
        })
    }

    /// Writes what the store holds at one moment into one stream: self-contained, checksummed, about as large as the records. Returns the
    /// sequence that it is of. [`Options::import`] makes a store of it.
    ///
    /// # Errors
    /// `Io` if the stream cannot be written, `NotFound` if a keyspace is dropped meanwhile, otherwise as
    /// [`checkpoint`](Self::checkpoint). What has been written by then is no whole stream, and import says so.
    pub fn export(&self, writer: impl Write) -> Result<Seq> {
        verbs::checkpoint::export(&self.handle.state, writer, &|range, at| self.scan_versions(range, at))
    }

    /// The same, with somebody who is told after every MiB, on the calling thread. When the callback answers `Break`, it ends.
    ///
    /// # Errors
    /// As [`export`](Self::export), and `Cancelled`.
    pub fn export_with(
        &self,
        writer: impl Write,
        progress: impl Fn(BackupProgress) -> ControlFlow<()> + Send + Sync + 'static,
    ) -> Result<Seq> {
        let mut through = Through::new(writer, Watch::new(progress));
        let done = self.export(&mut through);
        through.outcome(done)
    }

    /// Puts everything that has been committed up to now, and is not there yet, into the archive of a repository: with it a restore can
    /// go on from a checkpoint to any later write ([`Restore::until`]). Returns what the archive is complete up to.
    ///
    /// From the first call on the journal is kept until it has been archived, also after the next opening, as for an offline shard: up to
    /// [`journal_retention`](Options::journal_retention), and until [`forget_archive`](Self::forget_archive). Whoever calls while another call
    /// archives into the same repository waits for that one.
    ///
    /// # Errors
    /// `Gap` if writes are missing in the archive, since the journal no longer had them, or has them damaged or in a sector that cannot be read, or the newest piece was found to be damaged, and no checkpoint
    /// lies behind them: everything else was archived all the same; take a checkpoint. That may be so from the first call on. `Io` if the repository
    /// cannot be written, `Foreign` if it is not in its place any more, `Mismatch` if another copy of the store has been archived there, if writes that
    /// were archived have been given up with a part of the journal, or if the newest checkpoint there has writes that this store does not have, `Refused` if there are 64 archives already, `Poisoned` or `Io` if the
    /// journal cannot be read, `Corruption` if what it ends with is damaged (all before that was archived; what is written later tells how much it is), `Corruption` or `Foreign` also if a damaged piece is of more than the store has come to, by its name: take it away. What was archived before
    /// is whole.
    pub fn archive(&self, repository: &BackupRepository) -> Result<Seq> {
        verbs::checkpoint::archive::archive(&self.handle.state, repository)
    }

    /// Archives continuously, on a thread of its own, until the value is dropped or [stopped](Archiver::stop): what is committed is in the
    /// repository within a minute, or after 4 MiB. Where that fails it is tried again, and the log says why. It keeps the store open.
    ///
    /// The journal is kept for the archive after the archiver's end as well: see [`archive`](Self::archive).
    ///
    /// # Errors
    /// As [`archive`](Self::archive), which it begins with, but for `Gap`, which the log and [`Archiver::stop`] tell; `Io` if the thread cannot
    /// be started.
    pub fn archive_continuously(&self, repository: &BackupRepository) -> Result<Archiver> {
        Archiver::start(self.handle.clone(), repository.clone())
    }

    /// The archives that the journal is kept for, and how far each has got.
    ///
    /// # Errors
    /// `Closed`.
    pub fn archives(&self) -> Result<Vec<ArchiveHold>> {
        self.handle.state.check_open()?;
        Ok(self.handle.state.archives.list())
    }

    /// Keeps the journal no longer for the archive in the repository of that [id](BackupRepository::id), durably; whether it was kept for it.
    /// What has been archived stays. Whoever archives there again begins where the archive ends, or leaves a gap, and the journal is kept for it again, as it is
    /// when an [`Archiver`] runs that has not been stopped. This waits for nobody who is archiving there: who is goes on, and ends with an error where the journal
    /// no longer has what is next.
    ///
    /// ```
    /// # fn main() -> annulus::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// use annulus::{BackupRepository, Store};
    /// let store = Store::open(dir.path().join("data"))?;
    /// let repo = BackupRepository::open(dir.path().join("backup"))?;
    /// store.archive(&repo)?;
    /// assert_eq!(store.archives()?[0].repository, repo.id());
    /// assert!(store.forget_archive(repo.id())?);
    /// assert!(store.archives()?.is_empty());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `Io` if that cannot be written down: then it is kept as before. `Closed`.
    pub fn forget_archive(&self, repository: u128) -> Result<bool> {
        self.handle.state.check_open()?;
        self.handle.state.archives.forget(repository)
    }

    fn scan_versions(&self, range: KeyRange, at: Seq) -> Result<Box<dyn Versions>> {
        let scan = verbs::scan::Scan::versions(self.handle.state.clone(), range, at)?;
        Ok(Box::new(scan))
    }

    fn pour(&self, range: KeyRange, at: Seq) -> Result<Box<dyn Pour>> {
        Ok(Box::new(verbs::scan::Pouring::new(self.handle.state.clone(), range, at)?))
    }
}

/// A checkpoint on its way into a new store. Made by [`BackupRepository::restore`].
///
/// The number of shards and of copies, virtual nodes, partitioner and page size are those of the source unless asked for otherwise; zones and
/// weights are not. The shards lie in the new store's directory
/// unless [`shard`](Self::shard) says where. Records keep their versions, and the store goes on from the checkpoint's sequence.
#[derive(Debug)]
#[must_use = "nothing is restored before `open`"]
pub struct Restore {
    repository: BackupRepository,
    body: Body,
    options: Options,
    only: Option<String>,
    until: Option<At>,
    watch: Watch,
}

/// A point in time to restore to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// After the write with this version, and before the next.
    Seq(Seq),
    /// What was there at this time by the clock of the source, and nothing later. It is known to about a second while a store is
    /// archived continuously. Where what is known before the time is more than a minute older, and writes came in between that are
    /// archived, or are behind an archive, the restore is refused: those who know which one they mean name it by its sequence. So it
    /// is where the clock went back by more than two seconds, and had shown that time, or a later one, before. Where nothing was archived
    /// by then, it is what the last checkpoint before that time has.
    Time(SystemTime),
}

impl BackupRepository {
    /// Begins to restore a checkpoint into a new store.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn restore(&self, id: CheckpointId) -> Result<Restore> {
        let body = self.load(id)?;
        let (repository, options, watch) = (self.clone(), Options::new(), Watch::default());
        Ok(Restore { repository, body, options, only: None, until: None, watch })
    }

    /// Begins to restore the checkpoint with the highest number, where all that can be read are of one store.
    ///
    /// # Errors
    /// `NotFound` if there is none, `Mismatch` if there are checkpoints of several stores: the error names the newest of each, and
    /// [`restore`](Self::restore) takes its number. Otherwise as [`get`](Self::get): a damaged one is not passed over.
    pub fn restore_latest(&self) -> Result<Restore> {
        let none = || Error::new(ErrorKind::NotFound, "the repository has no checkpoint");
        let ids = self.ids()?;
        let restore = self.restore(*ids.last().ok_or_else(none)?)?;
        let mut newest = BTreeMap::new();
        for id in ids {
            newest.extend(self.usable(id)?.map(|body| (body.store, id)));
        }
        if newest.len() < 2 {
            return Ok(restore);
        }
        let each: Vec<String> =
            newest.iter().map(|(store, id)| format!("{id} of store {store:032x}")).collect();
        let text = format!(
            "the repository has checkpoints of {} stores, and which of them is to be restored was not said; the newest are {}",
            each.len(),
            each.join(", ")
        );
        Err(Error::new(ErrorKind::Mismatch, text)
            .at(self.storage.describe(CHECKPOINTS))
            .remedy("name the checkpoint by its number: restore(id), or --id on the command line"))
    }
}

impl Restore {
    /// The checkpoint that it was begun with. One that goes on [to a moment](Self::until) may begin with another of the same store.
    pub fn checkpoint(&self) -> Checkpoint {
        self.body.outline()
    }

    /// Sets all options of the new store at once, in the place of those set before.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Sets the number of shards, all inside the store's directory. See [`Options::shards`].
    pub fn shards(mut self, count: usize) -> Self {
        self.options = self.options.shards(count);
        self
    }

    /// Adds a shard in a directory of the caller's choosing. See [`Options::shard`].
    pub fn shard(mut self, shard: ShardOptions) -> Self {
        self.options = self.options.shard(shard);
        self
    }

    /// Sets the number of copies of every key. See [`Options::replication_factor`].
    pub fn replication_factor(mut self, factor: usize) -> Self {
        self.options = self.options.replication_factor(factor);
        self
    }

    /// Sets the number of virtual nodes. See [`Options::virtual_nodes`].
    pub fn virtual_nodes(mut self, count: u32) -> Self {
        self.options = self.options.virtual_nodes(count);
        self
    }

    /// Sets which part of a key is hashed. See [`Options::partitioner`].
    pub fn partitioner(mut self, partitioner: Partitioner) -> Self {
        self.options = self.options.partitioner(partitioner);
        self
    }

    /// Restores one keyspace alone. The others do not exist in the new store, but for the default one, which is empty.
    pub fn keyspace(mut self, name: impl Into<String>) -> Self {
        self.only = Some(name.into());
        self
    }

    /// Goes on from the checkpoint, by the archived log of its store, to a later write or time. Where that lies before the checkpoint, or the
    /// archive does not lead there from it, the last one of the same store before it is taken. So it is where the checkpoint lacks a keyspace of that
    /// moment, which was dropped while it was taken. See [`Store::archive`].
    ///
    /// Keyspaces are those of that moment: one that was dropped after that write comes back, and one that was made before the next one that was archived
    /// may be there, empty.
    pub fn until(mut self, at: At) -> Self {
        self.until = Some(at);
        self
    }

    /// Sets what is called after every object that has been read, pieces of the archive as well, on the thread that restores; those that are read to know what a
    /// [time](At::Time) comes to, and again when they are restored, count twice. How many bytes there are in all is told when that is known. When it answers `Break`, the restore ends with
    /// [`Cancelled`](ErrorKind::Cancelled), and leaves what it leaves after any error.
    ///
    /// ```
    /// # fn main() -> annulus::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let repo = annulus::BackupRepository::open(dir.path().join("backup"))?;
    /// # annulus::Store::open(dir.path().join("data"))?.checkpoint(&repo)?;
    /// use std::ops::ControlFlow;
    /// let restore = repo.restore_latest()?.progress(|at| {
    ///     println!("{} of {:?} bytes", at.bytes, at.bytes_total);
    ///     ControlFlow::Continue(())
    /// });
    /// let store = restore.open(dir.path().join("new"))?;
    /// # Ok(()) }
    /// ```
    pub fn progress(
        mut self,
        callback: impl Fn(BackupProgress) -> ControlFlow<()> + Send + Sync + 'static,
    ) -> Self {
        self.watch = Watch::new(callback);
        self
    }

    /// Makes the store in the directory `dir`, which is empty or absent, or where an earlier restore was interrupted, and opens
    /// it. Every byte is verified on its way. Memory: about the new store's budget and 64 MiB.
    ///
    /// Killed half-way it leaves what does not open as a store; restoring there again begins anew.
    ///
    /// # Errors
    /// `Corruption` if the checkpoint is damaged: nothing is restored, and [`salvage`](Self::salvage) takes what is left. `NotFound` if
    /// there is no keyspace of that name, or no checkpoint or archive to come to the time asked for with all keyspaces, or if it is not known
    /// which write it comes to ([`At::Time`]),
    /// `Mismatch` if it is to go [on](Self::until) from a checkpoint, or is to come to a time, of a history of the store that was given up
    /// when an older copy of it was put back, `InvalidInput` for options outside their limits, `Foreign` for a directory that is not empty,
    /// `Locked`, `Unsupported`, `Io`. After an error the directory is as empty as it was, as far as it could be cleared.
    pub fn open(self, dir: impl AsRef<Path>) -> Result<Store> {
        let seams = Seams::real(&self.options);
        self.run(dir.as_ref(), seams, false).map(|(store, _)| store)
    }

    /// The same for a damaged checkpoint: restores what can be read, and says exactly what is missing.
    ///
    /// # Errors
    /// As [`open`](Self::open), but not for damage to chunks and indexes, nor for single ones that cannot be read while others can: these have
    /// damage of the kind `Io`.
    pub fn salvage(self, dir: impl AsRef<Path>) -> Result<(Store, Vec<Damage>)> {
        let seams = Seams::real(&self.options);
        self.run(dir.as_ref(), seams, true)
    }

    pub(crate) fn run(self, dir: &Path, seams: Seams, salvage: bool) -> Result<(Store, Vec<Damage>)> {
        let repository = &self.repository;
        let Point { body, until, mut keyspaces } = match self.until {
            Some(at) => point::point(repository, self.body, at, self.only.as_deref(), &self.watch)?,
            None => Point::of(self.body),
        };
        if let Some(name) = &self.only {
            let named = keyspaces.iter().find(|keyspace| keyspace.name == *name);
            let missing =
                || Error::new(ErrorKind::NotFound, format!("the checkpoint has no keyspace named {name:?}"));
            let only = named.ok_or_else(missing)?.id;
            keyspaces.retain(|keyspace| keyspace.id == only);
        }
        // Those that were dropped since the checkpoint are not read.
        let wanted: HashSet<KeyspaceId> = keyspaces.iter().map(|keyspace| keyspace.id).collect();
        let options = completed(self.options, &body.source);
        if self.watch.is_on() {
            let taken = body.keyspaces.iter().filter(|keyspace| wanted.contains(&keyspace.id));
            let taken: u64 = taken.flat_map(|keyspace| &keyspace.layers).map(|layer| layer.bytes).sum();
            let replayed = until.map(|until| repository.replayed_bytes(body.store, body.seq, until));
            self.watch.expect(taken.saturating_add(replayed.transpose()?.unwrap_or_default()));
        }
        let reading = Reading::new(repository.storage.clone(), body.id, salvage).watched(&self.watch);
        let mut reader = CheckpointReader::new(reading, &body, &wanted);
        let (store, owner, watch) = (body.store, body.owner(), self.watch.clone());
        let tail = until.map(|until| Tail { repository, store, owner, until, keyspaces: &wanted, watch });
        let store = restore(dir, &options, seams, &body, keyspaces, &mut reader, tail.as_ref())?;
        Ok((store, reader.reading.damage))
    }
}

/// The options with what the source was where they leave it open.
fn completed(mut options: Options, source: &Source) -> Options {
    if options.shard.is_empty() && options.shards.is_none() {
        options.shards = Some(source.shards);
    }
    let shards = options.shards.unwrap_or(options.shard.len());
    options.replication_factor.get_or_insert(source.replication_factor.min(shards.max(1)));
    options.virtual_nodes.get_or_insert_with(|| {
        let recommended = Ring::recommended_virtual_nodes(shards);
        if shards == source.shards { source.virtual_nodes } else { recommended.max(source.virtual_nodes) }
    });
    options.partitioner.get_or_insert(source.partitioner);
    options.page_bytes.get_or_insert(source.page_bytes);
    options
}

/// Makes a store of records, and opens it.
fn restore(
    dir: &Path,
    options: &Options,
    seams: Seams,
    body: &Body,
    mut keyspaces: Vec<KeyspaceEntry>,
    records: &mut dyn Versions,
    tail: Option<&Tail<'_>>,
) -> Result<Store> {
    if !keyspaces.iter().any(|keyspace| keyspace.id == KeyspaceId(0)) {
        let name = DEFAULT_KEYSPACE.to_owned();
        keyspaces.insert(0, KeyspaceEntry { id: KeyspaceId(0), name, dropped: false });
    }
    let next = keyspaces.iter().map(|keyspace| keyspace.id.0.saturating_add(1)).max().unwrap_or_default();
    let (budget, upto) = (options.memory_budget_or_default(), body.seq);
    let for_fill = seams.clone();
    let mut fill = |manifest: &_| {
        verbs::restore::fill(dir, manifest, &for_fill, budget, upto, records, tail)?;
        Ok(tail.map_or(upto, |tail| tail.until))
    };
    let next_keyspace = body.next_keyspace.max(next);
    let contents = verbs::open::Contents { keyspaces, next_keyspace, fill: &mut fill };
    verbs::open::restore(dir, options, &seams, contents)?;
    Store::open_with(dir, options, seams)
}

impl Store {
    /// Makes shards anew that this store has lost together with every replica of something they own, as [`Options::repair_from`] does,
    /// and opens it again with the options that it was opened with. For that it is closed, with all clones of this handle: they
    /// answer `Closed` from here on. Until it is called, keys that have an owner left go on being read and written.
    ///
    /// Takes as long as the newest checkpoint and the archive after it take to be read twice, and the lost shards' records to be written.
    ///
    /// # Errors
    /// As [`Options::repair_from`] and [`Options::open`]. The store is closed then, with everything acknowledged in its journal.
    ///
    /// ```
    /// # fn main() -> annulus::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// use annulus::{BackupRepository, Store};
    /// let store = Store::open(dir.path().join("data"))?;
    /// store.insert("user/42/cart", b"2 apples")?;
    /// let repo = BackupRepository::open(dir.path().join("backup"))?;
    /// store.checkpoint(&repo)?;
    /// let (store, repaired) = store.repair_from(&repo)?;
    /// assert!(repaired.shards.is_empty(), "nothing was lost");
    /// assert!(store.contains_key("user/42/cart")?);
    /// # Ok(()) }
    /// ```
    pub fn repair_from(self, repository: &BackupRepository) -> Result<(Store, Repaired)> {
        let (dir, options) = (self.handle.state.dir.clone(), self.handle.options.clone());
        let seams = self.handle.state.seams.clone();
        if let Err(error) = self.close() {
            // What is lost cannot be flushed to; the journal has it.
            log::info!("the store was closed to be repaired: {error}");
        }
        drop(self);
        let repaired = repair(&options, repository, &dir, &seams)?;
        Ok((Store::open_with(&dir, &options.existing_only(true), seams)?, repaired))
    }
}

pub(crate) fn repair(
    options: &Options,
    repository: &BackupRepository,
    dir: &Path,
    seams: &Seams,
) -> Result<Repaired> {
    let (manifest, _lock) = verbs::open::locked(dir, seams.disk.as_ref())?;
    verbs::open::check_finished(seams.disk.as_ref(), dir, &manifest)?;
    verbs::open::check_newest(dir, &manifest, options, seams)?;
    verbs::restore::repair(dir, &manifest, seams, options.memory_budget_or_default(), repository)
}

impl Options {
    /// Makes shards anew that are lost together with every replica of something they own, from the newest checkpoint of the store that can be read and
    /// its archive; the journal has the rest. The store in `dir` is one that does not open for want of them, and is not open. Opening it afterwards
    /// finds it complete. Shards that can be opened are not touched, but for those that lack what the journal no longer has, which are lost like
    /// the others; nor those whose replicas are whole: they are rebuilt from these.
    ///
    /// A lost shard is made where it was: its disk, or a new one, must be mounted there. What is left of it is removed once all of the
    /// checkpoint and of the archive after it has been read, and found whole; then it is read again. A repair that failed or was killed is
    /// called again.
    ///
    /// # Errors
    /// `NotFound` if there is no store, or no checkpoint of it. `Refused` if the journal begins after the end of checkpoint and archive, so that
    /// writes would be missing, while a change of the topology is under way, or if the manifest is older than a shard's copy of it, or was taken from one by an
    /// opening that was not completed, `Mismatch` if the backup is known to be of
    /// another history of the store: nothing was changed. `Corruption` if every checkpoint, or what leads from it to where the journal
    /// takes over, is damaged: nothing was changed either; or if no journal can be read. `Foreign` if a lost shard's directory holds something else, `Locked`, `Io`: the lost shards
    /// are as lost as before.
    pub fn repair_from(&self, repository: &BackupRepository, dir: impl AsRef<Path>) -> Result<Repaired> {
        repair(self, repository, dir.as_ref(), &Seams::real(self))
    }

    /// Makes a store in the directory `dir`, which is empty or absent, of a stream that [`Store::export`] wrote, and opens it. What is not
    /// set is as the source had it.
    ///
    /// # Errors
    /// `Corruption` if the stream is damaged or ends early, `Unsupported` if another release wrote it, otherwise as
    /// [`Restore::open`]: then nothing opens as a store there.
    ///
    /// ```
    /// # fn main() -> annulus::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// use annulus::{Options, Store};
    /// let store = Store::open(dir.path().join("data"))?;
    /// store.insert("user/42/cart", b"2 apples")?;
    /// let mut stream = Vec::new();
    /// store.export(&mut stream)?;
    /// let copy = Options::new().shards(2).import(&stream[..], dir.path().join("copy"))?;
    /// assert_eq!(copy.get_versioned("user/42/cart")?, store.get_versioned("user/42/cart")?);
    /// # Ok(()) }
    /// ```
    pub fn import(&self, reader: impl Read, dir: impl AsRef<Path>) -> Result<Store> {
        import(self, reader, dir.as_ref(), Seams::real(self))
    }

    /// The same, with somebody who is told after every MiB, on the calling thread. When the callback answers `Break`, it ends.
    ///
    /// # Errors
    /// As [`import`](Self::import), and `Cancelled`.
    pub fn import_with(
        &self,
        reader: impl Read,
        dir: impl AsRef<Path>,
        progress: impl Fn(BackupProgress) -> ControlFlow<()> + Send + Sync + 'static,
    ) -> Result<Store> {
        let mut through = Through::new(reader, Watch::new(progress));
        let done = import(self, &mut through, dir.as_ref(), Seams::real(self));
        through.outcome(done)
    }
}

pub(crate) fn import(options: &Options, reader: impl Read, dir: &Path, seams: Seams) -> Result<Store> {
    let mut stream = StreamReader::new(reader)?;
    let body = stream.body.clone();
    let options = completed(options.clone(), &body.source);
    restore(dir, &options, seams, &body, point::listed(&body), &mut stream, None)
}
