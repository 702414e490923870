//! A part of the journal that is being given up; and which version a manifest is of.
//!
//! Invariant: a manifest that says nothing of what a version brought is byte for byte what it was before there was such a thing; one that does
//! is refused by name by a release that does not know of it, which would otherwise take it for damaged, and an older copy in its place.

use super::{KIND, Manifest};
use crate::envelope::{self, Kind};
use crate::error::Result;
use crate::ids::Seq;
use serde::{Deserialize, Serialize};

/// What version 4 brought.
const WITH_LOSS: Kind = Kind { version: 4, ..KIND };

/// What is written where there is neither.
const WITHOUT_LOSS: Kind = Kind { version: 3, ..KIND };

/// A copy of the journal was accepted as it is, in place of one that has more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GivenUp {
    /// The epoch of the copies' words that begins with it: as long as none is heard of that is as new, nothing was given up. A multiple of 2^32
    /// where a copy is accepted; see [`is_of_lost`](Self::is_of_lost).
    pub epoch: u64,
    /// What is left, once the shards have what the copy had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Kept>,
}

impl GivenUp {
    /// Whether a journal is begun in the place of one that is lost in all its directories, whose words may be of any epoch if they turn up: that
    /// it has begun there is what shows that this counts.
    pub fn is_of_lost(&self) -> bool {
        self.epoch == 0 || self.epoch & u64::from(u32::MAX) != 0
    }
}

/// What is left when a part of the journal was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// The last write that the copy of the journal had.
    pub end: Seq,
    /// A shard that is sealed up to here, or further, counts as it is; another is made anew.
    pub level: Seq,
    /// The number with which writes go on.
    pub next: Seq,
}

impl Manifest {
    /// The bytes of the file.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let kind = match self.given_up {
            _ if self.tells_mounts() => KIND,
            Some(_) => WITH_LOSS,
            None => WITHOUT_LOSS,
        };
        envelope::encode(kind, self)
    }

    /// Whether it has what version 5 brought.
    pub fn tells_mounts(&self) -> bool {
        self.journals.iter().any(|journal| journal.mounts > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::FILE;
    use super::*;
    use std::path::Path;

    #[test]
    fn what_is_being_given_up_has_a_version_of_its_own_and_leaves_no_trace() {
        let mut manifest = super::super::tests::manifest();
        let before = manifest.encode().unwrap();
        assert_eq!(before[8], 3);
        let kept = Some(Kept { end: Seq(7), level: Seq(9), next: Seq(2 << 32) });
        for kept in [None, kept] {
            manifest.given_up = Some(GivenUp { epoch: 1 << 32, kept });
            assert_eq!(manifest.encode().unwrap()[8], 4);
            assert_eq!(Manifest::decode(Path::new(FILE), &manifest.encode().unwrap()).unwrap(), manifest);
        }
        manifest.given_up = None;
        assert_eq!(manifest.encode().unwrap(), before);
        manifest.journals[0].mounts = 2;
        assert_eq!(manifest.encode().unwrap()[8], 5);
        assert_eq!(Manifest::decode(Path::new(FILE), &manifest.encode().unwrap()).unwrap(), manifest);
    }
}
