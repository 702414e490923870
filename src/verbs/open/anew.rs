//! The numbers of writes after a part of the journal was given up.
//!
//! Invariant: none is given out that a write may have had which was given up, wherever that is still held: in an engine that has
//! more than its seal says, in a shard or a copy of the journal that is away, in an archive.

use crate::disk::Disk;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Seq;
use crate::shard::Layout;
use crate::state::scrub::Scrubbing;
use std::path::Path;

/// More writes than can be under way between two seals, and than a store that is away can have got ahead.
const AGE: u64 = 1 << 32;

/// The first number after a loss, of which writes up to `last` are known. A whole age is left out; and an acceptance that is
/// interrupted, and begun again from other shards, comes to the same as long as it is in the same age.
///
/// # Errors
/// `Refused`: no number is left.
pub fn first_after(last: Seq) -> Result<Seq> {
    let next = last.0.checked_add(AGE).and_then(|next| (next | (AGE - 1)).checked_add(1));
    next.map(Seq).ok_or_else(|| {
        Error::new(ErrorKind::Refused, "no numbers are left for writes after those that were given up")
            .remedy("bring the journal back; or export what the shards hold into a new store")
    })
}

/// Says in the seals that these shards are complete up to here, as the user has accepted. One that cannot be sealed goes offline, and
/// is made anew from the others.
pub fn level(layout: &Layout, upto: Seq) {
    for shard in layout.shards.iter().filter(|shard| shard.is_open() && shard.applied() < upto) {
        if let Err(error) = shard.begin_apply().and_then(|_| shard.seal(upto)) {
            shard.fail(&error);
        }
    }
}

/// Has the replicas compared from the beginning: nothing tells the shards any more what they lack of what is given up. To be called before that goes
/// which says that something is: it is durable on return, and who opens the store after that knows of nothing to compare.
pub fn compare(layout: &Layout, scrub: &Scrubbing, disk: &dyn Disk, dir: &Path) -> Result<()> {
    let first = layout.shards.first();
    first.map_or(Ok(()), |first| scrub.begin_anew(disk, dir, first.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_on_an_age_later_at_a_round_one_and_end() {
        for (last, next) in [(0, 2), (50, 2), (AGE - 1, 2), (AGE, 3), (2 * AGE - 1, 3), (2 * AGE, 4)] {
            assert_eq!(first_after(Seq(last)).unwrap(), Seq(next * AGE), "{last}");
        }
        let most = u64::MAX - 2 * AGE;
        assert_eq!(first_after(Seq(most)).unwrap(), Seq(u64::MAX - AGE + 1));
        for last in [most + 1, u64::MAX - AGE, u64::MAX] {
            assert_eq!(first_after(Seq(last)).unwrap_err().kind(), ErrorKind::Refused, "{last}");
        }
    }
}
