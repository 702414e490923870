//! Repositories: checkpoints taken, listed, verified and deleted.

use crate::args;
use crate::output::{Failure, Outcome, Output};
use crate::progress::{Progress, count, shown, size};
use crate::repos::{self, existing};
use crate::stores;
use crate::time::rfc3339;
use annulus::{ArchiveHold, Checkpoint, CheckpointId, CheckpointOptions, Damage, Loss, Pruned, Retention};
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::path::Path;

pub fn checkpoint(args: &args::Checkpoint, output: &Output) -> Result<Outcome, Failure> {
    stores::existing(&args.store)?;
    let progress = Progress::spinner(output.json, "opening the store");
    let store = stores::unhealed().open(&args.store)?;
    let repo = repos::open(&args.repo)?;
    let mut options = CheckpointOptions::new().label(&args.label).full(args.full);
    if let Some(rate) = args.rate {
        options = options.rate(rate);
    }
    let bar = progress.0.clone();
    let options = options.progress(move |at| {
        bar.set_message(format!(
            "{} records, {} read, {} written, {} there already",
            count(at.records),
            size(at.bytes),
            size(at.bytes_written),
            size(at.bytes_shared)
        ));
        ControlFlow::Continue(())
    });
    let id = store.checkpoint_with(&repo, options)?;
    store.close()?;
    drop(progress);
    let taken = repo.get(id)?;
    output.result(&object(&taken), line(&taken))?;
    Ok(Outcome::Done)
}

pub fn archive(args: &args::Archive, output: &Output) -> Result<Outcome, Failure> {
    stores::existing(&args.store)?;
    let progress = Progress::spinner(output.json, "archiving");
    let store = stores::unhealed().open(&args.store)?;
    let Some(repo) = &args.repo else {
        let holds = store.archives()?;
        store.close()?;
        drop(progress);
        return archives(&holds, output);
    };
    if args.forget {
        let repository = match id(repo) {
            Some(id) => id,
            None => existing(repo)?.id(),
        };
        let forgotten = store.forget_archive(repository)?;
        store.close()?;
        drop(progress);
        let text = if forgotten { "is kept for it no longer" } else { "was not kept for it" };
        output.result(&json!({ "forgotten": forgotten }), format!("the journal {text}"))?;
        return Ok(Outcome::Done);
    }
    let archived = store.archive(&repos::open(repo)?);
    store.close()?;
    drop(progress);
    let upto = archived?;
    output.result(&json!({ "archived_upto": upto }), format!("archived up to sequence {upto}"))?;
    Ok(Outcome::Done)
}

/// The id of a repository that is written out.
fn id(repo: &Path) -> Option<u128> {
    let text = repo.to_str().filter(|text| text.len() == 32)?;
    u128::from_str_radix(text, 16).ok()
}

fn archives(holds: &[ArchiveHold], output: &Output) -> Result<Outcome, Failure> {
    for hold in holds {
        let repository = format!("{:032x}", hold.repository);
        let object = json!({ "repository": repository, "upto": hold.upto, "given_up": hold.given_up });
        let state = if hold.given_up { ", of writes that this store has given up since" } else { "" };
        output.result(
            &object,
            format!("archived up to sequence {} in repository {repository}{state}", hold.upto),
        )?;
    }
    if holds.is_empty() {
        output.text("no archives")?;
    }
    Ok(Outcome::Done)
}

pub fn list(args: &args::List, output: &Output) -> Result<Outcome, Failure> {
    let all = existing(&args.repo)?.list()?;
    for checkpoint in &all {
        output.result(&object(checkpoint), line(checkpoint))?;
    }
    if all.is_empty() {
        output.text("no checkpoints")?;
    }
    Ok(Outcome::Done)
}

pub fn verify(args: &args::Verify, output: &Output) -> Result<Outcome, Failure> {
    let repo = existing(&args.repo)?;
    let progress = Progress::bytes(output.json, "reading every byte", None);
    let found = match args.id {
        Some(id) => repo.verify_with(CheckpointId(id), shown(&progress.0))?,
        None => repo.verify_all_with(shown(&progress.0))?,
    };
    drop(progress);
    let object = json!({
        "whole": found.is_whole(),
        "checkpoints": found.checkpoints,
        "records": found.records,
        "objects": found.objects,
        "bytes": found.bytes,
        "damage": damages(&found.damage),
    });
    for damage in &found.damage {
        output.text(format!("damaged: {damage}"))?;
    }
    let verdict = if found.is_whole() { "whole" } else { "DAMAGED" };
    let text = format!(
        "{verdict}: {} checkpoints, {} records, {} objects, {} read",
        found.checkpoints,
        count(found.records),
        count(found.objects),
        size(found.bytes)
    );
    output.result(&object, text)?;
    Ok(Outcome::damage_if(!found.is_whole()))
}

pub fn prune(args: &args::Prune, output: &Output) -> Result<Outcome, Failure> {
    let rule = Retention::keep_last(args.keep_last).hourly(args.hourly).daily(args.daily);
    let rule = rule.weekly(args.weekly).monthly(args.monthly);
    let progress = Progress::bytes(output.json, "pruning", None);
    let gone = existing(&args.repo)?.prune_with(rule, shown(&progress.0))?;
    drop(progress);
    deleted(&gone, output)
}

pub fn delete(args: &args::Delete, output: &Output) -> Result<Outcome, Failure> {
    let gone = existing(&args.repo)?.delete(CheckpointId(args.id))?;
    deleted(&gone, output)
}

fn deleted(gone: &Pruned, output: &Output) -> Result<Outcome, Failure> {
    let object = json!({ "checkpoints": gone.checkpoints, "objects": gone.objects, "bytes": gone.bytes });
    let ids: Vec<String> = gone.checkpoints.iter().map(ToString::to_string).collect();
    let text = format!(
        "deleted {} checkpoints{}{}, {} objects, {}",
        ids.len(),
        if ids.is_empty() { "" } else { ": " },
        ids.join(" "),
        count(gone.objects),
        size(gone.bytes)
    );
    output.result(&object, text)?;
    Ok(Outcome::Done)
}

fn object(checkpoint: &Checkpoint) -> Value {
    json!({
        "id": checkpoint.id,
        "seq": checkpoint.seq,
        "taken": rfc3339(checkpoint.taken),
        "label": checkpoint.label,
        "store": format!("{:032x}", checkpoint.store),
        "keyspaces": checkpoint.keyspaces,
        "records": checkpoint.records,
        "bytes": checkpoint.bytes,
        "bytes_written": checkpoint.bytes_written,
        "layers": checkpoint.layers,
    })
}

fn line(checkpoint: &Checkpoint) -> String {
    let label = if checkpoint.label.is_empty() { String::new() } else { format!("  {:?}", checkpoint.label) };
    format!(
        "checkpoint {:>4}  {}  sequence {}, {} records, {} ({} written)  of store {:.8}{label}",
        checkpoint.id.0,
        rfc3339(checkpoint.taken),
        checkpoint.seq,
        count(checkpoint.records),
        size(checkpoint.bytes),
        size(checkpoint.bytes_written),
        format!("{:032x}", checkpoint.store),
    )
}

/// Keys are bytes: what is not printable ASCII is escaped, as in Rust.
pub fn damages(all: &[Damage]) -> Value {
    let object = |damage: &Damage| {
        json!({
            "checkpoint": damage.checkpoint,
            "file": damage.file.to_string_lossy(),
            "keyspace": damage.keyspace,
            "from": damage.from.escape_ascii().to_string(),
            "to": damage.to.as_ref().map(|to| to.escape_ascii().to_string()),
            "records": damage.records,
            "as_of": match damage.loss {
                Loss::AsOf(seq) => Some(seq),
                _ => None,
            },
            "writes": match damage.loss {
                Loss::Archived { from, to } => Some((from, to)),
                _ => None,
            },
            "message": damage.error.to_string(),
        })
    };
    all.iter().map(object).collect()
}
