//! A journal in several copies: faults in one, losses of one, and what must never be believed.

mod coming_back;
mod failing;
mod faults;
mod hanging;
mod histories;
pub mod hooked;
mod locking;
mod mending;
mod missing;
mod older;
mod opening;
mod reading;
mod shown;
mod spots;
pub mod spreading;
mod walks;
mod words;

use super::*;
use crate::disk::sim::Rng;
use crate::journal::mirror::{Found, Mirrors, Place};
use std::collections::BTreeMap;
use std::path::PathBuf;

const HOME: &str = "/store";
pub const DIRS: [&str; 2] = ["/a/journal", "/b/journal"];

pub fn dirs_disk(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    for dir in ["/store", "/a", "/b"] {
        disk.create_dir_all(Path::new(dir)).unwrap();
    }
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

fn places() -> Vec<Place> {
    let place = |(id, dir): (u32, &&str)| Place {
        id,
        dir: PathBuf::from(dir),
        known: true,
        listed: true,
        implicit: false,
        mounts: 0,
    };
    (0..).zip(&DIRS).map(place).collect()
}

/// Loses whatever touches a copy's directory, until healed.
fn absent(disk: &SimDisk, copy: usize) {
    let here = move |path: &Path| path.starts_with(DIRS[copy]);
    disk.inject(Fault::on(Operation::Look).at(here).error(std::io::ErrorKind::NotFound));
    disk.inject(Fault::on(Operation::Read).at(here));
    disk.inject(Fault::on_any_change().at(here));
}

fn fault(disk: &SimDisk, operation: Operation, copy: usize, times: u64) {
    disk.inject(Fault::on(operation).at(move |path| path.starts_with(DIRS[copy])).times(times));
}

/// What was written, as far as it matters: sequence to the life that wrote it.
#[derive(Debug, Clone, Default)]
pub struct Model {
    written: BTreeMap<u64, u64>,
    life: u64,
    /// Acknowledged as durable.
    synced: u64,
    /// Acknowledged as handed over.
    handed: u64,
    /// What the shards would have applied: what is below may be trimmed.
    applied: u64,
}

impl Model {
    fn payload(&self, seq: u64) -> Vec<u8> {
        let mut bytes = self.written[&seq].to_le_bytes().to_vec();
        bytes.extend(payload(seq));
        bytes
    }

    fn append(&mut self, journal: &Journal, handoff: Handoff) -> Result<()> {
        let seq = journal.lock().next_seq();
        let before = self.written.insert(seq.0, self.life);
        let outcome = journal.append(&Payload::new(&self.payload(seq.0)), handoff);
        if journal.last() < seq {
            // It got no place: what an earlier life wrote there may still be found.
            match before {
                Some(life) => self.written.insert(seq.0, life),
                None => self.written.remove(&seq.0),
            };
        }
        outcome?;
        if handoff == Handoff::Os {
            self.handed = seq.0;
        }
        Ok(())
    }

    fn sync(&mut self, journal: &Journal) -> Result<()> {
        let last = journal.last();
        journal.sync_to(last)?;
        (self.synced, self.handed) = (last.0, last.0);
        Ok(())
    }

    /// Opens; whatever comes back must be what was written last under its number, and all that was acknowledged.
    fn open(
        &mut self,
        disk: &SimDisk,
        accept: Option<&str>,
    ) -> Result<(Arc<Mirrors>, Journal, ReplayReport)> {
        self.open_on(Arc::new(disk.clone()), accept)
    }

    fn open_on(
        &mut self,
        shared: Arc<dyn Disk>,
        accept: Option<&str>,
    ) -> Result<(Arc<Mirrors>, Journal, ReplayReport)> {
        let (home, store) = (Path::new(HOME), CONFIG.store_id);
        let locks = Found::lock(shared.as_ref(), CONFIG.store_id, &places())?;
        let found = Found::look(shared, home, store, places(), accept.map(Path::new), false, locks)?;
        let from = Seq(self.applied.max(found.first_retained()?.0.saturating_sub(1)));
        let mirrors = found.serve(from, from, None)?;
        let at = mirrors.dir().to_path_buf();
        let mut next = from.next();
        let (journal, report) =
            Journal::open(mirrors.clone(), &at, CONFIG, from, from, &mut |seq, bytes| {
                assert_eq!(seq, next);
                let life = bytes.first_chunk().map(|b| u64::from_le_bytes(*b));
                assert_eq!(life, self.written.get(&seq.0).copied(), "{seq} is of another life");
                assert!(bytes == self.payload(seq.0), "{seq}");
                next = seq.next();
                Ok(())
            })?;
        self.life += 1;
        self.written.split_off(&next.0);
        Ok((mirrors, journal, report))
    }

    fn create(&self, disk: &SimDisk) -> (Arc<Mirrors>, Journal) {
        self.create_on(Arc::new(disk.clone()))
    }

    pub fn create_on(&self, shared: Arc<dyn Disk>) -> (Arc<Mirrors>, Journal) {
        let mirrors =
            Mirrors::create(shared, Path::new(HOME), CONFIG.store_id, places(), None, Arc::default())
                .unwrap();
        let at = mirrors.dir().to_path_buf();
        let journal = Journal::create(mirrors.clone(), &at, CONFIG, Seq(1)).unwrap();
        mirrors.vouch().unwrap();
        (mirrors, journal)
    }
}

impl Mirrors {
    /// Makes those copies complete that are not, of a journal that nobody reads.
    pub fn mend(&self) -> usize {
        self.mend_beside(None)
    }
}

fn good(mirrors: &Mirrors) -> [bool; 2] {
    [0, 1].map(|index| mirrors.copies()[index].good)
}
