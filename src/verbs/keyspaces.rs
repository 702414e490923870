//! Making, listing and dropping keyspaces.
//!
//! Invariant: a keyspace exists from the moment its manifest is durable until the moment the manifest that drops it is.

use crate::error::{Error, ErrorKind, Result};
use crate::ids::KeyspaceId;
use crate::manifest::{DEFAULT_KEYSPACE, check_keyspace_name};
use crate::state::State;
use crate::state::archives::Dropped;

/// The number of the keyspace of that name, made if it does not exist.
pub fn open(state: &State, name: &str) -> Result<KeyspaceId> {
    state.check_open()?;
    check_keyspace_name(name)?;
    let mut manifest = state.manifest.lock();
    if let Some(entry) = manifest.keyspace(name) {
        return Ok(entry.id);
    }
    let mut next = manifest.clone();
    let id = next.add_keyspace(name)?;
    state.replace_manifest(&mut manifest, next)?;
    state.keyspace_added(id);
    Ok(id)
}

/// The names of all keyspaces, in order.
pub fn list(state: &State) -> Result<Vec<String>> {
    state.check_open()?;
    let manifest = state.manifest.lock();
    let mut names: Vec<String> =
        manifest.keyspaces.iter().filter(|k| !k.dropped).map(|k| k.name.clone()).collect();
    names.sort_unstable();
    Ok(names)
}

/// Drops a keyspace and all that is in it. Its records leave the shards later, in the background.
pub fn drop(state: &State, name: &str) -> Result<()> {
    state.check_open()?;
    if name == DEFAULT_KEYSPACE {
        return Err(
            Error::invalid("the default keyspace cannot be dropped").remedy("remove its records instead")
        );
    }
    let mut manifest = state.manifest.lock();
    let mut next = manifest.clone();
    let entry = next.keyspaces.iter_mut().find(|k| k.name == name && !k.dropped);
    let Some(entry) = entry else {
        return Err(Error::new(ErrorKind::NotFound, format!("there is no keyspace named {name:?}")));
    };
    entry.dropped = true;
    let id = entry.id;
    state.archives.dropping(Dropped { id, name: name.to_owned(), at: state.memory.last() })?;
    state.replace_manifest(&mut manifest, next).inspect_err(|_| state.archives.not_dropped(id))?;
    state.keyspace_dropped(id);
    state.signals.want_flush();
    Ok(())
}
