//! How fast a checkpoint is taken, and who is told.

use crate::backup::CheckpointOptions;
use crate::backup::options::CheckpointProgress;
use crate::backup::writer::Written;
use crate::error::{Error, ErrorKind, Result};
use std::time::{Duration, Instant};

/// Keeps a checkpoint to its rate, and tells of its progress.
pub struct Pace<'a> {
    options: &'a CheckpointOptions,
    begun: Instant,
}

impl<'a> Pace<'a> {
    pub fn new(options: &'a CheckpointOptions) -> Pace<'a> {
        Pace { options, begun: Instant::now() }
    }

    /// After a chunk, and after a keyspace, which may be less: tells, and rests as long as the rate asks for.
    pub fn after(&self, written: &Written) -> Result<()> {
        self.report(written)?;
        if let Some(rate) = self.options.rate {
            let due = Duration::from_secs_f64(written.size as f64 / rate as f64);
            let rest = due.saturating_sub(self.begun.elapsed());
            if !rest.is_zero() {
                std::thread::sleep(rest);
            }
        }
        Ok(())
    }

    /// Tells how far it is; an error if that is to be all.
    fn report(&self, written: &Written) -> Result<()> {
        let Some(callback) = &self.options.progress else { return Ok(()) };
        let progress = CheckpointProgress {
            records: written.records,
            bytes: written.size,
            bytes_written: written.written,
            bytes_shared: written.shared,
        };
        if callback(progress).is_break() {
            return Err(Error::new(ErrorKind::Cancelled, "the checkpoint was cancelled by its callback")
                .remedy("take another one; what was written is swept by it"));
        }
        Ok(())
    }
}
