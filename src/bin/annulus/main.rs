//! The command line of Annulus: checkpoints, restores, and looks at stores, over what the crate exports alone.
//!
//! Invariants: what was asked for goes to the standard output, and everything else (progress, warnings, errors) to the standard
//! error; with `--json` both are JSON, an object a line; the exit code says what happened (see [`output::exit`]).

mod args;
mod backups;
mod output;
mod progress;
mod repos;
mod restores;
mod stores;
mod time;

use args::{Cli, Command};
use clap::Parser;
use output::{Failure, Outcome, Output};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    let output = Output::new(cli.json);
    output.log_warnings();
    match run(cli.command, &output) {
        Ok(outcome) => outcome.into(),
        Err(failure) => {
            output.fail(&failure);
            failure.exit_code()
        }
    }
}

fn run(command: Command, output: &Output) -> Result<Outcome, Failure> {
    match command {
        Command::Checkpoint(args) => backups::checkpoint(&args, output),
        Command::Archive(args) => backups::archive(&args, output),
        Command::List(args) => backups::list(&args, output),
        Command::Verify(args) => backups::verify(&args, output),
        Command::Prune(args) => backups::prune(&args, output),
        Command::Delete(args) => backups::delete(&args, output),
        Command::Restore(args) => restores::restore(args, output),
        Command::Export(args) => restores::export(&args, output),
        Command::Import(args) => restores::import(args, output),
        Command::Inspect(args) => stores::inspect(&args, output),
        Command::Scrub(args) => stores::scrub(&args, output),
        Command::Repair(args) => stores::repair(&args, output),
        Command::Ring(args) => stores::ring(&args, output),
    }
}

/// Help and version were asked for, or the arguments make no sense.
fn misused(error: &clap::Error) -> ExitCode {
    let json = std::env::args_os().any(|arg| arg == "--json");
    if !error.use_stderr() || !json {
        // Nobody is left to be told if this fails.
        let _ = error.print();
        return if error.use_stderr() { output::exit::USAGE.into() } else { ExitCode::SUCCESS };
    }
    let text = error.to_string();
    let failure = Failure::usage(text.strip_prefix("error: ").unwrap_or(&text).trim_end());
    Output::new(true).fail(&failure);
    failure.exit_code()
}
