//! The keys: a number's key in each layout, and the order in which numbers are taken.
//!
//! Invariants: within a layout different numbers have different keys; both are the same on every side and in every run.

use std::ops::Deref;

/// How numbers become keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// 20 bytes in random order.
    Random20,
    /// 20 bytes in the order of the numbers.
    Sorted20,
    /// 16 bytes in random order.
    Random16,
    /// 16 bytes: 8 that name a group, in random order, and 8 that count within it.
    Grouped16,
}

/// The records that share the first 8 bytes of their keys in `Layout::Grouped16`.
pub const GROUP: u64 = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    bytes: [u8; 20],
    len: u8,
}

impl Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl Layout {
    pub fn key(self, n: u64) -> Key {
        let (first, second) = match self {
            Layout::Random20 | Layout::Random16 => (mix(n), mix(n ^ 0x5851_f42d_4c95_7f2d)),
            Layout::Sorted20 => (n, mix(n)),
            Layout::Grouped16 => (mix(n / GROUP), n % GROUP),
        };
        let len = if matches!(self, Layout::Random20 | Layout::Sorted20) { 20 } else { 16 };
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&first.to_be_bytes());
        bytes[8..16].copy_from_slice(&second.to_be_bytes());
        bytes[16..].copy_from_slice(&(mix(second) as u32).to_be_bytes());
        Key { bytes, len }
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection, so that different numbers stay different.
#[inline]
pub fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A stream of random numbers: SplitMix64.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(mix(seed))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Uniform below `n`, which is not 0 (Lemire's multiplication; the bias is below 2^-32 for what is drawn here).
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The numbers below `len` in an order without pattern, each once: a Feistel network over the next power of four, walked
/// on until it lands inside.
#[derive(Debug, Clone, Copy)]
pub struct Permutation {
    len: u64,
    half: u32,
    seed: u64,
}

impl Permutation {
    pub fn new(len: u64, seed: u64) -> Permutation {
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        Permutation { len, half: bits.div_ceil(2).max(1), seed }
    }

    /// The number at place `at`, which is below `len`.
    pub fn get(&self, at: u64) -> u64 {
        assert!(at < self.len, "place {at} of a permutation of {}", self.len);
        let mask = (1u64 << self.half) - 1;
        let mut n = at;
        loop {
            let (mut left, mut right) = (n >> self.half, n & mask);
            for round in 0..4u64 {
                let turned = left ^ (mix(right ^ self.seed.rotate_left(16) ^ (round << 56)) & mask);
                (left, right) = (right, turned);
            }
            n = (left << self.half) | right;
            if n < self.len {
                return n;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn keys_are_unique_and_of_their_length() {
        for (layout, len) in
            [(Layout::Random20, 20), (Layout::Sorted20, 20), (Layout::Random16, 16), (Layout::Grouped16, 16)]
        {
            let keys: HashSet<Key> = (0..200_000).map(|n| layout.key(n)).collect();
            assert_eq!(keys.len(), 200_000, "{layout:?}");
            assert!(keys.iter().all(|k| k.len() == len), "{layout:?}");
        }
    }

    #[test]
    fn sorted_keys_ascend_and_random_ones_do_not() {
        assert!((0..10_000).all(|n| *Layout::Sorted20.key(n) < *Layout::Sorted20.key(n + 1)));
        let rises = (0..10_000).filter(|n| *Layout::Random20.key(*n) < *Layout::Random20.key(n + 1)).count();
        assert!((4_000..6_000).contains(&rises), "{rises} of 10,000 neighbours ascend");
    }

    #[test]
    fn groups_share_their_first_bytes_and_ascend_within() {
        let keys: Vec<Key> = (0..2 * GROUP).map(|n| Layout::Grouped16.key(n)).collect();
        assert!(keys[..GROUP as usize].iter().all(|k| k[..8] == keys[0][..8]));
        assert!(keys[..GROUP as usize].is_sorted());
        assert_ne!(keys[0][..8], keys[GROUP as usize][..8]);
    }

    #[test]
    fn a_permutation_has_every_number_once() {
        for len in [1, 2, 3, 7, 64, 1_000, 65_537] {
            let order = Permutation::new(len, 7);
            let seen: HashSet<u64> = (0..len).map(|at| order.get(at)).collect();
            assert_eq!(seen.len() as u64, len);
            assert!(seen.iter().all(|n| *n < len));
        }
    }

    #[test]
    fn a_permutation_has_no_pattern() {
        let order = Permutation::new(10_000, 1);
        let fixed = (0..10_000).filter(|n| order.get(*n) == *n).count();
        let rises = (0..9_999).filter(|n| order.get(*n) < order.get(n + 1)).count();
        assert!(fixed < 20, "{fixed} numbers stay in place");
        assert!((4_500..5_500).contains(&rises), "{rises} of 9,999 neighbours ascend");
    }

    #[test]
    fn numbers_below_are_even() {
        let mut rng = Rng::new(3);
        let mut counts = [0u32; 10];
        (0..100_000).for_each(|_| counts[rng.below(10) as usize] += 1);
        assert!(counts.iter().all(|c| (9_500..10_500).contains(c)), "{counts:?}");
    }
}
