//! What the journal has and the shards lack: back into memtables.

use super::recover::check_covered;
use crate::batch;
use crate::error::Result;
use crate::ids::{KeyspaceId, Seq};
use crate::shard::{Layout, Run, Turns, apply_to_all};
use crate::state::Memory;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// Takes the journal's frames back into memtables, and into the shards when there are more than fit.
pub struct Replay {
    pub memory: Memory,
    pub limit: u64,
    pub keyspaces: HashSet<KeyspaceId>,
    pub layout: Arc<Layout>,
    pub timeout: Duration,
}

impl Replay {
    pub fn visit(&mut self, seq: Seq, ops: &[u8]) -> Result<()> {
        let mut tables = self.memory.lock();
        let most = if crate::plants::is("replay-half-a-batch") { 1 } else { usize::MAX };
        for op in batch::decode(ops).take(most) {
            let op = op?;
            if self.keyspaces.contains(&batch::keyspace_of(op.key)) {
                tables.insert(op.key, seq, op.value)?;
            }
        }
        tables.last = seq;
        self.memory.settle(&mut tables, ops.len());
        drop(tables);
        let (active, frozen) = self.memory.bytes();
        // What fitted before the crash fits now; flushing it would keep the caller waiting for what can be done later.
        if active + frozen >= self.limit { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let Some(table) = self.memory.oldest_frozen() else { return Ok(()) };
        let run = Run::new(table, self.layout.clone(), Vec::new(), self.keyspaces.clone());
        let turns = Arc::new(Turns::here(Arc::new(true.into()), self.timeout));
        for (index, error) in apply_to_all(&Arc::new(run), &turns, self.timeout, |_| |_: u64| ()) {
            self.layout.shards[index].fail(&error);
        }
        check_covered(&self.layout)?;
        self.memory.pop_frozen();
        Ok(())
    }

    /// Leaves nothing in the memtables.
    pub fn flush_all(&mut self) -> Result<()> {
        while self.memory.freeze() {
            self.flush()?;
        }
        Ok(())
    }
}
