//! Stores: looked at, scrubbed, repaired, drawn.

use crate::args;
use crate::output::{self, Failure, Outcome, Output};
use crate::progress::{Progress, count, size};
use crate::repos;
use annulus::{Heal, Inspection, Options, ScrubReport, ShardId};
use serde_json::json;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// An error if there is no store, before anything else is made or opened.
pub fn existing(dir: &Path) -> Result<(), Failure> {
    match dir.try_exists() {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::Missing(format!("there is no store at {}", dir.display()))),
        Err(error) => Err(Failure::io(format!("look for the store at {}", dir.display()))(error)),
    }
}

/// To open a store that exists. How much its program keeps, of the journal for archives and for shards that are away, and of what is set
/// aside of shards, is not written down, so none of that is given up.
fn known() -> Options {
    Options::new().existing_only(true).journal_retention(u64::MAX).quarantine_limit(u64::MAX)
}

/// The same, to only do with it what was asked for.
pub fn unhealed() -> Options {
    known().heal(Heal::Manual)
}

pub fn inspect(args: &args::Inspect, output: &Output) -> Result<Outcome, Failure> {
    let found = annulus::inspect(&args.store)?;
    let problems = found.problems();
    let mut object = output::value(&found)?;
    object["problems"] = json!(problems);
    output.result(&object, description(&found))?;
    for problem in &problems {
        output.text(format!("PROBLEM  {problem}"))?;
    }
    Ok(Outcome::damage_if(!problems.is_empty()))
}

fn description(found: &Inspection) -> String {
    let mut lines = vec![
        format!("Store    {}, id {:032x}, {} on disk", found.dir.display(), found.store, size(found.bytes)),
        format!("Manifest {}, writing number {}", found.manifest.display(), found.generation),
    ];
    if let Some(process) = found.opened_by {
        lines.push(format!("Opened   last by process {process}"));
    }
    lines.push(ring_line(found));
    if let Some(epoch) = found.changing_to {
        lines.push(format!("Change   under way, to epoch {epoch}"));
    }
    lines.push(format!("Keyspace {}", found.keyspaces.join(", ")));
    for journal in &found.journals {
        let (bytes, path) = (size(journal.bytes), journal.path.display());
        lines.push(format!("Journal  {path}: {} segments, {bytes}", journal.segments));
    }
    for shard in &found.shards {
        let number = |number: Option<u64>| number.map_or("?".to_owned(), |number| count(number).to_string());
        let state = match (&shard.damage, shard.filling, shard.applying) {
            (Some(_), _, _) => "DAMAGED",
            (None, true, _) => "being filled",
            (None, false, true) => "being written to, or its process ended meanwhile",
            (None, false, false) => "sealed",
        };
        lines.push(format!(
            "Shard    {} {:?}, {} virtual nodes, {} records in {} pages, up to sequence {}, {}: {state}, {}",
            shard.id,
            shard.role,
            shard.virtual_nodes,
            number(shard.records),
            number(shard.pages),
            number(shard.applied.map(|seq| seq.0)),
            size(shard.bytes),
            shard.path.display()
        ));
        if shard.quarantined_bytes > 0 {
            lines.push(format!("         {} of damaged engines are kept", size(shard.quarantined_bytes)));
        }
    }
    lines.join("\n")
}

fn ring_line(found: &Inspection) -> String {
    format!(
        "Ring     epoch {}, {} copies, {} virtual nodes, fullest shard {:.3} times its share",
        found.epoch, found.replication_factor, found.virtual_nodes, found.balance.max_over_mean
    )
}

pub fn ring(args: &args::Ring, output: &Output) -> Result<Outcome, Failure> {
    let found = annulus::inspect(&args.store)?;
    if let (Some(file), Some(ring)) = (&args.svg, found.ring()) {
        std::fs::write(file, ring.to_svg()).map_err(Failure::io(format!("write {}", file.display())))?;
    }
    let object = json!({
        "epoch": found.epoch,
        "replication_factor": found.replication_factor,
        "virtual_nodes": found.virtual_nodes,
        "partitioner": found.partitioner,
        "balance": found.balance,
        "svg": args.svg.as_ref().map(|file| file.to_string_lossy()),
    });
    output.result(&object, ring_line(&found))?;
    for shard in &found.balance.shards {
        let (id, weight) = (shard.shard, shard.weight);
        output.text(format!(
            "Shard    {id}: {} virtual nodes, first owner of {}, weight {weight}",
            shard.load, shard.primaries
        ))?;
    }
    Ok(Outcome::Done)
}

pub fn scrub(args: &args::Scrub, output: &Output) -> Result<Outcome, Failure> {
    existing(&args.store)?;
    let progress = Progress::spinner(output.json, "opening the store");
    let store = known().open(&args.store)?;
    let scrub = store.scrub()?;
    if let Some(rate) = args.rate {
        // It may be through by now.
        let _ = scrub.set_rate(rate);
    }
    let (over, is_over) = channel::<()>();
    let watched = scrub.clone();
    let bar = progress.0.clone();
    let report = std::thread::scope(|scope| {
        scope.spawn(move || {
            while is_over.recv_timeout(Duration::from_millis(200)) == Err(RecvTimeoutError::Timeout) {
                let at = watched.progress();
                bar.set_message(format!(
                    "{}, {} records compared",
                    at.stage,
                    count(at.report.records_compared)
                ));
            }
        });
        let report = scrub.wait();
        drop(over);
        report
    })?;
    let health = store.health()?;
    store.close()?;
    drop(progress);
    let cancelled = || Failure::Missing("the scrub was cancelled".to_owned());
    let report = report.ok_or_else(cancelled)?;
    let (state, shards) = output::health(&health)?;
    let object = json!({ "report": report, "health": state });
    output.result(&object, format!("{}{shards}", summary(&report)))?;
    let found = report.pages_repaired + report.pages_left + report.records_reconciled;
    Ok(Outcome::damage_if(found > 0 || !health.is_good()))
}

fn summary(report: &ScrubReport) -> String {
    format!(
        "Scrub    {} shards verified, {} damaged pages replaced and {} not, {} records compared, {} made equal ({} by guess)",
        report.shards_verified,
        report.pages_repaired,
        report.pages_left,
        count(report.records_compared),
        report.records_reconciled,
        report.records_unsettled
    )
}

pub fn repair(args: &args::Repair, output: &Output) -> Result<Outcome, Failure> {
    existing(&args.store)?;
    if let Some(repo) = &args.from {
        let progress = Progress::spinner(output.json, "repairing from the backup");
        let repo = repos::existing(repo)?;
        let done = Options::new().repair_from(&repo, &args.store)?;
        drop(progress);
        let object = json!({ "shards": done.shards, "upto": done.upto });
        let ids: Vec<String> = done.shards.iter().map(ToString::to_string).collect();
        let text = match ids.is_empty() {
            true => "no shard was lost together with its replicas".to_owned(),
            false => format!("made anew: shards {}, up to sequence {}", ids.join(", "), done.upto),
        };
        output.result(&object, text)?;
        return Ok(Outcome::Done);
    }
    let Some(shard) = args.shard.map(ShardId) else {
        return Err(Failure::usage("name the shard"));
    };
    let progress = Progress::spinner(output.json, "repairing the shard");
    let store = unhealed().open(&args.store)?;
    let done = if args.rebuild { store.rebuild(shard) } else { store.repair(shard) };
    done?;
    let health = store.health()?;
    store.close()?;
    drop(progress);
    let (state, shards) = output::health(&health)?;
    output.result(&json!({ "shard": shard, "health": state }), format!("repaired shard {shard}{shards}"))?;
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store's program may keep more than the default, and a tool does not know how much.
    #[test]
    fn no_command_gives_up_what_the_journal_is_kept_for() {
        for options in [known(), unhealed()] {
            let options = serde_json::to_value(&options).unwrap();
            for limit in ["journal_retention", "quarantine_limit"] {
                assert_eq!(options[limit], json!(u64::MAX), "{options}");
            }
            assert_eq!(options["existing_only"], json!(true));
        }
    }
}
