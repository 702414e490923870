//! Where an engine is, and the one door to sled: every call goes through [`Place::call`]; those that wait for sled's threads
//! besides through [`Place::bounded`].
//!
//! Invariant: a panic or an error of sled's leaves here as an error of ours that names the shard and its directory.

use crate::error::{Error, ErrorKind, Result};
use crate::ids::ShardId;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

#[derive(Debug, Clone)]
pub(super) struct Place {
    pub dir: PathBuf,
    pub shard: ShardId,
    /// That sled has panicked, be it while it was read: what it would do if it was written to then is not known.
    pub panicked: Arc<OnceLock<Error>>,
}

impl Place {
    /// sled's own directory, which is marked synchronous; the page file is not in it.
    pub fn index_dir(&self) -> PathBuf {
        self.dir.join("index")
    }

    pub fn page_file(&self) -> PathBuf {
        self.dir.join("pages")
    }

    /// Errors if a file has been deleted that is open: it answers and takes writes like any other, and is gone at the next
    /// opening.
    pub fn check_files(&self) -> Result<()> {
        let index = self.index_dir();
        for path in [self.page_file(), index.join("db"), index.join("conf")] {
            if !path.try_exists().map_err(|e| Error::io("look for the file", &path, e).on(self.shard))? {
                return Err(self.corruption(format!("{} has been deleted", path.display())));
            }
        }
        Ok(())
    }

    /// Calls sled to do `what`.
    #[inline]
    pub fn call<T>(&self, what: &str, f: impl FnOnce() -> sled::Result<T>) -> Result<T> {
        match catch_unwind(AssertUnwindSafe(f)) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(self.translate(what, error)),
            Err(panic) => Err(self.note_panic(what, &*panic)),
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
    pub fn note_panic(&self, what: &str, panic: &(dyn std::any::Any + Send)) -> Error {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no text");
        let error = self.corruption(format!("cannot {what}: sled panicked: {text}"));
        let _ = self.panicked.set(error.clone());
        error
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
