//! Annulus with two replicas: stores in several states, and what must be left of one of whose files one is damaged.

use super::records::{Found, RECORDS, key, read, value};
use crate::Result;
use annulus::{Durability, Options, Store};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SHARDS: usize = 3;
/// How long a store may take to make itself whole.
const PATIENCE: Duration = Duration::from_secs(150);
/// What is in the journal alone, in a store that did not close.
const UNFLUSHED: u32 = RECORDS / 3;

/// A segment of the journal that is shorter has no frames, and nothing to be named in it.
const HEADERS: u64 = 4096;

/// States that a store is damaged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Closed in order.
    Closed,
    /// The process died; a third of the records are in the journal alone.
    Died,
    /// The same, with the journal in two directories.
    Mirrored,
}

impl State {
    pub const ALL: [State; 3] = [State::Closed, State::Died, State::Mirrored];

    pub fn name(self) -> &'static str {
        match self {
            State::Closed => "closed",
            State::Died => "died",
            State::Mirrored => "mirrored",
        }
    }

    pub fn of(name: &str) -> Result<State> {
        Ok(State::ALL.into_iter().find(|state| state.name() == name).ok_or("no such state")?)
    }

    fn open(self, dir: &Path) -> annulus::Result<Store> {
        let options = Options::new()
            .shards(SHARDS)
            .replication_factor(2)
            .virtual_nodes(64)
            .memory_budget(8 << 20)
            .journal_segment_bytes(256 << 10);
        match self {
            State::Mirrored => options.journal_dirs([dir.join("journal-a"), dir.join("journal-b")]),
            _ => options,
        }
        .open(dir)
    }
}

/// Makes a store with all records in it, or (`again`) opens it once more and leaves it in the same state. Does not return where the
/// store is not to be closed.
pub fn make(state: State, dir: &Path, again: bool) -> Result<()> {
    let store = state.open(dir)?;
    if !again {
        for n in 0..RECORDS {
            if n == RECORDS - UNFLUSHED {
                store.flush()?;
                store.scrub()?.wait()?;
            }
            store.insert(key(n), value(n, 0))?;
        }
    }
    store.sync()?;
    if state == State::Closed {
        store.close()?;
        return Ok(());
    }
    // As if it were killed: nothing is closed or dropped.
    std::process::exit(0);
}

/// Which file of a store is damaged.
pub struct Class {
    pub name: &'static str,
    pub state: State,
    /// Whether a file, named by its path in the store, is of the class.
    pub has: fn(&str) -> bool,
    /// An error that names the file is right as well: there is no other copy of it.
    pub may_refuse: bool,
}

fn in_shard(path: &str, name: &str) -> bool {
    path.starts_with("shards/") && path.rsplit('/').next() == Some(name)
}

fn is_segment(path: &str) -> bool {
    path.starts_with("journal") && path.ends_with(".seg")
}

pub const CLASSES: [Class; 10] = [
    Class {
        name: "a shard's pages",
        state: State::Closed,
        has: |path| in_shard(path, "pages"),
        may_refuse: false,
    },
    Class {
        name: "a shard's index (sled's `db`)",
        state: State::Closed,
        has: |path| in_shard(path, "db"),
        may_refuse: false,
    },
    Class {
        name: "a shard's index (sled's `conf`, snapshots)",
        state: State::Closed,
        has: |path| in_shard(path, "conf") || path.contains("/index/snap"),
        may_refuse: false,
    },
    Class {
        name: "any file of a shard, not closed",
        state: State::Died,
        has: |path| path.starts_with("shards/"),
        may_refuse: false,
    },
    Class { name: "SEAL", state: State::Closed, has: |path| in_shard(path, "SEAL"), may_refuse: false },
    Class {
        name: "IDENTITY (a shard's copy of the manifest)",
        state: State::Closed,
        has: |path| in_shard(path, "IDENTITY"),
        may_refuse: false,
    },
    Class { name: "MANIFEST", state: State::Closed, has: |path| path == "MANIFEST", may_refuse: false },
    Class {
        name: "LOCK, SCRUB, MIRRORS",
        state: State::Mirrored,
        has: |path| path == "LOCK" || path == "SCRUB" || path.ends_with("MIRRORS"),
        may_refuse: false,
    },
    Class { name: "journal, one of two copies", state: State::Mirrored, has: is_segment, may_refuse: false },
    Class { name: "journal, the only copy", state: State::Died, has: is_segment, may_refuse: true },
];

/// Opens what was damaged, and looks at all that is promised. `damaged`: the file that was, and a copy of it as it had been.
pub fn look(state: State, dir: &Path, damaged: &Path, original: &Path) -> (Found, String) {
    let refused = match state.open(dir) {
        Ok(store) => return judge(state, dir, store),
        Err(error) => error,
    };
    // That is no way out unless it says where, and changes nothing.
    let is_gone = !damaged.exists();
    let named = refused.path().is_some_and(|path| {
        // What is not there is missed by what stands beside it.
        path == damaged || is_gone && (damaged.parent() == Some(path) || damaged.parent() == path.parent())
    });
    let is_short = damaged.metadata().map_or(true, |about| about.len() < HEADERS);
    if !named || refused.byte_offset().is_none() && !is_gone && !is_short {
        return (Found::Dead, format!("the error does not name the file and the byte: {refused:?}"));
    }
    let again = std::fs::copy(original, damaged).map_err(|e| e.to_string());
    match again.and_then(|_| state.open(dir).map_err(|e| format!("{e:?}"))).map(|s| judge(state, dir, s)) {
        Ok((Found::Whole, _)) => (Found::Error, format!("{refused:?}")),
        Ok((found, text)) => (found, format!("after a refusal ({refused}), with the file put back: {text}")),
        Err(error) => (Found::Dead, format!("refused ({refused}), and with the file put back: {error}")),
    }
}

/// Everything is read, by gets and by a scan; the store makes itself whole; every copy is there; it can be written to, closed and opened.
fn judge(state: State, dir: &Path, store: Store) -> (Found, String) {
    let mut worst = contents(&store);
    let note = |worst: &mut (Found, String), next: (Found, String)| {
        if next.0 < worst.0 {
            *worst = next;
        }
    };
    let broken = |error: String| (Found::Error, error);
    match make_whole(&store) {
        Ok(()) => note(&mut worst, contents(&store)),
        Err(error) => note(&mut worst, broken(format!("does not heal: {error}"))),
    }
    let last = key(RECORDS);
    let written = store.insert_with(last, b"new", Durability::Sync).and_then(|_| store.close());
    drop(store);
    match written.and_then(|()| state.open(dir)) {
        Ok(store) => {
            note(&mut worst, contents_but(&store, 1));
            match store.get(last) {
                Ok(Some(found)) if found[..] == *b"new" => {}
                other => note(&mut worst, (Found::Missing, format!("what was written since: {other:?}"))),
            }
            if let Err(error) = store.close() {
                note(&mut worst, broken(format!("does not close: {error:?}")));
            }
        }
        Err(error) => note(&mut worst, broken(format!("written to, closed and opened again: {error:?}"))),
    }
    worst
}

fn contents(store: &Store) -> (Found, String) {
    contents_but(store, 0)
}

/// What gets and a scan find; `more`: records that came later.
fn contents_but(store: &Store, more: usize) -> (Found, String) {
    let gets = read(|key| store.get(key).map(|v| v.map(|v| v.to_vec())).map_err(|e| format!("{e:?}")));
    let mut scanned = 0;
    for item in store.iter() {
        match item {
            Ok(_) => scanned += 1,
            Err(error) => return gets.min((Found::Error, format!("a scan: {error:?}"))),
        }
    }
    match scanned.cmp(&(RECORDS as usize + more)) {
        std::cmp::Ordering::Equal => gets,
        std::cmp::Ordering::Less => gets.min((Found::Missing, format!("a scan has {scanned} records"))),
        std::cmp::Ordering::Greater => gets.min((Found::Wrong, format!("a scan has {scanned} records"))),
    }
}

fn make_whole(store: &Store) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let wait = || -> Result<()> {
        while !store.health()?.is_good() {
            if Instant::now() > deadline {
                return Err(format!("{:?}", store.health()?).into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    };
    wait()?;
    let report = store.scrub()?.wait()?.ok_or("the scrub was cancelled")?;
    if report.pages_left > 0 || report.records_unsettled > 0 {
        return Err(format!("{report:?}").into());
    }
    wait()?;
    store.flush()?;
    let (ring, deadline) = (store.ring(), Instant::now() + PATIENCE);
    for shard in store.health()?.shards {
        let due = (0..RECORDS).filter(|n| ring.preference_list(key(*n)).contains(&shard.id)).count();
        let held = annulus::testing::held_by(store, annulus::KeyspaceId(0), shard.id)?.len();
        if held != due {
            return Err(format!("shard {} holds {held} records, {due} are its", shard.id).into());
        }
    }
    // A copy of the journal that was left out is taken in again.
    while store.stats()?.journal.mirrors.iter().any(|mirror| !mirror.good) {
        if Instant::now() > deadline {
            return Err(format!("{:?}", store.stats()?.journal.mirrors).into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// The files of a class in a store.
pub fn files(class: &Class, dir: &Path) -> Result<Vec<PathBuf>> {
    let all = crate::trials::files(dir)?;
    let is_of = |path: &&PathBuf| {
        let name = path.strip_prefix(dir).map(|path| path.to_string_lossy().into_owned());
        let length = path.metadata().map_or(0, |about| about.len());
        length > 0 && name.is_ok_and(|name| (class.has)(&name))
    };
    Ok(all.iter().filter(is_of).cloned().collect())
}
