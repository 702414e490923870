//! Single files of a repository that the disk never gives out again, as with a bad sector, while it gives out all others.

use crate::{BACKUP, Content, Damaged, content, options, repository, seams};
use annulus::testing::{self, Background, Fault, MemoryFactory, Operation, Seams, SimDisk};
use annulus::{
    At, BackupRepository, CheckpointId, CheckpointOptions, Damage, ErrorKind, Retention, Store, Verification,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn files(disk: &SimDisk, under: &str) -> Vec<PathBuf> {
    let under = Path::new(BACKUP).join(under);
    let mut files: Vec<PathBuf> = disk.files().into_iter().map(|(path, _)| path).collect();
    files.retain(|path| path.starts_with(&under));
    files.sort();
    files
}

/// From here on the disk gives out nothing of the file.
fn lose(disk: &SimDisk, file: &Path) {
    let file = file.to_path_buf();
    disk.inject(Fault::on(Operation::Read).at(move |path| path == file));
}

/// A store of several chunks, and two checkpoints of it that share most of them.
fn filled() -> (SimDisk, Store, [CheckpointId; 2]) {
    let store = testing::open(Path::new("/live"), &options().shards(2), seams(1)).unwrap();
    let disk = SimDisk::new(7);
    let repo = repository(&disk);
    let full = || CheckpointOptions::new().full(true).uncompressed(true);
    for n in 0..6_000u32 {
        store.insert(n.to_be_bytes(), vec![(n * 7) as u8; 500]).unwrap();
    }
    let first = store.checkpoint_with(&repo, full()).unwrap();
    store.insert("last", b"of all").unwrap();
    let second = store.checkpoint_with(&repo, full()).unwrap();
    (disk, store, [first, second])
}

/// What is salvaged is as it was, and all the rest is told. How many records that is.
fn check_salvage(repo: &BackupRepository, id: CheckpointId, expected: &Content) -> (usize, Vec<Damage>) {
    let dir = tempfile::tempdir().unwrap();
    let restore = repo.restore(id).unwrap().options(options());
    let (store, damage) = restore.salvage(dir.path().join("new")).unwrap();
    let found = content(&store);
    for (key, record) in &found {
        assert_eq!(expected.get(key), Some(record));
    }
    let is_told = |key: &[u8]| {
        damage.iter().any(|d| key >= &d.from[..] && d.to.as_ref().is_none_or(|to| key < &to[..]))
    };
    let lost: Vec<_> = expected.keys().filter(|key| !found.contains_key(*key)).collect();
    assert!(lost.iter().all(|key| is_told(key)), "{damage:?}");
    store.close().unwrap();
    (lost.len(), damage)
}

fn kinds(found: &Verification) -> Vec<(CheckpointId, ErrorKind)> {
    found.damage.iter().map(|damage| (damage.checkpoint, damage.error.kind())).collect()
}

#[test]
fn of_a_checkpoint_with_an_object_that_cannot_be_read_all_else_comes_back() {
    let (world, store, [first, second]) = filled();
    let expected = content(&store);
    let objects = files(&world, "objects");
    let (mut chunks, mut indexes, mut of_one) = (0, 0, 0);
    for object in &objects {
        let disk = world.fork();
        let repo = repository(&disk);
        lose(&disk, object);
        let found = repo.verify_all().unwrap();
        assert_eq!(found.checkpoints, 2);
        assert!(found.damage.iter().all(|damage| damage.file == *object), "{:?}", found.damage);
        let kinds = kinds(&found);
        assert!(kinds.iter().all(|(_, kind)| *kind == ErrorKind::Io) && !kinds.is_empty(), "{kinds:?}");
        of_one += usize::from(kinds.len() == 1);
        let verified = repo.verify(second).unwrap();
        assert_eq!(verified.is_whole(), kinds.iter().all(|(id, _)| *id == first));
        let restore = repo.restore(second).unwrap().options(options());
        let opened = restore.open(tempfile::tempdir().unwrap().path().join("new"));
        assert_eq!(opened.is_ok(), verified.is_whole());
        assert!(opened.is_ok_and(|_| true) || !verified.is_whole());
        let (lost, damage) = check_salvage(&repo, second, &expected);
        if verified.is_whole() {
            assert_eq!((lost, damage.len()), (0, 0));
            continue;
        }
        assert_eq!(damage.len(), 1, "{damage:?}");
        assert_eq!((damage[0].error.kind(), &damage[0].file), (ErrorKind::Io, object));
        match damage[0].records {
            Some(records) => {
                assert_eq!((records as usize, verified.records as usize), (lost, expected.len() - lost));
                assert!(lost > 0 && lost < expected.len(), "{lost} of {} are lost", expected.len());
                chunks += 1;
            }
            None => indexes += 1,
        }
    }
    assert!(chunks > 2 && indexes == 1 && of_one > 0, "{chunks} chunks, {indexes} indexes");
}

#[test]
fn what_cannot_be_read_once_is_no_damage() {
    let (world, store, [_, second]) = filled();
    for after in 0..4 {
        let disk = world.fork();
        let repo = repository(&disk);
        let objects = |path: &Path| path.starts_with("/backup/objects");
        disk.inject(Fault::on(Operation::Read).at(objects).after(after).times(1));
        let found = repo.verify_all().unwrap();
        assert!(found.is_whole(), "{:?}", found.damage);
        disk.inject(Fault::on(Operation::Read).at(objects).after(after).times(1));
        assert_eq!(check_salvage(&repo, second, &content(&store)).0, 0);
    }
}

#[test]
fn where_nothing_can_be_read_any_more_nothing_is_taken_for_damaged() {
    let (world, _, [_, second]) = filled();
    let new = tempfile::tempdir().unwrap();
    let places: [fn(&Path) -> bool; 2] =
        [|path| path.starts_with("/backup/objects"), |path| path.starts_with("/backup")];
    for place in places {
        for after in 0..4 {
            let disk = world.fork();
            let repo = repository(&disk);
            let restore = || repo.restore(second).unwrap().options(options());
            let restore = restore();
            let away = || {
                disk.heal();
                disk.inject(Fault::on(Operation::Read).at(place).after(after));
            };
            away();
            assert_eq!(repo.verify_all().unwrap_err().kind(), ErrorKind::Io);
            away();
            assert_eq!(repo.verify(second).unwrap_err().kind(), ErrorKind::Io);
            away();
            let error = restore.salvage(new.path().join("new")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        }
    }
}

/// The one index of the first checkpoint is read by whoever looks for what need not be written again.
#[test]
fn a_checkpoint_is_taken_beside_one_with_an_index_or_a_manifest_that_cannot_be_read() {
    for under in ["objects", "checkpoints"] {
        let live = Path::new("/live");
        let factory = MemoryFactory::new();
        let seams = |disk: &SimDisk| Seams {
            disk: Arc::new(disk.clone()),
            factory: Arc::new(factory.clone()),
            background: Background::Off,
        };
        let (own, disk) = (SimDisk::new(1), SimDisk::new(7));
        let store = testing::open(live, &options().shards(2), seams(&own)).unwrap();
        for n in 0..6_000u32 {
            store.insert(n.to_be_bytes(), vec![(n * 7) as u8; 500]).unwrap();
        }
        store.checkpoint(&repository(&disk)).unwrap();
        store.close().unwrap();
        let mut taken = 0;
        for (number, file) in files(&disk, under).into_iter().enumerate() {
            let disk = disk.fork();
            let repo = repository(&disk);
            let store = testing::open(live, &options().existing_only(true), seams(&own)).unwrap();
            store.insert("another", number.to_be_bytes()).unwrap();
            lose(&disk, &file);
            let id = store.checkpoint(&repo).unwrap();
            disk.heal();
            assert_eq!(id, CheckpointId(2));
            let found = repo.verify_all().unwrap();
            assert!(found.is_whole(), "{:?}", found.damage);
            let restore = repo.restore(id).unwrap().options(options());
            let restored = testing::restore(restore, Path::new("/new"), crate::seams(2)).unwrap();
            assert_eq!(content(&restored), content(&store));
            store.close().unwrap();
            taken += 1;
        }
        assert!(taken > 0);
    }
}

#[test]
fn beside_a_manifest_that_cannot_be_read_the_others_are_listed_and_nothing_is_pruned() {
    let (disk, store, [first, second]) = filled();
    let repo = repository(&disk);
    let third = store.checkpoint(&repo).unwrap();
    let ids = || repo.list().unwrap().iter().map(|checkpoint| checkpoint.id).collect::<Vec<_>>();
    let objects = files(&disk, "objects");
    lose(&disk, &files(&disk, "checkpoints")[1]);
    assert_eq!(ids(), [first, third]);
    let found = repo.verify_all().unwrap();
    assert_eq!((found.checkpoints, kinds(&found)), (2, vec![(second, ErrorKind::Io)]));
    assert_eq!((found.damage[0].keyspace.as_deref(), found.damage[0].records), (None, None));
    let to_third =
        repo.restore(third).unwrap().options(options()).until(At::Seq(repo.get(third).unwrap().seq));
    let restored = testing::restore(to_third, Path::new("/new"), seams(2)).unwrap();
    assert_eq!(content(&restored), content(&store));
    // What it needs is not known.
    let error = repo.prune(Retention::keep_last(1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("checkpoint 2 "), "{error}");
    assert!(error.advice().is_some_and(|advice| advice.contains("delete")), "{error}");
    assert_eq!((ids(), files(&disk, "objects")), (vec![first, third], objects.clone()));
    // Another one goes all the same, and its objects stay.
    let forked = disk.fork();
    lose(&forked, &files(&forked, "checkpoints")[1]);
    assert_eq!(repository(&forked).delete(first).unwrap().objects, 0);
    assert_eq!(files(&forked, "objects"), objects);
    repo.delete(second).unwrap();
    assert_eq!(repo.prune(Retention::keep_last(1)).unwrap().checkpoints, [first]);
    assert!(repo.verify_all().unwrap().is_whole());
    // Nor is it where an index cannot be read.
    for index in files(&disk, "objects") {
        let disk = disk.fork();
        let repo = repository(&disk);
        lose(&disk, &index);
        if let Err(error) = repo.prune(Retention::keep_last(1)) {
            assert!(error.to_string().contains("checkpoint 3 "), "{error}");
        }
    }
}

#[test]
fn a_repair_goes_on_from_the_checkpoint_before_one_that_cannot_be_read() {
    let damaged = Damaged::with_newer();
    let repo = repository(&damaged.backup);
    let [.., manifest] = &files(&damaged.backup, "checkpoints")[..] else { panic!("it has none") };
    for (number, file) in damaged.newer.iter().chain([manifest]).enumerate() {
        let copied = damaged.dir.path().join(format!("copy-{number}"));
        crate::common::copy(&damaged.live(), &copied);
        damaged.backup.heal();
        lose(&damaged.backup, file);
        let repaired = Damaged::options().repair_from(&repo, &copied).unwrap();
        assert_eq!(repaired.shards.len(), 2, "{}", file.display());
        let store = Damaged::options().existing_only(true).open(&copied).unwrap();
        assert_eq!(content(&store), damaged.expected);
        store.close().unwrap();
    }
    assert!(damaged.newer.len() > 1);
}
