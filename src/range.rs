//! The iterator that scans return.

use crate::error::{Error, Result};
use crate::handle::Handle;
use crate::ids::KeyspaceId;
use crate::keyspace::{Keyspace, internal};
use crate::record::KeyRange;
use crate::verbs::scan::Scan;
use bytes::Bytes;
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

    /// The next record, borrowed until the next call: nothing is counted or copied for it, which makes it the fastest way
    /// to read many. What [`next`](Iterator::next) gives is to be kept.
    ///
    /// ```
    /// # fn main() -> annulus::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = annulus::Store::open(dir.path().join("data"))?;
    /// # store.insert("a", b"12")?;
    /// # store.insert("b", b"345")?;
    /// let mut range = store.iter();
    /// let mut bytes = 0;
    /// while let Some(record) = range.next_ref() {
    ///     let (key, value) = record?;
    ///     bytes += key.len() + value.len();
    /// }
    /// assert_eq!(bytes, 7);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As the iterator's items: one ends it.
    #[inline]
    pub fn next_ref(&mut self) -> Option<Result<(&[u8], &[u8])>> {
        match &mut self.scan {
            Ok(scan) => scan.step(false),
            Err(error) => error.take().map(Err),
        }
    }

    /// The last record that has not been read yet, borrowed until the next call; see [`next_ref`](Self::next_ref).
    ///
    /// # Errors
    /// As the iterator's items: one ends it.
    #[inline]
    pub fn next_back_ref(&mut self) -> Option<Result<(&[u8], &[u8])>> {
        match &mut self.scan {
            Ok(scan) => scan.step(true),
            Err(error) => error.take().map(Err),
        }
    }

    #[inline]
    fn take_next(&mut self, reverse: bool) -> Option<Result<(Bytes, Bytes)>> {
        match &mut self.scan {
            Ok(scan) => scan.take(reverse),
            Err(error) => error.take().map(Err),
        }
    }

    fn pass(&mut self, reverse: bool) -> Option<Result<()>> {
        match &mut self.scan {
            Ok(scan) => scan.pass(reverse),
            Err(error) => error.take().map(Err),
        }
    }

    /// Passes up to `n` records by; the error that ended that, if one did.
    fn pass_many(&mut self, n: usize, reverse: bool) -> Option<Error> {
        (0..n).map_while(|_| self.pass(reverse)).find_map(Result::err)
    }

    /// Counts without fetching large values.
    pub(crate) fn count_records(mut self) -> Result<u64> {
        let mut count = 0;
        while let Some(passed) = self.pass(false) {
            passed?;
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

impl Iterator for Range {
    type Item = Result<(Bytes, Bytes)>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.take_next(false)
    }

    fn nth(&mut self, n: usize) -> Option<Self::Item> {
        match self.pass_many(n, false) {
            // Though it came before the one asked for: nobody would hear of it otherwise.
            Some(error) => Some(Err(error)),
            None => self.next(),
        }
    }

    fn count(mut self) -> usize {
        let mut count = 0;
        while self.pass(false).is_some() {
            count += 1;
        }
        count
    }
}

impl DoubleEndedIterator for Range {
    #[inline]
    fn next_back(&mut self) -> Option<Self::Item> {
        self.take_next(true)
    }

    fn nth_back(&mut self, n: usize) -> Option<Self::Item> {
        match self.pass_many(n, true) {
            Some(error) => Some(Err(error)),
            None => self.next_back(),
        }
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
