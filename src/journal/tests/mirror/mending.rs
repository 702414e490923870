//! Making a copy whole again while files come and go.

use super::*;

fn behind(seed: u64) -> (Model, SimDisk, Arc<Mirrors>, Journal) {
    let (mut model, disk) = (Model::default(), dirs_disk(seed));
    let (mirrors, journal) = model.create(&disk);
    (0..40).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
    fault(&disk, Operation::Sync, 1, 1);
    model.sync(&journal).unwrap();
    assert_eq!(good(&mirrors), [true, false]);
    (model, disk, mirrors, journal)
}

/// A file is listed, and is freed before it is copied; one that cannot be read is another matter.
#[test]
fn a_file_that_goes_while_a_copy_is_made_is_no_failure() {
    for (error, mended) in [(std::io::ErrorKind::NotFound, 1), (std::io::ErrorKind::Other, 0)] {
        let (mut model, disk, mirrors, journal) = behind(22);
        let newest = |path: &Path| path == Path::new(DIRS[0]).join("0000000000000002.seg");
        disk.inject(Fault::on(Operation::Look).at(newest).times(1).error(error));
        assert_eq!(mirrors.mend(), mended, "{error}: {:?}", mirrors.copies());
        assert_eq!(mirrors.mend(), 1 - mended);
        assert_eq!(good(&mirrors), [true; 2]);
        model.append(&journal, Handoff::Os).unwrap();
        model.sync(&journal).unwrap();
        let disk = disk.kill();
        absent(&disk, 0);
        assert_eq!(model.open(&disk, None).unwrap().2.last, Seq(41));
    }
}

/// Whoever has a file open that was removed writes to it no more; that it is not in the copy is no reason to refuse it.
#[test]
fn a_file_that_was_removed_while_it_was_open_is_not_missed() {
    let (_, disk, mirrors, _journal) = behind(23);
    let path = Path::new(DIRS[0]).join("0000000000000009.tmp");
    let file = mirrors.open(&path, OpenMode::CreateNew).unwrap();
    let there = Path::new(DIRS[1]).join("0000000000000009.tmp");
    // While it is there it is opened in the copy, or there is no copy.
    disk.inject(Fault::on(Operation::Look).at(move |path| path == there));
    assert_eq!(mirrors.mend(), 0, "{:?}", mirrors.copies());
    disk.heal();
    mirrors.remove_file(&path).unwrap();
    assert_eq!(mirrors.mend(), 1, "{:?}", mirrors.copies());
    assert_eq!(good(&mirrors), [true; 2]);
    drop(file);
}
