//! What a verification of all says of the archive.

use crate::hooked::out_of_order;
use crate::{Place, content, options, walk};
use annulus::testing::RealDisk;
use annulus::{
    At, BackupProgress, BackupRepository, CheckpointId, DirStorage, ErrorKind, Loss, Object, Result,
    Retention, Seq, Storage, Verification,
};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Two checkpoints, after 40 and 80 writes, and a piece of the archive for every 20 up to 120.
fn filled() -> (Place, Vec<PathBuf>) {
    let mut place = Place::new();
    for part in 1..=6 {
        place.write(20);
        place.moment();
        if part == 2 || part == 4 {
            place.store.checkpoint(&place.repo).unwrap();
        }
        place.store.archive(&place.repo).unwrap();
    }
    let pieces = walk(place.path("backup/archive"));
    assert_eq!(pieces.len(), 6);
    (place, pieces)
}

/// The checkpoint, the sequences and the kind of error of all that is told.
fn told(found: &Verification) -> Vec<(u64, u64, Option<u64>, ErrorKind)> {
    let damage = found.damage.iter().map(|damage| {
        assert!(damage.keyspace.is_none() && damage.error.advice().is_some(), "{damage}");
        let Loss::Archived { from, to } = damage.loss else { panic!("{damage}") };
        assert!(damage.to_string().contains(&format!("from sequence {from}")), "{damage}");
        (damage.checkpoint.0, from.0, to.map(|to| to.0), damage.error.kind())
    });
    damage.collect()
}

#[test]
fn every_damaged_piece_that_a_restore_may_need_is_told_when_all_is_verified() {
    let (place, pieces) = filled();
    let found = place.repo.verify_all().unwrap();
    assert!(found.is_whole(), "{:?}", found.damage);
    for (number, piece) in pieces.iter().enumerate() {
        let whole = std::fs::read(piece).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        let other = std::fs::read(&pieces[(number + 1) % pieces.len()]).unwrap();
        let first = number as u64 * 20 + 1;
        let (last, checkpoint) = (first + 19, if number < 4 { 1 } else { 2 });
        for (bad, kind) in [
            (&flipped[..], ErrorKind::Corruption),
            (&whole[..whole.len() - 1], ErrorKind::Corruption),
            (&[], ErrorKind::Corruption),
            (&other, ErrorKind::Foreign),
        ] {
            std::fs::write(piece, bad).unwrap();
            let found = place.repo.verify_all().unwrap();
            // What lies before the first checkpoint serves nobody.
            let expected = if number < 2 { vec![] } else { vec![(checkpoint, first, Some(last), kind)] };
            assert_eq!(told(&found), expected, "piece {number}");
            assert!(found.damage.iter().all(|damage| damage.file == *piece));
            for id in [1, 2] {
                assert!(place.repo.verify(CheckpointId(id)).unwrap().is_whole());
                let to = Seq(if id == 1 { 80 } else { 120 });
                let restore =
                    place.repo.restore(CheckpointId(id)).unwrap().options(options()).until(At::Seq(to));
                let new = place.path("new");
                match restore.open(&new) {
                    Ok(store) => {
                        assert!(number < 2 || checkpoint != id, "piece {number}, checkpoint {id}");
                        assert_eq!(content(&store), place.moments[to.0 as usize / 20 - 1].2);
                        drop(store);
                        std::fs::remove_dir_all(&new).unwrap();
                    }
                    Err(error) => {
                        assert!(number >= 2 && checkpoint == id && error.kind() == kind, "{number}: {error}")
                    }
                }
            }
        }
        std::fs::write(piece, whole).unwrap();
    }
    assert!(place.repo.verify_all().unwrap().is_whole());
}

#[test]
fn a_piece_that_is_missing_is_told_when_all_is_verified_unless_a_checkpoint_lies_behind_it() {
    let (place, pieces) = filled();
    let aside = place.path("aside");
    for (number, piece) in pieces.iter().enumerate() {
        std::fs::rename(piece, &aside).unwrap();
        let expected = if number == 4 { vec![(2, 81, Some(100), ErrorKind::Gap)] } else { vec![] };
        assert_eq!(told(&place.repo.verify_all().unwrap()), expected, "piece {number}");
        std::fs::rename(&aside, piece).unwrap();
    }
    // A part of what is missing lies before the checkpoint.
    for piece in &pieces[3..5] {
        std::fs::remove_file(piece).unwrap();
    }
    assert_eq!(told(&place.repo.verify_all().unwrap()), [(2, 81, Some(100), ErrorKind::Gap)]);
    assert_eq!(place.store.archive(&place.repo).unwrap_err().kind(), ErrorKind::Gap);
    place.store.checkpoint(&place.repo).unwrap();
    assert!(place.repo.verify_all().unwrap().is_whole());
    place.store.archive(&place.repo).unwrap();
}

#[test]
fn a_verification_of_all_tells_of_every_piece_and_may_be_ended() {
    let (place, _) = filled();
    let notes = Arc::new(Mutex::new(Vec::<BackupProgress>::new()));
    let until = |calls: usize| {
        let noted = notes.clone();
        move |at| {
            let mut noted = noted.lock().unwrap();
            noted.push(at);
            if noted.len() < calls { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        }
    };
    let found = place.repo.verify_all_with(until(usize::MAX)).unwrap();
    let told = std::mem::take(&mut *notes.lock().unwrap());
    let last = told.last().unwrap();
    assert_eq!((last.objects, last.bytes, last.bytes_total), (found.objects, found.bytes, Some(found.bytes)));
    let error = place.repo.verify_all_with(until(told.len() - 1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

#[test]
fn a_prune_tells_of_the_pieces_that_it_takes_and_may_be_ended_among_them() {
    for ended in [false, true] {
        let (place, pieces) = filled();
        let sizes: Vec<u64> = pieces.iter().map(|piece| piece.metadata().unwrap().len()).collect();
        let objects = || {
            let under = |dir: PathBuf| std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
            let all: Vec<PathBuf> = under(place.path("backup/objects")).flat_map(under).collect();
            (all.len() as u64, all.iter().map(|object| object.metadata().unwrap().len()).sum::<u64>())
        };
        let before = objects();
        let told = Arc::new(Mutex::new(BackupProgress::default()));
        let (noted, second) = (told.clone(), pieces[1].clone());
        let gone = place.repo.prune_with(Retention::keep_last(1), move |at| {
            *noted.lock().unwrap() = at;
            if ended && !second.exists() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let (after, taken) = (objects(), if ended { 2 } else { 4 });
        let count = before.0 - after.0 + taken as u64;
        let bytes = before.1 - after.1 + sizes[..taken].iter().sum::<u64>();
        let told = *told.lock().unwrap();
        assert_eq!((told.objects, told.bytes), (count, bytes));
        assert_eq!(walk(place.path("backup/archive")), pieces[taken..]);
        if ended {
            assert_eq!(gone.unwrap_err().kind(), ErrorKind::Cancelled);
            let rest = place.repo.prune(Retention::keep_last(1)).unwrap();
            assert_eq!((rest.objects, rest.bytes), (2, sizes[2..4].iter().sum()));
        } else {
            let gone = gone.unwrap();
            assert_eq!((gone.objects, gone.bytes), (count, bytes));
        }
        assert_eq!(walk(place.path("backup/archive")), pieces[4..]);
        assert!(place.repo.verify_all().unwrap().is_whole());
    }
}

/// A directory of which a test says what a list of the archive leaves out, what happens after it, and what cannot be read.
#[derive(Debug)]
struct Listing {
    inner: DirStorage,
    hidden: Mutex<Option<PathBuf>>,
    pruned: Mutex<Option<PathBuf>>,
    unread: Mutex<Option<PathBuf>>,
}

impl Listing {
    fn of(dir: &Path) -> Arc<Listing> {
        let inner = DirStorage::new(Arc::new(RealDisk), dir);
        Arc::new(Listing {
            inner,
            hidden: Mutex::default(),
            pruned: Mutex::default(),
            unread: Mutex::default(),
        })
    }
}

impl Storage for Listing {
    fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        let mut found = self.inner.list(prefix)?;
        if prefix.starts_with("archive/") {
            let hidden = self.hidden.lock().unwrap().take();
            found.retain(|object| Some(self.inner.describe(&object.name)) != hidden);
            if let Some(pruned) = self.pruned.lock().unwrap().take() {
                std::fs::remove_file(pruned).unwrap();
            }
        }
        Ok(found)
    }
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        if *self.unread.lock().unwrap() == Some(self.inner.describe(name)) {
            return Err(out_of_order());
        }
        self.inner.read(name)
    }
    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.inner.write(name, bytes)
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.inner.delete(name)
    }
    fn settle(&self) -> Result<()> {
        self.inner.settle()
    }
    fn lock(&self) -> Result<Box<dyn Send + Sync>> {
        self.inner.lock()
    }
    fn describe(&self, name: &str) -> PathBuf {
        self.inner.describe(name)
    }
}

/// Pieces are added and pruned beside a verification: what was listed a moment ago may be gone, and a list may have a piece and lack the one before.
#[test]
fn an_archive_that_changes_while_it_is_verified_is_not_taken_for_damaged() {
    let (place, pieces) = filled();
    let storage = Listing::of(&place.path("backup"));
    let repo = BackupRepository::open_with(storage.clone()).unwrap();
    *storage.hidden.lock().unwrap() = Some(pieces[4].clone());
    let found = repo.verify_all().unwrap();
    assert!(found.is_whole(), "{:?}", found.damage);
    *storage.pruned.lock().unwrap() = Some(pieces[2].clone());
    let found = repo.verify_all().unwrap();
    assert!(found.is_whole() && !pieces[2].exists(), "{:?}", found.damage);
    // One that cannot be read for good is no less lost than one whose bytes are others, and the rest is verified.
    *storage.unread.lock().unwrap() = Some(pieces[5].clone());
    let found = repo.verify_all().unwrap();
    let told: Vec<_> = found.damage.iter().map(|damage| (&damage.file, damage.error.kind())).collect();
    assert_eq!(told, [(&pieces[5], ErrorKind::Io)]);
}
