//! Making, listing and dropping keyspaces.
//!
//! Invariants: a keyspace exists from the moment its manifest is durable until after the one that drops it is; up to which write it was there is
//! written down before there is another of its name.

use crate::error::{Error, ErrorKind, Result};
use crate::ids::{KeyspaceId, Seq};
use crate::manifest::{DEFAULT_KEYSPACE, check_keyspace_name};
use crate::state::State;
use crate::state::archives::Dropped;
use std::sync::Arc;

/// The number of the keyspace of that name, made if it does not exist.
pub fn open(state: &Arc<State>, name: &str) -> Result<KeyspaceId> {
    state.check_open()?;
    check_keyspace_name(name)?;
    // One that is there is found without waiting for who changes the manifest, since a disk may hang meanwhile; one that is only being made
    // is waited for.
    if let Some(entry) = state.written().keyspace(name)
        && state.check_keyspace(entry.id).is_ok()
    {
        return Ok(entry.id);
    }
    let name = name.to_owned();
    state.limited("make a keyspace", move |state| make(state, &name))
}

fn make(state: &State, name: &str) -> Result<KeyspaceId> {
    let mut manifest = state.manifest.lock();
    if let Some(entry) = manifest.keyspace(name) {
        return Ok(entry.id);
    }
    state.archives.write_drops()?;
    let mut next = manifest.clone();
    let id = next.add_keyspace(name)?;
    state.replace_manifest(&mut manifest, next)?;
    state.keyspace_added(id);
    Ok(id)
}

/// The names of all keyspaces, in order.
pub fn list(state: &State) -> Result<Vec<String>> {
    state.check_open()?;
    let manifest = state.written();
    let mut names: Vec<String> =
        manifest.keyspaces.iter().filter(|k| !k.dropped).map(|k| k.name.clone()).collect();
    names.sort_unstable();
    Ok(names)
}

/// Drops a keyspace and all that is in it. Its records leave the shards later, in the background.
pub fn drop(state: &Arc<State>, name: &str) -> Result<()> {
    state.check_open()?;
    if name == DEFAULT_KEYSPACE {
        return Err(
            Error::invalid("the default keyspace cannot be dropped").remedy("remove its records instead")
        );
    }
    let name = name.to_owned();
    state.limited("drop the keyspace", move |state| strike(state, &name))
}

fn strike(state: &State, name: &str) -> Result<()> {
    let mut manifest = state.manifest.lock();
    let mut next = manifest.clone();
    let entry = next.keyspaces.iter_mut().find(|k| k.name == name && !k.dropped);
    let Some(entry) = entry else {
        return Err(Error::new(ErrorKind::NotFound, format!("there is no keyspace named {name:?}")));
    };
    entry.dropped = true;
    let id = entry.id;
    // Writers go on until the manifest has it, since it may not come to have it: nobody knows before what the log will have come to.
    state.archives.dropping(Dropped { id, name: name.to_owned(), at: Seq::MAX })?;
    state.replace_manifest(&mut manifest, next).inspect_err(|error| {
        // Where the old manifest could not be written again, the next opening finds the one or the other, and knows then.
        if error.kind() != ErrorKind::Poisoned {
            state.archives.not_dropped(id);
        }
    })?;
    // Still under the manifest's lock: whoever tells an archive what was dropped waits for that.
    state.archives.dropped(id, state.keyspace_dropped(id));
    state.signals.want_flush();
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::disk::SimDisk;
    use crate::engine::MemoryFactory;
    use crate::ids::ShardId;
    use crate::options::Options;
    use crate::state::{Background, Seams};
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    /// The manifest is being changed, and the disk of a shard that is given its copy hangs: who asks what there is is not held up by that, nor is
    /// the thread that flushes, which looks whether there is something to be purged.
    #[test]
    fn what_there_is_is_told_while_the_manifest_is_being_changed() {
        let factory = Arc::new(MemoryFactory::new());
        let seams = Seams { disk: Arc::new(SimDisk::new(1)), factory, background: Background::Off };
        let options = Options::new().shards(2).replication_factor(1).memory_budget(8 << 20);
        let store = crate::testing::open(Path::new("/store"), &options, seams).unwrap();
        let notes = store.keyspace("notes").unwrap().id();
        let changing = store.handle.state.manifest.lock();
        let (tell, told) = channel();
        let asking = std::thread::spawn({
            let store = store.clone();
            move || {
                let names = store.list_keyspaces().unwrap();
                let shards = store.topology().shards.len();
                let plan = store.plan().set_replication_factor(2).preview().unwrap();
                let purged = crate::testing::purge(&store).unwrap();
                let found = (names, store.keyspace("notes").unwrap().id(), shards, purged);
                drop(tell.send((found, plan)));
            }
        });
        let found = told.recv_timeout(Duration::from_secs(20));
        drop(changing);
        asking.join().unwrap();
        let ((names, id, shards, purged), plan) = found.unwrap();
        assert_eq!((names, id), (vec!["default".to_owned(), "notes".to_owned()], notes));
        assert_eq!((shards, purged, plan.shards().len()), (2, false, 2));
        // What was dropped is not found there any more, whatever the others are at.
        store.drop_keyspace("notes").unwrap();
        assert_eq!(store.list_keyspaces().unwrap(), ["default"]);
        assert_ne!(store.keyspace("notes").unwrap().id(), notes);
    }

    /// The manifest says already that it is dropped, and the copies of that are on their way to the shards: writes to the keyspace are still
    /// acknowledged, and who reads it is told of no drop.
    #[test]
    fn of_a_keyspace_that_still_counts_as_there_nothing_is_purged() {
        let factory = Arc::new(MemoryFactory::new());
        let seams = Seams { disk: Arc::new(SimDisk::new(1)), factory, background: Background::Off };
        let options = Options::new().shards(2).replication_factor(2).memory_budget(8 << 20);
        let store = crate::testing::open(Path::new("/store"), &options, seams).unwrap();
        let (notes, gone) = (store.keyspace("notes").unwrap(), store.keyspace("gone").unwrap());
        for n in 0..10_u8 {
            notes.insert([n], "note").unwrap();
            gone.insert([n], "gone").unwrap();
        }
        store.flush().unwrap();
        let state = &store.handle.state;
        let mut manifest = state.manifest.lock();
        let mut next = manifest.clone();
        next.keyspaces.iter_mut().filter(|k| k.id == notes.id()).for_each(|k| k.dropped = true);
        state.replace_manifest(&mut manifest, next).unwrap();
        assert!(!crate::testing::purge_part(&store).unwrap());
        assert!((0..10).all(|n| notes.get([n]).unwrap().as_deref() == Some(b"note")));
        assert_eq!(notes.iter().count(), 10);
        state.keyspace_dropped(notes.id());
        drop(manifest);
        let held = || {
            let shards = [ShardId(0), ShardId(1)].into_iter();
            shards
                .map(|shard| crate::testing::held_by(&store, notes.id(), shard).unwrap().len())
                .sum::<usize>()
        };
        assert_eq!(held(), 20);
        assert!(crate::testing::purge(&store).unwrap());
        assert_eq!((held(), gone.iter().count()), (0, 10));
        assert!(state.written().keyspaces.iter().all(|k| k.id != notes.id()));
    }
}
