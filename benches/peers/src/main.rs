//! Annulus beside other embedded stores: the same keys, values, order, memory and durability, every read checked.
//!
//! `cargo run --release -- --help` says what can be chosen; the package's README how each engine is opened, and why.

mod args;
mod driver;
mod engines;
mod keys;
mod measure;
mod outcome;
mod progress;
mod report;
mod values;
mod workloads;
mod zipf;

use std::process::ExitCode;

fn main() -> ExitCode {
    match args::parse() {
        Ok(args::Command::Help) => {
            println!("{}", args::HELP);
            ExitCode::SUCCESS
        }
        Ok(args::Command::Run(config)) => driver::run(&config),
        Ok(args::Command::Child(plan)) => {
            driver::child(*plan);
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("{why}\n\n{}", args::HELP);
            ExitCode::from(2)
        }
    }
}
