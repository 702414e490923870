//! Where an engine is, and the one door to sled: every call goes through [`Place::call`].
//!
//! Invariant: a panic or an error of sled's leaves here as an error of ours that names the shard and its directory.

use crate::error::{Error, ErrorKind, Result};
use crate::ids::ShardId;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

#[derive(Debug, Clone)]
pub(super) struct Place {
    pub dir: PathBuf,
    pub shard: ShardId,
}

impl Place {
    /// sled's own directory, which is marked synchronous; the page file is not in it.
    pub fn index_dir(&self) -> PathBuf {
        self.dir.join("index")
    }

    pub fn page_file(&self) -> PathBuf {
        self.dir.join("pages")
    }

    /// Calls sled to do `what`.
    #[inline]
    pub fn call<T>(&self, what: &str, f: impl FnOnce() -> sled::Result<T>) -> Result<T> {
        match catch_unwind(AssertUnwindSafe(f)) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(self.translate(what, error)),
            Err(panic) => Err(self.panicked(what, &*panic)),
        }
    }

    #[cold]
    fn translate(&self, what: &str, error: sled::Error) -> Error {
        match error {
            // sled wraps a refused lock in an error without a kind of its own.
            sled::Error::Io(error) if error.to_string().contains("could not acquire lock") => {
                Error::new(ErrorKind::Locked, format!("cannot {what}: the shard is open elsewhere"))
                    .remedy("close the store in the other process or handle, then try again")
                    .at(&self.dir)
                    .on(self.shard)
                    .caused_by(error)
            }
            sled::Error::Io(error) => Error::io(what, &self.dir, error).on(self.shard),
            other => self.corruption(format!("cannot {what}: sled reports: {other}")),
        }
    }

    #[cold]
    fn panicked(&self, what: &str, panic: &(dyn std::any::Any + Send)) -> Error {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no text");
        self.corruption(format!("cannot {what}: sled panicked: {text}"))
    }

    #[cold]
    pub fn corruption(&self, message: impl Into<String>) -> Error {
        self.locate(Error::corruption(message).remedy("repair the shard from its replicas or a checkpoint"))
    }

    /// Adds the place to an error of a floor below.
    #[cold]
    pub fn locate(&self, error: Error) -> Error {
        error.at(&self.dir).on(self.shard)
    }
}
