//! What the journal has and the shards lack: back into memtables.

use super::covered::{check_covered, without};
use crate::batch;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{KeyspaceId, Seq};
use crate::limits::MAX_BATCH_BYTES;
use crate::shard::{Layout, Run, Shard, Turns, apply_to_all, stays_readable};
use crate::state::Memory;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Takes the journal's frames back into memtables, and into the shards when there are more than fit.
pub struct Replay {
    pub memory: Memory,
    pub limit: u64,
    pub keyspaces: HashSet<KeyspaceId>,
    /// The number of the next one that is made.
    pub next_keyspace: KeyspaceId,
    /// Where the manifest lies that says so.
    pub manifest: PathBuf,
    pub layout: Arc<Layout>,
    pub timeout: Duration,
    /// Why nothing more can be flushed.
    pub stuck: Option<Error>,
    /// Whether it has been said that more is held than there should be.
    pub told: bool,
}

impl Replay {
    pub fn visit(&mut self, seq: Seq, ops: &[u8]) -> Result<()> {
        let mut tables = self.memory.lock();
        let most = if crate::plants::is("replay-half-a-batch") { 1 } else { usize::MAX };
        for op in batch::decode(ops).take(most) {
            let op = op?;
            let keyspace = batch::keyspace_of(op.key);
            if keyspace >= self.next_keyspace {
                return Err(self.unknown(keyspace, seq));
            }
            if self.keyspaces.contains(&keyspace) {
                tables.insert(op.key, seq, op.value)?;
            }
        }
        tables.last = seq;
        self.memory.settle(&mut tables, ops.len());
        drop(tables);
        let (active, frozen) = self.memory.bytes();
        // What fitted before the crash fits now; flushing it would keep the caller waiting for what can be done later.
        if active + frozen < self.limit {
            return Ok(());
        }
        match self.stuck.clone() {
            None => self.flush(),
            Some(stuck) => self.keep(stuck, active + frozen),
        }
    }

    /// Numbers are never given out twice, so the keyspace is not one that was dropped.
    fn unknown(&self, keyspace: KeyspaceId, seq: Seq) -> Error {
        let text = format!(
            "write {seq} of the journal is to keyspace {keyspace}, of which the manifest does not know yet: it is older than the journal"
        );
        Error::corruption(text).at(&self.manifest).remedy(
            "put the newest manifest back, or move this one away and name the shards' directories in the options: the newest copy \
             that they have is taken then",
        )
    }

    /// Gives the shards the oldest table and forgets it, if some owner of everything has it then. Where none can be written to it stays, as in a store that is
    /// open, and nothing more is flushed here.
    fn flush(&mut self) -> Result<()> {
        let Some(table) = self.memory.oldest_frozen() else { return Ok(()) };
        let last = table.max_seq().unwrap_or_default();
        let run = Run::new(table, self.layout.clone(), Vec::new(), self.keyspaces.clone());
        let turns = Arc::new(Turns::here(Arc::new(true.into()), self.timeout));
        let shards = &self.layout.shards;
        for (index, error) in apply_to_all(&Arc::new(run), &turns, self.timeout, |_| |_: u64| ()) {
            match stays_readable(&error) {
                true => shards[index].stall(&error),
                false => shards[index].fail(&error),
            };
        }
        check_covered(&self.layout)?;
        let holds = |shard: &Shard| shard.is_complete() && shard.applied() >= last;
        if without(&self.layout, holds).next().is_some() {
            let text = "what the journal has cannot be flushed, since all shards that hold a part of the keys cannot be written to";
            let error = Error::new(ErrorKind::Unavailable, text)
                .remedy("make room on one of these shards, or bring another back; nothing has been lost");
            let cause = shards.iter().filter(|shard| shard.is_stalled()).find_map(|shard| shard.fault());
            self.stuck = Some(cause.into_iter().fold(error, |error, cause| error.caused_by(cause)));
            return Ok(());
        }
        // Their replicas have it, and they do not.
        for shard in shards.iter().filter(|shard| shard.serves() && !holds(shard)) {
            let behind =
                || Error::new(ErrorKind::Io, "the shard cannot be written to, and its replicas went on");
            shard.fail(&shard.fault().unwrap_or_else(behind));
        }
        self.memory.pop_frozen();
        Ok(())
    }

    /// What was not flushed was in memory before the crash: it is again, up to a bound that is above what any batch adds. More there is only
    /// where less memory is allowed now, or shards come back that were away for long.
    fn keep(&mut self, stuck: Error, held: u64) -> Result<()> {
        let most = self.limit.saturating_mul(4).saturating_add(2 * MAX_BATCH_BYTES as u64);
        if held >= most {
            return Err(stuck.remedy(
                "make room on one of these shards, bring another back, or open the store with a larger memory_budget; nothing has \
                 been lost",
            ));
        }
        if !self.told && held > self.limit / 4 * 5 {
            self.told = true;
            log::warn!("more than its share of the memory budget is held at the opening: {stuck}");
        }
        Ok(())
    }

    /// Leaves nothing in the memtables.
    pub fn flush_all(&mut self) -> Result<()> {
        while self.memory.freeze() {
            self.flush()?;
            if let Some(stuck) = &self.stuck {
                return Err(stuck.clone());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::MemoryFactory;
    use crate::state::{Background, Seams};
    use crate::testing;

    /// Of a budget of 1 MiB, with nothing that it could be flushed to.
    fn stuck() -> Replay {
        let (disk, factory) = (Arc::new(crate::disk::SimDisk::new(1)), Arc::new(MemoryFactory::new()));
        let seams = Seams { disk, factory, background: Background::Off };
        let options = crate::options::Options::new().shards(1).replication_factor(1);
        let store = testing::open(std::path::Path::new("/store"), &options, seams).unwrap();
        Replay {
            memory: Memory::new(Seq::ZERO, 1 << 18),
            limit: 1 << 20,
            keyspaces: HashSet::from([KeyspaceId(0)]),
            next_keyspace: KeyspaceId(1),
            manifest: PathBuf::from("/store/MANIFEST"),
            layout: store.handle.state.layout(),
            timeout: Duration::from_secs(1),
            stuck: Some(Error::new(ErrorKind::Unavailable, "no room")),
            told: false,
        }
    }

    #[test]
    fn what_cannot_be_flushed_is_held_up_to_a_bound() {
        let mut replay = stuck();
        let cause = Error::new(ErrorKind::Unavailable, "no room");
        let most = 4 * replay.limit + 2 * MAX_BATCH_BYTES as u64;
        for (held, told) in [(replay.limit, false), (replay.limit / 4 * 5, false), (most - 1, true)] {
            replay.keep(cause.clone(), held).unwrap();
            assert_eq!(replay.told, told, "{held}");
        }
        let error = replay.keep(cause, most).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.advice().is_some_and(|advice| advice.contains("memory_budget")), "{error}");
    }
}
