//! Writing a store into one stream.

use super::{Scan, describe, keyspaces, snapshot, whole};
use crate::backup::checkpoint::KeyspaceLayers;
use crate::backup::chunk::ChunkRecord;
use crate::backup::stream::StreamWriter;
use crate::batch;
use crate::error::Result;
use crate::ids::Seq;
use crate::state::State;
use std::io::Write;

/// Writes the store as of now; returns the sequence that that is.
pub fn export(state: &State, out: impl Write, scan: Scan<'_>) -> Result<Seq> {
    state.check_open()?;
    let (snapshot, taken) = snapshot(state);
    let manifest = state.manifest.lock().clone();
    state.sync_to(snapshot.at)?;
    let live = keyspaces(&manifest);
    let layers = |(id, name)| KeyspaceLayers { id, name, layers: Vec::new() };
    let listed = live.iter().map(|keyspace| layers((keyspace.id, keyspace.name.clone()))).collect();
    let mut stream = StreamWriter::new(out, &describe(&manifest, (snapshot.at, taken), listed, ""))?;
    for keyspace in live {
        stream.keyspace(keyspace.id)?;
        let mut scan = scan(whole(keyspace.id), snapshot.at)?;
        while let Some(record) = scan.next() {
            // A keyspace that is dropped meanwhile ends it: what has been written of it cannot be taken back.
            let record = record?;
            let record =
                ChunkRecord { key: batch::user_key(record.key), seq: record.seq, value: record.value };
            stream.push(record)?;
        }
    }
    stream.finish()?;
    Ok(snapshot.at)
}
