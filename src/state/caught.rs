//! How a shard that catches up gets on, against what the others are given meanwhile.
//!
//! Invariant: as long as it is not outrun it has been given at least twice as much as it came to lack meanwhile, so that it lacks less and less;
//! where it is, flushes wait for it, and no longer than for as much again as the last of them brought the others.

use crate::ids::{Seq, ShardId};

/// Of the shard that was given a piece of the journal last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caught {
    pub shard: ShardId,
    /// Up to where the others had it when this was looked at last, and up to where the shard had.
    until: Seq,
    applied: Seq,
    /// What each has got since, in sequences.
    grown: u64,
    replayed: u64,
}

impl Caught {
    /// It begins.
    pub fn begin(shard: ShardId, until: Seq, applied: Seq) -> Caught {
        Caught { shard, until, applied, grown: 0, replayed: 0 }
    }

    /// Takes note of how far it is now; returns how much the others got since the last time.
    pub fn look(&mut self, until: Seq, applied: Seq) -> u64 {
        let grown = until.0.saturating_sub(self.until.0);
        self.grown = self.grown.saturating_add(grown);
        self.replayed = self.replayed.saturating_add(applied.0.saturating_sub(self.applied.0));
        (self.until, self.applied) = (until, applied);
        grown
    }

    /// Whether it would never be level beside flushes as they come.
    pub fn is_outrun(&self) -> bool {
        self.replayed < self.grown.saturating_mul(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_outrun_that_gets_less_than_twice_what_the_others_do() {
        let mut caught = Caught::begin(ShardId(1), Seq(100), Seq(10));
        assert!(!caught.is_outrun());
        assert_eq!(caught.look(Seq(110), Seq(29)), 10);
        assert!(caught.is_outrun(), "19 of 10");
        assert_eq!(caught.look(Seq(110), Seq(30)), 0);
        assert!(!caught.is_outrun(), "20 of 10");
        assert_eq!(caught.look(Seq(111), Seq(30)), 1);
        assert!(caught.is_outrun(), "what it had got before counts as little as it comes to: 20 of 11");
        assert_eq!(caught.look(Seq(111), Seq(80)), 0);
        assert!(!caught.is_outrun());
    }
}
