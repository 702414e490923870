//! Arbitrary bytes are no node of a shard's index, or one that can be asked for any key; a node with any one byte changed,
//! or found under another number, is none.
//!
//! The first byte of the input says which of these it tries: bytes as they are, bytes under a checksum that is right
//! (which no random bytes would have), or a node made of pages and then changed. A bound may be spelt as what the one
//! before it holds, so memory may be the input's length squared: run it with `-malloc_limit_mb=64` and inputs of 4 KiB.
#![no_main]

use annulus::testing::node::{Listed, Node, PageRef};
use annulus::testing::page::checksum;
use libfuzzer_sys::fuzz_target;
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

/// A number of any size: one byte, shifted by what the next one says.
fn number(data: &mut &[u8]) -> u64 {
    u64::from(byte(data)) << (byte(data) % 64)
}

/// Asks a node everything that it can be asked about `probe`.
fn ask(node: &Node, probe: &[u8]) {
    let listed = node.listed();
    assert!(node.len() > 0 && listed.len() == node.len() && node.page(node.len()).is_none());
    assert!(listed.windows(2).all(|pair| pair[0].lower < pair[1].lower));
    assert!(node.end().is_none_or(|end| listed.last().unwrap().lower.as_slice() < end));
    for (index, listed) in listed.iter().enumerate() {
        assert_eq!((node.lower(index), node.page(index)), (&listed.lower[..], Some(listed.page)));
        assert_eq!(node.find(&listed.lower), index);
        assert_eq!(node.find_below(&listed.lower), index.saturating_sub(1));
        assert!(node.upper(index).is_none_or(|upper| node.find_below(upper) == index));
    }
    let below = |at: usize| listed[at].lower.as_slice() < probe || at == 0;
    let (holds, before) = (node.find(probe), node.find_below(probe));
    assert!(listed[holds].lower.as_slice() <= probe || holds == 0);
    assert!(listed.get(holds + 1).is_none_or(|next| next.lower.as_slice() > probe));
    assert!(below(before) && (before + 1 == listed.len() || listed[before + 1].lower.as_slice() >= probe));
}

/// Whatever is read is written so that it is read again.
fn read(number: u64, bytes: &[u8], probe: &[u8]) {
    let Ok(node) = Node::decode(number, bytes) else { return };
    ask(&node, probe);
    let again = node.encode(number);
    // Bounds are written in their shortest spelling, so that equal nodes are equal bytes.
    assert!(again.len() <= bytes.len());
    assert_eq!(Node::decode(number, &again).unwrap(), node);
    assert_eq!(Node::new(&node.listed(), node.end()), node);
}

/// Builds a node of pages, and changes a byte of it or of its number.
fn change(number_of_node: u64, mut data: &[u8]) {
    let data = &mut data;
    let (place, flip) = (usize::from(byte(data)) << 8 | usize::from(byte(data)), byte(data));
    let (bounded, common, probe) = (byte(data) & 1 == 1, part(data), part(data));
    let mut pages = BTreeMap::new();
    while !data.is_empty() || pages.is_empty() {
        let lower = [common, part(data)].concat();
        let page = PageRef {
            id: number(data),
            unit: number(data),
            bytes: number(data) as u32,
            records: number(data) as u32,
            crc: u32::from(byte(data)) << 24,
        };
        pages.insert(lower, page);
    }
    let listed: Vec<Listed> = pages.into_iter().map(|(lower, page)| Listed { lower, page }).collect();
    let above = [&listed.last().unwrap().lower[..], &[0]].concat();
    let node = Node::new(&listed, bounded.then_some(&above));
    ask(&node, probe);
    assert_eq!(node.listed(), listed);
    let mut bytes = node.encode(number_of_node);
    assert_eq!(Node::decode(number_of_node, &bytes).unwrap(), node);
    assert!(Node::decode(number_of_node, &bytes[..place % bytes.len()]).is_err());
    let place = place % (bytes.len() + 8);
    let mut found_under = number_of_node.to_be_bytes();
    match place.checked_sub(bytes.len()) {
        Some(at) => found_under[at] ^= flip,
        None => bytes[place] ^= flip,
    }
    // A change of one byte is a burst that a CRC-32 always finds.
    assert_eq!(Node::decode(u64::from_be_bytes(found_under), &bytes).is_ok(), flip == 0);
}

fuzz_target!(|data: &[u8]| {
    let mut data = data;
    let (mode, number) = (byte(&mut data), number(&mut data));
    if mode % 3 == 2 {
        return change(number, data);
    }
    let probe = part(&mut data);
    let mut bytes = data.to_vec();
    if mode % 3 == 1 && bytes.len() >= 4 {
        let crc = checksum(&number.to_be_bytes(), &bytes);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
    }
    read(number, &bytes, probe);
});
