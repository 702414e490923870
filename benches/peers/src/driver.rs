//! The parent: starts a child for each phase of each session, engine and round, engines by turns, and reports what they say.
//!
//! Invariant: every directory that it makes is gone when it ends, also after a child failed.

use crate::args::Config;
use crate::engines::Kind;
use crate::outcome::{Line, Outcome};
use crate::report::{self, Run};
use crate::workloads::{Bench, Phase, Plan, Session};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

const SIGKILL: i32 = 9;
const TMPFS: i64 = 0x0102_1994;

/// What a child does: one phase of a session with one store.
pub fn child(plan: Plan) {
    let session = plan.session;
    session.run(&mut Bench::open(plan));
}

pub fn run(config: &Config) -> ExitCode {
    let root = match make_root(config) {
        Ok(root) => root,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    let started = Instant::now();
    let mut run = Run::new(config);
    let mut failures = Vec::new();
    for session in Session::ALL {
        let wanted: Vec<String> = session.workloads().iter().map(|w| (*w).to_owned()).collect();
        let wanted: Vec<String> = wanted.into_iter().filter(|w| config.workloads.contains(w)).collect();
        if wanted.is_empty() {
            continue;
        }
        for round in 0..config.rounds {
            for turn in 0..config.engines.len() {
                // Each round begins with another engine, so that none always has the same place.
                let engine = config.engines[(turn + round as usize) % config.engines.len()];
                eprintln!("{session:?}, round {} of {}: {}", round + 1, config.rounds, engine.label());
                let dir = tempfile::tempdir_in(root.path()).expect("a directory for the store");
                let plan = plan(config, engine, session, &wanted, round, dir.path().join("store"));
                match run_session(&plan) {
                    Ok(outcomes) => outcomes.into_iter().for_each(|o| run.add(engine, o)),
                    Err(why) => {
                        failures.push(format!("{session:?}, round {}, {}: {why}", round + 1, engine.label()))
                    }
                }
            }
        }
    }
    run.seconds = started.elapsed().as_secs_f64();
    run.failures = failures;
    print!("{}", report::table::render(&run));
    if let Some(out) = &config.out
        && let Err(why) = report::write(&run, out)
    {
        eprintln!("{}: {why}", out.display());
        return ExitCode::FAILURE;
    }
    if run.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn plan(
    config: &Config,
    engine: Kind,
    session: Session,
    workloads: &[String],
    round: u64,
    dir: PathBuf,
) -> Plan {
    let small = matches!(session, Session::Small | Session::Sorted);
    Plan {
        engine,
        session,
        workloads: workloads.to_vec(),
        dir,
        records: if small { config.records } else { config.records_1k },
        ops: config.ops,
        durable_ops: config.durable_ops,
        max_seconds: config.max_seconds,
        budget: config.budget_mib << 20,
        round,
        phase: Phase::Load,
    }
}

/// Runs the phases of a session, each in a child of its own.
fn run_session(plan: &Plan) -> Result<Vec<Outcome>, String> {
    let mut outcomes = Vec::new();
    for phase in plan.session.phases(&plan.workloads) {
        let (found, killing) = run_child(&Plan { phase, ..plan.clone() })?;
        outcomes.extend(found);
        if let Some((settled, acknowledged)) = killing {
            let phase = Phase::Killed { settled, acknowledged };
            outcomes.extend(run_child(&Plan { phase, ..plan.clone() })?.0);
        }
    }
    Ok(outcomes)
}

/// What a child reported, and the two numbers with which it died if it was to kill itself.
type Said = (Vec<Outcome>, Option<(u64, u64)>);

fn run_child(plan: &Plan) -> Result<Said, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let exe = std::env::current_exe().map_err(|e| text(&e))?;
    let plan = serde_json::to_string(plan).map_err(|e| text(&e))?;
    let mut child = Command::new(exe)
        .arg("--child")
        .arg(plan)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| text(&e))?;
    let said = BufReader::new(child.stdout.take().expect("piped"));
    let (mut outcomes, mut killing, mut garbled) = (Vec::new(), None, None);
    for line in said.lines() {
        let line = line.map_err(|e| text(&e)).and_then(|l| serde_json::from_str(&l).map_err(|e| text(&e)));
        match line {
            Ok(Line::Outcome(outcome)) => outcomes.push(outcome),
            Ok(Line::Killing { settled, acknowledged }) => killing = Some((settled, acknowledged)),
            Err(why) => garbled = Some(why),
        }
    }
    let status = child.wait().map_err(|e| text(&e))?;
    match (garbled, killing) {
        (Some(why), _) => Err(format!("a child's report cannot be read: {why}")),
        (None, Some(_)) if status.signal() == Some(SIGKILL) => Ok((outcomes, killing)),
        (None, None) if status.success() => Ok((outcomes, None)),
        _ => Err(format!("the child ended with {status}; what was wrong is said above")),
    }
}

/// A directory for all stores of this run: below the one given, or beside the executable.
fn make_root(config: &Config) -> Result<tempfile::TempDir, String> {
    let parent = match &config.dir {
        Some(dir) => dir.clone(),
        None => {
            let exe = std::env::current_exe().map_err(|e| e.to_string())?;
            exe.parent().ok_or("the executable has no directory")?.to_path_buf()
        }
    };
    std::fs::create_dir_all(&parent).map_err(|e| format!("{}: {e}", parent.display()))?;
    let info = rustix::fs::statfs(&parent).map_err(|e| format!("{}: {e}", parent.display()))?;
    if info.f_type == TMPFS {
        return Err(format!("{} is in memory (tmpfs): give a --dir on a disk", parent.display()));
    }
    tempfile::Builder::new()
        .prefix("annulus-peers-")
        .tempdir_in(&parent)
        .map_err(|e| format!("{}: {e}", parent.display()))
}
