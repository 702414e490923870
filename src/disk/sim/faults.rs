//! Faults that a test plants in a simulated disk.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// What an operation does, for a fault to match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Listing, opening an existing file, asking for a length: changes nothing.
    Look,
    Read,
    Create,
    Write,
    Sync,
    SetLen,
    Rename,
    Remove,
    SyncDir,
}

impl Operation {
    /// Whether the disk may be different afterwards; those are the ones that are counted.
    pub fn changes(self) -> bool {
        !matches!(self, Operation::Look | Operation::Read)
    }
}

type PathTest = Arc<dyn Fn(&Path) -> bool + Send + Sync>;

/// An error for some operations on some paths.
#[derive(Clone)]
pub struct Fault {
    /// None: every operation that changes the disk.
    operation: Option<Operation>,
    path: PathTest,
    skip: u64,
    times: u64,
    error: io::ErrorKind,
    short: bool,
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fault({:?}, skip {}, times {}, {:?})", self.operation, self.skip, self.times, self.error)
    }
}

impl Fault {
    /// Every `operation` on every path fails, until healed.
    pub fn on(operation: Operation) -> Self {
        Fault { operation: Some(operation), ..Self::on_any_change() }
    }

    /// Every operation that changes the disk fails, until healed.
    pub fn on_any_change() -> Self {
        Fault {
            operation: None,
            path: Arc::new(|_| true),
            skip: 0,
            times: u64::MAX,
            error: io::ErrorKind::Other,
            short: false,
        }
    }

    /// Only on paths that `test` picks.
    pub fn at(mut self, test: impl Fn(&Path) -> bool + Send + Sync + 'static) -> Self {
        self.path = Arc::new(test);
        self
    }

    /// Lets the first `count` matching operations through.
    pub fn after(mut self, count: u64) -> Self {
        self.skip = count;
        self
    }

    /// Strikes `count` times, then no more.
    pub fn times(mut self, count: u64) -> Self {
        self.times = count;
        self
    }

    pub fn error(mut self, error: io::ErrorKind) -> Self {
        self.error = error;
        self
    }

    /// A failing write leaves a part of its bytes behind.
    pub fn short(mut self) -> Self {
        self.short = true;
        self
    }
}

#[derive(Debug, Clone, Default)]
pub struct Faults {
    pub rules: Vec<Fault>,
    /// The number of the operation at which the process stops.
    pub stop_at: Option<u64>,
    pub stopped: bool,
    /// The write that is failing now leaves a part behind.
    pub short: bool,
}

impl Faults {
    pub fn strike(&mut self, operation: Operation, path: &Path) -> io::Result<()> {
        self.short = false;
        for rule in &mut self.rules {
            let matches = rule.operation.map_or(operation.changes(), |o| o == operation) && (rule.path)(path);
            if !matches || rule.times == 0 {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            rule.times -= 1;
            self.short = rule.short && operation == Operation::Write;
            return Err(io::Error::new(rule.error, "a fault of the simulated disk"));
        }
        Ok(())
    }
}
