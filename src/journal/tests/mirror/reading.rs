//! Reading beside writers while one copy is damaged: what it lacks is read from another, and put in again.

use super::hooked::Hooked;
use super::*;
use crate::journal::segment::{self, BODY};
use std::sync::mpsc::channel;

/// What happens to the copy that is read first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    Payload,
    Header,
    Block,
    FailsOnce,
    FailsForGood,
    FailsToOpen,
    Cut,
    Gone,
}

const HARMS: [Harm; 8] = [
    Harm::Payload,
    Harm::Header,
    Harm::Block,
    Harm::FailsOnce,
    Harm::FailsForGood,
    Harm::FailsToOpen,
    Harm::Cut,
    Harm::Gone,
];

fn written(seed: u64, count: u64) -> (Model, SimDisk, Arc<Mirrors>, Journal) {
    let (mut model, disk) = (Model::default(), dirs_disk(seed));
    let (mirrors, journal) = model.create(&disk);
    (0..count).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
    model.sync(&journal).unwrap();
    (model, disk, mirrors, journal)
}

/// Where the frame with a sequence lies in a copy.
fn place_of(model: &Model, journal: &Journal, copy: usize, seq: u64) -> (PathBuf, u64) {
    let (found, _) = journal.segment_of(Seq(seq)).unwrap();
    let before = (found.first.0..seq).map(|n| crate::frame::frame_bytes(model.payload(n).len()) as u64);
    (Path::new(DIRS[copy]).join(segment::name(found.generation)), BODY + before.sum::<u64>())
}

fn flip(disk: &SimDisk, (path, at): (PathBuf, u64)) {
    disk.damage(&path, |bytes| bytes[at as usize] ^= 4).unwrap();
}

fn harm(disk: &SimDisk, harm: Harm, (path, at): (PathBuf, u64)) {
    let here = path.clone();
    let fault = |operation| Fault::on(operation).at(move |path| path == here);
    match harm {
        Harm::Payload => flip(disk, (path, at + 45)),
        Harm::Header => flip(disk, (path, at + 17)),
        Harm::Block => {
            let at = at as usize / 4096 * 4096;
            disk.damage(&path, |bytes| bytes[at..at + 4096].fill(0)).unwrap();
        }
        Harm::FailsOnce => disk.inject(fault(Operation::Read).times(1)),
        Harm::FailsForGood => disk.inject(fault(Operation::Read)),
        Harm::FailsToOpen => disk.inject(fault(Operation::Look)),
        Harm::Cut => disk.damage(&path, |bytes| bytes.truncate(at as usize + 9)).unwrap(),
        Harm::Gone => disk.remove_file(&path).unwrap(),
    }
}

/// Whether every segment is the same in both copies.
fn alike(disk: &SimDisk) -> bool {
    let mut names = disk.list(Path::new(DIRS[0])).unwrap();
    names.retain(|name| name.ends_with(".seg"));
    let bytes = |dir: &str, name: &String| disk.read(&Path::new(dir).join(name)).unwrap();
    names.iter().all(|name| bytes(DIRS[0], name).is_some() && bytes(DIRS[0], name) == bytes(DIRS[1], name))
}

/// Reads on in steps; everything must come once, in order, and as it was written.
fn read_on(model: &Model, journal: &Journal, cursor: &mut Cursor, limit: usize) -> Result<()> {
    let last = journal.last();
    while cursor.next() <= last {
        let mut next = cursor.next();
        journal.replay(cursor, last, limit, &mut |seq, bytes| {
            assert_eq!(seq, next, "a gap, or twice the same");
            assert!(bytes == model.payload(seq.0), "{seq} is not what was written");
            next = seq.next();
            Ok(())
        })?;
        assert_eq!(cursor.next(), next);
    }
    Ok(())
}

/// The other one has a sector further on that cannot be read, too.
#[test]
fn what_lies_before_a_place_that_cannot_be_read_in_the_other_copy_is_read_there() {
    for what in [Harm::Payload, Harm::Header] {
        let (mut model, disk) = (Model::default(), dirs_disk(41));
        let hooked = Hooked::new(&disk, |_, _| Ok(()));
        let (mirrors, journal) = model.create_on(Arc::new(hooked.clone()));
        (0..60).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
        model.sync(&journal).unwrap();
        let (segment, below) = journal.segment_of(Seq(30)).unwrap();
        let (damaged, unread) = (segment.first.next().0, below.0 - 1);
        assert!(damaged < unread, "{damaged} {unread}");
        harm(&disk, what, place_of(&model, &journal, 0, damaged));
        let (path, at) = place_of(&model, &journal, 1, unread);
        hooked.spoil(&path, at + 45);
        read_on(&model, &journal, &mut Cursor::at(Seq(1)), usize::MAX)
            .unwrap_or_else(|e| panic!("{what:?}: {e}"));
        assert_eq!(good(&mirrors), [true; 2], "{what:?}");
    }
}

#[test]
fn what_one_copy_has_lost_is_read_from_the_other_and_put_in_again() {
    let mut ends = [0, 0];
    let cases = HARMS.into_iter().flat_map(|harm| [1, 30, 60].map(|seq| (harm, seq)));
    for ((what, seq), limit) in cases.flat_map(|case| [1, 3000, usize::MAX].map(|limit| (case, limit))) {
        for damaged in [0, 1] {
            let when = format!("{what:?} at {seq} in copy {damaged}, {limit} bytes at once");
            let (mut model, disk, mirrors, journal) = written(40, 60);
            harm(&disk, what, place_of(&model, &journal, damaged, seq));
            read_on(&model, &journal, &mut Cursor::at(Seq(1)), limit)
                .unwrap_or_else(|e| panic!("{when}: {e}"));
            assert!(good(&mirrors)[1 - damaged], "{when}");
            if !good(&mirrors)[damaged] {
                let cause = mirrors.copies()[damaged].cause.clone().unwrap().to_string();
                assert!(cause.contains(DIRS[damaged]), "{when}: {cause}");
            }
            if damaged == 1 {
                // Nobody has read it yet: it is met when the other cannot be read.
                assert_eq!(good(&mirrors), [true; 2], "{when}");
                continue;
            }
            ends[usize::from(good(&mirrors)[0])] += 1;
            match what {
                Harm::Payload | Harm::Header => assert!(good(&mirrors)[0] && alike(&disk), "{when}"),
                Harm::FailsOnce => assert!(good(&mirrors)[0], "{when}"),
                // More of it may have been lost than the frame that was asked for.
                Harm::Block => assert!(!good(&mirrors)[0] || alike(&disk), "{when}"),
                _ => assert!(!good(&mirrors)[0], "{when}"),
            }
            // It is complete at once, or when it has been made anew.
            disk.heal();
            let missing = usize::from(!good(&mirrors)[0]);
            assert_eq!(mirrors.mend(), missing, "{when}");
            model.append(&journal, Handoff::Os).unwrap();
            model.sync(&journal).unwrap();
            let disk = disk.crash(PowerCut { seed: seq });
            absent(&disk, 1);
            assert_eq!(model.open(&disk, None).unwrap().2.last, Seq(61), "{when}");
        }
    }
    assert!(ends.iter().all(|count| *count > 20), "{ends:?}");
}

#[test]
fn two_copies_that_are_damaged_at_different_places_lose_nothing() {
    let (model, disk, mirrors, journal) = written(41, 60);
    let place = |copy, seq| place_of(&model, &journal, copy, seq);
    for (copy, seq) in [(0, 12), (1, 20), (0, 40), (1, 56)] {
        let (path, at) = place(copy, seq);
        flip(&disk, (path, at + 30));
    }
    let read = |from| read_on(&model, &journal, &mut Cursor::at(Seq(from)), 4000);
    read(1).unwrap();
    assert_eq!(good(&mirrors), [true; 2]);
    // The same place in both is damage of the journal, with its place, and no copy is the worse one.
    for copy in [0, 1] {
        let (path, at) = place(copy, 50);
        flip(&disk, (path, at + 30));
    }
    let mut cursor = Cursor::at(Seq(45));
    let error = read_on(&model, &journal, &mut cursor, 4000).unwrap_err();
    let (path, at) = place(0, 50);
    assert_eq!((error.kind(), cursor.next()), (ErrorKind::Corruption, Seq(50)), "{error}");
    assert_eq!((error.path(), error.byte_offset()), (Some(&*path), Some(at)), "{error}");
    assert_eq!(good(&mirrors), [true; 2]);
    flip(&disk, (path, at + 30));
    read_on(&model, &journal, &mut cursor, 4000).unwrap();
    // The first one is whole, and the other's damage was nobody's business so far.
    let disk = disk.kill();
    absent(&disk, 1);
    assert_eq!(model.clone().open(&disk, None).unwrap().2.last, Seq(60));
}

/// A disk that loses more and more is no place for a copy that is mended bit by bit.
#[test]
fn a_copy_that_is_damaged_again_and_again_is_left_out_and_made_anew() {
    let (mut model, disk, mirrors, journal) = written(42, 400);
    let harmed: Vec<u64> = (0..400).step_by(13).map(|n| n + 1).collect();
    for seq in &harmed {
        let (path, at) = place_of(&model, &journal, 0, *seq);
        flip(&disk, (path, at + 8));
    }
    read_on(&model, &journal, &mut Cursor::at(Seq(1)), 9000).unwrap();
    assert_eq!(good(&mirrors), [false, true]);
    let cause = mirrors.copies()[0].cause.clone().unwrap().to_string();
    assert!(cause.contains("many places"), "{cause}");
    // Of what has been left out, or freed a moment ago, nothing is missed.
    let (path, _) = place_of(&model, &journal, 0, 2);
    assert!(!mirrors.mend_copy(&path, 0, 1, 4096, b"bytes") && good(&mirrors) == [false, true]);
    assert_eq!(mirrors.mend(), 1);
    let freed = Path::new(DIRS[0]).join("00000000000000ff.seg");
    assert!(!mirrors.mend_copy(&freed, 0, 1, 4096, b"bytes") && good(&mirrors) == [true; 2]);
    // It begins with nothing held against it.
    let (path, at) = place_of(&model, &journal, 1, 7);
    flip(&disk, (path, at + 8));
    let (path, at) = place_of(&model, &journal, 0, 90);
    flip(&disk, (path, at + 8));
    read_on(&model, &journal, &mut Cursor::at(Seq(1)), 9000).unwrap();
    assert_eq!(good(&mirrors), [true; 2]);
    model.append(&journal, Handoff::Os).unwrap();
    model.sync(&journal).unwrap();
    let disk = disk.kill();
    absent(&disk, 1);
    assert_eq!(model.open(&disk, None).unwrap().2.last, Seq(401));
}

/// What cannot be put in again, and what no word can be given of: reading goes on, and a copy that may lack something counts
/// only where nobody could be told.
#[test]
fn reading_goes_on_where_a_damaged_copy_cannot_be_mended() {
    for (operation, there, left_out) in [
        (Operation::Write, DIRS[0], true),
        (Operation::Sync, DIRS[0], true),
        (Operation::Write, HOME, false),
        (Operation::Rename, HOME, false),
    ] {
        let (mut model, disk, mirrors, journal) = written(43, 60);
        for seq in [20, 35] {
            let (path, at) = place_of(&model, &journal, 0, seq);
            flip(&disk, (path, at + 45));
        }
        disk.inject(Fault::on(operation).at(move |path| path.starts_with(there)));
        if !left_out {
            disk.inject(Fault::on(Operation::Write).at(|path| path.starts_with(DIRS[0])));
        }
        let mut cursor = Cursor::at(Seq(1));
        read_on(&model, &journal, &mut cursor, 4000).unwrap();
        assert_eq!(good(&mirrors), [!left_out, true], "{operation:?} in {there}");
        disk.heal();
        assert!(journal.poisoned().is_none());
        model.append(&journal, Handoff::Os).unwrap();
        model.sync(&journal).unwrap();
        read_on(&model, &journal, &mut cursor, 4000).unwrap();
        read_on(&model, &journal, &mut Cursor::at(Seq(1)), 4000).unwrap();
        for lost in [None, Some(0)] {
            let disk = disk.fork().kill();
            lost.iter().for_each(|lost| absent(&disk, *lost));
            assert_eq!(model.clone().open(&disk, None).unwrap().2.last, Seq(61), "without {lost:?}");
        }
    }
}

/// No word can be given of a copy that could not be synced: the next opening does not believe the system's memory of it.
#[test]
fn a_frame_that_was_put_in_again_and_not_synced_is_written_again_by_the_next_opening() {
    let (mut model, disk, mirrors, journal) = written(45, 60);
    let (path, at) = place_of(&model, &journal, 0, 20);
    flip(&disk, (path, at + 45));
    disk.inject(Fault::on(Operation::Rename).at(|path| path.starts_with(DIRS[1])));
    disk.inject(Fault::on(Operation::Sync).at(|path| path.starts_with(DIRS[0])).times(1));
    read_on(&model, &journal, &mut Cursor::at(Seq(1)), usize::MAX).unwrap();
    assert_eq!(good(&mirrors), [true; 2]);
    disk.heal();
    drop(journal);
    let disk = disk.kill();
    assert_eq!(model.open(&disk, None).unwrap().2.last, Seq(60));
    let disk = disk.crash(PowerCut { seed: 1 });
    absent(&disk, 1);
    assert_eq!(model.open(&disk, None).unwrap().2.last, Seq(60));
}

/// The segments of both copies get other names one after the other: that is no damage of the one that comes first.
#[test]
fn readers_beside_trims_take_no_copy_for_damaged() {
    for damage in [false, true] {
        let (mut model, disk) = (Model::default(), dirs_disk(44));
        let (mirrors, journal) = model.create(&disk);
        let last = 3_000;
        for n in 1..=last {
            model.written.insert(n, 0);
        }
        let shared = &model;
        let reader = |limit| {
            let mut cursor = Cursor::at(Seq(1));
            while cursor.next() <= Seq(last) {
                if let Err(e) = read_on(shared, &journal, &mut cursor, limit) {
                    assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
                    cursor = Cursor::at(journal.first());
                }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| reader(1));
            scope.spawn(|| reader(40_000));
            for n in 1..=last {
                let payload = shared.payload(n);
                journal.append(&Payload::new(&payload), Handoff::Buffered).unwrap();
                if n.is_multiple_of(20) {
                    journal.trim(Seq(n.saturating_sub(30))).unwrap();
                    journal.provision().unwrap();
                }
                if damage && n.is_multiple_of(100) {
                    let (path, at) = place_of(shared, &journal, 0, journal.first().0.max(n - 15));
                    disk.damage(&path, |bytes| bytes[at as usize + 45] ^= 4).unwrap();
                }
            }
            journal.sync_to(journal.last()).unwrap();
        });
        assert!(good(&mirrors)[1] && (damage || good(&mirrors)[0]), "{:?}", mirrors.copies());
    }
}

/// A segment is freed between the look at one copy and that at the other.
#[test]
fn what_is_freed_while_another_copy_is_looked_for_is_no_damage() {
    let disk = dirs_disk(47);
    let mut model = Model::default();
    type Trims = Option<(PathBuf, Arc<Journal>)>;
    let armed: Arc<Mutex<Trims>> = Arc::default();
    let trims = armed.clone();
    let reads = std::sync::atomic::AtomicUsize::new(0);
    let hooked = Hooked::new(&disk, move |operation, path| {
        let here = trims.lock().as_ref().is_some_and(|(there, _)| there == path);
        // The second is that of the frame that was found damaged.
        if here
            && operation == Operation::Read
            && reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 1
        {
            let (_, journal) = trims.lock().take().unwrap();
            assert!(journal.trim(Seq(60)).unwrap() > 0);
        }
        Ok(())
    });
    let (_, journal) = model.create_on(Arc::new(hooked));
    let journal = Arc::new(journal);
    (0..60).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
    model.sync(&journal).unwrap();
    let (path, at) = place_of(&model, &journal, 0, 3);
    harm(&disk, Harm::Payload, (path.clone(), at));
    *armed.lock() = Some((path, journal.clone()));
    let error = read_on(&model, &journal, &mut Cursor::at(Seq(1)), usize::MAX).unwrap_err();
    assert!(armed.lock().is_none(), "nothing was freed");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

/// A disk hangs under a reader until the store has been closed: the files are the next opening's, and so are the words.
#[test]
fn a_reader_that_outlives_a_close_mends_nothing() {
    for what in [Harm::Payload, Harm::Block, Harm::Cut] {
        let (mut model, disk) = (Model::default(), dirs_disk(45));
        drop(model.create(&disk));
        let (hangs, hung) = channel();
        let (go_on, wait) = channel::<()>();
        let hang = Mutex::new(None::<PathBuf>);
        let hang = Arc::new((hang, Mutex::new((hangs, wait))));
        let at = hang.clone();
        let hooked = Hooked::new(&disk, move |operation, path| {
            let here = operation == Operation::Read && at.0.lock().as_deref() == Some(path);
            if here && at.0.lock().take().is_some() {
                let ends = at.1.lock();
                ends.0.send(()).unwrap();
                let _ = ends.1.recv();
            }
            Ok(())
        });
        let (mirrors, journal, _) = model.open_on(Arc::new(hooked), None).unwrap();
        (0..60).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
        model.sync(&journal).unwrap();
        let place = place_of(&model, &journal, 0, 30);
        *hang.0.lock() = Some(place.0.clone());
        harm(&disk, what, place);
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| read_on(&model, &journal, &mut Cursor::at(Seq(1)), usize::MAX));
            hung.recv().unwrap();
            journal.close().unwrap();
            journal.rest(std::time::Duration::ZERO).unwrap();
            let closed = disk.files();
            go_on.send(()).unwrap();
            let read = reading.join().unwrap();
            assert!(disk.files() == closed, "{what:?}");
            assert_eq!(good(&mirrors), [true; 2], "{what:?}");
            read.unwrap_or_else(|e| panic!("{what:?}: {e}"));
        });
    }
}

/// Whoever still has the copies when their locks were given back leaves them alone.
#[test]
fn copies_whose_locks_were_given_back_are_given_no_word_and_not_mended() {
    let (model, disk) = (Model::default(), dirs_disk(46));
    drop(model.create(&disk));
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let locks = Found::lock(shared.as_ref(), CONFIG.store_id, &places()).unwrap();
    let (home, store) = (Path::new(HOME), CONFIG.store_id);
    let found = Found::look(shared, home, store, places(), None, false, locks.clone()).unwrap();
    let mirrors = found.serve(Seq::ZERO, Seq::ZERO, None).unwrap();
    let dir = Path::new(DIRS[0]);
    let file = mirrors.open(&dir.join("0000000000000009.tmp"), OpenMode::CreateNew).unwrap();
    file.write_at(0, b"bytes").unwrap();
    locks.release();
    let before = disk.files();
    let path = dir.join("0000000000000001.seg");
    assert!(!mirrors.mend_copy(&path, 0, 1, 4096, b"bytes"));
    let error = file.write_at(0, b"other").unwrap_err();
    assert!(error.to_string().contains("has been closed"), "{error}");
    // What fails in one copy is no reason to say so of it any more.
    fault(&disk, Operation::SyncDir, 1, 1);
    assert!(mirrors.sync_dir(dir).is_err());
    assert!(disk.files() == before);
    assert_eq!(good(&mirrors), [true; 2]);
}
