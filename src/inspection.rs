//! Looking at a store without opening it: what its small files say, and how large the others are.
//!
//! Invariants: nothing is written, locked, created or waited for, so that a store may be looked at while it is open, or on a disk
//! that is read-only; what cannot be read of one shard is said of that shard, and keeps nothing else from being seen.

use crate::disk::{Disk, Hands, OpenMode, RealDisk};
use crate::envelope::hex128;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, Seq, ShardId, VirtualNode};
use crate::manifest::{FILE as MANIFEST, Manifest, ShardEntry, ShardState};
use crate::ring::{Balance, Member, Partitioner, Ring};
use crate::shard::identity::{self, Identity};
use crate::shard::paths::JOURNAL_DIR;
use crate::shard::seal::Seal;
use crate::shard::{engine_name, is_quarantine};
use crate::state::scrub::{ScrubProgress, Scrubbing};
use crate::topology::ShardRole;
use crate::verbs::open::{LOCK, RESTORING, SHARDS_DIR};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long a disk is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Looks at the store in the directory `dir` without opening it, and changes nothing there: no byte, no time of a change, no lock.
///
/// It may be open meanwhile, also in another process. Each small file is then seen as it was at one moment, but not all at the same
/// one, and sizes change while they are added up. A disk that does not answer is waited for for a minute. Reads the manifest and two small files for each shard, no data; pages are verified
/// by a [scrub](crate::Store::scrub).
///
/// # Errors
/// `Unavailable` if a disk does not answer, `NotFound` if there is no store, `Refused` if a restore was interrupted there, `Corruption` if the manifest is damaged and
/// no shard inside the store's directory has a copy, `Unsupported` for a format of another release, `Io`. Damage to shards is not
/// an error: see [`Inspection::problems`].
///
/// ```
/// # fn main() -> annulus::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// let store = annulus::Store::open(dir.path().join("data"))?;
/// store.insert("user/42/cart", b"2 apples")?;
/// let found = annulus::inspect(dir.path().join("data"))?; // the store is still open
/// assert_eq!((found.shards.len(), found.replication_factor), (4, 2));
/// assert!(found.problems().is_empty());
/// assert_eq!(found.opened_by, Some(std::process::id()));
/// # store.close()
/// # }
/// ```
pub fn inspect(dir: impl AsRef<Path>) -> Result<Inspection> {
    look_within(Arc::new(RealDisk), dir.as_ref(), PATIENCE)
}

/// By a thread, since nobody can be called back from a call of the system's.
fn look_within(disk: Arc<dyn Disk>, dir: &Path, limit: Duration) -> Result<Inspection> {
    let at = dir.to_path_buf();
    let seen = Hands::default().run(limit, move || Ok(look(disk.as_ref(), &at)));
    seen.unwrap_or_else(|error| {
        let text = format!("the store could not be looked at within {limit:?}");
        let error = Error::new(ErrorKind::Unavailable, text).at(dir).caused_by(error);
        Err(error.remedy("look at its disks and the kernel log"))
    })
}

/// What [`inspect`] saw of a store. Sizes are in bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Inspection {
    /// The store's directory.
    pub dir: PathBuf,
    /// The store's id, drawn when it was created.
    #[serde(with = "hex128")]
    pub store: u128,
    /// The file that the manifest was read from: the store's own, or a shard's copy.
    pub manifest: PathBuf,
    /// The number of the manifest's writing: of several copies the one with the greatest is the newest. After one was taken from a shard it goes on
    /// with a multiple of 2^32.
    pub generation: u64,
    /// Why the manifest is a shard's copy, if it is.
    pub damage: Option<String>,
    /// The process that opened the store last, where it said so. It may have closed it since, or have ended.
    pub opened_by: Option<u32>,
    /// The version of the topology.
    pub epoch: Epoch,
    /// Copies kept of every key.
    pub replication_factor: usize,
    /// The number of virtual nodes.
    pub virtual_nodes: u32,
    /// Which part of a key decides where it lives.
    pub partitioner: Partitioner,
    /// The version of the topology that a change under way leads to.
    pub changing_to: Option<Epoch>,
    /// The size of pages.
    pub page_bytes: usize,
    /// The names of the keyspaces, in order.
    pub keyspaces: Vec<String>,
    /// How evenly virtual nodes lie on the shards.
    pub balance: Balance,
    /// The journal, or its copies.
    pub journals: Vec<InspectedJournal>,
    /// The shards: those of the ring, those that are joining, and those that have left and were not dropped.
    pub shards: Vec<InspectedShard>,
    /// Virtual nodes with fewer whole owners than the replication factor asks for, by what the small files say.
    pub under_replicated: u32,
    /// Virtual nodes without a whole owner: the store does not open like this.
    pub unavailable: u32,
    /// The last scrub, as far as it had got when that was saved; none if there has been none.
    pub scrub: Option<ScrubProgress>,
    /// All files together.
    pub bytes: u64,
    #[serde(skip)]
    ring: Option<Ring>,
}

/// A copy of the journal, as [`inspect`] saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InspectedJournal {
    /// Its directory.
    pub path: PathBuf,
    /// Segment files, used or kept ready.
    pub segments: u64,
    /// On disk.
    pub bytes: u64,
    /// What is wrong with it: it is missing, or cannot be read.
    pub damage: Option<String>,
}

/// A shard, as [`inspect`] saw it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InspectedShard {
    /// Its number.
    pub id: ShardId,
    /// Its directory.
    pub path: PathBuf,
    /// What it is to the ring.
    pub role: ShardRole,
    /// Its failure domain; empty for one that has left.
    pub zone: String,
    /// Its share of the data, relative to the others; 0 for one that has left.
    pub weight: f64,
    /// Virtual nodes of which it holds a copy.
    pub virtual_nodes: u32,
    /// Every commit up to this one is in it, durably; what came later is in the journal.
    pub applied: Option<Seq>,
    /// Whether it is being written to, or was when its process ended.
    pub applying: bool,
    /// Whether it is still being filled from its replicas.
    pub filling: bool,
    /// Pages in it, when it was last counted.
    pub pages: Option<u64>,
    /// Records in it, replicas included, when they were last counted.
    pub records: Option<u64>,
    /// On disk, without what is quarantined.
    pub bytes: u64,
    /// What damaged engines have left.
    pub quarantined_bytes: u64,
    /// What is wrong with it, by its small files: it is missing, another's, or damaged. Its pages were not looked at.
    pub damage: Option<String>,
}

impl Inspection {
    /// What is wrong, one sentence each. Empty for a store that is well as far as its small files say.
    pub fn problems(&self) -> Vec<String> {
        let mut found: Vec<String> = self.damage.iter().cloned().collect();
        let journals = self.journals.iter().filter_map(|journal| journal.damage.clone());
        found.extend(journals);
        for shard in self.shards.iter().filter(|shard| shard.role != ShardRole::Retired) {
            found.extend(shard.damage.iter().map(|damage| format!("shard {}: {damage}", shard.id)));
        }
        if self.unavailable > 0 {
            found.push(format!("{} virtual nodes have no whole owner", self.unavailable));
        } else if self.under_replicated > 0 {
            found.push(format!("{} virtual nodes lack a copy", self.under_replicated));
        }
        found
    }

    /// The ring; none for an inspection that was deserialized.
    pub fn ring(&self) -> Option<&Ring> {
        self.ring.as_ref()
    }
}

fn look(disk: &dyn Disk, dir: &Path) -> Result<Inspection> {
    let (manifest, file, damage) = find(disk, dir)?;
    let ring = Ring::new(manifest.topology.clone())?;
    let balance = ring.balance();
    let here = |entry: &&ShardEntry| entry.state != ShardState::Abandoned;
    let shards: Vec<InspectedShard> = (manifest.shards.iter().filter(here))
        .map(|entry| shard(disk, dir, &manifest, entry, &balance))
        .collect();
    let whole = |shard: &&InspectedShard| shard.damage.is_none() && !shard.filling;
    let whole: BTreeSet<ShardId> = shards.iter().filter(whole).map(|shard| shard.id).collect();
    let (mut under_replicated, mut unavailable) = (0, 0);
    for node in (0..ring.virtual_nodes()).map(VirtualNode) {
        let owners = ring.owners(node);
        let there = owners.iter().filter(|owner| whole.contains(owner)).count();
        under_replicated += u32::from(there < owners.len());
        unavailable += u32::from(there == 0);
    }
    let journals = journals(disk, dir, &manifest);
    let scrub = Scrubbing::load(disk, dir, manifest.store).progress();
    let mut keyspaces: Vec<String> =
        manifest.keyspaces.iter().filter(|k| !k.dropped).map(|k| k.name.clone()).collect();
    keyspaces.sort_unstable();
    let elsewhere = |path: &&Path| !path.starts_with(dir);
    let outside = shards.iter().map(|s| (s.path.as_path(), s.bytes + s.quarantined_bytes));
    let outside = outside.chain(journals.iter().map(|j| (j.path.as_path(), j.bytes)));
    let outside: u64 = outside.filter(|(path, _)| elsewhere(path)).map(|(_, bytes)| bytes).sum();
    let inside = size(disk, dir).map_err(|e| Error::io("add up the sizes of the files", dir, e))?;
    Ok(Inspection {
        dir: dir.to_path_buf(),
        store: manifest.store,
        manifest: file,
        generation: manifest.generation,
        damage,
        opened_by: disk.holder(&dir.join(LOCK)),
        epoch: ring.epoch(),
        replication_factor: ring.replication_factor(),
        virtual_nodes: ring.virtual_nodes(),
        partitioner: ring.partitioner(),
        changing_to: manifest.change.as_ref().map(|change| change.next.epoch),
        page_bytes: manifest.page_bytes,
        keyspaces,
        balance,
        journals,
        shards,
        under_replicated,
        unavailable,
        scrub: (scrub.report.started > 0).then_some(scrub),
        bytes: inside + outside,
        ring: Some(ring),
    })
}

/// The manifest, the file that it is from, and why that is a copy.
fn find(disk: &dyn Disk, dir: &Path) -> Result<(Manifest, PathBuf, Option<String>)> {
    let own = dir.join(MANIFEST);
    let error = match Manifest::load(disk, dir) {
        Ok(Some(manifest)) => return Ok((manifest, own, None)),
        Err(error) if error.kind() != ErrorKind::Corruption => return Err(error),
        Err(error) => error,
        Ok(None) if disk.exists(&dir.join(RESTORING)).unwrap_or(false) => {
            let text = "a restore into the directory was interrupted, or is under way: it is no store yet";
            return Err(Error::new(ErrorKind::Refused, text).at(dir).remedy("restore there again"));
        }
        Ok(None) => Error::new(ErrorKind::NotFound, "there is no store").at(dir),
    };
    let shards = dir.join(SHARDS_DIR);
    let mut newest: Option<(Manifest, PathBuf)> = None;
    for name in disk.list(&shards).unwrap_or_default() {
        let place = shards.join(name);
        // One that cannot be read is one copy fewer.
        let Ok(Some(Identity { manifest: Some(copy), .. })) = Identity::load(disk, &place) else { continue };
        if newest.as_ref().is_none_or(|(best, _)| copy.generation > best.generation) {
            newest = Some((copy, place.join(identity::FILE)));
        }
    }
    let (manifest, place) = newest.ok_or_else(|| error.clone())?;
    let damage = match error.kind() {
        ErrorKind::NotFound => format!("the manifest is gone: {}", own.display()),
        _ => error.to_string(),
    };
    Ok((manifest, place, Some(damage)))
}

fn shard(
    disk: &dyn Disk,
    dir: &Path,
    manifest: &Manifest,
    entry: &ShardEntry,
    balance: &Balance,
) -> InspectedShard {
    let path = dir.join(&entry.path);
    let next = manifest.change.iter().flat_map(|change| &change.next.members);
    let member: Option<&Member> =
        manifest.topology.members.iter().chain(next).find(|member| member.id == entry.id);
    let load = balance.shards.iter().find(|shard| shard.shard == entry.id).map_or(0, |shard| shard.load);
    let mut found = InspectedShard {
        id: entry.id,
        path: path.clone(),
        role: match entry.state {
            ShardState::Joining => ShardRole::Joining,
            ShardState::Retired | ShardState::Abandoned => ShardRole::Retired,
            ShardState::Member => ShardRole::Member,
        },
        zone: member.map(|member| member.zone.clone()).unwrap_or_default(),
        weight: member.map_or(0.0, |member| member.weight),
        virtual_nodes: load,
        applied: None,
        applying: false,
        filling: false,
        pages: None,
        records: None,
        bytes: 0,
        quarantined_bytes: 0,
        damage: None,
    };
    match small_files(disk, &path, manifest.store, entry.id) {
        Ok(seal) => {
            found.applied = Some(seal.applied);
            (found.applying, found.filling) = (seal.applying, seal.filled.is_some());
            found.pages = seal.figures.map(|figures| figures.pages);
            found.records = seal.figures.map(|figures| figures.records);
        }
        Err(error) => found.damage = Some(error.to_string()),
    }
    match sizes(disk, &path) {
        Ok((bytes, quarantined)) => (found.bytes, found.quarantined_bytes) = (bytes, quarantined),
        Err(error) => {
            let error = Error::io("add up the sizes of the files", &path, error);
            found.damage.get_or_insert_with(|| error.to_string());
        }
    }
    found
}

/// The seal, if directory, identity and engine are there and the shard's own.
fn small_files(disk: &dyn Disk, dir: &Path, store: u128, id: ShardId) -> Result<Seal> {
    let missing = |what: &str| Error::new(ErrorKind::NotFound, format!("{what} is missing")).at(dir);
    let identity = Identity::load(disk, dir)?.ok_or_else(|| missing("the shard, or its identity file,"))?;
    identity.expect(dir, store, id)?;
    let seal = Seal::load(disk, dir)?.ok_or_else(|| missing("the shard's seal"))?;
    if (seal.store, seal.shard) != (store, id) {
        return Err(Error::new(ErrorKind::Foreign, "the seal is that of another shard").at(dir));
    }
    let engine = dir.join(engine_name(seal.generation));
    match disk.exists(&engine) {
        Ok(true) => Ok(seal),
        Ok(false) => Err(missing("the engine that the seal names")),
        Err(error) => Err(Error::io("look for the engine", engine, error)),
    }
}

fn journals(disk: &dyn Disk, dir: &Path, manifest: &Manifest) -> Vec<InspectedJournal> {
    let mut paths: Vec<PathBuf> = manifest.journals.iter().map(|journal| dir.join(&journal.path)).collect();
    if paths.is_empty() {
        paths.push(dir.join(JOURNAL_DIR));
    }
    let one = |path: PathBuf| {
        let (names, damage) = match disk.list(&path) {
            Ok(names) => (names, None),
            Err(e) => (Vec::new(), Some(Error::io("read the journal's directory", &path, e).to_string())),
        };
        let segments = names.iter().filter(|name| name.ends_with(".seg")).count() as u64;
        InspectedJournal { segments, bytes: size(disk, &path).unwrap_or_default(), damage, path }
    };
    paths.into_iter().map(one).collect()
}

/// The bytes of a shard's files, and of those in it that were set aside.
fn sizes(disk: &dyn Disk, dir: &Path) -> io::Result<(u64, u64)> {
    let names = match disk.list(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((0, 0)),
        names => names?,
    };
    let (mut bytes, mut quarantined) = (0, 0);
    for name in names {
        let sum = if is_quarantine(&name) { &mut quarantined } else { &mut bytes };
        *sum += size(disk, &dir.join(name))?;
    }
    Ok((bytes, quarantined))
}

/// The lengths of all files below a path together; what goes meanwhile, since the store may be open, has none.
fn size(disk: &dyn Disk, path: &Path) -> io::Result<u64> {
    let gone = |e: io::Error| if e.kind() == io::ErrorKind::NotFound { Ok(0) } else { Err(e) };
    match disk.list(path) {
        Ok(names) => names.iter().map(|name| size(disk, &path.join(name))).sum(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
        // Not a directory.
        Err(_) => disk.open(path, OpenMode::Read).and_then(|file| file.len()).or_else(gone),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// A file that is a pipe without a writer keeps who opens it in a call of the system's, as a network mount does whose server is gone.
    #[test]
    fn a_store_on_a_disk_that_hangs_is_looked_at_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join(MANIFEST);
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let at = dir.path().to_path_buf();
        let (done, seen) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let _ = done.send(look_within(Arc::new(RealDisk), &at, Duration::from_millis(50)));
        });
        let error = seen.recv_timeout(Duration::from_secs(20)).expect("it hangs").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("within 50ms"), "{error}");
        // Whoever is in it still comes out.
        std::fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    }
}
