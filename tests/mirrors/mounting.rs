//! Copies of the journal on disks that are not mounted: what lies at the mount point then is not the disk.

use crate::{good, options, write};
use annulus::testing::{self, Background, Disk, MemoryFactory, Seams, SimDisk};
use annulus::{Durability, ErrorKind, Options, Stats, Store};
use std::path::Path;
use std::sync::Arc;

const POINT: &str = "/mnt/b";

struct Machine {
    disk: SimDisk,
    factory: MemoryFactory,
}

impl Machine {
    /// With a store of 100 records that is closed, whose journal has a copy in the store's directory and one on a disk of its own.
    fn new() -> Machine {
        let (disk, factory) = (SimDisk::new(5), MemoryFactory::new());
        disk.create_dir_all(Path::new(POINT)).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        disk.sync_dir(Path::new("/mnt")).unwrap();
        disk.mount(Path::new(POINT));
        let machine = Machine { disk, factory };
        let store = machine.open(&both()).unwrap();
        write(&store, 0..100);
        machine.close(store);
        machine
    }

    fn open(&self, options: &Options) -> annulus::Result<Store> {
        let seams = Seams {
            disk: Arc::new(self.disk.clone()),
            factory: Arc::new(self.factory.clone()),
            background: Background::Off,
        };
        testing::open(Path::new("/store"), options, seams)
    }

    fn close(&self, store: Store) {
        store.close().unwrap();
    }

    fn unmount(&self) {
        self.disk.unmount(Path::new(POINT));
    }

    fn mount(&self) {
        self.disk.mount(Path::new(POINT));
    }

    /// What lies at the mount point, of the journal.
    fn files(&self) -> usize {
        let names = self.disk.list(Path::new("/mnt/b/journal")).unwrap_or_default();
        names.iter().filter(|name| *name != "LOCK").count()
    }
}

fn both() -> Options {
    options().journal_dirs(["/store/journal", "/mnt/b/journal"])
}

fn check_not_mounted(stats: &Stats) {
    assert_eq!(good(stats), [true, false]);
    let warnings = stats.warnings.join("\n");
    assert!(warnings.contains("/mnt/b/journal") && warnings.contains("not mounted"), "{warnings}");
}

#[test]
fn a_copy_whose_disk_is_not_mounted_is_not_made_anew_under_the_mount_point() {
    let machine = Machine::new();
    machine.unmount();
    // However often it is opened, and whether the directories are named or not.
    for (round, options) in [options(), both(), options()].into_iter().enumerate() {
        let count = 100 + round as u32 * 10;
        let store = machine.open(&options).unwrap();
        crate::check(&store, count);
        write(&store, count..count + 10);
        assert_eq!(testing::mend(&store), 0);
        check_not_mounted(&store.stats().unwrap());
        assert_eq!(machine.files(), 0);
        machine.close(store);
    }
    // Mounted while the store serves: it gets what it lacks.
    let store = machine.open(&options()).unwrap();
    machine.mount();
    assert_eq!(testing::mend(&store), 1);
    assert_eq!(good(&store.stats().unwrap()), [true, true]);
    write(&store, 130..140);
    drop(store);
    // What has the newest writes is the disk itself.
    let copy = options().journal_dirs(["/mnt/b/journal"]);
    machine.disk.remove_dir_all(Path::new("/store/journal")).unwrap();
    crate::check(&machine.open(&copy).unwrap(), 140);
}

#[test]
fn a_disk_that_goes_while_the_store_is_open_is_waited_for() {
    let machine = Machine::new();
    let store = machine.open(&options()).unwrap();
    machine.unmount();
    // New files cannot be made where there is no directory.
    for n in 0..400u32 {
        store.insert_with((1000 + n).to_be_bytes(), vec![1; 700], Durability::Sync).unwrap();
    }
    assert_eq!(good(&store.stats().unwrap()), [true, false]);
    assert_eq!(testing::mend(&store), 0);
    check_not_mounted(&store.stats().unwrap());
    assert_eq!(machine.files(), 0);
    machine.mount();
    assert_eq!(testing::mend(&store), 1);
    crate::check(&store, 100);
}

#[test]
fn a_disk_that_was_replaced_gets_its_copy_by_itself() {
    let machine = Machine::new();
    machine.disk.remove_dir_all(Path::new("/mnt/b/journal")).unwrap();
    let store = machine.open(&options()).unwrap();
    assert_eq!(testing::mend(&store), 1);
    assert!(machine.files() > 1);
    machine.close(store);
    assert_eq!(good(&machine.open(&options()).unwrap().stats().unwrap()), [true, true]);
}

#[test]
fn a_copy_is_made_at_the_mount_point_where_the_user_says_so() {
    let machine = Machine::new();
    machine.unmount();
    let store = machine.open(&options().journal_dirs(["/store/journal"])).unwrap();
    machine.close(store);
    let store = machine.open(&both()).unwrap();
    assert_eq!(testing::mend(&store), 1);
    machine.close(store);
    assert_eq!(good(&machine.open(&options()).unwrap().stats().unwrap()), [true, true]);
    // What lay on the disk counts no more.
    machine.mount();
    let store = machine.open(&options()).unwrap();
    crate::check(&store, 100);
    assert_eq!(good(&store.stats().unwrap()), [true, false]);
}

/// A store of before the manifest told where a copy lies is told at its first opening.
#[test]
fn where_a_copy_lies_is_learned_from_one_that_is_there() {
    let (disk, factory) = (SimDisk::new(6), MemoryFactory::new());
    disk.create_dir_all(Path::new(POINT)).unwrap();
    let machine = Machine { disk, factory };
    // Not known yet to be another file system.
    let store = machine.open(&both()).unwrap();
    write(&store, 0..10);
    machine.close(store);
    machine.mount();
    machine.close(machine.open(&options()).unwrap());
    machine.unmount();
    let store = machine.open(&options()).unwrap();
    assert_eq!(testing::mend(&store), 0);
    check_not_mounted(&store.stats().unwrap());
    // Nor is a copy that was left behind there, by whatever made it, brought up to date where it does not belong.
    machine.disk.create_dir_all(Path::new("/mnt/b/journal")).unwrap();
    assert_eq!(testing::mend(&store), 0);
    assert_eq!(machine.files(), 0);
    machine.close(store);
    let refused = machine.open(&options().journal_dirs(["/mnt/b/journal"])).map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    assert!(refused.to_string().contains("not mounted"), "{refused}");
}
