//! Of which history of a store something is: which openings wrote the log that it comes from.
//!
//! Invariants: a stretch is what one opening of a store wrote, and has a number that was drawn for that opening alone, so two copies of a store that both
//! write have no stretch in common behind the point where they parted; within a lineage the beginnings of stretches ascend. What lies before the first
//! one nobody knows anything about, and nothing is concluded of it.

use crate::envelope::hex128;
use crate::ids::Seq;
use serde::{Deserialize, Serialize};

/// How many stretches are kept. What is older is not told from another history any more.
const MOST: usize = 256;

/// What one opening of a store wrote: the writes behind `from`, up to where the next stretch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stretch {
    #[serde(with = "hex128")]
    pub id: u128,
    pub from: Seq,
}

/// Whether two have the same writes up to where the shorter one ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kin {
    Same,
    Other,
    /// It is too long ago, or of a release that told nothing of it.
    Unknown,
}

/// The stretches of a log, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lineage(Vec<Stretch>);

impl Lineage {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Errors unless the stretches begin one behind the other, and the last one of a log that ends with `last` before that.
    pub fn check(&self, last: Seq) -> Result<(), &'static str> {
        let ends = self.0.iter().skip(1).map(|next| next.from).chain([last]);
        match self.0.iter().zip(ends).all(|(stretch, end)| stretch.from < end) {
            true => Ok(()),
            false => Err("the stretches of its history are not in order"),
        }
    }

    /// The stretch that a write is of.
    pub fn owner(&self, seq: Seq) -> Option<u128> {
        let at = self.0.partition_point(|stretch| stretch.from < seq);
        Some(self.0.get(at.checked_sub(1)?)?.id)
    }

    /// What this log is to one that has the write `seq`, which is of the stretch `owner`.
    pub fn kin(&self, seq: Seq, owner: Option<u128>) -> Kin {
        let (Some(owner), Some(first)) = (owner, self.0.first()) else { return Kin::Unknown };
        match self.0.iter().any(|stretch| stretch.id == owner) {
            true if self.owner(seq) == Some(owner) => Kin::Same,
            // It went on with that where this log went on with another.
            true => Kin::Other,
            false if first.from < seq => Kin::Other,
            false => Kin::Unknown,
        }
    }

    /// Behind `from` another opening writes. Where the log had come to more before, that is given up; an opening that wrote nothing leaves nothing.
    pub fn begin(&mut self, id: u128, from: Seq) {
        self.0.retain(|stretch| stretch.from < from);
        self.0.push(Stretch { id, from });
        let old = self.0.len().saturating_sub(MOST);
        self.0.drain(..old);
    }

    /// That of the log up to a write.
    pub fn upto(&self, last: Seq) -> Lineage {
        Lineage(self.0.iter().filter(|stretch| stretch.from < last).copied().collect())
    }

    /// That of a part of the log: from the stretch of the write before it on.
    pub fn within(&self, first: Seq, last: Seq) -> Lineage {
        let before = Seq(first.0.saturating_sub(1));
        let begun = self.0.partition_point(|stretch| stretch.from < before);
        let begin = begun.saturating_sub(1);
        Lineage(self.0[begin..].iter().filter(|stretch| stretch.from < last).copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lineage(all: &[(u128, u64)]) -> Lineage {
        Lineage(all.iter().map(|(id, from)| Stretch { id: *id, from: Seq(*from) }).collect())
    }

    #[test]
    fn a_write_is_of_the_stretch_that_begins_before_it() {
        let all = lineage(&[(7, 0), (8, 10), (9, 20)]);
        let owners = [0, 1, 10, 11, 20, 21, 99].map(|seq| all.owner(Seq(seq)));
        assert_eq!(owners, [None, Some(7), Some(7), Some(8), Some(8), Some(9), Some(9)]);
        assert_eq!(lineage(&[(7, 5)]).owner(Seq(5)), None);
        assert_eq!(Lineage::default().owner(Seq(5)), None);
    }

    #[test]
    fn copies_that_parted_are_told_apart_behind_that_and_nowhere_else() {
        let (one, other) = (lineage(&[(7, 0), (8, 10)]), lineage(&[(7, 0), (9, 15)]));
        let kin = |log: &Lineage, seq, of: &Lineage| log.kin(Seq(seq), of.owner(Seq(seq)));
        for (seq, expected) in [(1, Kin::Same), (10, Kin::Same), (11, Kin::Other), (16, Kin::Other)] {
            assert_eq!(kin(&one, seq, &other), expected, "{seq}");
            assert_eq!(kin(&other, seq, &one), expected, "{seq}");
        }
        // What lies before all that is known is not told from anything.
        let young = lineage(&[(8, 10)]);
        assert_eq!(kin(&young, 10, &one), Kin::Unknown);
        assert_eq!(kin(&young, 11, &one), Kin::Same);
        assert_eq!(kin(&young, 16, &other), Kin::Other);
        assert_eq!(kin(&young, 5, &Lineage::default()), Kin::Unknown);
        assert_eq!(kin(&Lineage::default(), 5, &one), Kin::Unknown);
    }

    #[test]
    fn openings_that_wrote_nothing_and_what_was_given_up_leave_no_stretch() {
        let mut all = Lineage::default();
        for (id, from) in [(1, 0), (2, 0), (3, 10), (4, 20), (5, 20), (6, 15)] {
            all.begin(id, Seq(from));
        }
        assert_eq!(all, lineage(&[(2, 0), (3, 10), (6, 15)]));
        (0..1_000).for_each(|n| all.begin(n, Seq(100 + n as u64)));
        assert_eq!(all.0.len(), MOST);
        assert_eq!(all.owner(Seq(1_100)), Some(999));
    }

    #[test]
    fn a_part_of_a_log_has_the_stretches_from_the_write_before_it_on() {
        let all = lineage(&[(7, 0), (8, 10), (9, 20)]);
        assert_eq!(all.upto(Seq(20)), lineage(&[(7, 0), (8, 10)]));
        assert_eq!(all.upto(Seq(0)), Lineage::default());
        assert_eq!(all.within(Seq(1), Seq(10)), lineage(&[(7, 0)]));
        assert_eq!(all.within(Seq(11), Seq(20)), lineage(&[(7, 0), (8, 10)]));
        assert_eq!(all.within(Seq(12), Seq(30)), lineage(&[(8, 10), (9, 20)]));
        assert_eq!(all.within(Seq(40), Seq(50)), lineage(&[(9, 20)]));
    }

    #[test]
    fn stretches_that_are_not_in_order_are_refused() {
        assert!(lineage(&[(7, 0), (8, 10)]).check(Seq(11)).is_ok());
        assert!(Lineage::default().check(Seq(0)).is_ok());
        for (all, last) in [(&[(7, 10), (8, 10)][..], 20), (&[(7, 10), (8, 9)], 20), (&[(7, 0), (8, 10)], 10)]
        {
            assert!(lineage(all).check(Seq(last)).is_err());
        }
    }
}
