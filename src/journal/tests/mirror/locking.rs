//! Whose a copy's directory is while its disk comes and goes.

use super::hooked::Hooked;
use super::*;
use std::sync::atomic::{AtomicBool, Ordering};

/// What is believed is locked, though its disk was mounted only after the locks had been taken.
#[test]
fn a_copy_that_turns_up_behind_the_locks_is_not_believed_while_another_has_it() {
    let mut model = Model::default();
    let disk = dirs_disk(61);
    let (mirrors, journal) = model.create(&disk);
    (0..20).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
    model.sync(&journal).unwrap();
    drop((mirrors, journal));
    let disk = disk.kill();
    let file = Path::new(DIRS[1]).join("LOCK");
    let is_held = |disk: &SimDisk| disk.lock(&file).is_err();
    let look = |disk: Arc<dyn Disk>, locks| {
        Found::look(disk, Path::new(HOME), CONFIG.store_id, places(), None, false, locks)
    };
    absent(&disk, 1);
    let locks = Found::lock(&disk, CONFIG.store_id, &places()).unwrap();
    disk.heal();
    let theirs = disk.lock(&file).unwrap();
    let error = look(Arc::new(disk.clone()), locks.clone()).map(drop).unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::Locked, Some(Path::new(DIRS[1]))), "{error}");
    drop(theirs);
    let found = look(Arc::new(disk.clone()), locks).unwrap();
    assert!(found.believes(Path::new(DIRS[1])) && is_held(&disk));
    drop(found);

    // The mount point was there.
    disk.mount(Path::new(DIRS[1]));
    disk.unmount(Path::new(DIRS[1]));
    let theirs = Arc::new(AtomicBool::new(false));
    let (has, lock) = (theirs.clone(), file.clone());
    let hooked: Arc<dyn Disk> =
        Arc::new(Hooked::new(&disk, move |_, path| match path == lock && has.load(Ordering::Relaxed) {
            true => Err(std::io::ErrorKind::WouldBlock.into()),
            false => Ok(()),
        }));
    let locks = Found::lock(hooked.as_ref(), CONFIG.store_id, &places()).unwrap();
    disk.mount(Path::new(DIRS[1]));
    theirs.store(true, Ordering::Relaxed);
    let error = look(hooked.clone(), locks.clone()).map(drop).unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::Locked, Some(Path::new(DIRS[1]))), "{error}");
    theirs.store(false, Ordering::Relaxed);
    let found = look(hooked, locks).unwrap();
    assert!(found.believes(Path::new(DIRS[1])) && is_held(&disk));
}

/// The mount point was there, and was locked, when the store was opened without the disk.
#[test]
fn a_copy_that_is_mounted_over_what_was_locked_is_not_made_anew_while_another_has_it() {
    let mut model = Model::default();
    let (disk, point) = (dirs_disk(62), Path::new(DIRS[1]));
    disk.create_dir_all(point).unwrap();
    disk.sync_dir(Path::new("/b")).unwrap();
    disk.mount(point);
    let (mirrors, journal) = model.create(&disk);
    (0..20).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
    model.sync(&journal).unwrap();
    drop((mirrors, journal));
    let disk = disk.kill();
    disk.unmount(point);
    let (theirs, file) = (Arc::new(AtomicBool::new(false)), point.join("LOCK"));
    let (has, lock) = (theirs.clone(), file.clone());
    let hooked = Hooked::new(&disk, move |_, path| match path == lock && has.load(Ordering::Relaxed) {
        true => Err(std::io::ErrorKind::WouldBlock.into()),
        false => Ok(()),
    });
    let (mirrors, journal, _) = model.open_on(Arc::new(hooked), None).unwrap();
    assert_eq!(good(&mirrors), [true, false]);
    model.append(&journal, Handoff::Os).unwrap();
    model.sync(&journal).unwrap();
    disk.mount(point);
    theirs.store(true, Ordering::Relaxed);
    let before = disk.list(point).unwrap();
    assert_eq!(mirrors.mend(), 0);
    assert_eq!(disk.list(point).unwrap(), before);
    assert_eq!(mirrors.copies()[1].cause.as_ref().map(Error::kind), Some(ErrorKind::Locked));
    theirs.store(false, Ordering::Relaxed);
    assert_eq!(mirrors.mend(), 1);
    assert!(disk.lock(&file).is_err() && good(&mirrors) == [true; 2]);
}
