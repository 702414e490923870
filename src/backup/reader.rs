//! Reading a checkpoint: its layers, in one order.
//!
//! Invariants: of each key the newest layer's word counts; memory is one chunk a layer of a keyspace.

use super::Versions;
use super::checkpoint::Body;
use super::layer::{LayerReader, Reading};
use crate::batch::KEYSPACE_BYTES;
use crate::error::Result;
use crate::ids::KeyspaceId;
use crate::record::RunRecord;
use std::cmp::Ordering;
use std::collections::{HashSet, VecDeque};

/// A keyspace's layers, merged.
#[derive(Debug)]
struct Keyspace {
    id: KeyspaceId,
    /// The newest first.
    layers: Vec<LayerReader>,
}

/// All records of a checkpoint, in the order of internal keys.
#[derive(Debug)]
pub struct CheckpointReader {
    pub reading: Reading,
    keyspaces: VecDeque<Keyspace>,
    current: Option<Keyspace>,
    key: Vec<u8>,
    /// The layer whose record was given out last.
    given: Option<usize>,
    failed: bool,
}

impl CheckpointReader {
    /// Of the keyspaces with these numbers.
    pub fn new(reading: Reading, body: &Body, wanted: &HashSet<KeyspaceId>) -> CheckpointReader {
        let wanted = body.keyspaces.iter().filter(|keyspace| wanted.contains(&keyspace.id));
        let keyspaces = wanted.map(|keyspace| {
            let older = std::iter::once(None).chain(keyspace.layers.iter().map(|layer| Some(layer.upto)));
            let layers = keyspace.layers.iter().zip(older);
            let layers = layers.map(|(layer, older)| LayerReader::new(&keyspace.name, layer, older));
            let mut layers: Vec<LayerReader> = layers.collect();
            layers.reverse();
            Keyspace { id: keyspace.id, layers }
        });
        let keyspaces = keyspaces.collect();
        CheckpointReader { reading, keyspaces, current: None, key: Vec::new(), given: None, failed: false }
    }

    /// Goes on to the next record that is one; the layer that has it.
    fn advance(&mut self) -> Result<Option<usize>> {
        loop {
            let Some(keyspace) = &mut self.current else {
                let Some(mut next) = self.keyspaces.pop_front() else { return Ok(None) };
                self.key.clear();
                self.key.extend_from_slice(&next.id.0.to_be_bytes());
                start(&mut next, &mut self.reading)?;
                self.current = Some(next);
                continue;
            };
            if let Some(given) = self.given.take()
                && !keyspace.layers[given].advance(&mut self.reading)?
            {
                keyspace.layers.remove(given);
            }
            match newest(keyspace, &mut self.reading)? {
                None => self.current = None,
                Some(layer) => {
                    self.given = Some(layer);
                    if keyspace.layers[layer].record().is_some_and(|record| record.value.is_some()) {
                        return Ok(Some(layer));
                    }
                }
            }
        }
    }
}

/// Goes on to the first record of every layer.
fn start(keyspace: &mut Keyspace, reading: &mut Reading) -> Result<()> {
    let mut layers = Vec::with_capacity(keyspace.layers.len());
    for mut layer in keyspace.layers.drain(..) {
        if layer.advance(reading)? {
            layers.push(layer);
        }
    }
    keyspace.layers = layers;
    Ok(())
}

/// The layer with the least key, of several the newest; older ones go past that key.
fn newest(keyspace: &mut Keyspace, reading: &mut Reading) -> Result<Option<usize>> {
    let mut least: Option<usize> = None;
    let mut at = 0;
    while at < keyspace.layers.len() {
        let order = match least {
            None => Ordering::Less,
            Some(least) => {
                let key = |layer: usize| keyspace.layers[layer].record().map(|record| record.key);
                key(at).cmp(&key(least))
            }
        };
        match order {
            Ordering::Less => least = Some(at),
            Ordering::Equal if !keyspace.layers[at].advance(reading)? => {
                keyspace.layers.remove(at);
                continue;
            }
            // It may be the least now no more than before: its next key is above.
            Ordering::Equal | Ordering::Greater => {}
        }
        at += 1;
    }
    Ok(least)
}

impl Versions for CheckpointReader {
    fn next(&mut self) -> Option<Result<RunRecord<'_>>> {
        if self.failed {
            return None;
        }
        match self.advance() {
            Ok(Some(layer)) => {
                let record = self.current.as_ref()?.layers.get(layer)?.record()?;
                self.key.truncate(KEYSPACE_BYTES);
                self.key.extend_from_slice(record.key);
                Some(Ok(RunRecord { key: &self.key, seq: record.seq, value: record.value }))
            }
            Ok(None) => None,
            Err(error) => {
                self.failed = true;
                Some(Err(error))
            }
        }
    }
}
