//! Programs that may never come to an end by themselves, and must not outlive who has started them: neither they nor what they
//! have started in their turn.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

/// How long after its limit a program is killed that nobody has ended by then, in seconds.
const LATER: u64 = 10;

/// A command that runs `program` in a process group of its own, which is ended by [`end`], when the thread that has started it ends
/// or its process is killed, and some time after `limit` in any case.
///
/// `timeout` (of coreutils) stands in between: it passes on to the group what it is told, and kills it after a while. The kernel
/// tells it of its parent's end, as `setpriv` (of util-linux) asks it to: to do so ourselves, between fork and exec, would take
/// unsafe code.
pub fn kept(program: &Path, limit: Duration) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "timeout", "--signal=KILL", "--kill-after=5"]);
    command.arg((limit.as_secs() + LATER).to_string()).arg(program);
    command
}

/// Ends what a [`kept`] command has started. It is still to be waited for.
pub fn end(child: &Child) {
    // Until it has been waited for the number is nobody else's; one that has ended by itself is no failure.
    let _ = i32::try_from(child.id()).map(|id| kill(Pid::from_raw(id), Signal::SIGTERM));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_ends_is_ended() {
        let mut child = kept(Path::new("sleep"), Duration::from_secs(600)).arg("600").spawn().unwrap();
        // One that is told before it has got as far as to listen has ended as well.
        end(&child);
        for _ in 0..6000 {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(!status.success());
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        panic!("it goes on");
    }

    #[test]
    fn what_ends_by_itself_says_how() {
        for (program, well) in [("true", true), ("false", false)] {
            let status = kept(Path::new(program), Duration::from_secs(600)).status().unwrap();
            assert_eq!(status.success(), well);
        }
    }
}
