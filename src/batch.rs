//! The operations of one commit, encoded as they lie in the journal.
//!
//! Invariants: a batch is encoded as it is filled, so that committing copies nothing; decoding arbitrary bytes ends in
//! operations or an error, never in a panic; an operation's key is an *internal* key: the keyspace's number (4 bytes,
//! big-endian, so that a keyspace is one range) and then the user's key.

use crate::error::{Error, Result};
use crate::ids::KeyspaceId;
use crate::limits::{MAX_BATCH_BYTES, MAX_KEY_BYTES, MAX_VALUE_BYTES};

/// The bytes that an internal key has before the user's key.
pub const KEYSPACE_BYTES: usize = 4;

const INSERT: u8 = 1;
const REMOVE: u8 = 2;

/// One operation, borrowed from an encoded batch. No value: a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Op<'a> {
    pub key: &'a [u8],
    pub value: Option<&'a [u8]>,
}

/// Writes that are committed together: all of them or none, whatever shards and keyspaces they fall on.
///
/// Later operations on a key override earlier ones. An operation outside the limits is remembered, and makes the
/// commit fail with [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) and change nothing.
///
/// ```
/// # fn main() -> annulus::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let store = annulus::Store::open(dir.path().join("data"))?;
/// let orders = store.keyspace("orders")?;
/// let mut batch = annulus::WriteBatch::new();
/// batch.insert("stock/7", b"3");
/// batch.insert_in(&orders, "2026/1", b"1 of stock/7");
/// batch.remove("cart/42");
/// store.commit(batch)?;
/// assert_eq!(store.get("stock/7")?.as_deref(), Some(&b"3"[..]));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default)]
pub struct WriteBatch {
    bytes: Vec<u8>,
    ops: usize,
    error: Option<Error>,
    // The other keyspaces written to, with the store instance that each handle came from.
    pub(crate) keyspaces: Vec<(u64, KeyspaceId)>,
}

impl WriteBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a write to the default keyspace.
    pub fn insert(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &mut Self {
        self.push(KeyspaceId(0), key.as_ref(), Some(value.as_ref()));
        self
    }

    /// Adds a removal from the default keyspace. Removing what is not there is not an error.
    pub fn remove(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.push(KeyspaceId(0), key.as_ref(), None);
        self
    }

    /// The number of operations.
    pub fn len(&self) -> usize {
        self.ops
    }

    /// Whether it holds no operation.
    pub fn is_empty(&self) -> bool {
        self.ops == 0
    }

    /// The bytes it takes in the journal; at most [`MAX_BATCH_BYTES`] may be committed.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets all operations, and errors, but keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ops = 0;
        self.error = None;
        self.keyspaces.clear();
    }

    pub(crate) fn push(&mut self, keyspace: KeyspaceId, key: &[u8], value: Option<&[u8]>) {
        if self.error.is_some() {
            return;
        }
        if let Err(error) = encode(&mut self.bytes, keyspace, key, value) {
            self.error = Some(error);
            return;
        }
        self.ops += 1;
    }

    /// The encoded operations, or the first error met while filling the batch.
    pub(crate) fn finish(&self) -> Result<&[u8]> {
        match &self.error {
            Some(error) => Err(error.clone()),
            None => Ok(&self.bytes),
        }
    }
}

/// Checks a key against the limits.
pub fn check_key(key: &[u8]) -> Result<()> {
    if key.is_empty() {
        return Err(Error::invalid("the key is empty; a key has 1 to 65,535 bytes"));
    }
    if key.len() > MAX_KEY_BYTES {
        return Err(Error::invalid(format!("the key has {} bytes; the most is {MAX_KEY_BYTES}", key.len())));
    }
    Ok(())
}

/// Appends one operation to `out`.
pub fn encode(out: &mut Vec<u8>, keyspace: KeyspaceId, key: &[u8], value: Option<&[u8]>) -> Result<()> {
    check_key(key)?;
    let payload = value.unwrap_or_default();
    if payload.len() > MAX_VALUE_BYTES {
        let found = payload.len();
        return Err(Error::invalid(format!("the value has {found} bytes; the most is {MAX_VALUE_BYTES}")));
    }
    let size = out.len() + 1 + 5 + 5 + KEYSPACE_BYTES + key.len() + payload.len();
    if size > MAX_BATCH_BYTES {
        let message = format!("the batch comes to {size} bytes; the most is {MAX_BATCH_BYTES}");
        return Err(Error::invalid(message).remedy("commit it in parts"));
    }
    out.reserve(size - out.len());
    out.push(if value.is_some() { INSERT } else { REMOVE });
    put_varint(out, (KEYSPACE_BYTES + key.len()) as u64);
    if value.is_some() {
        put_varint(out, payload.len() as u64);
    }
    out.extend_from_slice(&keyspace.0.to_be_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(payload);
    Ok(())
}

/// The operations of an encoded batch, in order; ends after the first error.
pub fn decode(bytes: &[u8]) -> impl Iterator<Item = Result<Op<'_>>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let at = bytes.len() - rest.len();
        match next_op(rest) {
            Some((op, tail)) => {
                rest = tail;
                Some(Ok(op))
            }
            None => {
                rest = &[];
                Some(Err(Error::corruption("a batch holds bytes that are no operation").offset(at as u64)))
            }
        }
    })
}

fn next_op(bytes: &[u8]) -> Option<(Op<'_>, &[u8])> {
    let (&kind, rest) = bytes.split_first()?;
    let (key_len, mut rest) = take_varint(rest)?;
    let value_len = match kind {
        INSERT => {
            let (len, tail) = take_varint(rest)?;
            rest = tail;
            Some(usize::try_from(len).ok()?)
        }
        REMOVE => None,
        _ => return None,
    };
    let key_len = usize::try_from(key_len).ok()?;
    if key_len <= KEYSPACE_BYTES || key_len > KEYSPACE_BYTES + MAX_KEY_BYTES {
        return None;
    }
    let (key, rest) = rest.split_at_checked(key_len)?;
    match value_len {
        Some(len) => {
            let (value, rest) = rest.split_at_checked(len)?;
            Some((Op { key, value: Some(value) }, rest))
        }
        None => Some((Op { key, value: None }, rest)),
    }
}

/// The keyspace that an internal key lies in.
pub fn keyspace_of(key: &[u8]) -> KeyspaceId {
    KeyspaceId(key.first_chunk().map_or(0, |b| u32::from_be_bytes(*b)))
}

/// The user's key in an internal key.
pub fn user_key(key: &[u8]) -> &[u8] {
    key.get(KEYSPACE_BYTES..).unwrap_or_default()
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().enumerate().take(5) {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[i + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(ops in prop::collection::vec(
            (any::<u32>(), prop::collection::vec(any::<u8>(), 1..300), prop::option::of(prop::collection::vec(any::<u8>(), 0..300))), 0..20)
        ) {
            let mut batch = WriteBatch::new();
            for (keyspace, key, value) in &ops {
                batch.push(KeyspaceId(*keyspace), key, value.as_deref());
            }
            let bytes = batch.finish().unwrap();
            let decoded: Vec<_> = decode(bytes).map(|op| op.unwrap()).collect();
            prop_assert_eq!(decoded.len(), ops.len());
            for (op, (keyspace, key, value)) in decoded.iter().zip(&ops) {
                prop_assert_eq!(keyspace_of(op.key), KeyspaceId(*keyspace));
                prop_assert_eq!(user_key(op.key), key.as_slice());
                prop_assert_eq!(op.value, value.as_deref());
            }
        }

        #[test]
        fn arbitrary_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes).count();
        }
    }

    #[test]
    fn limits_are_kept() {
        let mut out = Vec::new();
        assert!(encode(&mut out, KeyspaceId(0), b"", Some(b"")).is_err());
        assert!(encode(&mut out, KeyspaceId(0), &vec![0; MAX_KEY_BYTES + 1], Some(b"")).is_err());
        assert!(encode(&mut out, KeyspaceId(0), b"k", Some(&vec![0; MAX_VALUE_BYTES + 1])).is_err());
        assert!(out.is_empty());
        encode(&mut out, KeyspaceId(0), &vec![0; MAX_KEY_BYTES], Some(&vec![0; MAX_VALUE_BYTES])).unwrap();
        assert!(encode(&mut out, KeyspaceId(0), b"k", Some(&vec![0; MAX_VALUE_BYTES])).is_err());
        assert_eq!(decode(&out).count(), 1);
    }
}
