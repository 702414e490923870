//! What is lost of the beginning of the journal, and a copy has that is left out: it comes back while the store serves.

use super::missing::without_the_oldest;
use super::older::{path, read_all};
use super::*;
use crate::journal::Regained;
use crate::journal::mirror::Older;
use crate::journal::segment;
use crate::sync::Mutex;

/// What two archives and shards say of the journal.
struct Readers<'a> {
    journal: &'a Journal,
    /// What each begins to read with.
    next: Vec<Seq>,
    /// So much may come back for them.
    most: u64,
}

impl Older for Readers<'_> {
    fn oldest(&self) -> Option<u64> {
        self.journal.oldest()
    }

    fn lacked(&self, more: u64) -> Vec<Seq> {
        let lacked = |next: &Seq| more <= self.most && *next < self.journal.first();
        self.next.iter().copied().filter(lacked).collect()
    }

    fn regain(&self, segment: Regained) -> bool {
        self.journal.regain(segment)
    }
}

fn mend(mirrors: &Mirrors, journal: &Journal, next: u64, most: u64) -> usize {
    mirrors.mend_beside(Some(&Readers { journal, next: vec![Seq(next)], most }))
}

/// The oldest segments of the copy that serves.
fn oldest(disk: &SimDisk) -> String {
    let mut names = disk.list(Path::new(DIRS[0])).unwrap();
    names.retain(|name| name.ends_with(".seg"));
    names.into_iter().min().unwrap()
}

/// An opening without the three oldest segments, for which there was no room: the other copy, which is left out, has them.
fn opened_without_room(seed: u64) -> (Model, SimDisk, Arc<Mirrors>, Journal) {
    let (mut model, disk) = without_the_oldest(3);
    let there = |path: &Path| path.starts_with(DIRS[0]) && path.to_string_lossy().ends_with(".copy");
    disk.inject(Fault::on(Operation::Write).at(there).error(std::io::ErrorKind::StorageFull));
    let (mirrors, journal, _) = model.open(&disk, None).unwrap_or_else(|e| panic!("{seed}: {e}"));
    assert_eq!((good(&mirrors), oldest(&disk)), ([true, false], segment::name(4)));
    (model, disk, mirrors, journal)
}

#[test]
fn a_copy_is_not_made_anew_while_it_alone_has_what_somebody_lacks() {
    let (mut model, disk, mirrors, journal) = opened_without_room(81);
    let there = |number| disk.exists(&path(1, &segment::name(number))).unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let (listening, first) = (told.clone(), journal.first());
    mirrors.listen(move |text| listening.lock().push(text));
    for _ in 0..3 {
        assert_eq!(mend(&mirrors, &journal, 1, u64::MAX), 0);
        assert!((1..=3).all(there), "it is kept");
    }
    let cause = mirrors.copies()[1].cause.clone().unwrap();
    assert!(cause.to_string().contains("that a shard or an archive lacks"), "{cause}");
    let told = told.lock().iter().filter(|text| text.contains("lacks")).count();
    assert_eq!(told, 1, "once, and not each time");
    assert_eq!((oldest(&disk), journal.first()), (segment::name(4), first));
    // There is room again.
    disk.heal();
    assert_eq!(mend(&mirrors, &journal, 1, u64::MAX), 1, "{:?}", mirrors.copies());
    read_all(&model, &journal).unwrap();
    model.append(&journal, Handoff::Os).unwrap();
    model.sync(&journal).unwrap();
    // Trimmed like any other.
    assert!(journal.trim(Seq(model.applied)).unwrap() >= 3);
    assert!(journal.first() > first && mirrors.copies().iter().all(|copy| copy.good));
    drop(journal);
    let disk = disk.crash(PowerCut { seed: 1 });
    for away in [0, 1] {
        let (mut model, disk) = (model.clone(), disk.fork());
        absent(&disk, away);
        model.open(&disk, None).unwrap_or_else(|e| panic!("without {away}: {e}"));
    }
}

/// No further back than to where somebody begins to read.
#[test]
fn only_what_somebody_lacks_comes_back_into_an_open_journal() {
    let (_, whole) = without_the_oldest(0);
    let begins = |number: u64| {
        let path = path(1, &segment::name(number));
        super::spreading::frames(&whole, &path).first().unwrap().1.0
    };
    for (next, first) in [
        (begins(4), 4),
        (begins(4) - 1, 3),
        (begins(3), 3),
        (begins(3) - 1, 2),
        (begins(2) - 1, 1),
        // Nobody has that: the copy is made anew for all that.
        (0, 4),
    ] {
        let (_, disk, mirrors, journal) = opened_without_room(82);
        disk.heal();
        assert_eq!(mend(&mirrors, &journal, next, u64::MAX), 1, "{next}: {:?}", mirrors.copies());
        assert_eq!(oldest(&disk), segment::name(first), "{next}");
    }
    // Of two that read one can be helped.
    let (_, disk, mirrors, journal) = opened_without_room(82);
    disk.heal();
    let readers = Readers { journal: &journal, next: vec![Seq(0), Seq(begins(3))], most: u64::MAX };
    assert_eq!((mirrors.mend_beside(Some(&readers)), oldest(&disk)), (1, segment::name(3)));
}

/// More than the journal is kept for who is behind does not come back, and holds up no copy.
#[test]
fn what_nobody_would_be_waited_for_holds_up_no_copy() {
    let len = u64::from(CONFIG.segment_bytes as u32);
    for (most, first) in [(3 * len, 1), (3 * len - 1, 4)] {
        let (_, disk, mirrors, journal) = opened_without_room(83);
        if first == 1 {
            assert_eq!(mend(&mirrors, &journal, 1, most), 0);
            disk.heal();
        }
        disk.heal();
        assert_eq!(mend(&mirrors, &journal, 1, most), 1, "{most}: {:?}", mirrors.copies());
        assert_eq!(oldest(&disk), segment::name(first), "{most}");
    }
}

/// What is damaged cannot be told to be the same, and comes back from nowhere.
#[test]
fn an_old_segment_that_is_damaged_holds_up_no_copy() {
    for damaged in [1, 2, 3] {
        let (model, disk, mirrors, journal) = opened_without_room(84);
        disk.heal();
        disk.damage(&path(1, &segment::name(damaged)), |bytes| bytes[6000..6100].fill(7)).unwrap();
        assert_eq!(mend(&mirrors, &journal, 1, u64::MAX), 1, "{damaged}: {:?}", mirrors.copies());
        assert_eq!(oldest(&disk), segment::name(4), "{damaged}");
        drop((journal, mirrors));
        each_opens(&model, &disk.kill(), &format!("{damaged}"));
    }
}

fn each_opens(model: &Model, disk: &SimDisk, when: &str) {
    for away in [0, 1] {
        let (mut model, disk) = (model.clone(), disk.fork());
        absent(&disk, away);
        model.open(&disk, None).unwrap_or_else(|e| panic!("{when}, without {away}: {e}"));
    }
}

/// Whatever has come back by then: the store opens with it, and what has not is put back by that opening, or the next try.
#[test]
fn what_comes_back_into_an_open_journal_may_be_interrupted_anywhere() {
    let mut ended = false;
    for stop in 0.. {
        for cut in [false, true] {
            let (mut model, disk, mirrors, journal) = opened_without_room(85);
            disk.heal();
            disk.stop_after(stop);
            ended = mend(&mirrors, &journal, 1, u64::MAX) == 1;
            drop((journal, mirrors));
            let disk = if cut { disk.crash(PowerCut { seed: stop }) } else { disk.kill() };
            let (mirrors, journal, _) = model.open(&disk, None).unwrap_or_else(|e| panic!("{stop}: {e}"));
            mend(&mirrors, &journal, 1, u64::MAX);
            assert_eq!(good(&mirrors), [true; 2], "{stop}: {:?}", mirrors.copies());
            read_all(&model, &journal).unwrap_or_else(|e| panic!("{stop}, {cut}: {e}"));
        }
        if ended {
            assert!(stop > 10, "{stop}");
            break;
        }
    }
    assert!(ended);
}

/// The oldest segment of those that count is freed while the one before it comes back; and a journal that is closed takes in nothing.
#[test]
fn what_comes_back_too_late_is_taken_out_again() {
    struct Late<'a>(Readers<'a>, &'a dyn Fn());
    impl Older for Late<'_> {
        fn oldest(&self) -> Option<u64> {
            self.0.oldest()
        }
        fn lacked(&self, more: u64) -> Vec<Seq> {
            self.0.lacked(more)
        }
        fn regain(&self, segment: Regained) -> bool {
            (self.1)();
            self.0.regain(segment)
        }
    }
    for closes in [false, true] {
        let (_, disk, mirrors, journal) = opened_without_room(86);
        disk.heal();
        let meanwhile = || match closes {
            true => journal.close().unwrap(),
            false => assert!(journal.trim(Seq(70)).unwrap() > 0),
        };
        let readers = Readers { journal: &journal, next: vec![Seq(1)], most: u64::MAX };
        assert_eq!(mirrors.mend_beside(Some(&Late(readers, &meanwhile))), 0, "{closes}");
        assert!(!disk.exists(&path(0, &segment::name(3))).unwrap(), "{closes}");
        assert!(disk.exists(&path(1, &segment::name(3))).unwrap(), "{closes}");
    }
}
