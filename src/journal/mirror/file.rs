//! A file that is open for writing in every copy of the journal, and the threads that sync beside the caller.

use super::Mirrors;
use crate::disk::DiskFile;
use crate::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use crate::sync::{Mutex, RwLock};
use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

type Files = Vec<Option<Arc<dyn DiskFile>>>;

/// What is known of an open file: a copy that is completed later joins in here.
#[derive(Debug)]
pub struct Handle {
    /// As the first copy calls it now.
    path: Mutex<PathBuf>,
    /// In the order of the copies; none where it is not open.
    files: RwLock<Files>,
}

impl Handle {
    pub fn renamed(&self, from: &Path, to: &Path) {
        let mut path = self.path.lock();
        if *path == from {
            *path = to.to_path_buf();
        }
    }

    pub fn path(&self) -> PathBuf {
        self.path.lock().clone()
    }

    pub fn is_open(&self, index: usize) -> bool {
        self.files.read().get(index).is_some_and(Option::is_some)
    }

    /// Takes in the file as it is in a copy that was made complete.
    pub fn join(&self, index: usize, file: Option<Arc<dyn DiskFile>>) {
        if let Some(slot) = self.files.write().get_mut(index) {
            *slot = file;
        }
    }
}

#[derive(Debug)]
pub struct MirrorFile {
    mirrors: Arc<Mirrors>,
    handle: Arc<Handle>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    Data,
    All,
}

fn sync(file: &dyn DiskFile, how: Sync) -> io::Result<()> {
    match how {
        Sync::Data => file.sync_data(),
        Sync::All => file.sync_all(),
    }
}

fn not_open() -> io::Error {
    io::Error::other("the file is not open in this copy of the journal")
}

impl MirrorFile {
    /// The caller holds the gate, so that no copy is completed between the opening and this.
    pub fn open(mirrors: &Mirrors, path: &Path, files: Files) -> io::Result<Arc<dyn DiskFile>> {
        let mirrors = mirrors.me.upgrade().ok_or_else(|| io::Error::other("the journal is gone"))?;
        let handle = Arc::new(Handle { path: Mutex::new(path.to_path_buf()), files: RwLock::new(files) });
        let mut handles = mirrors.handles.lock();
        handles.retain(|handle| handle.strong_count() > 0);
        handles.push(Arc::downgrade(&handle));
        drop(handles);
        Ok(Arc::new(MirrorFile { mirrors, handle }))
    }

    /// Does `work` to the file in every copy that counts.
    fn each<T>(&self, work: impl Fn(&dyn DiskFile) -> io::Result<T>) -> io::Result<T> {
        let _gate = self.mirrors.gate.read();
        self.mirrors.check()?;
        let path = self.handle.path();
        self.mirrors.touch(&path);
        let files = self.handle.files.read();
        let at = |index| files.get(index).and_then(Option::as_deref);
        let do_at = |index| (index, at(index).map_or_else(|| Err(not_open()), &work));
        let outcomes = self.mirrors.good().map(do_at).collect();
        self.mirrors.judge(&path, outcomes)
    }

    /// Syncs in all copies at once.
    fn sync(&self, how: Sync) -> io::Result<()> {
        let _gate = self.mirrors.gate.read();
        self.mirrors.check()?;
        let files = self.handle.files.read();
        let (mut outcomes, mut waiting, mut here) = (Vec::new(), Vec::new(), Vec::new());
        for index in self.mirrors.good() {
            let Some(file) = files.get(index).and_then(Option::as_ref) else {
                outcomes.push((index, Err(not_open())));
                continue;
            };
            let syncer = self.mirrors.copies.get(index).and_then(|copy| copy.syncer.as_ref());
            match syncer.and_then(|syncer| syncer.begin(file, how)) {
                Some(answer) => waiting.push((index, answer)),
                None => here.push((index, file)),
            }
        }
        outcomes.extend(here.into_iter().map(|(index, file)| (index, sync(file.as_ref(), how))));
        let gone = |_| Err(io::Error::other("the thread that syncs a copy of the journal is gone"));
        outcomes
            .extend(waiting.into_iter().map(|(index, answer)| (index, answer.recv().unwrap_or_else(gone))));
        self.mirrors.judge(&self.handle.path(), outcomes)
    }
}

impl DiskFile for MirrorFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let _gate = self.mirrors.gate.read();
        let files = self.handle.files.read();
        let mut outcome = Err(not_open());
        for file in self.mirrors.good().filter_map(|index| files.get(index)?.as_ref()) {
            outcome = file.read_at(offset, buf);
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.each(|file| file.write_at(offset, bytes))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync(Sync::Data)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync(Sync::All)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.each(|file| file.set_len(len))
    }

    fn len(&self) -> io::Result<u64> {
        // The shortest, so that what is filled up to a length is filled up in every copy.
        let least = Cell::new(u64::MAX);
        self.each(|file| file.len().map(|len| least.set(least.get().min(len))))?;
        Ok(least.get())
    }
}

struct Job {
    file: Arc<dyn DiskFile>,
    how: Sync,
    answer: SyncSender<io::Result<()>>,
}

/// A thread that syncs one copy while the caller syncs another. It ends when this is dropped.
#[derive(Debug)]
pub struct Syncer(Sender<Job>);

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Job")
    }
}

impl Syncer {
    /// None where no thread can be had: then the caller syncs one copy after the other.
    pub fn start() -> Option<Syncer> {
        let (jobs, next): (Sender<Job>, Receiver<Job>) = channel();
        let work = move || {
            while let Ok(job) = next.recv() {
                // Whoever asked may have gone.
                let _ = job.answer.send(sync(job.file.as_ref(), job.how));
            }
        };
        let thread = crate::sync::thread::Builder::new().name("annulus-mirror".to_owned()).spawn(work);
        thread.ok().map(|_| Syncer(jobs))
    }

    fn begin(&self, file: &Arc<dyn DiskFile>, how: Sync) -> Option<Receiver<io::Result<()>>> {
        let (answer, receiver) = sync_channel(1);
        self.0.send(Job { file: file.clone(), how, answer }).ok().map(|()| receiver)
    }
}
