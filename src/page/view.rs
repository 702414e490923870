//! Reading a page in place.

use super::{
    Content, Entry, FIXED_BYTES, FLAG_UNBOUNDED, FLAG_WIDE, KIND_TOMBSTONE, KIND_VALUE, KNOWN_FLAGS, VERSION,
    checksum, varint,
};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Seq;

/// A page whose checksum and header have been verified. A record is parsed when it is asked for.
#[derive(Debug, Clone, Copy)]
pub struct PageView<'a> {
    upper: Option<&'a [u8]>,
    prefix: &'a [u8],
    stems: &'a [u8],
    offsets: &'a [u8],
    records: &'a [u8],
    min_seq: u64,
    count: usize,
    wide: bool,
}

/// What the accounts of a shard need of a page that it verified before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub crc: u32,
    pub records: u32,
}

/// The stamp of an encoded page; none if the bytes are too few for one.
pub(crate) fn stamp(page: &[u8]) -> Option<Stamp> {
    Some(Stamp { crc: u32_at(page, 0)?, records: u32_at(page, 6)? })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk))
}

fn take<'a>(bytes: &'a [u8], at: &mut usize, len: usize) -> Option<&'a [u8]> {
    let end = at.checked_add(len)?;
    let part = bytes.get(*at..end)?;
    *at = end;
    Some(part)
}

fn take_counted<'a>(bytes: &'a [u8], at: &mut usize) -> Option<&'a [u8]> {
    let len = usize::try_from(varint::take(bytes, at)?).ok()?;
    take(bytes, at, len)
}

fn bad(what: &str, at: usize) -> Error {
    Error::corruption(format!("expected {what} at byte {at} of a page, found something else"))
        .remedy("repair the shard")
}

// Nobody asks whether a page is empty.
#[allow(clippy::len_without_is_empty)]
impl<'a> PageView<'a> {
    /// Verifies the page that was found under `lower`.
    pub fn open(lower: &[u8], page: &'a [u8]) -> Result<PageView<'a>> {
        if page.len() < FIXED_BYTES {
            return Err(Error::corruption(format!(
                "expected a page of {FIXED_BYTES} bytes or more, found {}",
                page.len()
            ))
            .remedy("repair the shard"));
        }
        let (stored, found) = (u32_at(page, 0).unwrap_or_default(), checksum(lower, page));
        if stored != found && !crate::plants::is("page-checksum-not-checked") {
            return Err(Error::corruption(format!(
                "expected a page with checksum {stored:08x}, found {found:08x}"
            ))
            .remedy("repair the shard"));
        }
        let (version, flags) = (page[4], page[5]);
        if version != VERSION || flags & !KNOWN_FLAGS != 0 {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "expected a page of version {VERSION}, found version {version} with flags {flags:#04x}"
                ),
            )
            .remedy("use the release that wrote it, or a newer one"));
        }
        Self::parse(page, flags).ok_or_else(|| bad("a header", FIXED_BYTES))
    }

    /// A page that has been opened before: nothing is verified again.
    #[inline]
    pub fn verified(page: &'a [u8]) -> Result<PageView<'a>> {
        let flags = page.get(5).copied().unwrap_or_default();
        Self::parse(page, flags).ok_or_else(|| bad("a header", FIXED_BYTES))
    }

    fn parse(page: &'a [u8], flags: u8) -> Option<PageView<'a>> {
        let count = usize::try_from(u32_at(page, 6)?).ok()?;
        let min_seq = u64::from_le_bytes(*page.get(10..)?.first_chunk()?);
        let mut at = FIXED_BYTES;
        let upper = if flags & FLAG_UNBOUNDED == 0 { Some(take_counted(page, &mut at)?) } else { None };
        let prefix = take_counted(page, &mut at)?;
        let wide = flags & FLAG_WIDE != 0;
        let stems = take(page, &mut at, count.checked_mul(2)?)?;
        let offsets = take(page, &mut at, count.checked_mul(if wide { 4 } else { 2 })?)?;
        Some(PageView { upper, prefix, stems, offsets, records: page.get(at..)?, min_seq, count, wide })
    }

    pub fn len(&self) -> usize {
        self.count
    }

    /// The key of the next page; none if this is the last.
    pub fn upper(&self) -> Option<&'a [u8]> {
        self.upper
    }

    fn offset(&self, index: usize) -> Option<usize> {
        if self.wide {
            u32_at(self.offsets, index.checked_mul(4)?).and_then(|offset| usize::try_from(offset).ok())
        } else {
            let at = index.checked_mul(2)?;
            self.offsets.get(at..)?.first_chunk().map(|chunk| usize::from(u16::from_le_bytes(*chunk)))
        }
    }

    /// The kind and suffix of a record, and where the rest of it starts.
    #[inline]
    pub(super) fn suffix(&self, index: usize) -> Option<(u8, &'a [u8], usize)> {
        let mut at = self.offset(index)?;
        let kind = *self.records.get(at)?;
        at += 1;
        let suffix = take_counted(self.records, &mut at)?;
        Some((kind, suffix, at))
    }

    /// What all keys begin with.
    pub fn prefix(&self) -> &'a [u8] {
        self.prefix
    }

    /// The bytes that hold the records, which are the page's last.
    pub fn records(&self) -> &'a [u8] {
        self.records
    }

    #[inline]
    pub(super) fn seq(&self, at: &mut usize) -> Option<Seq> {
        Some(Seq(self.min_seq.checked_add(varint::take(self.records, at)?)?))
    }

    #[inline]
    fn parse_entry(&self, index: usize) -> Option<Entry<'a>> {
        let (kind, tail, mut at) = self.suffix(index)?;
        let seq = self.seq(&mut at)?;
        let content = match kind {
            KIND_VALUE => Content::Value(take_counted(self.records, &mut at)?),
            KIND_TOMBSTONE => Content::Tombstone,
            _ => return None,
        };
        Some(Entry { head: self.prefix, tail, seq, content })
    }

    /// The record at `index`, counted from 0.
    #[inline]
    pub fn entry(&self, index: usize) -> Result<Entry<'a>> {
        self.parse_entry(index).ok_or_else(|| self.bad_record(index))
    }

    #[cold]
    pub(super) fn bad_record(&self, index: usize) -> Error {
        match self.suffix(index) {
            Some((kind, ..)) if kind > KIND_TOMBSTONE => Error::new(
                ErrorKind::Unsupported,
                format!(
                    "expected a record of a known kind at index {index} of a page, found kind {kind:#04x}"
                ),
            )
            .remedy("use the release that wrote it, or a newer one"),
            _ => bad(&format!("record {index} of {}", self.count), self.offset(index).unwrap_or_default()),
        }
    }

    /// The index of the first record whose key is at or above `key`.
    pub fn lower_bound(&self, key: &[u8]) -> Result<usize> {
        let Some(rest) = key.strip_prefix(self.prefix) else {
            // Every key here starts with the prefix, so all of them are on the same side of a key that does not.
            return Ok(if self.prefix < key { self.count } else { 0 });
        };
        let (low, high) = self.stem_range(rest);
        self.partition(low, high, |index| Some(self.suffix(index)?.1 < rest))
    }

    /// The newest version of `key` at or below `at`.
    pub fn find(&self, key: &[u8], at: Seq) -> Result<Option<Entry<'a>>> {
        let Some(rest) = key.strip_prefix(self.prefix) else { return Ok(None) };
        let (low, high) = self.stem_range(rest);
        let index = self.partition(low, high, |index| {
            let (_, suffix, mut next) = self.suffix(index)?;
            Some(match suffix.cmp(rest) {
                std::cmp::Ordering::Equal => self.seq(&mut next)? > at,
                order => order.is_lt(),
            })
        })?;
        if index == high {
            return Ok(None);
        }
        let entry = self.entry(index)?;
        Ok((entry.tail == rest).then_some(entry))
    }

    fn stem(&self, index: usize) -> u16 {
        self.stems.get(2 * index..).and_then(<[u8]>::first_chunk).map_or(0, |stem| u16::from_le_bytes(*stem))
    }

    /// The records whose suffix begins like `rest`: all before them are smaller, all after them greater.
    #[inline]
    fn stem_range(&self, rest: &[u8]) -> (usize, usize) {
        let byte = |at: usize| rest.get(at).copied().unwrap_or_default();
        let stem = u16::from_be_bytes([byte(0), byte(1)]);
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.stem(middle) < stem {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        // Few share it: the end is near.
        while high < self.count && self.stem(high) == stem {
            high += 1;
            if high - low > 8 {
                return (low, self.stem_end(stem, high));
            }
        }
        (low, high)
    }

    /// The first index from `low` on whose stem is above `stem`.
    fn stem_end(&self, stem: u16, mut low: usize) -> usize {
        let mut high = self.count;
        while low < high {
            let middle = low + (high - low) / 2;
            if self.stem(middle) <= stem {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// The first index from `low` on for which `before` no longer holds.
    #[inline]
    fn partition(
        &self,
        mut low: usize,
        mut high: usize,
        before: impl Fn(usize) -> Option<bool>,
    ) -> Result<usize> {
        while low < high {
            let middle = low + (high - low) / 2;
            if before(middle).ok_or_else(|| self.bad_record(middle))? {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// Verifies every record, their order, and that they lie at or above `lower` and below `upper` (whole keys).
    pub fn check(&self, lower: &[u8], upper: Option<&[u8]>) -> Result<()> {
        let mut before: Option<Entry<'_>> = None;
        for index in 0..self.count {
            let entry = self.entry(index)?;
            let in_order = before.is_none_or(|before| {
                before.tail < entry.tail || (before.tail == entry.tail && before.seq > entry.seq)
            });
            let inside =
                entry.cmp_key(lower).is_ge() && upper.is_none_or(|upper| entry.cmp_key(upper).is_lt());
            if !in_order || !inside || entry.stem(entry.head.len()) != self.stem(index) {
                return Err(bad(
                    &format!("record {index} in order and inside the page's bounds"),
                    self.offset(index).unwrap_or_default(),
                ));
            }
            before = Some(entry);
        }
        Ok(())
    }
}
