//! Copies that went on without each other: only one of their histories may be believed.

use super::*;

/// Writes once into every copy that is there, and syncs.
fn write(model: &mut Model, journal: &Journal) -> Result<()> {
    model.append(journal, Handoff::Os)?;
    model.sync(journal)
}

/// A copy fails, and the process dies while the other is told so. Then the other is away, and the first goes on alone.
#[test]
fn a_word_that_was_given_in_part_makes_no_second_history() {
    let mut contradictions = 0;
    for fails in [0, 1] {
        let stays = 1 - fails;
        for stop in 0.. {
            let (mut model, disk) = (Model::default(), dirs_disk(33));
            let (_, journal) = model.create(&disk);
            (0..10).for_each(|_| write(&mut model, &journal).unwrap());
            fault(&disk, Operation::Write, fails, 1);
            disk.stop_after(stop);
            let ended = write(&mut model, &journal).is_ok();
            let disk = disk.kill();
            absent(&disk, stays);
            match model.open(&disk, None) {
                Ok((_, journal, report)) => {
                    assert!(report.last.0 >= model.handed, "copy {fails} fails, stop {stop}: {report:?}");
                    write(&mut model, &journal).unwrap();
                }
                Err(e) => assert_eq!(e.kind(), ErrorKind::Refused, "{e}"),
            }
            let disk = disk.kill();
            // Where the word in the store's directory is lost as well, nobody knows which of them went on.
            let unheard = disk.fork();
            unheard.remove_file(&Path::new(HOME).join("MIRRORS")).unwrap();
            let mut other = model.clone();
            match other.open(&unheard, None) {
                Ok((.., report)) => {
                    assert!(report.last.0 >= model.synced, "{fails}, stop {stop}: {report:?}")
                }
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::Refused, "{e}");
                    contradictions += 1;
                    let (_, journal, report) = other.open(&unheard, Some(DIRS[fails])).unwrap();
                    assert_eq!(report.last.0, model.synced);
                    write(&mut other, &journal).unwrap();
                    let (.., report) = other.open(&unheard.kill(), None).unwrap();
                    assert_eq!(report.last.0, other.synced);
                }
            }
            let (mirrors, journal, report) = model.open(&disk, None).unwrap();
            assert!(report.last.0 >= model.synced, "copy {fails} fails, stop {stop}: {report:?}");
            mirrors.mend();
            assert_eq!(good(&mirrors), [true; 2]);
            write(&mut model, &journal).unwrap();
            let (.., report) = model.open(&disk.kill(), None).unwrap();
            assert_eq!(report.last.0, model.synced);
            if ended {
                assert!(stop > 5, "{stop}");
                break;
            }
        }
    }
    assert!(contradictions > 0);
}

/// However far the words of the copy that is away have been counted on.
#[test]
fn what_was_written_since_a_copy_was_accepted_outlives_the_return_of_the_other() {
    for changes in 0..4 {
        let (mut model, disk) = (Model::default(), dirs_disk(34));
        let (_, journal) = model.create(&disk);
        (0..10).for_each(|_| write(&mut model, &journal).unwrap());
        let disk = disk.kill();
        absent(&disk, 0);
        let (mirrors, journal, _) = model.open(&disk, None).unwrap();
        disk.heal();
        for _ in 0..changes {
            let word = Path::new(DIRS[0]).join("MIRRORS.tmp");
            disk.inject(Fault::on(Operation::Create).at(move |path| path == word).times(1));
            assert_eq!(mirrors.mend(), 0);
        }
        (0..5).for_each(|_| write(&mut model, &journal).unwrap());
        let disk = disk.kill();
        // The store's directory has no word any more, and the copy that went on is away.
        disk.remove_file(&Path::new(HOME).join("MIRRORS")).unwrap();
        absent(&disk, 1);
        assert_eq!(model.clone().open(&disk, None).map(|_| ()).unwrap_err().kind(), ErrorKind::Refused);
        let (_, journal, report) = model.open(&disk, Some(DIRS[0])).unwrap();
        assert_eq!(report.last, Seq(10));
        write(&mut model, &journal).unwrap();
        let (mirrors, _, report) = model.open(&disk.kill(), None).unwrap();
        assert_eq!((report.last, good(&mirrors)), (Seq(11), [true, false]), "{changes} changes");
    }
}
