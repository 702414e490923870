//! Repositories on a disk that has no room left: what makes room again is to work there.

use crate::{World, repository};
use annulus::testing::{Fault, Operation, PowerCut, SimDisk};
use annulus::{CheckpointId, CheckpointOptions, ErrorKind, Retention};
use std::io;

/// No byte can be written any more.
fn fill_up(disk: &SimDisk) {
    for operation in [Operation::Create, Operation::Write, Operation::SetLen] {
        disk.inject(Fault::on(operation).error(io::ErrorKind::StorageFull));
    }
}

#[test]
fn a_prune_and_a_deletion_work_where_nothing_can_be_written() {
    let world = World::new(3);
    for delete in [false, true] {
        let disk = world.disk.fork();
        let repo = repository(&disk);
        fill_up(&disk);
        let before = disk.files().len();
        let left: &[u64] = match delete {
            true => {
                assert_eq!(repo.delete(CheckpointId(2)).unwrap().checkpoints, [CheckpointId(2)]);
                &[1, 3]
            }
            false => {
                let gone = repo.prune(Retention::keep_last(1)).unwrap();
                assert_eq!(gone.checkpoints, [CheckpointId(1), CheckpointId(2)]);
                assert!(gone.objects > 2 && gone.bytes > 0, "{gone:?}");
                &[3]
            }
        };
        assert!(disk.files().len() < before);
        // A checkpoint does not begin.
        let full = || CheckpointOptions::new().full(true);
        assert_eq!(world.store.checkpoint_with(&repo, full()).unwrap_err().kind(), ErrorKind::Io);
        disk.heal();
        world.check(&disk, left, "with room again");
        assert_eq!(world.store.checkpoint_with(&repo, full()).unwrap(), CheckpointId(4));
    }
}

/// Nothing tells of the leftovers where the mark of work could not be written.
#[test]
fn a_prune_without_a_mark_that_was_killed_anywhere_is_repeated() {
    let world = World::new(3);
    let whole = world.disk.fork();
    repository(&whole).prune(Retention::keep_last(1)).unwrap();
    let files = |disk: &SimDisk| {
        let mut files: Vec<_> = disk.files().into_iter().map(|(path, _)| path).collect();
        files.retain(|path| path.file_name().is_some_and(|name| name != "LOCK"));
        files.sort();
        files
    };
    let mut stops = 0;
    for after in 0.. {
        let disk = world.disk.fork();
        let repo = repository(&disk);
        fill_up(&disk);
        disk.stop_after(after);
        let done = repo.prune(Retention::keep_last(1));
        let stopped = disk.stopped();
        assert!(stopped || done.is_ok());
        let disk = disk.kill();
        world.check(&disk, &[3], &format!("stopped after {after}"));
        repository(&disk).prune(Retention::keep_last(1)).unwrap();
        assert_eq!(files(&disk), files(&whole), "stopped after {after}");
        if !stopped {
            break;
        }
        stops += 1;
    }
    assert!(stops > 5, "{stops} places to stop at");
}

/// The newest is there, and its name is not durable: its process ended before that. The power is cut after another has been deleted.
#[test]
fn a_number_is_not_given_again_whatever_is_deleted_and_whenever_the_power_is_cut() {
    let world = World::new(2);
    let mut cuts = 0;
    for (delete, room) in [(1, false), (2, false), (2, true), (3, true)] {
        for after in 0.. {
            let mut stopped = false;
            for seed in 0..30 {
                let disk = world.disk.fork();
                let repo = repository(&disk);
                let of_manifests = |path: &std::path::Path| path.ends_with("checkpoints");
                disk.inject(Fault::on(Operation::SyncDir).at(of_manifests).after(2));
                let options = CheckpointOptions::new().full(true);
                assert!(world.store.checkpoint_with(&repo, options).is_err());
                disk.heal();
                let repo = repository(&disk);
                assert_eq!(repo.list().unwrap().len(), 3);
                assert!(disk.files().iter().all(|(path, _)| !path.ends_with("WORKING")));
                if !room {
                    fill_up(&disk);
                }
                disk.stop_after(after);
                let deleted = repo.delete(CheckpointId(delete));
                stopped |= disk.stopped();
                assert!(deleted.is_ok() || disk.stopped(), "{deleted:?}");
                disk.heal();
                let disk = disk.crash(PowerCut { seed });
                let repo = repository(&disk);
                let ids: Vec<u64> = repo.list().unwrap().iter().map(|checkpoint| checkpoint.id.0).collect();
                let next = world.store.checkpoint_with(&repo, CheckpointOptions::new().full(true)).unwrap();
                let what = format!("{delete} deleted, stopped after {after}, seed {seed}");
                assert!(ids.contains(&1) || delete == 1, "{what}");
                // Both of these had been acknowledged.
                assert!(next > CheckpointId(2), "{what}: {next} is given again");
                // So had the third where anything went on its word.
                assert!(next > CheckpointId(3) || deleted.is_err(), "{what}: {next} is given again");
                cuts += 1;
            }
            if !stopped {
                break;
            }
        }
    }
    assert!(cuts > 50, "{cuts} cuts");
}
