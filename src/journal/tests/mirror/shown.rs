//! What a damaged copy shows, and what is done because of a damaged one alone.

use super::*;

fn segments(disk: &SimDisk, copy: usize) -> Vec<PathBuf> {
    let mut names = disk.list(Path::new(DIRS[copy])).unwrap();
    names.retain(|name| name.ends_with(".seg"));
    names.sort();
    names.iter().map(|name| Path::new(DIRS[copy]).join(name)).collect()
}

/// All files with what is in them, but for locks, which say who holds them.
fn held(disk: &SimDisk) -> Vec<(PathBuf, Vec<u8>)> {
    disk.files().into_iter().filter(|(path, _)| !path.ends_with("LOCK")).collect()
}

/// Whoever gives the word that one copy alone is complete has read it: where it is damaged, the other one is not left behind.
#[test]
fn a_copy_that_is_alone_gets_no_word_before_it_was_read() {
    for (copy, operation) in
        [0, 1].into_iter().flat_map(|copy| [Some(Operation::Read), None].map(|o| (copy, o)))
    {
        let (mut model, disk) = (Model::default(), dirs_disk(80));
        let (_, journal) = model.create(&disk);
        (0..60).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
        model.sync(&journal).unwrap();
        drop(journal);
        let disk = disk.kill();
        let path = segments(&disk, copy)[4].clone();
        let whole = disk.read(&path).unwrap().unwrap();
        let before = held(&disk);
        absent(&disk, 1 - copy);
        let kind = match operation {
            None => {
                disk.damage(&path, |bytes| bytes[6000] ^= 1).unwrap();
                ErrorKind::Corruption
            }
            Some(operation) => {
                let at = path.clone();
                // Twice a header and a first frame are read, before there is a word in any case.
                disk.inject(Fault::on(operation).at(move |path| path == at).after(4));
                ErrorKind::Io
            }
        };
        let error = model.open(&disk, None).map(drop).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        disk.heal();
        let mut after = held(&disk);
        after.iter_mut().filter(|(at, _)| *at == path).for_each(|(_, bytes)| bytes.clone_from(&whole));
        assert!(after == before, "{operation:?}: something was changed");
        let (mirrors, _, report) = model.open(&disk, None).unwrap();
        assert_eq!((report.last, good(&mirrors)), (Seq(60), [true; 2]), "{operation:?}");
    }
}
