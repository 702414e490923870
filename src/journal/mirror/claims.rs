//! What directories claim that the manifest does not list, where it was taken from a shard and may be of long ago.
//!
//! Invariants:
//! - A word calls those copies complete that have all that was acknowledged where it lies. So what a believed copy's number is in takes nothing
//!   away when it is cleared; what names none of them may have gone on alone, whatever its epoch: openings that came to nothing raise the others'.
//! - Where that is so no copy is believed, and nothing is changed, unless the user says which one counts.

use super::open::Place;
use super::words::Word;
use crate::disk::Disk;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::Journal;

/// A directory that is to hold a copy, and holds one by its own account.
pub struct Claim {
    id: u32,
    /// None: it cannot be read.
    word: Option<Word>,
}

/// The claims of those that the manifest does not list.
pub fn of(disk: &dyn Disk, places: &[Place], words: &[Result<Option<Word>>]) -> Vec<Claim> {
    let new = places.iter().zip(words).filter(|(place, _)| place.listed && !place.known);
    new.filter_map(|(place, word)| {
        let word = match word {
            Ok(None) => return None,
            Ok(Some(word)) => Some(word.clone()),
            // Nothing that lies there can be lost.
            Err(_) if matches!(Journal::is_in(disk, &place.dir), Ok(false)) => return None,
            Err(_) => None,
        };
        Some(Claim { id: place.id, word })
    })
    .collect()
}

/// Believes no copy any more where one that the manifest does not list may have more than all of them.
pub fn weigh(claims: &[Claim], judged: &mut [(Place, Option<Error>)]) {
    let counts = judged.iter().filter(|(_, cause)| cause.is_none());
    let mut covered: Vec<(u32, u64)> = counts.map(|(place, _)| (place.id, u64::MAX)).collect();
    let names = |word: &Word, (id, epoch): &(u32, u64)| {
        Some(*id) != word.mirror && word.good.contains(id) && word.epoch <= *epoch
    };
    // One that a believed copy covers covers in its turn what had been left before it.
    for _ in claims {
        for word in claims.iter().filter_map(|claim| claim.word.as_ref()) {
            if let Some(id) = word.mirror.filter(|_| covered.iter().any(|known| names(word, known))) {
                covered.push((id, word.epoch));
            }
        }
    }
    let is_covered = |word: &Word| covered.iter().any(|known| names(word, known));
    let contest = |claim: &&Claim| !claim.word.as_ref().is_some_and(is_covered);
    let contests: Vec<u32> = claims.iter().filter(contest).map(|claim| claim.id).collect();
    let dirs: Vec<String> = judged
        .iter()
        .filter(|(place, _)| contests.contains(&place.id))
        .map(|(place, _)| place.dir.display().to_string())
        .collect();
    if dirs.is_empty() {
        return;
    }
    let behind = |place: &Place, text: String| Error::new(ErrorKind::Unavailable, text).at(&place.dir);
    for (place, cause) in judged {
        if cause.is_none() {
            *cause = Some(behind(
                place,
                format!(
                    "the journal may have been moved from here: the manifest was taken from a shard, and may be older than what lies in {}; \
                     to go on with this copy, and leave that alone, name no new directories",
                    dirs.join(", ")
                ),
            ));
        } else if contests.contains(&place.id)
            && !matches!(cause, Some(e) if e.kind() == ErrorKind::Corruption)
        {
            let text = "the manifest does not list this copy of the journal, and may be older than it";
            *cause = Some(behind(place, text.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn place(id: u32, known: bool) -> Place {
        Place { id, dir: PathBuf::from(format!("/{id}")), known, listed: true, implicit: false, mounts: 0 }
    }

    fn word(id: u32, epoch: u64, good: &[u32]) -> Claim {
        Claim { id, word: Some(Word { store: 1, mirror: Some(id), epoch, good: good.to_vec() }) }
    }

    /// What becomes of copies 1, which is believed, 2, which is behind, and 3, which is damaged, where 4 and 5 claim so much.
    fn weighed(claims: &[Claim]) -> Vec<Option<ErrorKind>> {
        let of = |kind| Some(Error::new(kind, "before"));
        let mut judged = vec![
            (place(1, true), None),
            (place(2, true), of(ErrorKind::Refused)),
            (place(3, true), of(ErrorKind::Corruption)),
            (place(4, false), of(ErrorKind::Refused)),
            (place(5, false), of(ErrorKind::Corruption)),
        ];
        weigh(claims, &mut judged);
        judged.into_iter().map(|(_, cause)| cause.map(|error| error.kind())).collect()
    }

    #[test]
    fn a_claim_that_no_believed_copy_covers_leaves_none_believed() {
        use ErrorKind::{Corruption, Refused, Unavailable};
        let before = [None, Some(Refused), Some(Corruption), Some(Refused), Some(Corruption)];
        assert_eq!(weighed(&[]), before);
        assert_eq!(weighed(&[word(4, 9, &[1, 4])]), before);
        // By way of another one.
        assert_eq!(weighed(&[word(5, 8, &[4, 5]), word(4, 9, &[1, 4])]), before);
        let contested =
            |four| [Some(Unavailable), Some(Refused), Some(Corruption), Some(four), Some(Corruption)];
        assert_eq!(weighed(&[word(4, 9, &[4])]), contested(Unavailable));
        assert_eq!(weighed(&[word(4, 9, &[2, 4])]), contested(Unavailable));
        // It has gone on since the other one called it complete.
        assert_eq!(weighed(&[word(5, 9, &[4, 5]), word(4, 8, &[1, 4])]), contested(Refused));
        assert_eq!(weighed(&[Claim { id: 5, word: None }]), contested(Refused));
    }
}
