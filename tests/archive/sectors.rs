//! A sector of the journal that the disk does not give out, where nothing else has what lies in it.

use crate::lacking::{check_numbered, holds, numbered, position};
use crate::{Place, options};
use annulus::testing::{self, Background, Disk, DiskFile, OpenMode, RealDisk, Seams, SledFactory};
use annulus::{At, ErrorKind, Seq};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

const SECTOR: u64 = 512;
/// What is read of a disk at once.
const BLOCK: u64 = 4096;

/// Bytes of a file, and how often they cannot be read.
type Part = (PathBuf, Range<u64>, usize);

/// A disk with bytes in a file that cannot be read.
#[derive(Debug, Clone, Default)]
struct Bad(Arc<Mutex<Option<Part>>>);

#[derive(Debug)]
struct BadFile {
    disk: Bad,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
}

impl DiskFile for BadFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut bad = self.disk.0.lock().unwrap();
        let end = offset + buf.len() as u64;
        match &mut *bad {
            Some((path, bytes, left))
                if *left > 0 && *path == self.path && offset < bytes.end && bytes.start < end =>
            {
                *left -= 1;
                Err(io::Error::other("a bad sector"))
            }
            _ => self.file.read_at(offset, buf),
        }
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}

impl Disk for Bad {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        RealDisk.exists(path)
    }
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        RealDisk.canonicalize(path)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = RealDisk.open(path, mode)?;
        Ok(Arc::new(BadFile { disk: self.clone(), path: path.to_path_buf(), file }))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_file(path)
    }
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealDisk.remove_dir_all(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        RealDisk.lock(path)
    }
    fn boot_id(&self) -> u128 {
        RealDisk.boot_id()
    }
}

impl Bad {
    fn open(&self, place: &mut Place) {
        place.store.close().unwrap();
        let factory = Arc::new(SledFactory::default());
        let seams = Seams { disk: Arc::new(self.clone()), factory, background: Background::On };
        place.store = testing::open(&place.path("live"), &options(), seams).unwrap();
    }

    /// The sector in which the frame of a write has its value cannot be read from here on.
    fn spoil(&self, place: &Place, n: u64) {
        let (path, at) = position(place, n);
        let begin = at / SECTOR * SECTOR;
        *self.0.lock().unwrap() = Some((path, begin..begin + SECTOR, usize::MAX));
    }
}

/// The sequences that an archive lacks.
fn lacks(error: &annulus::Error) -> (u64, u64) {
    let text = error.to_string();
    let (_, rest) = text.split_once("sequences ").unwrap();
    let numbers: Vec<u64> = rest.split([' ', ',']).filter_map(|word| word.parse().ok()).take(2).collect();
    (numbers[0], numbers[1])
}

/// A store of 700 writes, of which 50 are archived, behind a checkpoint of as many.
fn archived_in_part() -> (Place, Bad) {
    let (mut place, disk) = (Place::new(), Bad::default());
    disk.open(&mut place);
    numbered(&place, 1..=50);
    place.store.checkpoint(&place.repo).unwrap();
    place.store.archive(&place.repo).unwrap();
    numbered(&place, 51..=700);
    place.store.flush().unwrap();
    (place, disk)
}

#[test]
fn of_a_journal_with_a_sector_that_cannot_be_read_all_that_can_be_is_archived() {
    let (mut place, disk) = archived_in_part();
    disk.spoil(&place, 350);
    let mut lacking = None;
    for reopened in [false, false, true] {
        if reopened {
            disk.open(&mut place);
        }
        let error = place.store.archive(&place.repo).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Gap, "reopened {reopened}: {error}");
        let (from, to) = *lacking.get_or_insert(lacks(&error));
        assert_eq!(lacks(&error), (from, to));
        // Frames have more than 250 bytes each: no more than the block that it lies in, and what ends in it.
        assert!(from <= 350 && from + SECTOR / 250 + 1 >= 350, "{from}");
        assert!(to >= 350 && to - from <= BLOCK / 250 + 1, "{from} to {to}");
        let last = place.store.stats().unwrap().last_seq;
        assert_eq!(holds(&place), [(place.repo.id(), last)]);
        numbered(&place, last.0 + 1..=last.0 + 10);
    }
    let (from, to) = lacking.unwrap();
    check_numbered(&place, from - 1, "before");
    for n in [from, to, 600] {
        assert_eq!(place.restored(At::Seq(Seq(n)), "within").unwrap_err().kind(), ErrorKind::NotFound);
    }
    place.store.checkpoint(&place.repo).unwrap();
    let last = place.store.stats().unwrap().last_seq;
    assert_eq!(place.store.archive(&place.repo).unwrap(), last);
    check_numbered(&place, last.0, "after");
}

/// What the archive has already nobody asks the journal for, but to compare the end of it after an opening.
#[test]
fn archiving_goes_on_where_what_was_archived_cannot_be_read_in_the_journal() {
    for bad in [400, 420] {
        let (mut place, disk) = (Place::new(), Bad::default());
        disk.open(&mut place);
        numbered(&place, 1..=50);
        place.store.checkpoint(&place.repo).unwrap();
        numbered(&place, 51..=420);
        place.store.archive(&place.repo).unwrap();
        numbered(&place, 421..=700);
        place.store.flush().unwrap();
        disk.open(&mut place);
        disk.spoil(&place, bad);
        assert_eq!(position(&place, bad).0, position(&place, 421).0, "they lie in one segment");
        let archived = place.store.archive(&place.repo);
        match bad {
            400 => assert_eq!(archived.unwrap(), Seq(700)),
            // The next write begins in the same block.
            _ => assert_eq!(archived.unwrap_err().kind(), ErrorKind::Gap),
        }
        assert_eq!(holds(&place), [(place.repo.id(), Seq(700))]);
    }
}

/// Nothing says that it will not be given out again.
#[test]
fn a_journal_of_which_nothing_can_be_read_leaves_no_gap() {
    let (place, disk) = archived_in_part();
    let (path, _) = position(&place, 350);
    *disk.0.lock().unwrap() = Some((path, 0..u64::MAX, usize::MAX));
    let error = place.store.archive(&place.repo).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    *disk.0.lock().unwrap() = None;
    assert_eq!(place.store.archive(&place.repo).unwrap(), Seq(700));
    check_numbered(&place, 700, "after");
}

/// What could not be read a moment ago is asked for once more before it counts as lost.
#[test]
fn an_outage_that_ends_while_the_journal_is_searched_leaves_no_gap() {
    for failures in 1..=16 {
        let (place, disk) = archived_in_part();
        let (path, _) = position(&place, 350);
        *disk.0.lock().unwrap() = Some((path, 0..u64::MAX, failures));
        assert_eq!(place.store.archive(&place.repo).unwrap(), Seq(700), "{failures} failures");
        check_numbered(&place, 700, &format!("after {failures}"));
    }
}
