use super::*;

const DIR: &str = "/d";

fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

fn with_dir() -> SimDisk {
    let disk = SimDisk::new(1);
    disk.create_dir_all(Path::new(DIR)).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

fn synced(disk: &SimDisk, name: &str, bytes: &[u8]) -> Arc<dyn DiskFile> {
    let file = disk.open(&path(name), OpenMode::CreateNew).unwrap();
    file.write_at(0, bytes).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    file
}

#[test]
fn what_was_synced_survives_every_power_cut_and_the_rest_in_every_mixture() {
    let mut kept = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let disk = with_dir();
        let file = synced(&disk, "a", &[1; 2048]);
        file.write_at(512, &[2; 1024]).unwrap();
        let disk = disk.crash(PowerCut { seed });
        let bytes = disk.read(&path("a")).unwrap().unwrap();
        assert_eq!(bytes.len(), 2048);
        for sector in [&bytes[..512], &bytes[1536..]] {
            assert!(sector.iter().all(|b| *b == 1), "a synced sector changed");
        }
        for sector in bytes.chunks(512) {
            assert!(sector.iter().all(|b| *b == sector[0]), "a sector was torn");
        }
        kept.insert((bytes[512], bytes[1024]));
    }
    assert_eq!(kept.len(), 4, "the seeds do not reach every mixture of two sectors: {kept:?}");
}

#[test]
fn an_unsynced_name_may_be_lost_and_a_synced_one_may_not() {
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..100 {
        let disk = with_dir();
        synced(&disk, "a", b"a");
        let file = disk.open(&path("b"), OpenMode::CreateNew).unwrap();
        file.write_at(0, b"b").unwrap();
        file.sync_all().unwrap();
        let disk = disk.crash(PowerCut { seed });
        assert!(disk.exists(&path("a")).unwrap());
        if disk.exists(&path("b")).unwrap() {
            assert_eq!(disk.read(&path("b")).unwrap().unwrap(), b"b");
            kept += 1;
        } else {
            lost += 1;
        }
    }
    assert!(lost > 10 && kept > 10, "{lost} {kept}");
}

#[test]
fn an_unsynced_rename_shows_the_file_under_one_of_its_names() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let disk = with_dir();
        synced(&disk, "a", b"a");
        disk.rename(&path("a"), &path("b")).unwrap();
        let disk = disk.crash(PowerCut { seed });
        seen.insert(disk.list(Path::new(DIR)).unwrap());
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [vec!["a".to_string()], vec!["b".to_string()]]);
}

#[test]
fn a_lost_directory_takes_its_files_along() {
    let lost = (0..50).any(|seed| {
        let disk = SimDisk::new(1);
        disk.create_dir_all(Path::new(DIR)).unwrap();
        synced(&disk, "a", b"a");
        !disk.crash(PowerCut { seed }).exists(&path("a")).unwrap()
    });
    assert!(lost, "the directory's own name was never synced, and never lost");
}

#[test]
fn the_death_of_the_process_loses_nothing_and_frees_locks() {
    let disk = with_dir();
    let file = disk.open(&path("a"), OpenMode::CreateNew).unwrap();
    file.write_at(0, b"bytes").unwrap();
    let lock = disk.lock(&path("lock")).unwrap();
    assert_eq!(disk.lock(&path("lock")).err().unwrap().kind(), io::ErrorKind::WouldBlock);
    let next = disk.kill();
    assert_eq!(next.boot_id(), disk.boot_id());
    assert_eq!(next.read(&path("a")).unwrap().unwrap(), b"bytes");
    let held = next.lock(&path("lock")).unwrap();
    drop(lock);
    assert!(next.lock(&path("lock")).is_err(), "an old lock freed the new one");
    drop(held);
    drop(next.lock(&path("lock")).unwrap());
    assert!(file.write_at(0, b"late").is_err(), "a dead process wrote");
    assert!(disk.list(Path::new(DIR)).is_err());
    assert!(file.read_at(0, &mut [0]).is_err() && file.sync_data().is_err());
    let boot = next.boot_id();
    assert_ne!(next.crash(PowerCut { seed: 1 }).boot_id(), boot);
}

#[test]
fn a_failed_sync_gives_its_bytes_up_for_good() {
    let disk = with_dir();
    let file = synced(&disk, "a", &[1; 1024]);
    file.write_at(0, &[2; 1024]).unwrap();
    disk.inject(Fault::on(Operation::Sync).times(1));
    assert!(file.sync_data().is_err());
    file.sync_data().unwrap();
    assert_eq!(disk.read(&path("a")).unwrap().unwrap(), [2; 1024], "the bytes stay readable");
    file.write_at(512, &[3; 512]).unwrap();
    file.sync_data().unwrap();
    let disk = disk.crash(PowerCut { seed: 3 });
    let bytes = disk.read(&path("a")).unwrap().unwrap();
    assert_eq!((bytes[0], bytes[512]), (1, 3), "only the rewritten sector is durable");
}

#[test]
fn faults_strike_where_and_when_they_are_told() {
    let disk = with_dir();
    let file = synced(&disk, "a", b"0123");
    disk.inject(Fault::on(Operation::Write).at(|p| p.ends_with("a")).after(1).times(1).short());
    file.write_at(0, b"abcd").unwrap();
    assert!(file.write_at(0, b"wxyz").is_err());
    file.write_at(4, b"e").unwrap();
    let bytes = disk.read(&path("a")).unwrap().unwrap();
    let torn = bytes.iter().take_while(|b| (b'w'..=b'z').contains(*b)).count();
    assert_eq!(bytes[torn..], b"abcde"[torn..], "a short write leaves a prefix");
    disk.inject(Fault::on_any_change().error(io::ErrorKind::PermissionDenied));
    assert!(disk.open(&path("b"), OpenMode::CreateNew).is_err());
    assert_eq!(disk.read(&path("a")).unwrap().unwrap(), bytes, "reading does not change the disk");
    disk.heal();
    disk.remove_file(&path("a")).unwrap();
}

#[test]
fn a_full_disk_takes_what_fits() {
    let disk = with_dir();
    disk.set_capacity(Some(10));
    let file = disk.open(&path("a"), OpenMode::CreateNew).unwrap();
    file.write_at(0, &[1; 8]).unwrap();
    assert_eq!(file.write_at(8, &[1; 8]).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(file.len().unwrap(), 10);
    file.write_at(0, &[2; 10]).unwrap();
    assert_eq!(file.set_len(11).unwrap_err().kind(), io::ErrorKind::StorageFull);
    disk.set_capacity(None);
    file.write_at(8, &[1; 8]).unwrap();
}

#[test]
fn a_stopped_process_does_nothing_more() {
    let mut lengths = std::collections::BTreeSet::new();
    for seed in 0..60 {
        let disk = SimDisk::new(seed);
        disk.create_dir_all(Path::new(DIR)).unwrap();
        disk.stop_after(2);
        let file = disk.open(&path("a"), OpenMode::CreateNew).unwrap();
        file.write_at(0, b"ab").unwrap();
        assert!(file.write_at(2, b"cd").is_err());
        assert!(file.write_at(2, b"cd").is_err() && disk.list(Path::new(DIR)).is_err() && disk.stopped());
        lengths.insert(disk.kill().read(&path("a")).unwrap().unwrap().len());
    }
    assert_eq!(lengths.into_iter().collect::<Vec<_>>(), [2, 3, 4], "the last write stops at any byte");
}

#[test]
fn a_fork_is_a_disk_of_its_own() {
    let disk = with_dir();
    synced(&disk, "a", b"a");
    let fork = disk.fork();
    fork.damage(&path("a"), |bytes| bytes[0] = b'z').unwrap();
    fork.rearrange(Path::new(DIR), &[("a", "b"), ("a", "c")]).unwrap();
    assert_eq!(fork.list(Path::new(DIR)).unwrap(), ["b", "c"]);
    assert_eq!(fork.read(&path("c")).unwrap().unwrap(), b"z");
    assert_eq!(disk.read(&path("a")).unwrap().unwrap(), b"a");
}

#[test]
fn a_locked_file_says_which_process_has_it_and_takes_no_part_in_faults() {
    let disk = with_dir();
    let lock = path("LOCK");
    disk.inject(Fault::on(Operation::Write));
    let held = disk.lock(&lock).unwrap();
    assert_eq!((disk.holder(&lock), disk.operations()), (Some(1), with_dir().operations() + 1));
    assert!(disk.lock(&lock).is_err());
    let next = disk.kill();
    drop(held);
    assert_eq!(next.holder(&lock), Some(1));
    let _held = next.lock(&lock).unwrap();
    assert_eq!(next.holder(&lock), Some(2));
}

#[test]
fn open_ends_are_all_that_a_power_cut_may_leave() {
    let disk = SimDisk::new(1);
    disk.keep_versions();
    disk.create_dir_all(Path::new(DIR)).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    let file = synced(&disk, "a", &[1; 2048]);
    file.write_at(512, &[2; 512]).unwrap();
    file.write_at(512, &[3; 1024]).unwrap();
    file.write_at(2048, &[4; 100]).unwrap();
    disk.rename(&path("a"), &path("b")).unwrap();
    let ends = disk.open_ends(8, 1);
    let names: Vec<&str> =
        ends.names.iter().map(|names| names.files[0].0.file_name().unwrap().to_str().unwrap()).collect();
    assert!(ends.all_names && names == ["a", "b"], "{names:?}");
    let [open] = &ends.files[..] else { panic!("{} files", ends.files.len()) };
    assert_eq!(open.lens, [2048, 2148]);
    let kept: Vec<(usize, Vec<u8>)> =
        open.sectors.iter().map(|(at, versions)| (*at, versions.iter().map(|v| v[0]).collect())).collect();
    assert_eq!(kept, [(1, vec![3, 2]), (2, vec![3]), (4, vec![4])], "what was written over counts, too");
    assert_eq!((open.durable[0], open.durable[512], open.durable[1024]), (1, 1, 1));
    // What a failed sync gave up may be on the disk or not, and a later sync of others changes nothing.
    disk.inject(Fault::on(Operation::Sync).times(1));
    assert!(file.sync_data().is_err());
    file.write_at(0, &[5; 512]).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    let ends = disk.open_ends(8, 1);
    let left: Vec<usize> = ends.files[0].sectors.iter().map(|(at, _)| *at).collect();
    assert_eq!((left, ends.names.len(), ends.files[0].durable[0]), (vec![1, 2, 4], 1, 5));
    // A disk that is made of one of the states has it durably.
    let files = [(Path::new("/d/b"), &ends.files[0].durable[..])];
    let made = SimDisk::with_files(1, 9, &[PathBuf::from("/"), PathBuf::from(DIR)], &files);
    let made = made.crash(PowerCut { seed: 3 });
    assert_eq!(
        (made.boot_id(), made.read(&path("b")).unwrap().unwrap()),
        (10, ends.files[0].durable.clone())
    );
}

#[test]
fn a_watch_sees_the_disk_before_each_change_and_between_a_write_past_the_cache_and_its_sync() {
    let disk = with_dir();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = seen.clone();
    disk.watch(move |disk| {
        notes.lock().push(disk.open_ends(4, 0).files.iter().map(|f| f.sectors.len()).sum::<usize>())
    });
    let file = synced(&disk, "a", &[0; 8192]);
    drop(file);
    let before = seen.lock().len();
    let through = disk.open(&path("a"), OpenMode::Through).unwrap();
    let mut bytes = vec![0; 3 * 4096];
    let start = bytes.as_ptr().align_offset(4096);
    bytes[start..start + 4096].fill(7);
    through.write_at(4096, &bytes[start..start + 4096]).unwrap();
    let last: Vec<usize> = seen.lock()[before..].to_vec();
    assert_eq!(last, [0, 8]);
}

/// Whoever was interrupted while they made a directory has left some of it, and its name is not safe by that.
#[test]
fn a_directory_whose_making_was_interrupted_is_durable_when_it_is_made_again() {
    let dir = Path::new("/d/one/two/three");
    for stop in 0.. {
        let first = with_dir();
        first.stop_after(stop);
        let ended = first.create_dir_durably(dir).is_ok();
        for seed in 0..40 {
            let disk = first.fork().kill();
            disk.create_dir_durably(dir).unwrap();
            let disk = disk.crash(PowerCut { seed });
            assert!(disk.exists(dir).unwrap(), "stopped at {stop}, seed {seed}");
        }
        if ended {
            assert_eq!(stop, 7);
            break;
        }
    }
    // What is there already is not refused where the directory that holds it cannot be synced at all.
    for (error, refused) in [(io::ErrorKind::PermissionDenied, false), (io::ErrorKind::Other, true)] {
        let disk = with_dir();
        disk.inject(Fault::on(Operation::SyncDir).at(|path| path == Path::new("/")).error(error));
        assert_eq!(disk.create_dir_durably(Path::new(DIR)).is_err(), refused, "{error}");
        disk.inject(Fault::on(Operation::SyncDir).at(|path| path == Path::new(DIR)).error(error));
        assert!(disk.create_dir_durably(&path("new")).is_err(), "{error}");
    }
}

/// It may have been killed before it synced what it made.
#[test]
fn directories_that_an_interrupted_process_made_are_durable_when_another_makes_them() {
    let (first, second) = (Path::new("/a/b/c"), Path::new("/a/b/d"));
    for stop in 0..12 {
        for seed in 0..32 {
            let disk = SimDisk::new(seed);
            disk.stop_after(stop);
            let _ = disk.create_dir_durably(first).and_then(|()| disk.create_dir_durably(second));
            let disk = disk.kill();
            disk.create_dir_durably(second).unwrap();
            let disk = disk.crash(PowerCut { seed });
            assert!(disk.exists(second).unwrap(), "stopped after {stop}, seed {seed}");
        }
    }
}
