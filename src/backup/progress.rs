//! How far long work with backups has got, and ending it early.
//!
//! Invariant: who asks for an end gets `Cancelled`, and the work leaves what it would leave after any other error.

use crate::error::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use std::fmt;
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::sync::Arc;

/// How far a restore, a verification, a prune, an export or an import has got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupProgress {
    /// Objects that have been read, or, by a prune, deleted. 0 for a stream, which has none.
    pub objects: u64,
    /// Bytes of these, or of the stream so far.
    pub bytes: u64,
    /// How many bytes it is going to be, where that is known: of a restore and a verification. More are read only where
    /// damage is looked at twice.
    pub bytes_total: Option<u64>,
}

type Callback = Box<dyn Fn(BackupProgress) -> ControlFlow<()> + Send + Sync>;

struct Watched {
    callback: Callback,
    at: Mutex<BackupProgress>,
}

/// Somebody who is told, if there is anybody.
#[derive(Clone, Default)]
pub struct Watch(Option<Arc<Watched>>);

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watch").field(&self.0.is_some()).finish()
    }
}

fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "the work on a backup was cancelled by its callback")
        .remedy("begin it again; what it left is taken up or swept then")
}

impl Watch {
    pub fn new(callback: impl Fn(BackupProgress) -> ControlFlow<()> + Send + Sync + 'static) -> Watch {
        Watch(Some(Arc::new(Watched { callback: Box::new(callback), at: Mutex::default() })))
    }

    /// How many bytes there are going to be from now on.
    pub fn expect(&self, bytes: u64) {
        if let Some(watched) = &self.0 {
            let mut at = watched.at.lock();
            at.bytes_total = Some(at.bytes.saturating_add(bytes));
        }
    }

    /// Whether anybody listens.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// So much more has been done; an error if that is to be all.
    pub fn more(&self, objects: u64, bytes: u64) -> Result<()> {
        let Some(watched) = &self.0 else { return Ok(()) };
        let mut at = watched.at.lock();
        at.objects += objects;
        at.bytes += bytes;
        let now = *at;
        // The callback may look at whatever it likes.
        drop(at);
        if (watched.callback)(now).is_break() { Err(cancelled()) } else { Ok(()) }
    }
}

/// After how many bytes of a stream somebody is told.
const EVERY: u64 = 1 << 20;

/// A stream that is watched on its way.
#[derive(Debug)]
pub struct Through<T> {
    inner: T,
    watch: Watch,
    untold: u64,
    ended: bool,
}

impl<T> Through<T> {
    pub fn new(inner: T, watch: Watch) -> Through<T> {
        Through { inner, watch, untold: 0, ended: false }
    }

    fn passed(&mut self, bytes: usize) -> io::Result<usize> {
        self.untold += bytes as u64;
        if self.untold >= EVERY {
            self.tell()?;
        }
        Ok(bytes)
    }

    fn tell(&mut self) -> io::Result<()> {
        self.ended |= self.watch.more(0, std::mem::take(&mut self.untold)).is_err();
        if self.ended { Err(io::Error::other(cancelled())) } else { Ok(()) }
    }

    /// What came of the work: told to the end, and `Cancelled` if that is why it failed.
    pub fn outcome<R>(mut self, done: Result<R>) -> Result<R> {
        match done {
            Err(_) if self.ended => Err(cancelled()),
            Err(error) => Err(error),
            Ok(done) => {
                // It is done: there is nothing left to cancel.
                let _ = self.tell();
                Ok(done)
            }
        }
    }
}

impl<T: Read> Read for Through<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.inner.read(buffer)?;
        self.passed(bytes)
    }
}

impl<T: Write> Write for Through<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.passed(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
