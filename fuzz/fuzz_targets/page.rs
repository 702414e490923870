//! Arbitrary bytes are no page, or one whose records can all be asked for; a page with any one byte changed is none.
//!
//! The first byte of the input says which of these it tries: bytes as they are, bytes under a checksum that is right
//! (which no random bytes would have), or a page made of records and then changed. Nothing here needs memory beyond a
//! few times the input's: run it with `-malloc_limit_mb=64`.
#![no_main]

use annulus::Seq;
use annulus::testing::page::{Content, Entry, PageView, checksum, encode};
use libfuzzer_sys::fuzz_target;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Takes a slice whose length the first byte says.
fn part<'a>(data: &mut &'a [u8]) -> &'a [u8] {
    let Some((count, rest)) = data.split_first() else { return &[] };
    let (part, rest) = rest.split_at(usize::from(*count).min(rest.len()));
    *data = rest;
    part
}

fn byte(data: &mut &[u8]) -> u8 {
    let (first, rest) = data.split_first().map_or((0, *data), |(first, rest)| (*first, rest));
    *data = rest;
    first
}

/// Asks a page everything that it can be asked.
fn ask(lower: &[u8], page: &[u8], probe: &[u8]) {
    let Ok(view) = PageView::open(lower, page) else { return };
    let entries: Vec<Entry> = (0..view.len()).map_while(|index| view.entry(index).ok()).collect();
    let _ = view.entry(view.len()).unwrap_err();
    let _ = view.entry(usize::MAX).unwrap_err();
    for seq in [Seq::ZERO, Seq(1), Seq::MAX] {
        let _ = view.find(probe, seq);
        let _ = entries.first().map(|entry| view.find(&entry.key(), seq));
    }
    if let Ok(index) = view.lower_bound(probe) {
        assert!(index <= view.len());
    }
    if view.check(lower, view.upper()).is_err() {
        return;
    }
    assert_eq!(entries.len(), view.len());
    consult(&view, &entries);
    let mut again = Vec::new();
    encode(lower, view.upper(), &entries, &mut again);
    let copy = PageView::open(lower, &again).unwrap();
    assert_eq!((copy.len(), copy.upper()), (view.len(), view.upper()));
    copy.check(lower, copy.upper()).unwrap();
    consult(&copy, &entries);
}

/// Every record of a good page is found, by its index and by its key.
fn consult(view: &PageView, entries: &[Entry]) {
    let mut first = 0;
    for (index, wanted) in entries.iter().enumerate() {
        let key = wanted.key();
        if !entries[first].same_key(wanted) {
            first = index;
        }
        let at = view.entry(index).unwrap();
        assert!(at.same_key(wanted) && (at.seq, at.content) == (wanted.seq, wanted.content));
        let found = view.find(&key, wanted.seq).unwrap().unwrap();
        assert!(found.same_key(wanted) && (found.seq, found.content) == (wanted.seq, wanted.content));
        assert_eq!(view.lower_bound(&key).unwrap(), first);
        let before = wanted.seq.0.checked_sub(1).and_then(|seq| view.find(&key, Seq(seq)).unwrap());
        let older = entries.get(index + 1).filter(|next| next.same_key(wanted));
        assert_eq!(before.map(|e| e.seq), older.map(|e| e.seq));
    }
}

/// Builds a page of records, and changes a byte of it or of its lower bound.
fn change(mut data: &[u8]) {
    let data = &mut data;
    let (place, flip) = (usize::from(byte(data)) << 8 | usize::from(byte(data)), byte(data));
    let bounds = byte(data);
    let common = part(data);
    let mut versions = BTreeMap::new();
    while !data.is_empty() {
        let kind = byte(data);
        let seq = u64::from(byte(data)) << (kind >> 2);
        let key = [common, part(data)].concat();
        let content = match kind % 4 {
            0 => Content::Tombstone,
            _ => Content::Value(part(data)),
        };
        versions.insert((key, Reverse(Seq(seq))), content);
    }
    let entries: Vec<Entry> = versions
        .iter()
        .map(|((key, seq), content)| {
            let (head, tail) = key.split_at(usize::from(bounds >> 4).min(key.len()));
            Entry { head, tail, seq: seq.0, content: *content }
        })
        .collect();
    let mut lower = if bounds & 1 == 0 { Vec::new() } else { entries.first().map_or(vec![1], Entry::key) };
    let above = entries.last().map_or(vec![2], |last| [&last.key()[..], &[0]].concat());
    let upper = (bounds & 2 == 0).then_some(&above[..]);
    // A page is appended to what is there, and does not depend on it.
    let mut page = vec![place as u8; usize::from(flip)];
    encode(&lower, upper, &entries, &mut page);
    let mut page = page.split_off(usize::from(flip));
    let view = PageView::open(&lower, &page).unwrap();
    assert_eq!((view.len(), view.upper()), (entries.len(), upper));
    view.check(&lower, upper).unwrap();
    consult(&view, &entries);
    let place = place % (page.len() + lower.len());
    match place.checked_sub(page.len()) {
        Some(at) => lower[at] ^= flip,
        None => page[place] ^= flip,
    }
    // A change of one byte is a burst that a CRC-32 always finds.
    assert_eq!(PageView::open(&lower, &page).is_ok(), flip == 0);
}

fuzz_target!(|data: &[u8]| {
    let mut data = data;
    let mode = byte(&mut data);
    if mode % 3 == 2 {
        return change(data);
    }
    let (lower, probe) = (part(&mut data), part(&mut data));
    let mut page = data.to_vec();
    if mode % 3 == 1 && page.len() >= 4 {
        let crc = checksum(lower, &page);
        page[..4].copy_from_slice(&crc.to_le_bytes());
    }
    ask(lower, &page, probe);
});
