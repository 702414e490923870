//! What must hold after every step.

use super::world::{Commit, Expected, World, key};
use annulus::testing::{self, small_file};
use annulus::{ErrorKind, Health, KeyspaceId, Range, Seq};
use std::collections::BTreeSet;

type Pair = (Vec<u8>, Vec<u8>);

impl World {
    /// What a key was, with each of its versions, as far as it had any.
    pub fn history(&self, key: &[u8]) -> Vec<(Seq, Option<Vec<u8>>)> {
        let of = |(i, commit): (usize, &Commit)| {
            let last = commit.iter().rev().find(|(k, _)| k == key)?;
            Some((Seq(i as u64 + 1), last.1.clone()))
        };
        self.log.iter().enumerate().filter_map(of).collect()
    }

    /// Keys of which an older answer is due, if they are asked for now.
    fn doubtful(&self) -> BTreeSet<Vec<u8>> {
        let written_since = |key: &[u8], made: usize| {
            self.log.iter().skip(made).any(|commit| commit.iter().any(|(k, _)| k == key))
        };
        let open = self.doubts.iter().filter(|doubt| !written_since(&doubt.key, doubt.made));
        open.map(|doubt| doubt.key.clone()).collect()
    }

    /// A part of all keys, other ones each time.
    pub fn look(&mut self, turn: usize) {
        let doubtful = self.doubtful();
        for n in (0..160u8).filter(|n| (usize::from(*n) + turn).is_multiple_of(8)) {
            self.check_get(n, &doubtful);
        }
        let (lo, hi) = (key((turn * 23 % 160) as u8), key((turn * 23 % 160 + 40).min(159) as u8));
        let due =
            self.content.range(lo.clone()..hi.clone()).map(|(k, (v, _))| (k.clone(), v.clone())).collect();
        self.check_pairs(self.store().range(lo..hi), due, &doubtful);
        self.check_health();
    }

    /// All of it.
    pub fn check(&mut self) {
        let doubtful = self.doubtful();
        (0..160).for_each(|n| self.check_get(n, &doubtful));
        let due: Expected = self.content.iter().map(|(k, (v, _))| (k.clone(), v.clone())).collect();
        self.check_pairs(self.store().iter(), due, &doubtful);
        let keys: Vec<Vec<u8>> = (0..160).map(key).collect();
        let many = self.store().get_many(&keys).unwrap();
        for (key, found) in keys.iter().zip(many).filter(|(key, _)| !doubtful.contains(*key)) {
            assert_eq!(found.as_deref(), self.content.get(key).map(|(v, _)| &v[..]), "key {key:02x?}");
        }
    }

    fn check_get(&self, n: u8, doubtful: &BTreeSet<Vec<u8>>) {
        let key = key(n);
        let found = self.store().get_versioned(&key).unwrap().map(|(v, seq)| (v.to_vec(), seq));
        let due = self.content.get(&key).cloned();
        if found == due {
            return;
        }
        let once = || self.history(&key).into_iter().any(|(seq, v)| found == v.map(|v| (v, seq)));
        assert!(
            doubtful.contains(&key) && (found.is_none() || once()),
            "key {key:02x?}: {} bytes of {:?} instead of {} bytes of {:?}",
            found.as_ref().map_or(0, |f| f.0.len()),
            found.as_ref().map(|f| f.1),
            due.as_ref().map_or(0, |f| f.0.len()),
            due.as_ref().map(|f| f.1),
        );
    }

    fn check_pairs(&self, found: Range, due: Expected, doubtful: &BTreeSet<Vec<u8>>) {
        let found: annulus::Result<Vec<Pair>> = found.map(|item| item.map(owned)).collect();
        let found = match found {
            Ok(found) => found,
            // A large value that one shard knows of, and another has lost: it is said so.
            Err(error) if error.kind() == ErrorKind::Corruption && !self.doubts.is_empty() => return,
            Err(error) => panic!("a scan failed: {error}"),
        };
        let strict = |pairs: &mut dyn Iterator<Item = Pair>| -> Vec<Pair> {
            pairs.filter(|(key, _)| !doubtful.contains(key)).collect()
        };
        for (key, value) in found.iter().filter(|(key, _)| doubtful.contains(key)) {
            assert!(self.was_once(key, value), "key {key:02x?} never was that");
        }
        let (found, due) = (strict(&mut found.into_iter()), strict(&mut due.into_iter()));
        let keys = |pairs: &[Pair]| pairs.iter().map(|(k, _)| format!("{k:02x?}")).collect::<Vec<_>>();
        assert!(found == due, "found {:?}, due {:?}", keys(&found), keys(&due));
    }

    fn was_once(&self, key: &[u8], value: &[u8]) -> bool {
        self.history(key).into_iter().any(|(_, v)| v.as_deref() == Some(value))
    }

    pub fn advance(&mut self, which: u8, steps: u8, back: bool) {
        let count = self.iters.len().max(1);
        let mut iters = std::mem::take(&mut self.iters);
        // Whatever a snapshot wants of these may be gone, whenever they were written.
        let doubtful: BTreeSet<Vec<u8>> = self.doubts.iter().map(|doubt| doubt.key.clone()).collect();
        if let Some((iter, due)) = iters.get_mut(usize::from(which) % count) {
            for _ in 0..steps / 4 {
                let found = loop {
                    let next = if back { iter.next_back() } else { iter.next() };
                    if matches!(&next, Some(Err(error)) if error.kind() == ErrorKind::Corruption && !doubtful.is_empty())
                    {
                        iters.remove(usize::from(which) % count);
                        self.iters = iters;
                        return;
                    }
                    match next.map(|item| owned(item.unwrap())) {
                        Some((key, value)) if doubtful.contains(&key) => assert!(self.was_once(&key, &value)),
                        found => break found,
                    }
                };
                let wanted = loop {
                    match if back { due.pop_back() } else { due.pop_front() } {
                        Some((key, _)) if doubtful.contains(&key) => {}
                        wanted => break wanted,
                    }
                };
                assert!(
                    found == wanted,
                    "a snapshot gave {:02x?} instead of {:02x?}",
                    found.map(|f| f.0),
                    wanted.map(|w| w.0)
                );
            }
        }
        self.iters = iters;
    }

    pub fn check_rest(&self, iter: Range, due: Expected) {
        let doubtful = self.doubts.iter().map(|doubt| doubt.key.clone()).collect();
        self.check_pairs(iter, due, &doubtful);
    }

    pub fn close_iters(&mut self) {
        for (iter, due) in std::mem::take(&mut self.iters) {
            self.check_rest(iter, due);
        }
    }

    /// Shards that nobody touched are well.
    fn check_health(&self) {
        for shard in self.store().health().unwrap().shards {
            let well = matches!(shard.health, Health::Online | Health::Joining);
            assert!(well || self.touched.contains_key(&shard.id), "shard {}: {}", shard.id, shard.health);
        }
    }

    /// Every shard holds all that it owns, in its newest version, and nothing else.
    pub fn check_copies(&mut self) {
        self.flush();
        let store = self.store().clone();
        let ring = store.ring();
        ring.check().unwrap();
        for shard in store.health().unwrap().shards {
            assert_eq!(shard.health, Health::Online, "shard {}", shard.id);
            let held = testing::held_by(&store, KeyspaceId(0), shard.id).unwrap();
            let owned = self.content.iter().filter(|(key, _)| ring.preference_list(key).contains(&shard.id));
            let due: Vec<(Vec<u8>, Seq)> = owned.map(|(key, (_, seq))| (key.clone(), *seq)).collect();
            assert_eq!(held, due, "shard {}", shard.id);
            for (file, name) in [("SEAL", small_file::Name::Seal), ("IDENTITY", small_file::Name::Identity)] {
                let bytes = testing::Disk::read(&self.disk, &shard.path.join(file)).unwrap();
                let bytes = bytes.unwrap_or_else(|| panic!("shard {} has no {file}", shard.id));
                small_file::rewrite(name, &bytes).unwrap();
            }
        }
    }
}

fn owned((key, value): (annulus::Bytes, annulus::Bytes)) -> Pair {
    (key.to_vec(), value.to_vec())
}
