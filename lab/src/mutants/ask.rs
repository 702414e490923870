//! Asks tests, in a process of their own, with one mutant alive.

use super::build::Built;
use crate::Result;
use crate::kept::{end, kept};
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
    fn command(&self, built: &Built, mutant: u32, scratch: &Path, limit: Duration) -> Result<Command> {
        let program = self.program;
        let exe = built.tests.get(program).ok_or_else(|| format!("there are no tests called {program}"))?;
        let mut command = kept(exe, limit);
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
        let mut command = self.command(built, mutant, &scratch.0, limit)?;
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
                        let _ = child.lock().map(|child| end(&child));
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
            let is_failure = |line: &String| line.starts_with("test ") && line.ends_with("FAILED");
            let failed = BufReader::new(output).lines().map_while(std::result::Result::ok).find(is_failure);
            if failed.is_some() {
                let _ = child.lock().map(|child| end(&child));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::powercut::Scratch;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    const PLACE: &str = "ANNULUS_LAB_ASKED";
    const LONG: Duration = Duration::from_secs(600);

    fn place() -> Scratch {
        static TURNS: AtomicUsize = AtomicUsize::new(0);
        let turn = TURNS.fetch_add(1, Ordering::Relaxed);
        let place = std::env::temp_dir().join(format!("annulus-lab-asked-{}-{turn}", std::process::id()));
        std::fs::create_dir_all(&place).unwrap();
        Scratch(place)
    }

    /// Asks a program that says which process it is, starts another one, and goes on for ever with it.
    fn ask(place: &Path, limit: Duration) -> Option<String> {
        let exe = place.join("hangs");
        let busy = "while :; do :; done";
        let text = format!(
            "#!/bin/sh\ncd {}\n({busy}) &\necho $$ $! > ids.tmp\nmv ids.tmp ids\n{busy}\n",
            place.display()
        );
        std::fs::write(&exe, text).unwrap();
        std::fs::set_permissions(&exe, std::fs::Permissions::from_mode(0o755)).unwrap();
        let (tree, home) = (place.to_path_buf(), place.to_path_buf());
        let tests = [("hangs".to_owned(), exe)].into();
        let built = Built { tree, home, numbers: Default::default(), tests };
        let question = Question { program: "hangs", tests: Vec::new(), full: false };
        question.ask(&built, 0, limit, None).unwrap()
    }

    /// Waits until something is so, for a minute.
    fn wait_until(what: &str, is_so: impl Fn() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{what}: not within a minute");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The processes that were started, once they have been.
    fn ids(place: &Path) -> Vec<PathBuf> {
        wait_until("it starts", || place.join("ids").exists());
        let text = std::fs::read_to_string(place.join("ids")).unwrap();
        text.split_whitespace().map(|id| Path::new("/proc").join(id)).collect()
    }

    /// One that has ended may stay a while for whoever inherits it.
    fn runs(process: &Path) -> bool {
        let status = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
        status.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    }

    /// In the process that the next test kills.
    #[test]
    #[ignore = "asks until it is killed"]
    fn asks_what_hangs() {
        ask(Path::new(&std::env::var_os(PLACE).unwrap()), LONG);
    }

    #[test]
    fn what_hangs_dies_with_who_asks_it() {
        let place = place();
        let mut asks = Command::new(std::env::current_exe().unwrap());
        asks.args(["--exact", "mutants::ask::tests::asks_what_hangs", "--ignored"]).env(PLACE, &place.0);
        let mut asks = asks.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let asked = ids(&place.0);
        assert!(asked.len() == 2 && asked.iter().all(|process| runs(process)));
        asks.kill().unwrap();
        asks.wait().unwrap();
        wait_until("both end", || !asked.iter().any(|process| runs(process)));
    }

    #[test]
    fn what_hangs_is_killed_after_its_limit() {
        let place = place();
        assert_eq!(ask(&place.0, Duration::from_secs(5)).as_deref(), Some(HANGS));
        wait_until("both end", || !ids(&place.0).iter().any(|process| runs(process)));
    }
}
