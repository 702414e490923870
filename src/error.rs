//! The one error type. An error is a value that says what was expected, what was found, where, and what to do next.
//!
//! Invariant: everything that a caller or a disk can cause ends here, never in a panic.

use crate::ids::ShardId;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A specialised `Result` for everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller must do about an [`Error`]; match on this, not on the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument or an option is outside its limits. Nothing was changed. Correct the call.
    InvalidInput,
    /// The options contradict what the store was created with. Nothing was changed. Drop or correct the option.
    Mismatch,
    /// A directory belongs to another store, or holds files that are not a store's. Nothing was changed.
    Foreign,
    /// Another process, or another handle in this one, has the store open, or writes to the repository of backups. Close it, or wait for it,
    /// then try again.
    Locked,
    /// A file has a format version that this release does not read. Use the release that wrote it, or a newer one.
    Unsupported,
    /// Bytes on a disk are not what was written. The error names the file; restore or repair it.
    Corruption,
    /// No shard that holds the key can answer now. Bring one of the named shards back, then try again.
    Unavailable,
    /// The operating system refused an operation. Remove the cause (space, permissions, a dead disk), then try again.
    Io,
    /// The disk of the journal has no room for its next segment. Nothing was written, reads go on, and no restart is needed:
    /// free space, then try again. Or an opening found no room at all for its first: free space, then open again. (Where a file system needs room to write over what is there, as btrfs and ZFS do, a full one may also be
    /// met in the middle of a write, which is `Poisoned`.)
    Full,
    /// An earlier write or sync of the journal failed, so nothing more may be acknowledged. Reopen the store.
    Poisoned,
    /// The store has been closed through this or another handle. Open it again.
    Closed,
    /// Something else is under way that this must not meet: another change of the topology, a repair or a compaction of the shard, a purge. The
    /// error says what. Wait for it, or cancel it, then try again.
    Busy,
    /// A plan was made for a topology that has changed since. Nothing was changed. Plan again.
    Stale,
    /// What was asked for cannot be had in full: the plan says what is in the way, or, at opening, the error which copies of
    /// the journal are missing, or which shard has a newer manifest than the store's directory. Nothing was changed. Remove the cause, or accept it.
    Refused,
    /// A thing that was named does not exist (a keyspace, a shard, a checkpoint), or no longer (a sequence of the journal).
    NotFound,
    /// An archive lacks writes, since the journal no longer had them; all others were archived. Take a checkpoint: what comes after it can be
    /// had again.
    Gap,
    /// The caller's own callback asked to stop. What had been done is left out of account.
    Cancelled,
}

/// What went wrong: a [kind](ErrorKind) to act on, a text to read, and the place.
///
/// ```
/// # fn main() -> annulus::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// let store = annulus::Store::open(dir.path().join("data"))?;
/// let error = store.insert("", b"value").unwrap_err();
/// assert_eq!(error.kind(), annulus::ErrorKind::InvalidInput);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    remedy: Option<String>,
    path: Option<PathBuf>,
    offset: Option<u64>,
    shard: Option<ShardId>,
    // Shared, so that a sticky failure can be handed to every later caller.
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            remedy: None,
            path: None,
            offset: None,
            shard: None,
            source: None,
        }))
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, message)
    }

    pub(crate) fn corruption(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corruption, message)
    }

    /// An operating-system error met while doing `what` to `path`.
    pub(crate) fn io(what: &str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        let remedy = match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                "free space, then try again"
            }
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                "make the path writable for this process"
            }
            std::io::ErrorKind::NotFound => "check that the disk is mounted and the path is right",
            _ => "check the disk and the kernel log",
        };
        Self::new(ErrorKind::Io, format!("cannot {what}")).at(path).remedy(remedy).caused_by(source)
    }

    pub(crate) fn at(mut self, path: impl Into<PathBuf>) -> Self {
        self.0.path = Some(path.into());
        self
    }

    pub(crate) fn offset(mut self, offset: u64) -> Self {
        self.0.offset = Some(offset);
        self
    }

    pub(crate) fn on(mut self, shard: ShardId) -> Self {
        self.0.shard = Some(shard);
        self
    }

    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.0.remedy = Some(remedy.into());
        self
    }

    pub(crate) fn caused_by(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// What the caller must do about it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The file or directory concerned, if there is one.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The byte offset in [`path`](Self::path), if one is known.
    pub fn byte_offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// The shard concerned, if there is one.
    pub fn shard(&self) -> Option<ShardId> {
        self.0.shard
    }

    /// The next step, in words.
    pub fn advice(&self) -> Option<&str> {
        self.0.remedy.as_deref()
    }

    /// What the operating system said, where it was asked.
    pub(crate) fn io_kind(&self) -> Option<std::io::ErrorKind> {
        let mut source = self.0.source.as_ref().map(|s| s.as_ref() as &(dyn std::error::Error + 'static));
        while let Some(error) = source {
            if let Some(io) = error.downcast_ref::<std::io::Error>() {
                return Some(io.kind());
            }
            source = error.source();
        }
        None
    }

    /// Whether something could not be written for want of space, or of the right to write: what was there before is as
    /// good as it was.
    pub(crate) fn is_refusal_to_write(&self) -> bool {
        use std::io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        matches!(self.io_kind(), Some(StorageFull | QuotaExceeded | ReadOnlyFilesystem | PermissionDenied))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.0;
        f.write_str(&inner.message)?;
        if let Some(shard) = inner.shard {
            write!(f, " (shard {shard})")?;
        }
        if let Some(path) = &inner.path {
            write!(f, " at {}", path.display())?;
        }
        if let Some(offset) = inner.offset {
            write!(f, ", byte {offset}")?;
        }
        if let Some(source) = &inner.source {
            write!(f, ": {source}")?;
        }
        if let Some(remedy) = &inner.remedy {
            write!(f, "; {remedy}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|s| s.as_ref() as &(dyn std::error::Error + 'static))
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        std::io::Error::other(error)
    }
}
