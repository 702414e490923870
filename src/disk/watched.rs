//! A disk that is watched while somebody waits for what a thread does with it. Many things that are asked one after the other may take long in all,
//! as those of an opening do; a disk that has not answered one of them for long hangs.
//!
//! Invariant: what others ask for that thread has limits of its own, and may have been given up: it counts only where nobody has been answered anything for
//! twice as long, as when all copies of something hang.

use super::{Disk, DiskFile, FreeSpace, OpenMode};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::mpsc::{RecvTimeoutError, channel};
use crate::sync::{Instant, Mutex, thread};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How often who waits looks whether the disk answers.
const LOOK: Duration = Duration::from_millis(50);

/// What a disk has not answered for too long, and for how long that is.
#[derive(Debug)]
pub struct Silent {
    pub path: PathBuf,
    pub limit: Duration,
}

/// What the disk is being asked for.
#[derive(Debug, Default)]
struct Watch {
    thread: OnceLock<std::thread::ThreadId>,
    asks: Mutex<Asks>,
    over: AtomicBool,
}

#[derive(Debug, Default)]
struct Asks {
    next: u64,
    open: Vec<Ask>,
    /// When it has answered somebody last.
    answered: Option<Instant>,
}

#[derive(Debug)]
struct Ask {
    id: u64,
    /// Whether the thread itself asks.
    itself: bool,
    since: Instant,
    path: PathBuf,
}

impl Watch {
    fn begin(&self, path: &Path) -> Option<Asked<'_>> {
        if self.over.load(Ordering::Relaxed) {
            return None;
        }
        let itself = self.thread.get() == Some(&std::thread::current().id());
        let mut asks = self.asks.lock();
        asks.next += 1;
        let ask = Ask { id: asks.next, itself, since: Instant::now(), path: path.to_path_buf() };
        let asked = Asked { watch: self, id: ask.id };
        asks.open.push(ask);
        Some(asked)
    }

    fn silent_for(&self, limit: Duration) -> Option<Silent> {
        let (asks, all) = (self.asks.lock(), limit * 2);
        let first = |limit: Duration, counts: &dyn Fn(&Ask) -> bool| {
            let ask = asks.open.iter().find(|ask| counts(ask) && ask.since.elapsed() > limit)?;
            Some(Silent { path: ask.path.clone(), limit })
        };
        let nobody = || asks.answered.is_none_or(|at| at.elapsed() > all);
        first(limit, &|ask| ask.itself).or_else(|| first(all, &|_| nobody()))
    }
}

struct Asked<'a> {
    watch: &'a Watch,
    id: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let mut asks = self.watch.asks.lock();
        asks.open.retain(|ask| ask.id != self.id);
        asks.answered = Some(Instant::now());
    }
}

/// Does `work` with a disk on a thread of its own, and waits for it as long as the disk answers: no longer than `limit`, and a moment, for anything
/// that this thread asks, and twice as long for any answer at all. Where no thread can be had it is done here, for as long as it takes.
///
/// # Errors
/// The disk has not answered. The work goes on when it does, and what it comes to is dropped.
pub fn while_it_answers<T: Send + 'static>(
    disk: Arc<dyn Disk>,
    limit: Duration,
    work: impl FnOnce(Arc<dyn Disk>) -> T + Send + 'static,
) -> Result<T, Silent> {
    let watch = Arc::new(Watch::default());
    let disk: Arc<dyn Disk> = Arc::new(Watched { disk, watch: watch.clone() });
    let work = Arc::new(Mutex::new(Some(work)));
    let take = |work: &Mutex<Option<_>>| work.lock().take();
    let (done, outcome) = channel();
    let (theirs, watches, watched) = (work.clone(), watch.clone(), disk.clone());
    let run = move || {
        let Some(work) = take(&theirs) else { return };
        let _ = watches.thread.set(std::thread::current().id());
        let outcome = work(watched);
        watches.over.store(true, Ordering::Relaxed);
        // Nobody may be waiting any more.
        let _ = done.send(outcome);
    };
    let Ok(thread) = thread::Builder::new().name("annulus-open".to_owned()).spawn(run) else {
        watch.over.store(true, Ordering::Relaxed);
        let work = take(&work);
        return work.map(|work| work(disk)).ok_or(Silent { path: PathBuf::new(), limit });
    };
    loop {
        match outcome.recv_timeout(LOOK) {
            Ok(outcome) => return Ok(outcome),
            Err(RecvTimeoutError::Timeout) => {
                if let Some(silent) = watch.silent_for(limit) {
                    return Err(silent);
                }
            }
            // As if it had been done here.
            Err(RecvTimeoutError::Disconnected) => match thread.join() {
                Err(panicked) => std::panic::resume_unwind(panicked),
                Ok(()) => return Err(Silent { path: PathBuf::new(), limit }),
            },
        }
    }
}

#[derive(Debug)]
struct Watched {
    disk: Arc<dyn Disk>,
    watch: Arc<Watch>,
}

impl Watched {
    fn at<T>(&self, path: &Path, ask: impl FnOnce(&dyn Disk) -> T) -> T {
        let _asked = self.watch.begin(path);
        ask(self.disk.as_ref())
    }

    fn file(&self, path: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(WatchedFile { file, path: path.to_path_buf(), watch: self.watch.clone() })
    }
}

impl Disk for Watched {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.at(dir, |disk| disk.create_dir_all(dir))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.at(dir, |disk| disk.list(dir))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.at(path, |disk| disk.exists(path))
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        self.at(path, |disk| disk.canonicalize(path))
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.at(path, |disk| disk.open(path, mode))?;
        Ok(self.file(path, file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.at(to, |disk| disk.rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.at(path, |disk| disk.remove_file(path))
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.at(dir, |disk| disk.remove_dir_all(dir))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.at(dir, |disk| disk.sync_dir(dir))
    }

    fn sync_dirs(&self, dirs: &[PathBuf]) -> Result<(), (PathBuf, io::Error)> {
        let first = dirs.first().map_or(Path::new(""), PathBuf::as_path);
        self.at(first, |disk| disk.sync_dirs(dirs))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.at(path, |disk| disk.lock(path))
    }

    fn holder(&self, path: &Path) -> Option<u32> {
        self.at(path, |disk| disk.holder(path))
    }

    fn copies(&self) -> Vec<usize> {
        self.disk.copies()
    }

    fn open_copy(&self, path: &Path, copy: usize) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.at(path, |disk| disk.open_copy(path, copy))?;
        Ok(self.file(path, file))
    }

    fn mend_copy(&self, path: &Path, copy: usize, from: usize, offset: u64, bytes: &[u8]) -> bool {
        self.at(path, |disk| disk.mend_copy(path, copy, from, offset, bytes))
    }

    fn boot_id(&self) -> u128 {
        self.disk.boot_id()
    }

    fn space(&self, path: &Path) -> io::Result<Option<FreeSpace>> {
        self.at(path, |disk| disk.space(path))
    }

    fn file_len(&self, path: &Path) -> io::Result<Option<u64>> {
        self.at(path, |disk| disk.file_len(path))
    }
}

#[derive(Debug)]
struct WatchedFile {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    watch: Arc<Watch>,
}

impl WatchedFile {
    fn ask<T>(&self, ask: impl FnOnce(&dyn DiskFile) -> T) -> T {
        let _asked = self.watch.begin(&self.path);
        ask(self.file.as_ref())
    }
}

impl DiskFile for WatchedFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.ask(|file| file.read_at(offset, buf))
    }

    fn read_ready(&self, offset: u64, buf: &mut [u8]) -> io::Result<Option<usize>> {
        self.ask(|file| file.read_ready(offset, buf))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.ask(|file| file.write_at(offset, bytes))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.ask(|file| file.sync_data())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.ask(|file| file.sync_all())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.ask(|file| file.set_len(len))
    }

    fn len(&self) -> io::Result<u64> {
        self.ask(|file| file.len())
    }
}
