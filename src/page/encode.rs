//! Writing a page.

use super::{
    Content, Entry, FIXED_BYTES, FLAG_UNBOUNDED, FLAG_WIDE, KIND_TOMBSTONE, KIND_VALUE, VERSION, checksum,
    varint,
};
use crate::ids::Seq;

/// What the records of one page share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shared {
    /// How many leading bytes all keys share.
    pub prefix: usize,
    pub min_seq: Seq,
}

/// What `entries` (sorted) share.
pub(crate) fn shared(entries: &[Entry<'_>]) -> Shared {
    let prefix = match entries {
        [] => 0,
        [first, .., last] => first.common_prefix(last),
        [only] => only.key_len(),
    };
    Shared { prefix, min_seq: entries.iter().map(|entry| entry.seq).min().unwrap_or(Seq::ZERO) }
}

/// The bytes that `entry` takes in a page whose records share `shared`; an upper bound for a part of that page.
pub(crate) fn cost(entry: &Entry<'_>, shared: Shared) -> usize {
    let suffix = entry.key_len() - shared.prefix;
    let content = match entry.content {
        Content::Value(value) => varint::len(value.len() as u64) + value.len(),
        Content::Tombstone => 0,
    };
    // Two bytes each of the tables; a page that needs wider offsets is over every size that a split aims at.
    5 + varint::len(suffix as u64) + suffix + varint::len(entry.seq.0 - shared.min_seq.0) + content
}

/// Appends to `out` the page of `entries`, which are sorted (key ascending, sequence descending), lie in the page's
/// bounds and whose values all fit. `lower` is the key that the page will be stored under, `upper` that of the next.
pub fn encode(lower: &[u8], upper: Option<&[u8]>, entries: &[Entry<'_>], out: &mut Vec<u8>) {
    let shared = shared(entries);
    let records: usize = entries.iter().map(|entry| cost(entry, shared)).sum();
    let wide = records > usize::from(u16::MAX);
    let page = out.len();

    out.reserve(
        FIXED_BYTES
            + 16
            + upper.map_or(0, <[u8]>::len)
            + shared.prefix
            + records
            + if wide { 2 * entries.len() } else { 0 },
    );
    out.extend_from_slice(&[0; 4]);
    out.push(VERSION);
    out.push(if upper.is_none() { FLAG_UNBOUNDED } else { 0 } | if wide { FLAG_WIDE } else { 0 });
    out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    out.extend_from_slice(&shared.min_seq.0.to_le_bytes());
    if let Some(upper) = upper {
        varint::put(out, upper.len() as u64);
        out.extend_from_slice(upper);
    }
    varint::put(out, shared.prefix as u64);
    if let Some(first) = entries.first() {
        let end = out.len() + shared.prefix;
        first.push_key(0, out);
        out.truncate(end);
    }

    for entry in entries {
        out.extend_from_slice(&entry.stem(shared.prefix).to_le_bytes());
    }
    let (table, width) = (out.len(), if wide { 4 } else { 2 });
    out.resize(table + width * entries.len(), 0);
    let start = out.len();
    for (index, entry) in entries.iter().enumerate() {
        let offset = ((out.len() - start) as u32).to_le_bytes();
        out[table + width * index..][..width].copy_from_slice(&offset[..width]);
        push_record(entry, shared, out);
    }
    let crc = checksum(lower, &out[page..]);
    out[page..page + 4].copy_from_slice(&crc.to_le_bytes());
}

fn push_record(entry: &Entry<'_>, shared: Shared, out: &mut Vec<u8>) {
    out.push(match entry.content {
        Content::Value(_) => KIND_VALUE,
        Content::Tombstone => KIND_TOMBSTONE,
    });
    varint::put(out, (entry.key_len() - shared.prefix) as u64);
    entry.push_key(shared.prefix, out);
    varint::put(out, entry.seq.0 - shared.min_seq.0);
    match entry.content {
        Content::Value(value) => {
            varint::put(out, value.len() as u64);
            out.extend_from_slice(value);
        }
        Content::Tombstone => {}
    }
}
