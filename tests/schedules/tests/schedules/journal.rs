//! Group commit: several committers, one of whom leads; rotation, trims and a close beside them; a sync that fails.

use super::explore;
use annulus::testing::{Disk, Fault, Handoff, Journal, JournalConfig, Operation, Payload, PowerCut, SimDisk};
use annulus::{ErrorKind, Seq};
use shuttle::rand::Rng;
use shuttle::thread;
use std::path::Path;
use std::sync::Arc;

const DIR: &str = "/store/journal";
const CONFIG: JournalConfig = JournalConfig { store_id: 7, segment_bytes: 16 << 10, max_spares: 1 };

fn below(end: u64) -> u64 {
    shuttle::rand::thread_rng().gen_range(0..end)
}

fn journal() -> (SimDisk, Arc<Journal>) {
    let disk = SimDisk::new(1);
    disk.create_dir_all(Path::new("/store")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    let journal = Journal::create(Arc::new(disk.clone()), Path::new(DIR), CONFIG, Seq(1)).unwrap();
    (disk, Arc::new(journal))
}

/// What a power cut now leaves; at the least `floor`.
fn check_durable(disk: &SimDisk, floor: Seq) {
    let cut = disk.fork().crash(PowerCut { seed: below(5) });
    let first = Journal::first_retained(&cut, Path::new(DIR), CONFIG.store_id).unwrap();
    let (mut next, from) = (first.0, Seq(first.0 - 1));
    let mut visit = |seq: Seq, _: &[u8]| {
        assert_eq!(seq.0, next, "a gap");
        next += 1;
        Ok(())
    };
    let report = Journal::examine(&cut, Path::new(DIR), CONFIG.store_id, from, from, &mut visit).unwrap();
    assert!(report.last >= floor, "{floor} was acknowledged, {} is there", report.last);
}

/// Appends and waits for the sync, so often; a thread of its own.
fn committer(disk: &SimDisk, journal: &Arc<Journal>, times: usize, len: usize) -> thread::JoinHandle<usize> {
    let (disk, journal) = (disk.clone(), journal.clone());
    thread::spawn(move || {
        let mut done = 0;
        for _ in 0..times {
            let handoff = if below(2) == 0 { Handoff::Os } else { Handoff::Buffered };
            let outcome = journal.append(&Payload::new(&vec![7; len]), handoff);
            let outcome = outcome.and_then(|seq| journal.sync_to(seq).map(|()| seq));
            match outcome {
                Ok(seq) => {
                    assert!(journal.durable() >= seq);
                    check_durable(&disk, seq);
                    done += 1;
                }
                Err(error) => {
                    let kind = error.kind();
                    assert!(matches!(kind, ErrorKind::Poisoned | ErrorKind::Closed), "{error}");
                    break;
                }
            }
        }
        done
    })
}

fn commits_of_three() {
    let (disk, journal) = journal();
    let threads: Vec<_> = (0..3).map(|_| committer(&disk, &journal, 2, 40)).collect();
    let done: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert_eq!((done, journal.durable()), (6, Seq(6)));
}

#[test]
fn three_committers_all_get_their_sync() {
    explore("group commit, three committers", commits_of_three);
}

fn rotation() {
    let (disk, journal) = journal();
    let threads: Vec<_> = (0..2).map(|_| committer(&disk, &journal, 3, 3_000)).collect();
    let other = {
        let journal = journal.clone();
        thread::spawn(move || {
            journal.provision().unwrap();
            journal.write_buffered().unwrap();
            journal.trim(journal.durable().next()).unwrap();
        })
    };
    let done: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    other.join().unwrap();
    assert_eq!((done, journal.durable()), (6, Seq(6)));
    assert!(journal.stats().last == Seq(6));
}

#[test]
fn commits_beside_rotation_and_trims() {
    explore("group commit, rotation, provision, trim", rotation);
}

fn failing_sync() {
    let (disk, journal) = journal();
    let fault = Fault::on([Operation::Sync, Operation::Write][below(2) as usize]);
    disk.inject(fault.after(below(3)).times(1));
    let threads: Vec<_> = (0..3).map(|_| committer(&disk, &journal, 2, 40)).collect();
    let done: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    if journal.poisoned().is_some() {
        let durable = journal.durable();
        assert!(done < 6 && journal.append(&Payload::new(b"late"), Handoff::Os).is_err());
        assert!(journal.sync_to(Seq::MAX).is_err() || journal.last() == durable);
        assert_eq!(journal.durable(), durable);
    } else {
        assert_eq!(done, 6);
    }
}

#[test]
fn a_failing_sync_wakes_everybody_and_is_acknowledged_to_nobody() {
    explore("group commit, a sync or write fails", failing_sync);
}

fn closing() {
    let (disk, journal) = journal();
    let threads: Vec<_> = (0..2).map(|_| committer(&disk, &journal, 2, 40)).collect();
    let closed = {
        let journal = journal.clone();
        thread::spawn(move || journal.close())
    };
    let done: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    closed.join().unwrap().unwrap();
    assert!(done as u64 <= journal.durable().0);
    check_durable(&disk, journal.last());
    assert_eq!(journal.close().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(journal.append(&Payload::new(b"late"), Handoff::Os).unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn a_close_beside_committers_leaves_nobody_waiting() {
    explore("group commit, close", closing);
}
