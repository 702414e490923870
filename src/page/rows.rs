//! The records of a page laid out for a walk: where each lies, and eight bytes of its key that mostly decide an order.
//!
//! Invariants: rows are in the walk's order, and their stems never descend; a row's key is the page's prefix and then its
//! suffix; what a row refers to lies inside the bytes it was made from.

use super::varint;
use super::{KIND_TOMBSTONE, KIND_VALUE, PageView, same_bytes};
use crate::error::Result;
use crate::ids::Seq;

/// In place of a value's length: it is too large to be carried along.
pub const LEFT_OUT: u32 = u32::MAX;

/// A live record. Places count from where the page's records begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    pub suffix: u32,
    pub suffix_len: u32,
    pub value: u32,
    pub value_len: u32,
    pub seq: Seq,
}

/// Rows, and beside them the stem of each: what of the key follows `stem_from` as a number, which is complemented where
/// the walk goes backwards, so that the lesser always comes first.
#[derive(Debug, Default)]
pub struct Rows {
    pub rows: Vec<Row>,
    pub stems: Vec<u64>,
}

/// Which records of a page a walk wants.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// The newest versions at or below this.
    pub at: Seq,
    pub reverse: bool,
    /// The byte of a key at which its stem begins: all keys of the walk are the same before it.
    pub stem_from: usize,
    /// The longest value that is carried along.
    pub carried: usize,
}

/// The first eight bytes as a number that orders as they do; zeros where there are fewer.
#[inline]
pub fn head(bytes: &[u8]) -> u64 {
    match bytes.first_chunk() {
        Some(whole) => u64::from_be_bytes(*whole),
        None => {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            u64::from_be_bytes(padded)
        }
    }
}

/// The stem of a whole key.
#[inline]
pub fn stem(key: &[u8], stem_from: usize, reverse: bool) -> u64 {
    let stem = head(key.get(stem_from..).unwrap_or_default());
    if reverse { !stem } else { stem }
}

/// Makes the stems of keys that share a prefix.
struct Stems {
    /// What the prefix gives, and by how much the suffix's part is shifted behind it.
    start: u64,
    shift: u32,
    /// What of the suffix lies before the stem.
    skip: usize,
    flip: u64,
}

impl Stems {
    fn new(prefix: &[u8], wanted: &Wanted) -> Stems {
        let given = prefix.get(wanted.stem_from..).unwrap_or_default();
        Stems {
            start: head(given),
            shift: 8 * given.len().min(8) as u32,
            skip: wanted.stem_from.saturating_sub(prefix.len()),
            flip: if wanted.reverse { u64::MAX } else { 0 },
        }
    }

    #[inline]
    fn of(&self, suffix: &[u8]) -> u64 {
        let rest = head(suffix.get(self.skip..).unwrap_or_default());
        (self.start | rest.checked_shr(self.shift).unwrap_or_default()) ^ self.flip
    }
}

impl PageView<'_> {
    /// Puts the live ones of records `from..to` into `out`, in place of what it holds.
    pub fn walk(&self, from: usize, to: usize, wanted: &Wanted, out: &mut Rows) -> Result<()> {
        out.rows.clear();
        out.stems.clear();
        let count = to.saturating_sub(from);
        out.rows.reserve(count);
        out.stems.reserve(count);
        let stems = Stems::new(self.prefix(), wanted);
        let mut decided: Option<&[u8]> = None;
        for index in from..to {
            let Some((row, kind, suffix)) = self.row(index) else { return Err(self.bad_record(index)) };
            if row.seq > wanted.at || decided.is_some_and(|decided| same_bytes(decided, suffix)) {
                continue;
            }
            decided = Some(suffix);
            if kind == KIND_VALUE {
                let left_out = row.value_len as usize > wanted.carried;
                out.rows.push(if left_out { Row { value_len: LEFT_OUT, ..row } } else { row });
                out.stems.push(stems.of(suffix));
            }
        }
        if wanted.reverse {
            out.rows.reverse();
            out.stems.reverse();
        }
        Ok(())
    }

    #[inline]
    fn row(&self, index: usize) -> Option<(Row, u8, &[u8])> {
        let (kind, suffix, mut at) = self.suffix(index)?;
        let start = at - suffix.len();
        let seq = self.seq(&mut at)?;
        let len = match kind {
            KIND_VALUE => usize::try_from(varint::take(self.records(), &mut at)?).ok()?,
            KIND_TOMBSTONE => 0,
            _ => return None,
        };
        self.records().get(at..at.checked_add(len)?)?;
        let row = Row {
            suffix: start as u32,
            suffix_len: suffix.len() as u32,
            value: at as u32,
            value_len: len as u32,
            seq,
        };
        Some((row, kind, suffix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_stem_does_not_depend_on_where_the_prefix_ends(
            key in proptest::collection::vec(0u8..3, 0..24), cut: prop::sample::Index, stem_from in 0usize..12, reverse: bool,
        ) {
            let (prefix, suffix) = key.split_at(cut.index(key.len() + 1));
            let wanted = Wanted { at: Seq::MAX, reverse, stem_from, carried: 0 };
            prop_assert_eq!(Stems::new(prefix, &wanted).of(suffix), stem(&key, stem_from, reverse));
        }
    }
}
