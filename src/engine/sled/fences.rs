//! Sorted bounds, laid out to be searched: eight bytes of each lie together as numbers, behind what all of them share.
//!
//! A search through boxed keys waits for memory at every step; here it runs through one or two kilobytes, and looks at whole
//! bounds only where eight bytes do not decide (the abbreviated keys of System R's sort, for a B-tree's inner nodes).
//!
//! Invariant: bounds are strictly ascending.

#[derive(Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub(super) struct Fences {
    /// Of each bound but the first, what follows the prefix; before them every [`BLOCK`]th of them once more, so that a
    /// search waits for two places of memory and not for each of its steps.
    heads: Box<[u64]>,
    /// What all bounds but the first begin with: the first of a shard is empty and shares nothing with the others.
    prefix: Prefix,
    /// All bounds, one after another, and where each ends.
    bounds: Box<[u8]>,
    ends: Box<[u32]>,
}

/// So many numbers are compared one and all sooner than searched: the comparisons do not wait for each other's memory.
const COUNTED: usize = 40;
/// Heads for each one that is repeated: a line of memory.
const BLOCK: usize = 8;
const SHORT: usize = 22;

/// A few bytes, which mostly lie beside what refers to them.
#[derive(Debug, PartialEq, Eq)]
enum Prefix {
    Short(u8, [u8; SHORT]),
    Long(Box<[u8]>),
}

impl Default for Prefix {
    fn default() -> Self {
        Prefix::Short(0, [0; SHORT])
    }
}

impl Prefix {
    fn new(bytes: &[u8]) -> Prefix {
        let mut short = [0; SHORT];
        match short.get_mut(..bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                Prefix::Short(bytes.len() as u8, short)
            }
            None => Prefix::Long(bytes.into()),
        }
    }
}

impl std::ops::Deref for Prefix {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Prefix::Short(len, bytes) => &bytes[..usize::from(*len).min(SHORT)],
            Prefix::Long(bytes) => bytes,
        }
    }
}

/// The first eight bytes as a number that orders as they do; zeros where there are fewer.
#[inline]
fn head(bytes: &[u8]) -> u64 {
    match bytes.first_chunk() {
        Some(whole) => u64::from_be_bytes(*whole),
        None => {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            u64::from_be_bytes(padded)
        }
    }
}

/// How many of the numbers are below `wanted`.
#[inline]
fn count_below(heads: &[u64], wanted: u64) -> usize {
    heads.iter().map(|head| usize::from(*head < wanted)).sum()
}

impl Fences {
    pub fn new<'a>(sorted: impl ExactSizeIterator<Item = &'a [u8]>) -> Fences {
        let mut bounds = Vec::new();
        let mut ends = Vec::with_capacity(sorted.len());
        for bound in sorted {
            bounds.extend_from_slice(bound);
            ends.push(bounds.len() as u32);
        }
        let mut fences = Fences { bounds: bounds.into(), ends: ends.into(), ..Fences::default() };
        if let Some(last) = fences.len().checked_sub(1).filter(|last| *last > 0) {
            let (low, high) = (fences.get(1), fences.get(last));
            let shared = low.iter().zip(high).take_while(|(a, b)| a == b).count();
            let head_of = |index| head(&fences.get(index)[shared..]);
            let heads = (1..=last).step_by(BLOCK).map(head_of).chain((1..=last).map(head_of)).collect();
            fences.prefix = Prefix::new(&low[..shared]);
            fences.heads = heads;
        }
        fences
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    #[inline]
    pub fn get(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        &self.bounds[start..self.ends[index] as usize]
    }

    /// Bytes in memory.
    pub fn resident(&self) -> usize {
        self.bounds.len() + self.len() * 4 + self.heads.len() * 8 + 32
    }

    /// The last bound at or below `key`; the first if there is none.
    #[inline]
    pub fn floor(&self, key: &[u8]) -> usize {
        self.count_after_first(key, |bound| bound <= key)
    }

    /// The last bound below `key`; the first if there is none.
    pub fn below(&self, key: &[u8]) -> usize {
        self.count_after_first(key, |bound| bound < key)
    }

    /// How many bounds after the first are `before` the key, which all at the beginning are.
    #[inline]
    fn count_after_first(&self, key: &[u8], before: impl Fn(&[u8]) -> bool) -> usize {
        let count = self.len().saturating_sub(1);
        let Some(rest) = key.strip_prefix(&*self.prefix) else {
            // All begin with the prefix, so all are on one side of a key that does not.
            return if *self.prefix < *key { count } else { 0 };
        };
        let wanted = head(rest);
        let (firsts, heads) = self.heads.split_at(count.div_ceil(BLOCK));
        let block = BLOCK
            * if firsts.len() <= COUNTED {
                count_below(firsts, wanted)
            } else {
                firsts.partition_point(|head| *head < wanted)
            };
        let start = block.saturating_sub(BLOCK);
        let mut low = start + count_below(&heads[start..block.min(count)], wanted);
        let mut high = low;
        while high < count && heads[high] == wanted {
            high += 1;
            if high - low > 4 {
                high += heads[high..].partition_point(|head| *head == wanted);
                break;
            }
        }
        while low < high {
            let middle = low + (high - low) / 2;
            if before(self.get(middle + 1)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![Just(0u8), Just(1), Just(0xff)];
        (prop_oneof![Just(0usize), Just(2), Just(9)], proptest::collection::vec(byte, 0..12))
            .prop_map(|(shared, rest)| [&b"something"[..shared], &rest].concat())
    }

    proptest! {
        #[test]
        fn the_bound_at_or_below_is_found(bounds in proptest::collection::btree_set(key(), 0..60), probes in proptest::collection::vec(key(), 1..30)) {
            let list: Vec<Vec<u8>> = bounds.into_iter().collect();
            let fences = Fences::new(list.iter().map(Vec::as_slice));
            prop_assert_eq!(fences.len(), list.len());
            for (index, bound) in list.iter().enumerate() {
                prop_assert_eq!(fences.get(index), &bound[..]);
            }
            for probe in probes.iter().chain(&list) {
                let at_or_below = list.iter().filter(|bound| *bound <= probe).count();
                let below = list.iter().filter(|bound| *bound < probe).count();
                prop_assert_eq!(fences.floor(probe), at_or_below.saturating_sub(1));
                prop_assert_eq!(fences.below(probe), below.saturating_sub(1));
            }
        }
    }
}
