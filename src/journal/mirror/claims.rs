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
