//! Results, errors, warnings and exit codes, for people and as JSON.

use annulus::{Error, ErrorKind, StoreHealth};
use serde::Serialize;
use serde_json::{Value, json};
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

/// The exit codes. They are documented in `annulus --help` and the guide on checkpoints, and stay as they are.
pub mod exit {
    pub const FAILED: u8 = 1;
    pub const USAGE: u8 = 2;
    pub const DAMAGE: u8 = 3;
    pub const OPEN_ELSEWHERE: u8 = 4;
}

/// How a command ended that did what it was to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// It found damage.
    Damage,
}

impl Outcome {
    pub fn damage_if(damaged: bool) -> Outcome {
        if damaged { Outcome::Damage } else { Outcome::Done }
    }
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> ExitCode {
        match outcome {
            Outcome::Done => ExitCode::SUCCESS,
            Outcome::Damage => exit::DAMAGE.into(),
        }
    }
}

/// Why a command did not do what it was to do.
#[derive(Debug)]
pub enum Failure {
    Store(Error),
    Usage(String),
    /// What was being done, and what the system said.
    Io(String, io::Error),
    /// Something that was named is not there.
    Missing(String),
}

impl Failure {
    pub fn usage(text: impl Into<String>) -> Failure {
        Failure::Usage(text.into())
    }

    pub fn io(what: impl Display) -> impl FnOnce(io::Error) -> Failure {
        move |error| Failure::Io(format!("cannot {what}"), error)
    }

    fn code(&self) -> u8 {
        match self {
            Failure::Usage(_) => exit::USAGE,
            Failure::Store(error) => match error.kind() {
                ErrorKind::InvalidInput => exit::USAGE,
                ErrorKind::Corruption | ErrorKind::Gap => exit::DAMAGE,
                ErrorKind::Locked => exit::OPEN_ELSEWHERE,
                _ => exit::FAILED,
            },
            Failure::Io(..) | Failure::Missing(_) => exit::FAILED,
        }
    }

    pub fn exit_code(&self) -> ExitCode {
        self.code().into()
    }

    fn kind(&self) -> String {
        match self {
            Failure::Store(error) => format!("{:?}", error.kind()),
            Failure::Usage(_) => "Usage".to_owned(),
            Failure::Io(..) => "Io".to_owned(),
            Failure::Missing(_) => "NotFound".to_owned(),
        }
    }

    fn json(&self) -> Value {
        let mut error = json!({ "kind": self.kind(), "message": self.to_string(), "exit_code": self.code() });
        if let Failure::Store(cause) = self {
            error["path"] = json!(cause.path().map(|path| path.to_string_lossy()));
            error["shard"] = json!(cause.shard());
            error["advice"] = json!(cause.advice());
        }
        json!({ "error": error })
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Store(error) => error.fmt(f),
            Failure::Usage(text) | Failure::Missing(text) => f.write_str(text),
            Failure::Io(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Store(error)
    }
}

/// Where results go.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    pub json: bool,
}

impl Output {
    pub fn new(json: bool) -> Output {
        Output { json }
    }

    /// A result: an object with `--json`, or the text.
    pub fn result(self, object: &Value, text: impl Display) -> Result<(), Failure> {
        self.to(&mut io::stdout().lock(), object, text)
    }

    /// The same on the standard error, where the standard output has something else.
    pub fn result_beside(self, object: &Value, text: impl Display) -> Result<(), Failure> {
        self.to(&mut io::stderr().lock(), object, text)
    }

    fn to(self, stream: &mut dyn Write, object: &Value, text: impl Display) -> Result<(), Failure> {
        let written = if self.json { writeln!(stream, "{object}") } else { writeln!(stream, "{text}") };
        written.and_then(|()| stream.flush()).map_err(Failure::io("write the result"))
    }

    /// Something that is shown to people alone.
    pub fn text(self, text: impl Display) -> Result<(), Failure> {
        if self.json {
            return Ok(());
        }
        writeln!(io::stdout().lock(), "{text}").map_err(Failure::io("write the result"))
    }

    pub fn fail(self, failure: &Failure) {
        let line = match self.json {
            true => failure.json().to_string(),
            false => format!("error: {failure}"),
        };
        // Nobody is left to be told if this fails.
        let _ = writeln!(io::stderr().lock(), "{line}");
    }

    /// Shows what the store logs of warnings and errors.
    pub fn log_warnings(self) {
        JSON.store(self.json, Ordering::Relaxed);
        if log::set_logger(&LOGGER).is_ok() {
            log::set_max_level(log::LevelFilter::Warn);
        }
    }
}

static JSON: AtomicBool = AtomicBool::new(false);
static LOGGER: Logger = Logger;

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn && metadata.target().starts_with("annulus")
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = record.level().as_str().to_lowercase();
        let line = match JSON.load(Ordering::Relaxed) {
            true => json!({ "log": { "level": level, "message": record.args().to_string() } }).to_string(),
            false => format!("{level}: {}", record.args()),
        };
        let _ = writeln!(io::stderr().lock(), "{line}");
    }

    fn flush(&self) {}
}

/// As JSON. Paths that are not UTF-8 cannot be: an error, where `json!` would panic.
pub fn value(of: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(of)
        .map_err(|error| Failure::Io("cannot write the result as JSON".to_owned(), error.into()))
}

/// How a store is, and what to say of it.
pub fn health(health: &StoreHealth) -> Result<(Value, String), Failure> {
    let mut lines = String::new();
    for shard in &health.shards {
        lines.push_str(&format!("\nShard    {}: {}, {}", shard.id, shard.health, shard.path.display()));
    }
    if !health.is_good() {
        lines.push_str(&format!(
            "\nHealth   {} virtual nodes lack a copy, {} are not served",
            health.under_replicated, health.unavailable
        ));
    }
    Ok((value(health)?, lines))
}
