//! The records that every store has, so that whoever reads one can tell what must be there.

pub const RECORDS: u32 = 5000;

pub fn key(n: u32) -> [u8; 20] {
    let mut key = [b'k'; 20];
    key[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b9).to_be_bytes());
    key
}

/// The value that a round of writes gives a record.
pub fn value(n: u32, round: u32) -> Vec<u8> {
    (0..100u32)
        .map(|i| (n.wrapping_mul(31).wrapping_add(round.wrapping_mul(7919)).wrapping_add(i) >> 2) as u8)
        .collect()
}

/// What a child found, from the worst. A child that dies or hangs has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Found {
    /// A value that was never written, or not to this key, or no longer.
    Wrong,
    /// Opened, and a record is not there, without a word.
    Missing,
    /// Killed by a panic, a signal, or because it did not come to an end.
    Dead,
    /// An error, and nothing wrong besides.
    Error,
    Whole,
}

impl Found {
    pub const ALL: [Found; 5] = [Found::Wrong, Found::Missing, Found::Dead, Found::Error, Found::Whole];

    pub fn name(self) -> &'static str {
        match self {
            Found::Wrong => "wrong",
            Found::Missing => "missing",
            Found::Dead => "dead",
            Found::Error => "error",
            Found::Whole => "whole",
        }
    }
}

/// Reads every record, and judges.
pub fn read(get: impl Fn(&[u8]) -> Result<Option<Vec<u8>>, String>) -> (Found, String) {
    let mut worst = (Found::Whole, String::new());
    for n in 0..RECORDS {
        let found = match get(&key(n)) {
            Ok(Some(found)) if found == value(n, 0) => continue,
            Ok(Some(_)) => (Found::Wrong, format!("record {n}")),
            Ok(None) => (Found::Missing, format!("record {n}")),
            Err(error) => (Found::Error, error),
        };
        if found.0 < worst.0 {
            worst = found;
        }
    }
    worst
}
