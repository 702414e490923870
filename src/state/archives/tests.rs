use super::*;
use crate::disk::{Fault, SimDisk};

const DIR: &str = "/store";
const STORE: u128 = 7;

fn load(disk: &Arc<dyn Disk>, live: &[u32]) -> Result<Archives> {
    Archives::load(disk, Path::new(DIR), STORE, &live.iter().map(|id| KeyspaceId(*id)).collect())
}

/// Two archives, one ahead of the other, and a keyspace that was dropped in between.
fn filled() -> (Arc<dyn Disk>, Archives) {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
    disk.create_dir_all(Path::new(DIR)).unwrap();
    let archives = load(&disk, &[0, 1]).unwrap();
    assert_eq!(archives.least(Seq::ZERO), Seq::MAX);
    for (repository, upto) in [(1, 10), (2, 30)] {
        archives.begin(repository).unwrap();
        assert_eq!(
            archives.least(Seq::ZERO),
            Seq::ZERO,
            "nothing goes before it is known how far it has got"
        );
        archives.reached(repository, Seq(upto)).unwrap();
    }
    archives.dropping(Dropped { id: KeyspaceId(1), name: "notes".into(), at: Seq(20) }).unwrap();
    (disk, archives)
}

#[test]
fn an_opening_finds_what_the_one_before_knew() {
    let (disk, before) = filled();
    let after = load(&disk, &[0]).unwrap();
    assert_eq!((after.list(), after.least(Seq::ZERO)), (before.list(), Seq(10)));
    assert_eq!(
        [after.least(Seq(11)), after.least(Seq(12)), after.least(Seq(32))],
        [Seq(10), Seq(30), Seq::MAX]
    );
    assert_eq!(after.dropped_since(Seq(20)).len(), 1);
    assert_eq!(after.dropped_since(Seq(21)), []);
    // The process ended between the word and the deed.
    assert_eq!(load(&disk, &[0, 1]).unwrap().dropped_since(Seq(0)), []);
    // Both archives have told of it; a third one might begin before it.
    after.log_begins(Seq(21));
    after.reached(1, Seq(25)).unwrap();
    assert_eq!((after.dropped_since(Seq(0)).len(), after.least(Seq::ZERO)), (1, Seq(25)));
    after.log_begins(Seq(22));
    after.reached(1, Seq(26)).unwrap();
    assert_eq!((after.dropped_since(Seq(0)).len(), after.least(Seq::ZERO)), (0, Seq(26)));
    assert!(after.forget(1).unwrap() && !after.forget(1).unwrap());
    assert_eq!(load(&disk, &[0]).unwrap().least(Seq::ZERO), Seq(30));
}

#[test]
fn what_was_given_up_is_known_for_ever_and_held_for_by_nobody() {
    let (disk, archives) = filled();
    archives.log_ends(Seq(29)).unwrap();
    drop(archives);
    let archives = load(&disk, &[0]).unwrap();
    archives.log_ends(Seq(50)).unwrap();
    assert_eq!(archives.furthest(), Some((Seq(10), 1)));
    assert_eq!(archives.list().iter().map(|hold| hold.given_up).collect::<Vec<_>>(), [false, true]);
    archives.reached(1, Seq(50)).unwrap();
    assert_eq!(archives.least(Seq::ZERO), Seq(50));
}

#[test]
fn what_cannot_be_written_down_of_an_archive_that_was_given_up_is_no_opening() {
    let sim = SimDisk::new(1);
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    disk.create_dir_all(Path::new(DIR)).unwrap();
    let archives = load(&disk, &[0]).unwrap();
    archives.begin(1).unwrap();
    archives.reached(1, Seq(30)).unwrap();
    sim.inject(Fault::on_any_change());
    assert_eq!(archives.log_ends(Seq(29)).unwrap_err().kind(), ErrorKind::Io);
    sim.heal();
    assert_eq!(load(&disk, &[0]).unwrap().furthest(), Some((Seq(30), 1)));
    // Nothing is to be said of one that has no more than the log.
    archives.log_ends(Seq(30)).unwrap();
}

#[test]
fn what_was_dropped_is_written_down_without_an_archive_as_long_as_the_journal_has_it() {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
    disk.create_dir_all(Path::new(DIR)).unwrap();
    let archives = load(&disk, &[0, 1, 2]).unwrap();
    let gone = |id, at| Dropped { id: KeyspaceId(id), name: "notes".into(), at: Seq(at) };
    archives.dropping(gone(1, 20)).unwrap();
    let again = load(&disk, &[0, 2]).unwrap();
    assert_eq!(again.dropped_since(Seq(0)), [gone(1, 20)]);
    again.log_begins(Seq(22));
    again.dropping(gone(2, 30)).unwrap();
    assert_eq!(again.dropped_since(Seq(0)), [gone(2, 30)]);
    // The last of the log is lost: whatever gets its numbers comes after the drop.
    let shorter = load(&disk, &[0]).unwrap();
    shorter.log_ends(Seq(25)).unwrap();
    assert_eq!(shorter.dropped_since(Seq(0)), [gone(2, 25)]);
    assert_eq!(load(&disk, &[0]).unwrap().dropped_since(Seq(0)), [gone(2, 25)]);
}

#[test]
fn a_damaged_list_lets_nothing_go() {
    let (disk, _) = filled();
    let path = Path::new(DIR).join(FILE);
    let whole = disk.read(&path).unwrap().unwrap();
    for at in 0..whole.len() {
        let mut bad = whole.clone();
        bad[at] ^= 1 << (at % 8);
        for bytes in [&bad[..], &whole[..at]] {
            disk.replace(&path, bytes).unwrap();
            let archives = load(&disk, &[0]).unwrap();
            assert_eq!((archives.least(Seq::ZERO), archives.list()), (Seq::ZERO, Vec::new()), "byte {at}");
        }
    }
    // The first that is heard of ends that, and nothing else does.
    let archives = load(&disk, &[0]).unwrap();
    archives.dropping(Dropped { id: KeyspaceId(1), name: "notes".into(), at: Seq(45) }).unwrap();
    archives.begin(3).unwrap();
    assert_eq!(load(&disk, &[0]).unwrap().least(Seq::ZERO), Seq::ZERO);
    archives.reached(3, Seq(40)).unwrap();
    let after = load(&disk, &[0]).unwrap();
    assert_eq!((after.least(Seq::ZERO), after.dropped_since(Seq(0)).len()), (Seq(40), 1));
    let other = Archives::load(&disk, Path::new(DIR), STORE + 1, &HashSet::new()).unwrap();
    assert_eq!(other.least(Seq::ZERO), Seq::ZERO);
    let newer = envelope::wrap(Kind { version: 3, ..KIND }, b"{}").unwrap();
    disk.replace(&path, &newer).unwrap();
    assert_eq!(load(&disk, &[0]).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn what_cannot_be_written_down_is_not_so() {
    let (disk, archives) = filled();
    let path = Path::new(DIR).join(FILE);
    let before = disk.read(&path).unwrap();
    archives.close();
    let dropped = Dropped { id: KeyspaceId(2), name: "late".into(), at: Seq(31) };
    assert_eq!(archives.dropping(dropped).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(archives.dropped_since(Seq(21)), []);
    assert_eq!(archives.forget(1).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!((archives.list().len(), archives.least(Seq::ZERO)), (2, Seq(10)));
    assert_eq!(archives.dropped_since(Seq(0)).len(), 1);
    assert_eq!(disk.read(&path).unwrap(), before);
}

#[test]
fn there_are_not_too_many() {
    let (_, archives) = filled();
    (3..=MOST as u128).for_each(|repository| archives.begin(repository).unwrap());
    assert_eq!(archives.begin(0).unwrap_err().kind(), ErrorKind::Refused);
}

/// Of an archive that has gone on behind damaged pieces nothing else says that it lacks something; a list without that is as it always was.
#[test]
fn what_an_archive_lacks_is_known_after_an_opening() {
    let (disk, archives) = filled();
    let version = || disk.read(&Path::new(DIR).join(FILE)).unwrap().unwrap()[8];
    archives.found_damaged(1, Seq(5), Seq(10));
    assert_eq!((version(), load(&disk, &[0]).unwrap().damaged(1)), (1, Vec::new()));
    archives.reached(1, Seq(10)).unwrap();
    archives.found_damaged(2, Seq(7), Seq(8));
    archives.found_damaged(1, Seq(20), Seq(30));
    // More of the same: the ones before are damaged by now as well, or are found again.
    archives.found_damaged(1, Seq(18), Seq(40));
    archives.found_damaged(1, Seq(20), Seq(30));
    archives.reached(1, Seq(40)).unwrap();
    let after = load(&disk, &[0]).unwrap();
    assert_eq!((version(), after.list()), (2, archives.list()));
    for archives in [&archives, &after] {
        assert_eq!(archives.damaged(1), [(Seq(5), Seq(10)), (Seq(18), Seq(40))]);
        assert_eq!(archives.damaged(2), [(Seq(7), Seq(8))]);
    }
    after.mended(1, |last| last < Seq(11));
    after.reached(1, Seq(40)).unwrap();
    assert_eq!(load(&disk, &[0]).unwrap().damaged(1), [(Seq(18), Seq(40))]);
    after.forget(2).unwrap();
    after.mended(1, |last| last == Seq(40));
    after.reached(1, Seq(40)).unwrap();
    assert_eq!(version(), 1);
    assert_eq!(load(&disk, &[0]).unwrap().damaged(1), []);
}

/// What the journal no longer has none of its pieces can tell of any more, nor a piece of any other.
#[test]
fn an_archive_that_nobody_adds_to_any_more_keeps_no_drops_that_the_journal_does_not_reach_back_to() {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
    disk.create_dir_all(Path::new(DIR)).unwrap();
    let archives = load(&disk, &[0]).unwrap();
    archives.begin(1).unwrap();
    archives.reached(1, Seq(10)).unwrap();
    archives.log_begins(Seq(1_000));
    let gone = |id, at| Dropped { id: KeyspaceId(id), name: format!("notes {id}"), at: Seq(at) };
    for n in 1..=100 {
        archives.dropping(gone(n, 800 + u64::from(n))).unwrap();
    }
    assert_eq!(archives.dropped_since(Seq::ZERO), []);
    for at in [998, 999, 1_001] {
        archives.dropping(gone(at as u32, at)).unwrap();
    }
    assert_eq!(archives.dropped_since(Seq::ZERO), [gone(999, 999), gone(1_001, 1_001)]);
    assert_eq!(load(&disk, &[0]).unwrap().dropped_since(Seq::ZERO), [gone(999, 999), gone(1_001, 1_001)]);
}

/// Its commits have been read, and the journal is trimmed beyond them before it says what there was meanwhile.
#[test]
fn what_a_piece_tells_that_is_being_made_is_kept_however_far_the_journal_is_trimmed() {
    let (_, archives) = filled();
    let gone = |id, at| Dropped { id: KeyspaceId(id), name: "notes".into(), at: Seq(at) };
    let left = |id, at| {
        archives.dropping(gone(id, at)).unwrap();
        archives.dropped_since(Seq::ZERO).iter().map(|gone| gone.at.0).collect::<Vec<_>>()
    };
    let telling = archives.telling(2);
    archives.log_begins(Seq(100));
    assert_eq!(left(2, 40), [20, 40]);
    telling.told(Seq(30));
    assert!(archives.forget(2).unwrap());
    assert_eq!(left(3, 50), [40, 50]);
    telling.told(Seq(45));
    assert_eq!(left(4, 99), [50, 99]);
    drop(telling);
    assert_eq!(left(5, 120), [99, 120]);
}

/// It is forgotten while it is being archived to: it comes to more, and is not heard of any more.
#[test]
fn an_archive_that_was_forgotten_meanwhile_ends_nothing_and_leaves_nothing() {
    let (disk, archives) = filled();
    assert!(archives.forget(1).unwrap());
    archives.found_damaged(1, Seq(5), Seq(10));
    archives.reached(1, Seq(40)).unwrap();
    assert_eq!((archives.damaged(1), archives.get(1), archives.least(Seq::ZERO)), (vec![], None, Seq(30)));
    // Nor does it tell how far those are that nothing is known of.
    disk.replace(&Path::new(DIR).join(FILE), b"rubbish").unwrap();
    let archives = load(&disk, &[0]).unwrap();
    archives.begin(1).unwrap();
    assert!(archives.forget(1).unwrap());
    archives.reached(1, Seq(40)).unwrap();
    archives.begin(2).unwrap();
    archives.give_up(2);
    archives.dropping(Dropped { id: KeyspaceId(1), name: "notes".into(), at: Seq(45) }).unwrap();
    for archives in [&archives, &load(&disk, &[0]).unwrap()] {
        assert_eq!(archives.least(Seq::ZERO), Seq::ZERO);
    }
}

/// The first that is heard of ends it; without the file nothing would be kept at all.
#[test]
fn nobody_is_advised_to_delete_a_damaged_list() {
    let (disk, _) = filled();
    let path = Path::new(DIR).join(FILE);
    for bytes in [&b"rubbish"[..], &disk.read(&path).unwrap().unwrap()[..30]] {
        let error = envelope::decode::<Saved>(KIND, &path, bytes).unwrap_err();
        let advice = error.advice().unwrap_or_default();
        assert!(advice.contains("leave it") && !advice.contains("delete"), "{advice}");
    }
}
