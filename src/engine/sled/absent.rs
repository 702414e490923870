//! Which keys the pages of a node do not have: a small Bloom filter for each page, so that a key that is not there costs
//! neither the page nor a search in it.
//!
//! A filter is made from a page at hand, when a lookup has missed a key there, and kept in memory only: nothing is written for
//! it, and a store whose keys are always found has none.
//!
//! Invariant: a filter is asked only when it has all keys of its page, which never change while the page has its id; so what
//! it says is absent is absent.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bits for each record: with [`PROBES`] of them about one absent key in a hundred passes for present.
const BITS: u64 = 12;
const PROBES: u32 = 5;
/// The most words for one page.
const MOST_WORDS: u64 = 256;
/// The bit of a page's first word that says that all its keys have been entered; no key is entered there.
const COMPLETE: u64 = 1;

#[derive(Debug)]
pub(super) struct Absences {
    /// As many for each page.
    each: usize,
    words: Box<[AtomicU64]>,
}

impl Absences {
    /// Filters for so many pages, which have so many records together.
    pub fn new(pages: usize, records: u64) -> Absences {
        let mean = records.div_ceil(pages.max(1) as u64);
        let each = (mean * BITS).div_ceil(64).clamp(1, MOST_WORDS) as usize;
        Absences { each, words: std::iter::repeat_with(AtomicU64::default).take(pages * each).collect() }
    }

    pub fn resident(&self) -> usize {
        self.words.len() * 8 + 32
    }

    fn page(&self, index: usize) -> Option<&[AtomicU64]> {
        self.words.get(index * self.each..(index + 1) * self.each)
    }

    /// Whether page `index` does not have the key with this hash. False if that is not known.
    #[inline]
    pub fn lacks(&self, index: usize, hash: impl FnOnce() -> u64) -> bool {
        let Some(words) = self.page(index) else { return false };
        // Pairs with the store that completes the filter.
        let first = words[0].load(Ordering::Acquire);
        first & COMPLETE != 0
            && probes(hash(), self.each).any(|(word, bit)| words[word].load(Ordering::Relaxed) & bit == 0)
    }

    /// Enters all keys of page `index`, by their hashes.
    pub fn note(&self, index: usize, hashes: &[u64]) {
        let Some(words) = self.page(index) else { return };
        let mut filled = vec![0; self.each];
        for (word, bit) in hashes.iter().flat_map(|hash| probes(*hash, self.each)) {
            filled[word] |= bit;
        }
        for (word, bits) in words.iter().zip(&filled).skip(1) {
            word.store(*bits, Ordering::Relaxed);
        }
        words[0].store(filled[0] | COMPLETE, Ordering::Release);
    }
}

/// The word and the bit of each probe.
#[inline]
fn probes(hash: u64, words: usize) -> impl Iterator<Item = (usize, u64)> {
    let step = hash.rotate_left(32) | 1;
    let mut next = hash;
    (0..PROBES).map(move |_| {
        next = next.wrapping_add(step);
        let at = ((u128::from(next) * (words as u128 * 64)) >> 64) as usize;
        // The bit that is not a key's is left out.
        let at = at.max(1);
        (at / 64, 1 << (at % 64))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::BuildHasher;

    #[test]
    fn what_is_there_is_never_absent_and_most_of_the_rest_is() {
        let hasher = foldhash::fast::RandomState::default();
        for records in [1u64, 4, 34, 400] {
            let absences = Absences::new(100, 100 * records);
            let hash = |page: u64, n: u64| hasher.hash_one([page, n]);
            assert!((0..100).all(|page| !absences.lacks(page, || 7)), "nothing is known yet");
            for page in 0..100 {
                let hashes: Vec<u64> = (0..records).map(|n| hash(page, n)).collect();
                absences.note(page as usize, &hashes);
            }
            let mut passed = 0;
            for page in 0..100 {
                assert!((0..records).all(|n| !absences.lacks(page as usize, || hash(page, n))));
                passed += (1 << 20..(1 << 20) + 100)
                    .filter(|n| !absences.lacks(page as usize, || hash(page, *n)))
                    .count();
            }
            assert!(passed < 400, "{passed} of 10,000 absent keys pass with {records} records a page");
        }
    }

    #[test]
    fn a_page_that_is_not_there_is_not_known() {
        let absences = Absences::new(2, 2);
        absences.note(5, &[1]);
        assert!(!absences.lacks(5, || 1));
        assert!(absences.resident() < 100);
    }
}
