//! Zipfian choices as YCSB makes them (Cooper et al. 2010): the generator of Gray et al. (SIGMOD 1994, "Quickly generating
//! billion-record synthetic databases"), scrambled by a hash so that popular records are not neighbours, or counted
//! back from the newest record ("latest").

use crate::keys::Rng;

/// YCSB's constant: the skew of the popularity.
pub const THETA: f64 = 0.99;

/// Ranks from 0, the most popular, drawn so that rank r has a share in proportion to 1 / (r + 1)^theta.
#[derive(Debug, Clone)]
pub struct Zipf {
    items: u64,
    zeta: f64,
    zeta2: f64,
}

impl Zipf {
    pub fn new(items: u64) -> Zipf {
        let mut zipf = Zipf { items: 0, zeta: 0.0, zeta2: 1.0 + 0.5f64.powf(THETA) };
        zipf.grow(items);
        zipf
    }

    /// Makes room for more items; costs only the new ones.
    pub fn grow(&mut self, items: u64) {
        for rank in self.items..items {
            self.zeta += ((rank + 1) as f64).powf(-THETA);
        }
        self.items = self.items.max(items);
    }

    pub fn rank(&self, rng: &mut Rng) -> u64 {
        let u = rng.unit();
        let uz = u * self.zeta;
        if uz < 1.0 {
            return 0;
        }
        if uz < self.zeta2 {
            return 1.min(self.items - 1);
        }
        let eta = (1.0 - (2.0 / self.items as f64).powf(1.0 - THETA)) / (1.0 - self.zeta2 / self.zeta);
        let rank = self.items as f64 * (eta * u - eta + 1.0).powf(1.0 / (1.0 - THETA));
        (rank as u64).min(self.items - 1)
    }

    /// A number below the number of items, popular ones anywhere among them.
    pub fn scrambled(&self, rng: &mut Rng) -> u64 {
        fnv(self.rank(rng)) % self.items
    }

    /// A number below the number of items, the greatest the most popular.
    pub fn latest(&self, rng: &mut Rng) -> u64 {
        self.items - 1 - self.rank(rng)
    }
}

/// FNV-1a over the eight bytes of a number, which is how YCSB scrambles.
fn fnv(n: u64) -> u64 {
    n.to_le_bytes().iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: u64 = 1_000_000;

    fn counts(items: u64, draw: impl Fn(&Zipf, &mut Rng) -> u64) -> Vec<u64> {
        let (zipf, mut rng) = (Zipf::new(items), Rng::new(11));
        let mut counts = vec![0; items as usize];
        (0..DRAWS).for_each(|_| counts[draw(&zipf, &mut rng) as usize] += 1);
        counts
    }

    /// The share of the most popular `ranks` of `items`, from the definition.
    fn share(items: u64, ranks: std::ops::Range<u64>) -> f64 {
        let sum = |r: std::ops::Range<u64>| r.map(|r| ((r + 1) as f64).powf(-THETA)).sum::<f64>();
        sum(ranks) / sum(0..items)
    }

    #[test]
    fn ranks_have_their_known_frequencies() {
        let counts = counts(1_000, Zipf::rank);
        // The first two ranks are exact; the others are an approximation of a continuous curve (within 10% in sums).
        for (ranks, within) in [(0..1, 0.01), (1..2, 0.02), (2..10, 0.1), (10..100, 0.1), (100..1_000, 0.1)] {
            let expected = share(1_000, ranks.clone());
            let found: u64 = counts[ranks.start as usize..ranks.end as usize].iter().sum();
            let ratio = found as f64 / DRAWS as f64 / expected;
            assert!((ratio - 1.0).abs() < within, "ranks {ranks:?}: {ratio} of what they should be");
        }
    }

    #[test]
    fn scrambling_keeps_the_skew_and_moves_the_popular() {
        let counts = counts(1_000, Zipf::scrambled);
        let (place, most) = counts.iter().enumerate().max_by_key(|(_, c)| **c).unwrap();
        assert_eq!(place as u64, fnv(0) % 1_000);
        assert!(*most as f64 / DRAWS as f64 >= 0.99 * share(1_000, 0..1));
    }

    #[test]
    fn the_latest_is_the_most_popular() {
        let counts = counts(1_000, Zipf::latest);
        assert!((counts[999] as f64 / DRAWS as f64 / share(1_000, 0..1) - 1.0).abs() < 0.01);
        assert!(counts[999] > counts[998] && counts[998] > counts[900]);
    }

    #[test]
    fn growing_is_as_good_as_starting_large() {
        let mut grown = Zipf::new(10);
        grown.grow(1_000);
        let whole = Zipf::new(1_000);
        assert!((grown.zeta - whole.zeta).abs() < 1e-9 && grown.items == whole.items);
    }

    #[test]
    fn one_item_is_always_chosen() {
        let (zipf, mut rng) = (Zipf::new(1), Rng::new(1));
        assert!((0..1_000).all(|_| zipf.rank(&mut rng) == 0 && zipf.scrambled(&mut rng) == 0));
    }
}
