//! The iterator that scans return.

use crate::batch::KEYSPACE_BYTES;
use crate::error::{Error, Result};
use crate::handle::Handle;
use crate::ids::KeyspaceId;
use crate::keyspace::{Keyspace, internal};
use crate::record::{Item, KeyRange};
use crate::verbs::scan::Scan;
use bytes::{Buf, Bytes};
use std::ops::Bound;
use std::sync::Arc;

/// Records of a range of keys, from both ends, as of one moment. Made by [`Keyspace::range`] and its like.
///
/// It keeps the store open while it lives.
pub struct Range {
    scan: Result<Scan, Option<Error>>,
    // Keeps files and threads for as long as the scan needs them.
    _handle: Arc<Handle>,
}

impl Range {
    pub(crate) fn new(keyspace: &Keyspace, range: KeyRange) -> Range {
        let handle = keyspace.handle.clone();
        let checked = handle.state.check_keyspace(keyspace.id());
        let scan = checked.and_then(|()| Scan::new(handle.state.clone(), range)).map_err(Some);
        Range { scan, _handle: handle }
    }

    fn step(&mut self, reverse: bool, values: bool) -> Option<Result<Item>> {
        match &mut self.scan {
            Ok(scan) => scan.step(reverse, values),
            Err(error) => error.take().map(Err),
        }
    }

    /// Counts without fetching large values.
    pub(crate) fn count_records(mut self) -> Result<u64> {
        let mut count = 0;
        while let Some(item) = self.step(false, false) {
            item?;
            count += 1;
        }
        Ok(count)
    }
}

impl std::fmt::Debug for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Range").finish_non_exhaustive()
    }
}

fn pair(item: Result<Item>) -> Result<(Bytes, Bytes)> {
    let Item { mut key, value, .. } = item?;
    // In place: a slice of it would be counted, and then the whole counted off.
    key.advance(KEYSPACE_BYTES.min(key.len()));
    Ok((key, value.unwrap_or_default()))
}

impl Iterator for Range {
    type Item = Result<(Bytes, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(false, true).map(pair)
    }
}

impl DoubleEndedIterator for Range {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(true, true).map(pair)
    }
}

impl std::iter::FusedIterator for Range {}

/// The range of internal keys that a range of a keyspace's keys is.
pub(crate) fn key_range(id: KeyspaceId, lo: Bound<Vec<u8>>, hi: Bound<Vec<u8>>) -> KeyRange {
    let after = |key: &[u8]| {
        let mut key = internal(id, key);
        key.push(0);
        key
    };
    let lo = match lo {
        Bound::Included(key) => internal(id, &key),
        Bound::Excluded(key) => after(&key),
        Bound::Unbounded => internal(id, &[]),
    };
    let hi = match hi {
        Bound::Included(key) => Some(after(&key)),
        Bound::Excluded(key) => Some(internal(id, &key)),
        Bound::Unbounded => id.0.checked_add(1).map(|next| internal(KeyspaceId(next), &[])),
    };
    KeyRange { lo, hi }
}
