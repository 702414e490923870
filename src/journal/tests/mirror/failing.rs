//! Copies that cannot be read, written or synced while one is made from another: what one alone has is not lost with it.

use super::hooked::Hooked;
use super::spreading::{behind, each_alone_has, in_both, is_whole, left_behind, segments};
use super::*;
use crate::journal::segment::{BODY, SegmentHeader};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A sector of the copy that was away cannot be read: each of the frames before it can be, and one that lies in it may be when it is tried again.
#[test]
fn what_cannot_be_read_in_a_copy_is_not_taken_for_what_it_lacks_and_replaced_by_damage() {
    for (bad, harm) in [None, Some(2), Some(4)].into_iter().flat_map(|bad| [20, 44].map(|harm| (bad, harm))) {
        let when = format!("place {bad:?} cannot be read, damage at {harm}");
        let (mut model, disk) = (Model::default(), dirs_disk(78));
        let hooked = Hooked::new(&disk, |_, _| Ok(()));
        let (mirrors, journal) = model.create_on(Arc::new(hooked.clone()));
        left_behind(&mut model, &disk, &mirrors, &journal);
        let (index, places) = in_both(&disk);
        let [ours, theirs] = [0, 1].map(|copy| segments(&disk, copy)[index].clone());
        disk.damage(&ours, |bytes| bytes[places[2].2 as usize + harm] ^= 1).unwrap();
        match bad {
            Some(bad) => hooked.spoil(&theirs, places[bad].2 + 44),
            None => hooked.spoil(&theirs, 100),
        }
        let before = disk.read(&theirs).unwrap();
        let mended = mirrors.mend();
        if bad == Some(2) {
            let cause = mirrors.copies()[1].cause.clone().unwrap().to_string();
            assert!(mended == 0 && cause.contains("it is kept"), "{when}: {cause}");
            assert!(disk.read(&theirs).unwrap() == before, "{when}: it was changed");
            continue;
        }
        assert_eq!(mended, 1, "{when}: {:?}", mirrors.copies());
        for path in [&ours, &theirs] {
            assert!(is_whole(&disk, path, places[2]), "{when}: {} is damaged", path.display());
        }
    }
}

/// Whatever fails once of all that is asked of the only segment that is whole.
#[test]
fn a_copy_that_fails_once_while_it_is_made_anew_loses_nothing_that_it_alone_has() {
    for (harm, asked) in
        [20, 44, 100].into_iter().flat_map(|harm| [Operation::Look, Operation::Read].map(|o| (harm, o)))
    {
        for which in 0.. {
            let when = format!("damage at {harm}, {asked:?} {which} fails");
            let (mut model, disk) = (Model::default(), dirs_disk(79));
            let fails = Arc::new(Mutex::new(None::<PathBuf>));
            let left = Arc::new(AtomicUsize::new(which));
            let (path, count) = (fails.clone(), left.clone());
            let hooked = Hooked::new(&disk, move |operation, at| {
                let here = operation == asked && path.lock().as_deref() == Some(at);
                match here && count.fetch_sub(1, Ordering::SeqCst) == 0 {
                    true => Err(std::io::Error::other("it fails once")),
                    false => Ok(()),
                }
            });
            let (mirrors, journal) = model.create_on(Arc::new(hooked));
            left_behind(&mut model, &disk, &mirrors, &journal);
            let (index, places) = in_both(&disk);
            let [ours, theirs] = [0, 1].map(|copy| segments(&disk, copy)[index].clone());
            disk.damage(&ours, |bytes| match harm {
                // Both of the headers.
                100 => [100, 2048 + 100].into_iter().for_each(|at| bytes[at] ^= 4),
                _ => bytes[places[2].2 as usize + harm] ^= 4,
            })
            .unwrap();
            *fails.lock() = Some(theirs.clone());
            let mut mended = 0;
            for _ in 0..3 {
                mended += mirrors.mend();
                let whole = [&ours, &theirs].map(|path| {
                    let bytes = disk.read(path).unwrap().unwrap();
                    SegmentHeader::decode_page(&bytes[..BODY as usize]).is_ok()
                        && is_whole(&disk, path, places[2])
                });
                assert!(whole != [false; 2], "{when}: the only whole one is gone");
            }
            assert_eq!(mended, 1, "{when}: {:?}", mirrors.copies());
            drop(journal);
            if left.load(Ordering::SeqCst) <= which {
                assert!(which > 3, "{when}");
                break;
            }
        }
    }
}

/// The sync of what is put back fails: the system may hold in memory what it no longer means to write.
#[test]
fn what_was_put_back_and_could_not_be_synced_is_written_again_by_the_next_opening() {
    let (mut model, disk, mirrors, journal) = behind(80);
    let (index, places) = in_both(&disk);
    let ours = segments(&disk, 0)[index].clone();
    disk.damage(&ours, |bytes| bytes[places[2].2 as usize + 44] ^= 1).unwrap();
    let here = ours.clone();
    disk.inject(Fault::on(Operation::Sync).at(move |path| path == here).times(1));
    assert_eq!(mirrors.mend(), 0);
    assert_eq!(mirrors.mend(), 1, "{:?}", mirrors.copies());
    drop(journal);
    let disk = disk.kill();
    let (_, journal, report) = model.open(&disk, None).unwrap();
    assert_eq!(report.last, Seq(70));
    drop(journal);
    each_alone_has(&model, &disk.crash(PowerCut { seed: 1 }), Seq(70), "after a power cut");
}
