//! The thread that carries the requests of an [`ObjectStorage`](super::ObjectStorage), so that whoever calls it just waits, also from
//! within somebody else's runtime.
//!
//! Invariant: the runtime is entered and dropped on this thread alone; a caller waits for an answer on a channel, and gets one, or
//! learns that there will be none.

use crate::error::{Error, ErrorKind, Result};
use std::future::Future;
use std::sync::mpsc::sync_channel;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// A runtime on a thread of its own. Ends with the value, without waiting for requests that nobody waits for.
#[derive(Debug)]
pub struct Driver {
    handle: Handle,
    _alive: oneshot::Sender<()>,
}

impl Driver {
    pub fn start() -> Result<Driver> {
        let failed = |e| {
            Error::new(ErrorKind::Io, "cannot start the thread that talks to the object storage")
                .remedy("raise the limits on threads and open files")
                .caused_by(e)
        };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        let (alive, ended) = oneshot::channel::<()>();
        let work = move || {
            // Ends with an error when the other end is dropped.
            let _ = runtime.block_on(ended);
            runtime.shutdown_background();
        };
        std::thread::Builder::new().name("annulus-objects".to_owned()).spawn(work).map_err(failed)?;
        Ok(Driver { handle, _alive: alive })
    }

    /// Carries a request out, and waits for it. None if it panicked.
    pub fn run<T: Send + 'static>(&self, request: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let (answer, answered) = sync_channel(1);
        self.handle.spawn(async move {
            // A caller waits as long as it lives.
            let _ = answer.send(request.await);
        });
        answered.recv().ok()
    }

    /// Carries out something that nobody waits for.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(work);
    }
}
