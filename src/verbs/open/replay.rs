//! What the journal has and the shards lack: back into memtables.

use super::recover::check_covered;
use crate::batch;
use crate::error::{Error, Result};
use crate::ids::{KeyspaceId, Seq};
use crate::shard::{Layout, Run, Turns, apply_to_all};
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
        if active + frozen >= self.limit { self.flush() } else { Ok(()) }
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
