//! A manifest out of a backup beside shards that have a newer one: nothing that the older one does not know of may be taken for
//! nothing.

use super::*;
use annulus::{Durability, ErrorKind, ShardOptions};
use std::sync::Mutex;

const MANIFEST: &str = "/store/MANIFEST";

struct Machine {
    disk: SimDisk,
    factory: MemoryFactory,
}

impl Machine {
    fn new() -> Machine {
        Machine { disk: SimDisk::new(12), factory: MemoryFactory::new() }
    }

    fn open(&self, options: &Options) -> annulus::Result<Store> {
        let (disk, factory) = (Arc::new(self.disk.clone()), Arc::new(self.factory.clone()));
        testing::open(Path::new("/store"), options, Seams { disk, factory, background: Background::Off })
    }

    fn killed(self, store: Store) -> Machine {
        let disk = self.disk.kill();
        drop(store);
        Machine { disk, factory: self.factory }
    }

    fn fork(&self) -> Machine {
        Machine { disk: self.disk.fork().kill(), factory: self.factory.fork() }
    }

    fn saved(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let files = self.disk.files().into_iter();
        files.filter(|(path, _)| path.parent() == Some(Path::new("/store"))).collect()
    }

    fn put_back(&self, saved: &[(PathBuf, Vec<u8>)]) {
        for (path, bytes) in saved {
            self.disk.damage(path, |now| now.clone_from(bytes)).unwrap();
        }
    }

    /// It does not open, says where the newer copy is, and leaves everything as it was.
    fn refuses(&self, options: &Options, at: &str) {
        let locks = |path: &Path| path.file_name().is_some_and(|name| name == "LOCK");
        let files = || self.disk.files().into_iter().filter(|(path, _)| !locks(path)).collect::<Vec<_>>();
        let before = files();
        for _ in 0..2 {
            let error = self.open(options).map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
            let text = error.to_string();
            assert!(text.contains(at) && text.contains(MANIFEST), "{text}");
        }
        assert!(files() == before);
    }
}

fn elsewhere(replicas: usize) -> Options {
    let shard = |n: u32| ShardOptions::new(format!("/data/{n}"));
    let journals = [PathBuf::from("/a"), PathBuf::from("/b")];
    let options = plain().replication_factor(replicas).virtual_nodes(64).journal_dirs(journals);
    options.shard(shard(0)).shard(shard(1))
}

/// The options that name nothing that the manifest has.
fn plain() -> Options {
    Options::new().memory_budget(8 << 20).journal_segment_bytes(64 << 10)
}

#[test]
fn a_manifest_that_is_older_than_the_shards_copies_is_refused_and_nothing_is_lost() {
    let machine = Machine::new();
    let store = machine.open(&elsewhere(2)).unwrap();
    store.insert_with("before", "value", Durability::Sync).unwrap();
    let machine = machine.killed(store);
    let saved = machine.saved();
    let store = machine.open(&plain()).unwrap();
    let orders = store.keyspace("orders").unwrap();
    orders.insert_with("order", "value", Durability::Sync).unwrap();
    drop(orders);
    let machine = machine.killed(store);
    machine.put_back(&saved);
    for options in [&plain(), &elsewhere(2)] {
        machine.fork().refuses(options, "/data/");
    }
    // What makes lost shards anew clears them first.
    let backup = testing::repository(Arc::new(machine.disk.clone()), Path::new("/backup")).unwrap();
    let (disk, factory) = (Arc::new(machine.disk.clone()), Arc::new(machine.factory.clone()));
    let seams = Seams { disk, factory, background: Background::Off };
    let error = testing::repair_from(&plain(), &backup, Path::new("/store"), &seams).unwrap_err();
    assert!(error.kind() == ErrorKind::Refused && error.to_string().contains("/data/"), "{error}");
    // One shard that says so is enough.
    let one = machine.fork();
    one.disk.remove_dir_all(Path::new("/data/0")).unwrap();
    one.refuses(&plain(), "/data/1");
    machine.refuses(&plain(), "/data/");
    machine.disk.remove_file(Path::new(MANIFEST)).unwrap();
    let store = machine.open(&elsewhere(2)).unwrap();
    assert_eq!(store.get("before").unwrap().as_deref(), Some(&b"value"[..]));
    let orders = store.keyspace("orders").unwrap();
    assert_eq!(orders.get("order").unwrap().as_deref(), Some(&b"value"[..]));
}

/// A shard that does not say so when it is asked first.
#[test]
fn a_newer_copy_that_can_be_read_only_later_is_not_passed_over() {
    let machine = Machine::new();
    drop(machine.open(&elsewhere(2)).unwrap());
    let saved = machine.saved();
    let store = machine.open(&plain()).unwrap();
    store.keyspace("orders").unwrap();
    let machine = machine.killed(store);
    machine.put_back(&saved);
    for times in 1..=3 {
        let machine = machine.fork();
        let refuses = || {
            for shard in ["/data/0", "/data/1"] {
                let identity = Path::new(shard).join("IDENTITY");
                machine.disk.inject(Fault::on(Operation::Read).at(move |path| path == identity).times(times));
            }
            let error = machine.open(&plain()).map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused, "{times}: {error}");
        };
        refuses();
        refuses();
    }
    // Nor where something has changed that would be written down.
    let from = |path: &Path| path.strip_prefix("/data/0").ok().map(Path::to_path_buf);
    for (path, bytes) in machine.disk.files() {
        if let Some(rest) = from(&path) {
            machine.disk.create_dir_durably(Path::new("/moved")).unwrap();
            machine.disk.replace(&Path::new("/moved").join(rest), &bytes).unwrap();
        }
    }
    machine.disk.remove_dir_all(Path::new("/data/0")).unwrap();
    let moved = plain().shard(ShardOptions::new("/moved")).shard(ShardOptions::new("/data/1"));
    let before = machine.disk.read(Path::new(MANIFEST)).unwrap();
    for times in 1..=3 {
        for shard in ["/moved", "/data/1"] {
            let identity = Path::new(shard).join("IDENTITY");
            machine
                .disk
                .inject(Fault::on(Operation::Read).at(move |path| path == identity).after(1).times(times));
        }
        let error = machine.open(&moved).map(drop).unwrap_err();
        assert_eq!(machine.disk.read(Path::new(MANIFEST)).unwrap(), before, "{times}: {error}");
        machine.disk.heal();
    }
    assert_eq!(machine.open(&moved).map(drop).unwrap_err().kind(), ErrorKind::Refused);
}

/// No shard says so while the store is opened; they can all be read but for that.
#[test]
fn a_newer_copy_that_cannot_be_read_at_all_is_not_written_over_by_the_opening() {
    let machine = Machine::new();
    drop(machine.open(&elsewhere(2)).unwrap());
    let saved = machine.saved();
    let store = machine.open(&plain()).unwrap();
    store.keyspace("orders").unwrap();
    let machine = machine.killed(store);
    machine.put_back(&saved);
    let before = identities(&machine);
    machine.disk.inject(Fault::on(Operation::Read).at(|path| path.ends_with("IDENTITY")));
    let opened = machine.open(&plain());
    assert!(identities(&machine) == before);
    let disk = machine.disk.kill();
    drop(opened);
    let machine = Machine { disk, factory: machine.factory };
    assert!(identities(&machine) == before);
    machine.refuses(&plain(), "/data/");
}

fn identities(machine: &Machine) -> Vec<(PathBuf, Vec<u8>)> {
    let files = machine.disk.files().into_iter();
    files.filter(|(path, _)| path.ends_with("IDENTITY")).collect()
}

/// As a newer Annulus writes them: the program was put back, and the manifest with it.
#[test]
fn copies_of_a_version_that_is_not_known_are_neither_passed_over_nor_written_over() {
    let machine = Machine::new();
    drop(machine.open(&elsewhere(2)).unwrap());
    let saved = machine.saved();
    let store = machine.open(&plain()).unwrap();
    store.keyspace("orders").unwrap();
    let machine = machine.killed(store);
    let newer = |bytes: &mut Vec<u8>| {
        bytes[8] = 9;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&bytes[8..16]);
        crc.update(&bytes[20..]);
        let crc = crc.finalize().to_le_bytes();
        bytes[16..20].copy_from_slice(&crc);
    };
    for (number, shards) in [&["/data/0", "/data/1"][..], &["/data/1"]].iter().enumerate() {
        for (manifest, late) in [("older", 0), ("older", 1), ("older", 2), ("gone", 0), ("its own", 0)] {
            let machine = machine.fork();
            for shard in *shards {
                machine.disk.damage(&Path::new(shard).join("IDENTITY"), newer).unwrap();
            }
            match manifest {
                "older" => machine.put_back(&saved),
                "gone" => machine.disk.remove_file(Path::new(MANIFEST)).unwrap(),
                _ => {}
            }
            let before = identities(&machine);
            for _ in 0..2 {
                for shard in ["/data/0", "/data/1"] {
                    let identity = Path::new(shard).join("IDENTITY");
                    let unread = Fault::on(Operation::Read).at(move |path| path == identity).times(late);
                    (late > 0).then(|| machine.disk.inject(unread));
                }
                let error = machine.open(&elsewhere(2)).map(drop).unwrap_err();
                let when = format!("{number}, {manifest}, {late}: {error}");
                let kinds = [ErrorKind::Unsupported, ErrorKind::Refused];
                assert!(kinds.contains(&error.kind()) && error.to_string().contains("/data/"), "{when}");
                assert!(identities(&machine) == before, "{when}");
            }
        }
    }
}

/// What there is of copies is as old as the manifest, and the journal is not.
#[test]
fn a_write_to_a_keyspace_that_no_manifest_knows_is_not_passed_over() {
    let machine = Machine::new();
    drop(machine.open(&elsewhere(2)).unwrap());
    let files = |machine: &Machine| machine.disk.files().into_iter();
    let small = |path: &Path| {
        let name = path.file_name().unwrap_or_default();
        name == "IDENTITY" || name == "MANIFEST"
    };
    let saved: Vec<_> = files(&machine).filter(|(path, _)| small(path)).collect();
    let store = machine.open(&plain()).unwrap();
    let orders = store.keyspace("orders").unwrap();
    orders.insert_with("order", "value", Durability::Sync).unwrap();
    drop(orders);
    let machine = machine.killed(store);
    let newest: Vec<_> = files(&machine).filter(|(path, _)| small(path)).collect();
    machine.put_back(&saved);
    for _ in 0..2 {
        let error = machine.open(&plain()).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
        assert!(error.to_string().contains("keyspace 1"), "{error}");
    }
    machine.put_back(&newest);
    let store = machine.open(&plain()).unwrap();
    let orders = store.keyspace("orders").unwrap();
    assert_eq!(orders.get("order").unwrap().as_deref(), Some(&b"value"[..]));
}

/// The manifest could not be written, nor the old one again: what is in memory is of a number that no file has.
#[test]
fn a_shard_is_given_no_manifest_that_is_not_written() {
    let mut world = World::new(options(3, 2));
    world.write(50);
    world.store.flush().unwrap();
    world.disk.inject(Fault::on(Operation::SyncDir).at(|path| path == Path::new("/store")).times(1));
    world
        .disk
        .inject(Fault::on(Operation::Rename).at(|path| path.starts_with("/store/MANIFEST.tmp")).after(1));
    world.store.keyspace("orders").map(drop).unwrap_err();
    testing::fail_shard(&world.store, ShardId(1));
    world.disk.remove_dir_all(&world.dir(1)).unwrap();
    world.store.repair(ShardId(1)).unwrap();
    for _ in 0..50 {
        drop(testing::heal_step(&world.store));
    }
    let identity = world.disk.read(&world.dir(1).join("IDENTITY")).unwrap().unwrap();
    assert!(String::from_utf8_lossy(&identity).contains("\"generation\":"));
    let World { disk, factory, options, store, .. } = world;
    let disk = disk.kill();
    drop(store);
    open(&disk, &factory, &options);
}

/// The store's directory was lost while a shard was away that alone had the newest copy: the store goes on by what was taken, and is not refused
/// when that shard is back.
#[test]
fn a_manifest_that_was_taken_from_a_shard_counts_more_than_what_was_away() {
    let machine = Machine::new();
    let store = machine.open(&elsewhere(2)).unwrap();
    store.insert_with("before", "value", Durability::Sync).unwrap();
    machine.disk.inject(Fault::on_any_change().at(|path| path.starts_with("/data/0/IDENTITY.tmp")));
    for name in ["one", "two", "three"] {
        store.keyspace(name).unwrap();
    }
    let machine = machine.killed(store);
    let newest = machine.disk.read(Path::new(MANIFEST)).unwrap().unwrap();
    machine.disk.remove_file(Path::new(MANIFEST)).unwrap();
    let away = |path: &Path| path.starts_with("/data/1");
    machine.disk.inject(Fault::on(Operation::Look).at(away));
    machine.disk.inject(Fault::on(Operation::Read).at(away));
    machine.disk.inject(Fault::on_any_change().at(away));
    let store = machine.open(&elsewhere(2)).unwrap();
    store.insert_with("after", "value", Durability::Sync).unwrap();
    let machine = machine.killed(store);
    let taken = machine.disk.read(Path::new(MANIFEST)).unwrap().unwrap();
    let store = machine.open(&plain()).unwrap();
    assert!(store.contains_key("before").unwrap() && store.contains_key("after").unwrap());
    while testing::heal_step(&store).unwrap() {}
    let machine = machine.killed(store);
    // It is the one that was lost that is older now, however much had been written to it.
    machine.put_back(&[(MANIFEST.into(), newest)]);
    machine.refuses(&plain(), "/data/");
    machine.put_back(&[(MANIFEST.into(), taken)]);
    assert!(machine.open(&plain()).unwrap().contains_key("after").unwrap());
}

/// What the manifest says of a change that was only being prepared is over: the shard that was to join holds records.
#[test]
fn a_shard_that_has_joined_is_not_cleared_by_a_manifest_of_before() {
    let machine = Machine::new();
    let store = machine.open(&elsewhere(1)).unwrap();
    (0..200u32).for_each(|n| _ = store.insert(n.to_be_bytes(), n.to_be_bytes()).unwrap());
    let prepared: Arc<Mutex<Option<Vec<u8>>>> = Arc::default();
    let seen = prepared.clone();
    machine.disk.watch(move |disk| {
        let Ok(Some(manifest)) = disk.read(Path::new(MANIFEST)) else { return };
        if String::from_utf8_lossy(&manifest).contains("\"preparing\"") {
            *seen.lock().unwrap() = Some(manifest);
        }
    });
    let joins = ShardOptions::new("/data/2");
    store.apply(store.plan().add_shard(joins).preview().unwrap()).unwrap();
    while testing::change_step(&store).unwrap() {}
    machine.disk.watch(|_| ());
    let machine = machine.killed(store);
    let prepared = prepared.lock().unwrap().take().unwrap();
    machine.put_back(&[(MANIFEST.into(), prepared)]);
    machine.refuses(&plain(), "/data/");
    // However little of the others is there.
    let alone = machine.fork();
    for shard in ["/data/0", "/data/1"] {
        alone.disk.remove_dir_all(Path::new(shard)).unwrap();
    }
    alone.refuses(&plain(), "/data/2");
    machine.disk.remove_file(Path::new(MANIFEST)).unwrap();
    let named = elsewhere(1).shard(ShardOptions::new("/data/2"));
    let store = machine.open(&named).unwrap();
    for n in 0..200u32 {
        assert_eq!(store.get(n.to_be_bytes()).unwrap().as_deref(), Some(&n.to_be_bytes()[..]), "{n}");
    }
}

/// Every shard has a copy; but what cannot be read now may be readable later, and says more than they.
#[test]
fn a_manifest_that_cannot_be_read_is_told_with_the_copy_that_could_take_its_place() {
    for options in [elsewhere(2), options(2, 2)] {
        let machine = Machine::new();
        let store = machine.open(&options).unwrap();
        let orders = store.keyspace("orders").unwrap();
        orders.insert_with("order", "value", Durability::Sync).unwrap();
        drop(orders);
        let machine = machine.killed(store);
        machine.disk.inject(Fault::on(Operation::Read).at(|path| path == Path::new(MANIFEST)));
        let error = machine.open(&options).map(drop).unwrap_err();
        assert_eq!((error.kind(), error.path()), (ErrorKind::Io, Some(Path::new(MANIFEST))), "{error}");
        assert!(error.to_string().contains("writing number 2"), "{error}");
        machine.disk.heal();
        let other = machine.fork();
        assert!(other.open(&options).unwrap().keyspace("orders").unwrap().contains_key("order").unwrap());
        machine.disk.remove_file(Path::new(MANIFEST)).unwrap();
        assert!(machine.open(&options).unwrap().keyspace("orders").unwrap().contains_key("order").unwrap());
    }
}

/// The copy of a shard that was away for long is taken, and the opening is refused for another reason: it has not come to count more than what does not
/// answer yet.
#[test]
fn a_manifest_that_was_taken_by_an_opening_that_was_refused_counts_no_more_than_before() {
    let machine = Machine::new();
    drop(machine.open(&elsewhere(2)).unwrap());
    let store = machine.open(&plain()).unwrap();
    machine.disk.inject(Fault::on_any_change().at(|path| path.starts_with("/data/0/IDENTITY.tmp")));
    let orders = store.keyspace("orders").unwrap();
    orders.insert_with("order", "value", Durability::Sync).unwrap();
    drop(orders);
    let machine = machine.killed(store);
    machine.disk.remove_file(Path::new(MANIFEST)).unwrap();
    let silent = |path: &Path| path.starts_with("/data/1");
    machine.disk.inject(Fault::on(Operation::Look).at(silent));
    machine.disk.inject(Fault::on(Operation::Read).at(silent));
    machine.disk.inject(Fault::on_any_change().at(silent));
    // The journal has a write to a keyspace of which that copy knows nothing.
    let error = machine.open(&elsewhere(2)).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
    machine.disk.heal();
    let error = machine.open(&elsewhere(2)).map(drop);
    if let Err(error) = error {
        assert!(error.kind() == ErrorKind::Refused && error.to_string().contains("/data/1"), "{error}");
        machine.disk.remove_file(Path::new(MANIFEST)).unwrap();
    }
    let store = machine.open(&elsewhere(2)).unwrap();
    let orders = store.keyspace("orders").unwrap();
    assert_eq!(orders.get("order").unwrap().as_deref(), Some(&b"value"[..]));
}

/// The shards of the store that goes on lie where the manifest of the other one says; that names them where they are.
#[test]
fn a_copy_of_a_store_opens_beside_the_store_that_goes_on() {
    let at = |dir: &str| {
        let shards = [0, 1].map(|n| ShardOptions::new(format!("{dir}/{n}")));
        let [first, second] = shards;
        plain().replication_factor(2).virtual_nodes(64).shard(first).shard(second)
    };
    let machine = Machine::new();
    let store = machine.open(&at("/data")).unwrap();
    store.insert_with("before", "value", Durability::Sync).unwrap();
    store.close().unwrap();
    for (path, bytes) in machine.disk.files() {
        for (from, to) in [("/store", "/copied/store"), ("/data", "/copied/data")] {
            if let Ok(rest) = path.strip_prefix(from) {
                let path = Path::new(to).join(rest);
                machine.disk.create_dir_durably(path.parent().unwrap()).unwrap();
                machine.disk.replace(&path, &bytes).unwrap();
            }
        }
    }
    let store = machine.open(&at("/data")).unwrap();
    store.keyspace("orders").unwrap();
    let before: Vec<_> =
        machine.disk.files().into_iter().filter(|(path, _)| path.starts_with("/data")).collect();
    let (disk, factory) = (Arc::new(machine.disk.clone()), Arc::new(machine.factory.clone()));
    let seams = Seams { disk, factory, background: Background::Off };
    let copied = testing::open(Path::new("/copied/store"), &at("/copied/data"), seams);
    if let Err(error) = &copied {
        assert_ne!(error.kind(), ErrorKind::Refused, "{error}");
    }
    let after: Vec<_> =
        machine.disk.files().into_iter().filter(|(path, _)| path.starts_with("/data")).collect();
    assert!(before == after);
}
