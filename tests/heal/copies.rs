//! The shards' copies of the manifest, which are all that is left of it when the store's directory is lost.

use super::*;

const DIR: &str = "/store";
const NAMES: [&str; 3] = ["first", "second", "third"];

fn open_in(dir: &Path, disk: &SimDisk, factory: &MemoryFactory, options: &Options) -> Store {
    let seams = Seams {
        disk: Arc::new(disk.clone()),
        factory: Arc::new(factory.clone()),
        background: Background::Off,
    };
    testing::open(dir, options, seams).unwrap()
}

fn shard(number: u32) -> PathBuf {
    Path::new(DIR).join(format!("shards/{number:04}"))
}

fn read(disk: &SimDisk, path: &Path) -> Vec<u8> {
    disk.read(path).unwrap().unwrap_or_default()
}

/// How often the manifest had been written of which this is a copy, or which this is; none: it is no copy.
fn generation(bytes: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(bytes);
    let (_, rest) = text.split_once("\"generation\":")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn copies(disk: &SimDisk) -> Vec<Option<u64>> {
    (0..3).map(|number| generation(&read(disk, &shard(number).join("IDENTITY")))).collect()
}

fn manifest(disk: &SimDisk) -> Option<u64> {
    generation(&read(disk, &Path::new(DIR).join("MANIFEST")))
}

/// A store of three shards and a keyspace, which has been closed.
fn closed() -> (SimDisk, MemoryFactory, Options) {
    let (disk, factory, options) = (SimDisk::new(12), MemoryFactory::new(), options(3, 2));
    let store = open(&disk, &factory, &options);
    store.keyspace(NAMES[0]).unwrap().insert(b"key", b"value").unwrap();
    store.close().unwrap();
    assert_eq!(copies(&disk), [manifest(&disk); 3]);
    (disk, factory, options)
}

/// The process dies anywhere in a change of the manifest; the next opening gives the shards what they lack of it, so that nothing
/// of the change is lost with the store's own file afterwards.
#[test]
fn copies_that_a_kill_left_behind_are_brought_up_to_date_by_the_next_opening() {
    let (disk, factory, options) = closed();
    let mut behind = 0;
    for stop in 0.. {
        let (disk, factory) = (disk.fork().kill(), factory.fork());
        let store = open(&disk, &factory, &options);
        disk.stop_after(stop);
        let made = store.keyspace(NAMES[1]).map(drop);
        let ended = !disk.stopped();
        drop(store);
        let disk = disk.kill();
        let there = keyspaces(&disk).contains(&NAMES[1]);
        assert!(made.is_err() || there, "{stop}: the keyspace was acknowledged");
        behind += u32::from(there && copies(&disk).iter().all(|copy| *copy < manifest(&disk)));
        let store = open(&disk, &factory, &options);
        assert_eq!(copies(&disk), [manifest(&disk); 3], "{stop}");
        store.close().unwrap();
        // What nothing was changed in since is not written again.
        let files: Vec<Vec<u8>> = (0..3).map(|number| read(&disk, &shard(number).join("IDENTITY"))).collect();
        disk.inject(Fault::on_any_change().at(|path| path.to_string_lossy().contains("IDENTITY")));
        open(&disk, &factory, &options).close().unwrap();
        disk.heal();
        assert!((0..3).map(|number| read(&disk, &shard(number).join("IDENTITY"))).eq(files));
        disk.remove_file(&Path::new(DIR).join("MANIFEST")).unwrap();
        let store = open(&disk, &factory, &options);
        assert_eq!(keyspaces(&disk).contains(&NAMES[1]), there, "{stop}: the change is lost");
        assert_eq!(store.keyspace(NAMES[0]).unwrap().get(b"key").unwrap().as_deref(), Some(&b"value"[..]));
        store.close().unwrap();
        if ended {
            break;
        }
    }
    assert!(behind > 0, "no kill came between the manifest and its copies");
}

/// The keyspaces that the manifest names.
fn keyspaces(disk: &SimDisk) -> Vec<&'static str> {
    let text = read(disk, &Path::new(DIR).join("MANIFEST"));
    let text = String::from_utf8_lossy(&text).into_owned();
    NAMES.into_iter().filter(|name| text.contains(&format!("\"{name}\""))).collect()
}

/// A shard that has lost its copy gets one again; of an identity that is older than copies, too.
#[test]
fn a_copy_that_is_missing_is_written_by_the_next_opening() {
    let (disk, factory, options) = closed();
    disk.remove_file(&shard(1).join("IDENTITY")).unwrap();
    let store = open(&disk, &factory, &options);
    assert_eq!(copies(&disk), [manifest(&disk); 3]);
    store.close().unwrap();
}

/// Where a shard's directory is another's, or away, nothing is written to it or made in its place, however far behind it is.
#[test]
fn copies_are_written_only_to_the_stores_own_shards() {
    let (disk, factory, options) = closed();
    let store = open(&disk, &factory, &options);
    store.keyspace(NAMES[1]).unwrap();
    store.close().unwrap();
    let newest = copies(&disk);
    // Of another store, and away.
    let gone = disk.fork().kill();
    open_in(Path::new("/other"), &gone, &MemoryFactory::new(), &options).close().unwrap();
    let theirs = read(&gone, Path::new("/other/shards/0001/IDENTITY"));
    let of_another = gone.fork().kill();
    of_another.damage(&shard(1).join("IDENTITY"), |bytes| *bytes = theirs.clone()).unwrap();
    let change_without = |disk: &SimDisk, factory: &MemoryFactory| {
        let store = open(disk, factory, &options);
        assert!(matches!(store.health().unwrap().shards[1].health, Health::Offline(_)));
        store.keyspace(NAMES[2]).unwrap();
        store.close().unwrap();
        open(disk, factory, &options).close().unwrap();
    };
    change_without(&of_another, &factory.fork());
    assert_eq!(read(&of_another, &shard(1).join("IDENTITY")), theirs);
    let here = |path: &Path| path.starts_with(shard(1));
    gone.inject(Fault::on(Operation::Look).at(here).error(std::io::ErrorKind::NotFound));
    gone.inject(Fault::on_any_change().at(here));
    change_without(&gone, &factory.fork());
    gone.heal();
    assert_eq!(copies(&gone), [manifest(&gone), newest[1], manifest(&gone)]);
    // And when it is back.
    open(&gone, &factory.fork(), &options).close().unwrap();
    assert_eq!(copies(&gone), [manifest(&gone); 3]);
}
