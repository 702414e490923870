//! Reading a checkpoint whole, to see whether it could be restored.

mod archives;

use super::checkpoint::{Body, CheckpointId};
use super::damage::{Damage, Loss};
use super::hash::ObjectId;
use super::layer::{LayerReader, Reading};
use super::lineage::Lineage;
use super::progress::{BackupProgress, Watch};
use super::repository::BackupRepository;
use crate::error::{ErrorKind, Result};
use crate::ids::Seq;
use archives::Begins;
use bytes::Bytes;
use std::collections::HashMap;
use std::ops::ControlFlow;

/// Layers that nothing is wrong with, by their indexes: how many records they have, and that none of these is later than a sequence.
type Whole = HashMap<Vec<ObjectId>, (u64, Seq)>;

/// What a verification has found.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Verification {
    /// How many checkpoints were looked at.
    pub checkpoints: u64,
    /// How many records their layers have, marks of removals included.
    pub records: u64,
    /// How many objects were read, pieces of archives among them.
    pub objects: u64,
    /// Bytes read.
    pub bytes: u64,
    /// What is wrong.
    pub damage: Vec<Damage>,
}

impl Verification {
    /// Whether nothing is wrong: everything could be restored.
    pub fn is_whole(&self) -> bool {
        self.damage.is_empty()
    }
}

/// What tells whether a restore to a moment can begin with a checkpoint.
fn begin(body: &Body) -> (u128, Seq, CheckpointId, Lineage) {
    (body.store, body.seq, body.id, body.history.clone())
}

impl BackupRepository {
    /// Reads every byte of a checkpoint, and says of damage which file it is in and which keys it hits. The archive that goes on from it is left to
    /// [`verify_all`](Self::verify_all). An object that cannot be read when it is asked for again, while others can, is damage of the kind
    /// `Io`. Changes nothing. Memory: a chunk or two.
    ///
    /// # Errors
    /// As [`get`](Self::get); `Unsupported` for an object of another release, `Io` where nothing can be read any more. Damage is not an error.
    pub fn verify(&self, id: CheckpointId) -> Result<Verification> {
        self.verify_watched(id, &Watch::default())
    }

    /// The same, with somebody who is told after every object, on the calling thread. When the callback answers `Break`, it ends.
    ///
    /// # Errors
    /// As [`verify`](Self::verify), and `Cancelled`.
    ///
    /// ```
    /// # fn main() -> annulus::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = annulus::Store::open(dir.path().join("data"))?;
    /// # let repo = annulus::BackupRepository::open(dir.path().join("backup"))?;
    /// # let id = store.checkpoint(&repo)?;
    /// let found = repo.verify_with(id, |at| {
    ///     println!("{} of {:?} bytes", at.bytes, at.bytes_total);
    ///     std::ops::ControlFlow::Continue(())
    /// })?;
    /// assert!(found.is_whole());
    /// # Ok(()) }
    /// ```
    pub fn verify_with(
        &self,
        id: CheckpointId,
        progress: impl Fn(BackupProgress) -> ControlFlow<()> + Send + Sync + 'static,
    ) -> Result<Verification> {
        self.verify_watched(id, &Watch::new(progress))
    }

    fn verify_watched(&self, id: CheckpointId, watch: &Watch) -> Result<Verification> {
        if watch.is_on() {
            watch.expect(self.load(id)?.layers().map(|layer| layer.bytes).sum());
        }
        let mut found = Verification::default();
        self.verify_one(id, &mut found, &mut Whole::new(), watch)?;
        Ok(found)
    }

    /// Verifies every checkpoint, also that their manifests can be read, and the archives that restores go on with from them
    /// ([`Store::archive`](crate::Store::archive)): every piece that one of the checkpoints comes before, and that none of them is missing that no
    /// checkpoint lies behind. Those of a history that was given up when an older copy of the store was put back count for themselves alone. Layers that several share are read once. Memory: a chunk or two, or a piece of the archive.
    ///
    /// # Errors
    /// `Io` where nothing can be read any more. Damage is not an error, nor is a manifest or an object of another release, or a single file that
    /// cannot be read: all are told as damage.
    pub fn verify_all(&self) -> Result<Verification> {
        self.verify_all_watched(&Watch::default())
    }

    /// The same, with somebody who is told after every object, on the calling thread. When the callback answers `Break`, it ends.
    ///
    /// # Errors
    /// As [`verify_all`](Self::verify_all), and `Cancelled`.
    pub fn verify_all_with(
        &self,
        progress: impl Fn(BackupProgress) -> ControlFlow<()> + Send + Sync + 'static,
    ) -> Result<Verification> {
        self.verify_all_watched(&Watch::new(progress))
    }

    fn verify_all_watched(&self, watch: &Watch) -> Result<Verification> {
        if watch.is_on() {
            // Those that cannot be read are told of below.
            let bodies: Vec<Body> = self.ids()?.into_iter().filter_map(|id| self.load(id).ok()).collect();
            let layers: HashMap<_, u64> =
                bodies.iter().flat_map(Body::layers).map(|layer| (&layer.indexes, layer.bytes)).collect();
            let begins: Vec<_> = bodies.iter().map(begin).collect();
            let begins = Begins::of(&begins);
            let layers = layers.values().fold(0u64, |sum, bytes| sum.saturating_add(*bytes));
            watch.expect(layers.saturating_add(self.archived_bytes(&begins)?));
        }
        let (mut all, mut whole, mut begins) = (Verification::default(), Whole::new(), Vec::new());
        for id in self.ids()? {
            match self.verify_one(id, &mut all, &mut whole, watch) {
                Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
                Err(error) if error.kind() == ErrorKind::Io && !self.is_unread(id) => return Err(error),
                // Pruned since its name was read.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => all.damage.push(Damage {
                    checkpoint: id,
                    file: self.storage.describe(&id.name()),
                    keyspace: None,
                    from: Bytes::new(),
                    to: None,
                    records: None,
                    loss: Loss::Missing,
                    error,
                }),
                Ok(body) => begins.push(begin(&body)),
            }
        }
        self.verify_archives(&Begins::of(&begins), &mut all, watch)?;
        Ok(all)
    }

    /// Verifies a checkpoint but for the layers that are known to be `whole`.
    fn verify_one(
        &self,
        id: CheckpointId,
        found: &mut Verification,
        whole: &mut Whole,
        watch: &Watch,
    ) -> Result<Body> {
        let body = self.load(id)?;
        let mut reading = Reading::new(self.storage.clone(), id, true).watched(watch);
        let records = self.read_layers(&body, &mut reading, whole);
        if records.is_err() || !reading.damage.is_empty() {
            // One that was pruned meanwhile is not damaged, it is gone.
            self.load(id)?;
        }
        found.checkpoints += 1;
        found.records += records?;
        found.objects += reading.objects;
        found.bytes += reading.bytes;
        found.damage.append(&mut reading.damage);
        Ok(body)
    }

    fn read_layers(&self, body: &Body, reading: &mut Reading, whole: &mut Whole) -> Result<u64> {
        let mut records = 0;
        for keyspace in &body.keyspaces {
            let mut older = None;
            for layer in &keyspace.layers {
                let below = older.replace(layer.upto);
                // What it says of the records may differ, and is read again then.
                let has = whole.get(&layer.indexes);
                if has.is_some_and(|(records, upto)| *records == layer.records && *upto <= layer.upto) {
                    records += layer.records;
                    continue;
                }
                let before = reading.damage.len();
                let (mut reader, mut seen) = (LayerReader::new(&keyspace.name, layer, below), 0);
                while reader.advance(reading)? {
                    seen += 1;
                }
                if reading.damage.len() == before && seen == layer.records {
                    whole.insert(layer.indexes.clone(), (layer.records, layer.upto));
                }
                records += seen;
            }
        }
        Ok(records)
    }
}
