//! New stores of checkpoints and streams, and streams of stores.

use crate::args;
use crate::backups;
use crate::output::{Failure, Outcome, Output};
use crate::progress::{Progress, count, shown, size};
use crate::repos;
use crate::stores;
use crate::time::rfc3339;
use annulus::{CheckpointId, Store};
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

pub fn restore(args: args::Restore, output: &Output) -> Result<Outcome, Failure> {
    let repo = repos::existing(&args.repo)?;
    let restore = match args.id {
        Some(id) => repo.restore(CheckpointId(id))?,
        None => repo.restore_latest()?,
    };
    let mut restore = restore.options(args.topology.options());
    let named = restore.checkpoint();
    let mut of = json!({ "store": format!("{:032x}", named.store) });
    let mut source = format!("store {:.8}", format!("{:032x}", named.store));
    // To come to a moment it may begin with another.
    if args.until.is_none() {
        let taken = rfc3339(named.taken);
        source = format!("checkpoint {} of {source}, taken {taken}", named.id);
        (of["checkpoint"], of["taken"]) = (json!(named.id), json!(taken));
    }
    if let Some(at) = args.until {
        restore = restore.until(at);
    }
    if let Some(name) = args.keyspace {
        restore = restore.keyspace(name);
    }
    let progress = Progress::bytes(output.json, "restoring", None);
    restore = restore.progress(shown(&progress.0));
    let (store, damage) = match args.salvage {
        true => restore.salvage(&args.store)?,
        false => (restore.open(&args.store)?, Vec::new()),
    };
    let (mut object, text) = made(&store)?;
    store.close()?;
    drop(progress);
    (object["damage"], object["of"]) = (backups::damages(&damage), of);
    for damage in &damage {
        output.text(format!("lost: {damage}"))?;
    }
    output.result(&object, format!("restored {} from {source}{text}", args.store.display()))?;
    Ok(Outcome::damage_if(!damage.is_empty()))
}

pub fn import(args: args::Import, output: &Output) -> Result<Outcome, Failure> {
    let options = args.topology.options();
    let store = if args.file == Path::new("-") {
        let progress = Progress::bytes(output.json, "importing", None);
        options.import(progress.0.wrap_read(io::stdin().lock()), &args.store)?
    } else {
        let failed = || Failure::io(format!("read {}", args.file.display()));
        let file = File::open(&args.file).map_err(failed())?;
        let length = file.metadata().map_err(failed())?.len();
        let progress = Progress::bytes(output.json, "importing", Some(length));
        let reader: Box<dyn Read> = Box::new(progress.0.wrap_read(BufReader::with_capacity(1 << 20, file)));
        options.import(reader, &args.store)?
    };
    let (object, text) = made(&store)?;
    store.close()?;
    output.result(&object, format!("imported {}{text}", args.store.display()))?;
    Ok(Outcome::Done)
}

/// What a new store is like.
fn made(store: &Store) -> Result<(Value, String), Failure> {
    let stats = store.stats()?;
    let paths: Vec<_> = stats.shards.iter().map(|shard| shard.path.to_string_lossy()).collect();
    let keyspaces = store.list_keyspaces()?;
    let object = json!({
        "seq": stats.last_seq,
        "keyspaces": keyspaces,
        "shards": paths,
        "replication_factor": stats.replication_factor,
        "virtual_nodes": stats.virtual_nodes,
    });
    let text = format!(
        ": as of sequence {}, {} shards, replication factor {}, {} virtual nodes, keyspaces {}",
        stats.last_seq,
        paths.len(),
        stats.replication_factor,
        stats.virtual_nodes,
        keyspaces.join(", ")
    );
    Ok((object, text))
}

/// Makes the name of a new file durable.
fn sync_name(file: &Path) -> io::Result<()> {
    // Elsewhere a directory cannot be opened, and the file system sees to it.
    if cfg!(not(unix)) {
        return Ok(());
    }
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

pub fn export(args: &args::Export, output: &Output) -> Result<Outcome, Failure> {
    stores::existing(&args.store)?;
    let store = stores::unhealed().open(&args.store)?;
    let progress = Progress::bytes(output.json, "exporting", None);
    let bar = progress.0.clone();
    let streamed = args.file == Path::new("-");
    let seq = if streamed {
        let mut writer = BufWriter::with_capacity(1 << 20, bar.wrap_write(io::stdout().lock()));
        let seq = store.export(&mut writer)?;
        writer.flush().map_err(Failure::io("write the stream"))?;
        seq
    } else {
        let failed = || Failure::io(format!("write {}", args.file.display()));
        let file = OpenOptions::new().write(true).create_new(true).open(&args.file).map_err(failed())?;
        let export = || {
            let mut writer = BufWriter::with_capacity(1 << 20, bar.wrap_write(&file));
            let seq = store.export(&mut writer)?;
            writer.flush().and_then(|()| file.sync_all()).map_err(failed())?;
            sync_name(&args.file).map_err(failed())?;
            Ok(seq)
        };
        // A part of a stream is of no use, and was not there before.
        export().inspect_err(|_: &Failure| drop(std::fs::remove_file(&args.file)))?
    };
    let bytes = progress.0.position();
    store.close()?;
    drop(progress);
    let object = json!({ "seq": seq, "bytes": bytes });
    let text = format!("exported {} as of sequence {}", size(bytes), count(seq.0));
    if streamed {
        output.result_beside(&object, text)?
    } else {
        output.result(&object, text)?
    }
    Ok(Outcome::Done)
}
