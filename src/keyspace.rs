//! A keyspace: a set of keys of its own in a store. The store's own methods are those of its default keyspace.

use crate::batch::{self, KEYSPACE_BYTES, WriteBatch};
use crate::error::Result;
use crate::handle::Handle;
use crate::ids::{KeyspaceId, Seq};
use crate::options::Durability;
use crate::range::{Range, key_range};
use crate::verbs;
use bytes::Bytes;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

/// A handle to a keyspace; cheap to clone, and every method may be called from any thread.
///
/// All methods of a [`Store`](crate::Store) for single keys and ranges are these, on its default keyspace.
///
/// ```
/// # fn main() -> annulus::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// let store = annulus::Store::open(dir.path().join("data"))?;
/// let orders = store.keyspace("orders")?;
/// orders.insert("2026/1", b"2 apples")?;
/// assert_eq!(store.get("2026/1")?, None);
/// assert_eq!(orders.get("2026/1")?.as_deref(), Some(&b"2 apples"[..]));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Keyspace {
    pub(crate) handle: Arc<Handle>,
    id: KeyspaceId,
    name: Arc<str>,
}

impl Keyspace {
    pub(crate) fn new(handle: Arc<Handle>, id: KeyspaceId, name: &str) -> Keyspace {
        Keyspace { handle, id, name: name.into() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number.
    pub fn id(&self) -> KeyspaceId {
        self.id
    }

    /// Writes a value, with the store's durability, and returns the write's version.
    ///
    /// # Errors
    /// `InvalidInput` for an empty key, one over 65,535 bytes, or a value over 64 MiB: nothing was written. `NotFound`
    /// if the keyspace was dropped. `Unavailable` if no shard that holds the key serves, or nothing can be flushed and
    /// memory is full, or as much waits in the journal. `Full` if the journal's disk is full: nothing was written.
    /// `Poisoned` if the journal failed: whether the write is there shows after reopening. `Unavailable` also where
    /// [`write_timeout`](crate::Options::write_timeout) is set and the disk does not answer: the error says whether the write may still come about.
    pub fn insert(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Seq> {
        self.write(key.as_ref(), Some(value.as_ref()), self.handle.state.settings.durability)
    }

    /// Writes a value with a durability of its own.
    ///
    /// # Errors
    /// As [`insert`](Self::insert).
    pub fn insert_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        durability: Durability,
    ) -> Result<Seq> {
        self.write(key.as_ref(), Some(value.as_ref()), durability)
    }

    /// Removes a key. Removing what is not there is not an error, and has a version as well.
    ///
    /// # Errors
    /// As [`insert`](Self::insert).
    pub fn remove(&self, key: impl AsRef<[u8]>) -> Result<Seq> {
        self.write(key.as_ref(), None, self.handle.state.settings.durability)
    }

    /// Removes a key with a durability of its own.
    ///
    /// # Errors
    /// As [`insert`](Self::insert).
    pub fn remove_with(&self, key: impl AsRef<[u8]>, durability: Durability) -> Result<Seq> {
        self.write(key.as_ref(), None, durability)
    }

    fn write(&self, key: &[u8], value: Option<&[u8]>, durability: Durability) -> Result<Seq> {
        let state = &self.handle.state;
        let drops = state.drops();
        state.check_keyspace(self.id)?;
        let mut ops =
            Vec::with_capacity(key.len().saturating_add(value.map_or(0, <[u8]>::len)).min(1 << 20) + 16);
        batch::encode(&mut ops, self.id, key, value)?;
        verbs::write::commit(state, &ops, drops, durability)
    }

    /// The newest value of a key.
    ///
    /// # Errors
    /// `InvalidInput` for a key outside the limits. `Unavailable` if no shard that holds the key can answer.
    /// `Corruption` if every copy of it is damaged; a wrong value is never returned.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        Ok(self.get_versioned(key)?.map(|(value, _)| value))
    }

    /// The newest value of a key, and the version of the write that made it.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_versioned(&self, key: impl AsRef<[u8]>) -> Result<Option<(Bytes, Seq)>> {
        let key = key.as_ref();
        self.check(key)?;
        let found = with_internal(self.id, key, |key| verbs::read::get(&self.handle.state, key))?;
        Ok(found.map(|f| (f.value, f.seq)))
    }

    /// Whether a key has a value. Costs as much as [`get`](Self::get).
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.get_versioned(key)?.is_some())
    }

    /// The values of many keys, in the order of the keys, all as of one moment. One pass over the memtables, then the
    /// shards in parallel.
    ///
    /// # Errors
    /// As [`get`](Self::get); one key that cannot be read makes the whole call fail.
    pub fn get_many<K: AsRef<[u8]>>(&self, keys: impl AsRef<[K]>) -> Result<Vec<Option<Bytes>>> {
        let keys: Vec<Vec<u8>> = keys
            .as_ref()
            .iter()
            .map(|key| self.check(key.as_ref()).map(|()| internal(self.id, key.as_ref())))
            .collect::<Result<_>>()?;
        let found = verbs::read::get_many(&self.handle.state, &keys)?;
        Ok(found.into_iter().map(|f| f.map(|f| f.value)).collect())
    }

    /// The records of a range of keys, ascending, as of now: a consistent view, whatever is written meanwhile. It can
    /// be read from both ends. Memory: some hundred KiB, however long it is and lives, and of each
    /// shard that it reads the page at hand, which is as large as its largest value; a long-lived one keeps old
    /// versions of what is overwritten on disk. A long one reads ahead on a thread of its own, where there is a core to
    /// spare. The fastest way to read many is [`Range::next_ref`].
    ///
    /// An error ends it. A range whose start is not below its end is empty.
    ///
    /// ```
    /// # fn main() -> annulus::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = annulus::Store::open(dir.path().join("data"))?;
    /// store.insert("user/42/cart", b"2 apples")?;
    /// for item in store.range("user/42/".."user/43/").rev() {
    ///     let (key, value) = item?;
    ///     println!("{key:?} {value:?}");
    /// }
    /// # Ok(()) }
    /// ```
    pub fn range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Range {
        let bound = |b: Bound<&K>| b.map(|k| k.as_ref().to_vec());
        let (lo, hi) = (bound(range.start_bound()), bound(range.end_bound()));
        Range::new(self, key_range(self.id, lo, hi))
    }

    /// The records whose keys begin with `prefix`; see [`range`](Self::range). Where the partitioner keeps the prefix
    /// together, one shard is read.
    pub fn scan_prefix(&self, prefix: impl AsRef<[u8]>) -> Range {
        let prefix = prefix.as_ref();
        let hi = match after_prefix(prefix) {
            Some(hi) => Bound::Excluded(hi),
            None => Bound::Unbounded,
        };
        Range::new(self, key_range(self.id, Bound::Included(prefix.to_vec()), hi))
    }

    /// All records; see [`range`](Self::range).
    pub fn iter(&self) -> Range {
        Range::new(self, key_range(self.id, Bound::Unbounded, Bound::Unbounded))
    }

    /// The record with the least key.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn first(&self) -> Result<Option<(Bytes, Bytes)>> {
        self.iter().next().transpose()
    }

    /// The record with the greatest key.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn last(&self) -> Result<Option<(Bytes, Bytes)>> {
        self.iter().next_back().transpose()
    }

    /// The number of records. Exact, and therefore as dear as reading all keys.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn len(&self) -> Result<u64> {
        self.iter().count_records()
    }

    /// Whether there is no record. Cheap.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.first()?.is_none())
    }

    fn check(&self, key: &[u8]) -> Result<()> {
        batch::check_key(key)?;
        self.handle.state.check_keyspace(self.id)
    }
}

impl WriteBatch {
    /// Adds a write to a keyspace.
    pub fn insert_in(
        &mut self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> &mut Self {
        self.name_keyspace(keyspace);
        self.push(keyspace.id, key.as_ref(), Some(value.as_ref()));
        self
    }

    /// Adds a removal from a keyspace.
    pub fn remove_in(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> &mut Self {
        self.name_keyspace(keyspace);
        self.push(keyspace.id, key.as_ref(), None);
        self
    }

    fn name_keyspace(&mut self, keyspace: &Keyspace) {
        let name = (keyspace.handle.state.instance, keyspace.id);
        if !self.keyspaces.contains(&name) {
            self.keyspaces.push(name);
        }
    }
}

/// The key as the floors below know it.
pub fn internal(id: KeyspaceId, key: &[u8]) -> Vec<u8> {
    let mut internal = Vec::with_capacity(KEYSPACE_BYTES + key.len());
    internal.extend_from_slice(&id.0.to_be_bytes());
    internal.extend_from_slice(key);
    internal
}

/// The same for the length of a call: most keys are short enough to need no allocation.
fn with_internal<T>(id: KeyspaceId, key: &[u8], call: impl FnOnce(&[u8]) -> T) -> T {
    let mut short = [0u8; 128];
    let len = KEYSPACE_BYTES + key.len();
    match short.get_mut(..len) {
        Some(internal) => {
            internal[..KEYSPACE_BYTES].copy_from_slice(&id.0.to_be_bytes());
            internal[KEYSPACE_BYTES..].copy_from_slice(key);
            call(internal)
        }
        None => call(&internal(id, key)),
    }
}

/// The least key above all that begin with `prefix`; none if there is no such key.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|b| *b != 0xff)?;
    let mut after = prefix[..=last].to_vec();
    after[last] += 1;
    Some(after)
}
