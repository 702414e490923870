//! How a checkpoint is taken.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

/// How far a checkpoint has got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckpointProgress {
    /// Records that have been put into it.
    pub records: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// Bytes of objects that have been written.
    pub bytes_written: u64,
    /// Bytes of objects that were in the repository already.
    pub bytes_shared: u64,
}

type Callback = Arc<dyn Fn(CheckpointProgress) -> ControlFlow<()> + Send + Sync>;

/// How to take a checkpoint.
///
/// ```
/// # fn main() -> annulus::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let store = annulus::Store::open(dir.path().join("data"))?;
/// # let repo = annulus::BackupRepository::open(dir.path().join("backup"))?;
/// use annulus::CheckpointOptions;
/// let options = CheckpointOptions::new().label("before the migration").rate(50 << 20);
/// let id = store.checkpoint_with(&repo, options)?;
/// assert_eq!(repo.get(id)?.label, "before the migration");
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
pub struct CheckpointOptions {
    pub(crate) label: String,
    pub(crate) rate: Option<u64>,
    pub(crate) full: bool,
    pub(crate) uncompressed: bool,
    pub(crate) progress: Option<Callback>,
}

impl CheckpointOptions {
    /// No label, as fast as it goes, incremental.
    pub fn new() -> CheckpointOptions {
        Self::default()
    }

    /// Sets what the checkpoint is called: any text, of at most 4 KiB.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Sets how many bytes of keys and values are read a second, at most.
    pub fn rate(mut self, bytes_a_second: u64) -> Self {
        self.rate = Some(bytes_a_second.max(1));
        self
    }

    /// Makes it read every record and write every object anew, whatever the repository has: after damage to the repository, so that no
    /// damaged object is taken over.
    pub fn full(mut self, full: bool) -> Self {
        self.full = full;
        self
    }

    /// Leaves chunks uncompressed. Without the feature `lz4` they always are.
    pub fn uncompressed(mut self, uncompressed: bool) -> Self {
        self.uncompressed = uncompressed;
        self
    }

    /// Sets what is called after every chunk and every keyspace, on the thread that takes the checkpoint. When it answers `Break`, the checkpoint ends
    /// with [`Cancelled`](crate::ErrorKind::Cancelled), and nothing of it counts.
    pub fn progress(
        mut self,
        callback: impl Fn(CheckpointProgress) -> ControlFlow<()> + Send + Sync + 'static,
    ) -> Self {
        self.progress = Some(Arc::new(callback));
        self
    }
}

impl fmt::Debug for CheckpointOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckpointOptions")
            .field("label", &self.label)
            .field("rate", &self.rate)
            .field("full", &self.full)
            .finish_non_exhaustive()
    }
}
