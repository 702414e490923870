//! Asks tests, in a process of their own, with one mutant alive.

use super::build::Built;
use crate::Result;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How many cases random tests have, but for those that are asked in full.
const CASES: &str = "16";
pub const HANGS: &str = "hangs";

/// Some tests of one program.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    pub program: &'a str,
    pub tests: Vec<&'a str>,
    /// Random ones have all the cases that everybody runs.
    pub full: bool,
}

impl Question<'_> {
    fn command(&self, built: &Built, mutant: u32, scratch: &Path) -> Result<Command> {
        let program = self.program;
        let exe = built.tests.get(program).ok_or_else(|| format!("there are no tests called {program}"))?;
        let mut command = Command::new(exe);
        // These wait for time to pass.
        let threads = if program == "watchdog" { "16" } else { "1" };
        command.args(&self.tests).args(["--exact", "--test-threads", threads]).env("TMPDIR", scratch);
        command.current_dir(&built.tree).env("ANNULUS_MUTANT", mutant.to_string());
        command.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1");
        if !self.full {
            command.env("PROPTEST_CASES", CASES);
        }
        command.env("CARGO_MANIFEST_DIR", &built.tree);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        Ok(command)
    }

    /// The first test that fails; none if all pass. In `reached` are noted the mutants that would have made a difference.
    pub fn ask(
        &self,
        built: &Built,
        mutant: u32,
        limit: Duration,
        reached: Option<&Path>,
    ) -> Result<Option<String>> {
        static TURNS: AtomicUsize = AtomicUsize::new(0);
        // In memory: a busy disk is not to be taken for a test that hangs.
        let place = crate::trials::in_memory().unwrap_or_else(std::env::temp_dir);
        let turn = TURNS.fetch_add(1, Ordering::Relaxed);
        let name = format!("annulus-mutants-{}-{turn}", std::process::id());
        let scratch = crate::powercut::Scratch(place.join(name));
        std::fs::create_dir_all(&scratch.0)?;
        let mut command = self.command(built, mutant, &scratch.0)?;
        if let Some(path) = reached {
            command.env("ANNULUS_MUTANTS_REACHED", path);
        }
        let mut child = command.spawn()?;
        let output = child.stdout.take().ok_or("no output")?;
        let ended = AtomicBool::new(false);
        let child = Mutex::new(child);
        let begun = Instant::now();
        let failed = std::thread::scope(|scope| {
            // Whatever hangs is killed, and its output ends.
            scope.spawn(|| {
                while !ended.load(Ordering::Acquire) {
                    if begun.elapsed() > limit {
                        let _ = child.lock().map(|mut child| child.kill());
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
            let is_failure = |line: &String| line.starts_with("test ") && line.ends_with("FAILED");
            let failed = BufReader::new(output).lines().map_while(std::result::Result::ok).find(is_failure);
            if failed.is_some() {
                let _ = child.lock().map(|mut child| child.kill());
            }
            ended.store(true, Ordering::Release);
            failed
        });
        let status = child.into_inner().map_err(|_| "a thread panicked")?.wait()?;
        let name = |line: String| line.trim_start_matches("test ").trim_end_matches(" ... FAILED").to_owned();
        Ok(match failed {
            Some(line) => Some(format!("{} {}", self.program, name(line))),
            None if begun.elapsed() > limit => Some(HANGS.to_owned()),
            None if !status.success() => Some(format!("{} aborts", self.program)),
            None => None,
        })
    }
}
