//! A commit that counts as a whole or not at all: what it will write to the index is announced in sled first.
//!
//! ```text
//!   meta: "intent"               version u8 = 1 | entries u32 | CRC-32 over all entries' keys and values, and these five bytes, u32
//!   meta: "node" + number        the node to be stored under the number; nothing: it is to be removed
//! ```
//! The entries come first, then the intent, then the changes themselves, then the intent goes, then the entries. sled makes
//! changes durable in order, so a crash finds no intent, and nothing of the changes or all of them; or the intent, and all
//! of its entries, and the opening makes the changes from the beginning. Numbers in keys are big-endian, the others little-endian.
//!
//! Invariant: entries without an intent mean nothing.

use super::calls::Change;
use super::core::Core;
use super::writer::Writer;
use crate::error::{Error, ErrorKind, Result};

const INTENT_KEY: &[u8] = b"intent";
const ENTRY_PREFIX: &[u8] = b"node";
const VERSION: u8 = 1;
/// Before so many bytes more what was announced is flushed: sled puts no bound on what waits.
const MAX_UNWRITTEN: usize = 8 << 20;

/// A node on its way to sled.
pub(super) struct Encoded {
    pub lower: Box<[u8]>,
    pub number: u64,
    pub bytes: Vec<u8>,
}

/// What a commit will write, by keys; empty if it may be written in any part.
#[derive(Default)]
pub(super) struct Intent(Vec<(Vec<u8>, Vec<u8>)>);

fn entry_key(number: u64) -> Vec<u8> {
    [ENTRY_PREFIX, &number.to_be_bytes()].concat()
}

fn head(entries: u32, sum: crc32fast::Hasher) -> Vec<u8> {
    let mut head = vec![VERSION];
    head.extend_from_slice(&entries.to_le_bytes());
    let mut sum = sum;
    sum.update(&head);
    head.extend_from_slice(&sum.finalize().to_le_bytes());
    head
}

impl Intent {
    pub fn announced(&self) -> Vec<Change> {
        let (mut changes, mut sum, mut unwritten) = (Vec::new(), crc32fast::Hasher::new(), 0);
        for (key, bytes) in &self.0 {
            sum.update(key);
            sum.update(bytes);
            unwritten += bytes.len();
            changes.push(Change::Meta(key.clone(), bytes.clone()));
            if unwritten > MAX_UNWRITTEN {
                unwritten = 0;
                changes.push(Change::Flush);
            }
        }
        if !self.0.is_empty() {
            changes.push(Change::Meta(INTENT_KEY.to_vec(), head(self.0.len() as u32, sum)));
        }
        changes
    }

    pub fn withdrawn(self) -> Vec<Change> {
        let head = (!self.0.is_empty()).then(|| Change::NoMeta(INTENT_KEY.to_vec()));
        head.into_iter().chain(self.0.into_iter().map(|(key, _)| Change::NoMeta(key))).collect()
    }
}

impl Core {
    /// The intent of a commit that writes these nodes. One change alone sled makes whole by itself.
    pub(super) fn intent(&self, writer: &Writer, nodes: &[Encoded]) -> Intent {
        if !writer.atomic || nodes.len() + writer.removed.len() <= 1 {
            return Intent::default();
        }
        let put = nodes.iter().map(|node| (entry_key(node.number), node.bytes.clone()));
        let gone = writer.removed.iter().map(|(_, number)| (entry_key(*number), Vec::new()));
        let mut entries: Vec<_> = put.chain(gone).collect();
        entries.sort();
        Intent(entries)
    }

    /// Makes the changes of a commit that was announced and cut off.
    pub(super) fn finish_intent(&self) -> Result<()> {
        let read = |key: &[u8]| self.place.call("read the shard's state", || self.meta.get(key));
        let mut found = self.meta.scan_prefix(ENTRY_PREFIX);
        let mut entries = Vec::new();
        let mut sum = crc32fast::Hasher::new();
        while let Some((key, bytes)) =
            self.place.call("read the shard's state", || found.next().transpose())?
        {
            sum.update(&key);
            sum.update(&bytes);
            entries.push((key, bytes));
        }
        let mut changes = Vec::new();
        if let Some(stored) = read(INTENT_KEY)? {
            if stored.first() != Some(&VERSION) {
                let text = "the shard was left in a change that this release does not know";
                return Err(self.place.locate(
                    Error::new(ErrorKind::Unsupported, text)
                        .remedy("use the release that wrote it, or a newer one"),
                ));
            }
            if *stored != head(entries.len() as u32, sum) {
                return Err(self.place.corruption(format!(
                    "expected the entries of an announced change of the index, found {} others",
                    entries.len()
                )));
            }
            for (key, bytes) in &entries {
                let number = key[ENTRY_PREFIX.len()..].try_into().map(u64::from_be_bytes).map_err(|_| {
                    self.place.corruption(format!("expected a node of the index, found the key {key:02x?}"))
                })?;
                changes.push(if bytes.is_empty() {
                    Change::NoNode(number)
                } else {
                    Change::Node(number, bytes.to_vec())
                });
            }
            changes.push(Change::Flush);
            changes.push(Change::NoMeta(INTENT_KEY.to_vec()));
        }
        changes.extend(entries.iter().map(|(key, _)| Change::NoMeta(key.to_vec())));
        if changes.is_empty() { Ok(()) } else { self.change_sled(changes) }
    }
}
