//! A process that writes is killed, and the store opened again: what it acknowledged is there.

use crate::Outcome;
use crate::show::count;
use annulus::{Durability, Store, WriteBatch};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Names the store to the child that is going to be killed.
pub const CHILD: &str = "ANNULUS_TOUR_CHILD";

/// What the child does: numbers rise under a few keys, two keys at a time, and each acknowledgement is printed.
pub fn write_until_killed(dir: &Path) -> Outcome<()> {
    let store = Store::open(dir)?;
    let out = std::io::stdout();
    for n in 1u64.. {
        let mut batch = WriteBatch::new();
        batch.insert(format!("kill/{n}"), n.to_be_bytes()).insert("kill/last", n.to_be_bytes());
        let durability = if n % 1000 == 0 { Durability::Sync } else { Durability::Process };
        store.commit_with(batch, durability)?;
        let mut out = out.lock();
        writeln!(out, "{n}")?;
        out.flush()?;
    }
    Ok(())
}

pub fn kill_and_recover(place: &Path) -> Outcome<()> {
    let mut child =
        Command::new(std::env::current_exe()?).env(CHILD, place).stdout(Stdio::piped()).spawn()?;
    let mut acknowledged = 0u64;
    let mut lines = BufReader::new(child.stdout.take().ok_or("the child has no output")?);
    let mut first = None;
    let mut line = String::new();
    while lines.read_line(&mut line)? > 0 {
        // A line cut short by the kill acknowledges nothing.
        if let Some(number) = line.strip_suffix('\n') {
            acknowledged = number.parse()?;
        }
        line.clear();
        if first.get_or_insert_with(Instant::now).elapsed() > Duration::from_millis(1500) {
            child.kill()?;
        }
    }
    child.wait()?;
    let started = Instant::now();
    let store = Store::open(place)?;
    let took = started.elapsed();
    let last = store.get("kill/last")?.map_or(0, |v| v.first_chunk().map_or(0, |b| u64::from_be_bytes(*b)));
    if last < acknowledged {
        return Err(format!("{acknowledged} was acknowledged, only {last} is there").into());
    }
    for n in 1..=last {
        if store.get(format!("kill/{n}"))?.as_deref() != Some(&n.to_be_bytes()[..]) {
            return Err(format!("write {n} of {last} is missing after the kill").into());
        }
    }
    println!(
        "Kill     SIGKILL after {} acknowledged commits: all there, none by halves",
        count(acknowledged)
    );
    println!(
        "         reopened in {took:.1?}, {} commits replayed from the journal",
        count(store.stats()?.opening.replayed_commits)
    );
    store.close()?;
    Ok(())
}
