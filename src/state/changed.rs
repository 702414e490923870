//! Which keys have been written since the last checkpoint, so that the next one need not read the others.
//!
//! Invariants:
//! - A key that was written after [`since`](Changed::since) said it knows is in what that returns, or in a memtable: keys are
//!   taken down before their table is forgotten. Others may be there as well.
//! - It is kept in memory alone, for this opening of the store, and up to a bound: what does not fit is forgotten from the
//!   oldest on, and the next checkpoint reads everything. Nothing is kept before the first checkpoint.
//! - No key says what shards come to give out otherwise than by a write. Whoever makes them do so forgets the checkpoints that there
//!   are, and those under way are none to build upon: the next one reads everything.

use crate::ids::Seq;
use crate::memtable::Table;
use crate::page::varint;
use crate::sync::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

/// At most so many bytes, and at most this part of the store's budget.
const MOST: u64 = 16 << 20;
const SHARE: u64 = 16;
/// How many checkpoints are remembered to build upon.
const BASES: usize = 8;

/// Keys of a table that has been flushed: in order, each once, as how much it shares with the one before, the rest, and when it was
/// written last.
#[derive(Debug)]
pub struct KeyRun {
    /// No key was written in it after this.
    upto: Seq,
    bytes: Vec<u8>,
}

/// A position in a run.
#[derive(Debug)]
pub struct KeyCursor {
    run: Arc<KeyRun>,
    /// Keys that were not written after this are left out.
    base: Seq,
    at: usize,
    key: Vec<u8>,
}

/// A checkpoint that this opening of the store has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    pub number: u64,
    /// Of its manifest: in a copy of its repository another one may have its number.
    pub hash: [u8; 32],
}

#[derive(Debug, Default)]
struct Known {
    /// Whether keys are taken down.
    begun: bool,
    /// Every key written after this is known.
    since: Option<Seq>,
    runs: VecDeque<Arc<KeyRun>>,
    bytes: u64,
    bases: VecDeque<(u128, Base)>,
    /// How often shards have come to give out something else without a write.
    corrections: u64,
}

/// The keys written since a checkpoint.
#[derive(Debug)]
pub struct Changed {
    known: Mutex<Known>,
    most: u64,
}

impl Changed {
    pub fn new(budget: u64) -> Changed {
        Changed { known: Mutex::default(), most: (budget / SHARE).min(MOST) }
    }

    /// Begins to take keys down, if that has not begun. Returns what [`took`](Changed::took) is to be told of the checkpoint that
    /// begins here.
    pub fn begin(&self) -> u64 {
        let mut known = self.known.lock();
        known.begun = true;
        known.corrections
    }

    /// Says that it had begun when the last commit was `at`.
    pub fn begun_before(&self, at: Seq) {
        self.known.lock().since.get_or_insert(at);
    }

    /// Takes down the keys of a table that is about to be forgotten.
    pub fn note(&self, table: &Table) {
        if !self.known.lock().begun {
            return;
        }
        let run = KeyRun::of(table);
        let mut known = self.known.lock();
        known.bytes += run.bytes.len() as u64;
        known.runs.push_back(Arc::new(run));
        while known.bytes > self.most {
            let Some(oldest) = known.runs.pop_front() else { break };
            known.bytes -= oldest.bytes.len() as u64;
            known.since = known.since.max(Some(oldest.upto));
        }
    }

    /// The runs with all keys that were written after `base` and are in no memtable; none if that is not known any more. The
    /// caller has taken the memtables before.
    pub fn since(&self, base: Seq) -> Option<Vec<Arc<KeyRun>>> {
        let known = self.known.lock();
        let complete = known.since.is_some_and(|since| since <= base);
        complete.then(|| known.runs.iter().filter(|run| run.upto > base).cloned().collect())
    }

    /// Says that this opening of the store has taken that checkpoint of that repository, and when it had begun.
    pub fn took(&self, repository: u128, checkpoint: Base, begun: u64) {
        let mut known = self.known.lock();
        // It may have read what has been put right since.
        if known.corrections == begun {
            known.bases.push_front((repository, checkpoint));
            known.bases.truncate(BASES);
        }
    }

    /// Says that shards give out something else from here on, though nobody has written it: what checkpoints have read before is not
    /// built upon.
    pub fn corrected(&self) {
        let mut known = self.known.lock();
        known.corrections += 1;
        known.bases.clear();
    }

    /// The last checkpoint that this opening of the store has put into that repository.
    pub fn base(&self, repository: u128) -> Option<Base> {
        let known = self.known.lock();
        known.bases.iter().find(|(of, _)| *of == repository).map(|(_, checkpoint)| *checkpoint)
    }
}

impl KeyRun {
    pub fn of(table: &Table) -> KeyRun {
        let (mut bytes, mut last): (Vec<u8>, &[u8]) = (Vec::new(), &[]);
        let upto = table.max_seq().unwrap_or_default();
        for record in table.records().filter(|record| !record.key.is_empty()) {
            // Of a key's versions the newest comes first.
            if record.key == last {
                continue;
            }
            let shared = last.iter().zip(record.key).take_while(|(a, b)| a == b).count();
            varint::put(&mut bytes, shared as u64);
            varint::put(&mut bytes, (record.key.len() - shared) as u64);
            varint::put(&mut bytes, upto.0 - record.seq.0.min(upto.0));
            bytes.extend_from_slice(&record.key[shared..]);
            last = record.key;
        }
        bytes.shrink_to_fit();
        KeyRun { upto, bytes }
    }

    /// The keys that were written after `base`.
    pub fn cursor(self: Arc<Self>, base: Seq) -> KeyCursor {
        KeyCursor { run: self, base, at: 0, key: Vec::new() }
    }
}

impl KeyCursor {
    /// The key that was gone on to last.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Goes on to the next key; false at the end.
    pub fn advance(&mut self) -> bool {
        while let Some(seq) = self.take() {
            if seq > self.base {
                return true;
            }
        }
        false
    }

    fn take(&mut self) -> Option<Seq> {
        let bytes = &self.run.bytes;
        let shared = varint::take(bytes, &mut self.at)? as usize;
        let rest = varint::take(bytes, &mut self.at)? as usize;
        let before = varint::take(bytes, &mut self.at)?;
        self.key.truncate(shared);
        self.key.extend_from_slice(bytes.get(self.at..self.at + rest)?);
        self.at += rest;
        Some(Seq(self.run.upto.0.saturating_sub(before)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(keys: &[&str], seq: u64) -> Table {
        let mut table = Table::new();
        keys.iter().for_each(|key| table.insert(key.as_bytes(), Seq(seq), Some(b"v"), &[]).unwrap());
        table
    }

    fn keys(runs: Vec<Arc<KeyRun>>) -> Vec<Vec<String>> {
        let read = |run: Arc<KeyRun>| {
            let mut cursor = run.cursor(Seq(4));
            let mut keys = Vec::new();
            while cursor.advance() {
                keys.push(String::from_utf8(cursor.key().to_vec()).unwrap());
            }
            keys
        };
        runs.into_iter().map(read).collect()
    }

    #[test]
    fn keys_are_known_from_the_first_checkpoint_on() {
        let changed = Changed::new(1 << 30);
        changed.note(&table(&["before"], 1));
        assert!(changed.since(Seq(1)).is_none());
        changed.begin();
        changed.begun_before(Seq(3));
        changed.note(&table(&["abc", "abd", "b", "b"], 5));
        let mut straddling = table(&["x"], 9);
        straddling.insert(b"old", Seq(4), Some(b"v"), &[]).unwrap();
        changed.note(&straddling);
        assert!(changed.since(Seq(2)).is_none(), "what was written before is not known");
        assert_eq!(keys(changed.since(Seq(3)).unwrap()), [vec!["abc", "abd", "b"], vec!["x"]]);
        assert_eq!(keys(changed.since(Seq(5)).unwrap()), [vec!["x"]]);
        changed.begin();
        changed.begun_before(Seq(9));
        assert!(changed.since(Seq(3)).is_some(), "it goes on from where it began");
    }

    #[test]
    fn what_does_not_fit_is_forgotten_from_the_oldest_on() {
        let changed = Changed::new(SHARE * 100);
        changed.begin();
        changed.begun_before(Seq(1));
        let long = "k".repeat(60);
        changed.note(&table(&[&long], 6));
        assert!(changed.since(Seq(1)).is_some());
        changed.note(&table(&[&long], 7));
        assert!(changed.since(Seq(1)).is_none());
        assert_eq!(keys(changed.since(Seq(6)).unwrap()), [vec![long]]);
    }

    #[test]
    fn bases_are_those_of_one_repository() {
        let changed = Changed::new(1 << 20);
        let base = |number| Base { number, hash: [number as u8; 32] };
        (0..20).for_each(|n| changed.took(u128::from(n % 2), base(n), changed.begin()));
        let found = [0, 1, 2].map(|repository| changed.base(repository));
        assert_eq!(found, [Some(base(18)), Some(base(19)), None]);
    }

    #[test]
    fn what_was_read_before_a_correction_is_no_base() {
        let changed = Changed::new(1 << 20);
        let base = |number| Base { number, hash: [number as u8; 32] };
        changed.took(0, base(1), changed.begin());
        let under_way = changed.begin();
        changed.corrected();
        assert_eq!(changed.base(0), None);
        changed.took(0, base(2), under_way);
        assert_eq!(changed.base(0), None, "it may have read what was wrong");
        changed.took(0, base(3), changed.begin());
        assert_eq!(changed.base(0), Some(base(3)));
    }
}
