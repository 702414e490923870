//! What is known of how far the log reaches, whatever is left of it. Pure.

use crate::ids::Seq;

/// Up to where writes are known to have been synced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    /// What the shards have applied, which they do only after it was synced.
    pub applied: Seq,
    /// What an archive is complete up to, likewise, and the repository that it lies in.
    pub archived: Option<(Seq, u128)>,
}

impl From<Seq> for Known {
    fn from(applied: Seq) -> Known {
        Known { applied, archived: None }
    }
}

impl Known {
    pub fn upto(self) -> Seq {
        self.archived.map_or(self.applied, |(upto, _)| upto.max(self.applied))
    }

    /// The same, where the shards have this as well.
    pub fn and_applied(self, seq: Seq) -> Known {
        Known { applied: self.applied.max(seq), ..self }
    }

    /// Who says that the log reaches this sequence.
    pub fn proof(self, seq: Seq) -> String {
        match self.archived {
            Some((upto, repository)) if self.applied < seq => {
                format!("the archive in repository {repository:032x} has this store's writes up to {upto}")
            }
            _ => format!("the shards have applied up to {}", self.applied),
        }
    }

    /// Where the writes are to be had that the journal lacks from this sequence on, if an archive has any.
    pub fn way_out(self, seq: Seq) -> Option<String> {
        let (upto, repository) = self.archived.filter(|(upto, _)| *upto >= seq)?;
        Some(format!(
            "restore the store into a new directory, from a checkpoint and the archive in repository {repository:032x}, which has its \
             writes up to {upto}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_who_has_a_write_and_where_it_is_to_be_had() {
        let known = Known { applied: Seq(5), archived: Some((Seq(9), 0xab)) };
        let by_archive =
            "the archive in repository 000000000000000000000000000000ab has this store's writes up to 9";
        assert_eq!(known.proof(Seq(6)), by_archive);
        for known in [known, Known::from(Seq(5))] {
            assert_eq!(known.proof(Seq(5)), "the shards have applied up to 5");
        }
        assert_eq!(Known::from(Seq(5)).proof(Seq(6)), "the shards have applied up to 5");
        assert!(known.way_out(Seq(9)).is_some_and(|way| way.contains("0ab")));
        assert_eq!((known.way_out(Seq(10)), Known::from(Seq(5)).way_out(Seq(5))), (None, None));
    }
}
