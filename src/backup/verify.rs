//! Reading a checkpoint whole, to see whether it could be restored.

use super::checkpoint::{Body, CheckpointId};
use super::damage::{Damage, Loss};
use super::hash::ObjectId;
use super::reader::{LayerReader, Reading};
use super::repository::BackupRepository;
use crate::error::{ErrorKind, Result};
use bytes::Bytes;
use std::collections::HashSet;

/// What a verification has found.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Verification {
    /// How many checkpoints were looked at.
    pub checkpoints: u64,
    /// How many records their layers have, marks of removals included.
    pub records: u64,
    /// How many objects were read, and how many bytes.
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

impl BackupRepository {
    /// Reads every byte of a checkpoint, and says of damage which file it is in and which keys it hits. Changes nothing. Memory: a
    /// chunk or two.
    ///
    /// # Errors
    /// As [`get`](Self::get); `Unsupported` for an object of another release, `Io`. Damage is not an error.
    pub fn verify(&self, id: CheckpointId) -> Result<Verification> {
        let mut found = Verification::default();
        self.verify_one(id, &mut found, &mut HashSet::new())?;
        Ok(found)
    }

    /// Verifies every checkpoint, also that their manifests can be read. Layers that several share are read once.
    ///
    /// # Errors
    /// `Io`. Damage is not an error, nor is a manifest or an object of another release: both are told as damage.
    pub fn verify_all(&self) -> Result<Verification> {
        let (mut all, mut whole) = (Verification::default(), HashSet::new());
        for id in self.ids()? {
            match self.verify_one(id, &mut all, &mut whole) {
                Err(error) if error.kind() == ErrorKind::Io => return Err(error),
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
                Ok(()) => {}
            }
        }
        Ok(all)
    }

    /// Verifies a checkpoint but for the layers that are known to be `whole`, by their indexes.
    fn verify_one(
        &self,
        id: CheckpointId,
        found: &mut Verification,
        whole: &mut HashSet<Vec<ObjectId>>,
    ) -> Result<()> {
        let body = self.load(id)?;
        let mut reading = Reading::new(self.storage.clone(), id, true);
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
        Ok(())
    }

    fn read_layers(
        &self,
        body: &Body,
        reading: &mut Reading,
        whole: &mut HashSet<Vec<ObjectId>>,
    ) -> Result<u64> {
        let mut records = 0;
        for keyspace in &body.keyspaces {
            let mut older = None;
            for layer in &keyspace.layers {
                let below = older.replace(layer.upto);
                if whole.contains(&layer.indexes) {
                    records += layer.records;
                    continue;
                }
                let before = reading.damage.len();
                let (mut reader, mut seen) = (LayerReader::new(&keyspace.name, layer, below), 0);
                while reader.advance(reading)? {
                    seen += 1;
                }
                if reading.damage.len() == before && seen == layer.records {
                    whole.insert(layer.indexes.clone());
                }
                records += seen;
            }
        }
        Ok(records)
    }
}
