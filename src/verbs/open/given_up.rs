//! A copy of the journal that the user takes as it is, in place of one that has more: what that has is given up.
//!
//! ```text
//!   mark --> words --> replay, flush, level --> kept --> level further, a scrub --> journal anew --> no mark
//! ```
//! Invariants:
//! - The manifest has the mark before a copy has a word of the new epoch, and until a journal has begun whose numbers nothing has that
//!   was given up: so what interrupts this is gone on with by the next opening, whether or not the user accepts once more.
//! - A mark counts only if the newest word that is heard is as new, and of the same age: before, nothing was given up, and an opening that finds
//!   that gives words of a later age. So the mark does not come to count when that is interrupted.
//! - Where the journal is lost in all its directories the mark is set with `kept` from the first on (`lost`), and counts only if a copy that is
//!   believed begins with its number: those that are away then may have words of any age.
//! - That replicas are to be compared is durable before the mark is gone.
//! - From `kept` on the journal is not needed. Nothing is acknowledged before the mark is gone.

use super::anew;
use super::covered::check_covered;
use super::lost;
use super::replay::Replay;
use crate::disk::Disk;
use crate::error::{ErrorKind, Result};
use crate::ids::Seq;
use crate::journal::mirror::Found;
use crate::journal::{Journal, JournalConfig, Known};
use crate::manifest::{GivenUp, Kept, Manifest};
use crate::shard::Layout;
use crate::shard::paths::JOURNAL_DIR;
use crate::state::archives::Archives;
use crate::state::scrub::Scrubbing;
use std::path::Path;
use std::sync::Arc;

/// How an opening goes on with the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From its end on: nothing was given up.
    Whole,
    /// What the copy has is to be put into the shards.
    Accepted { epoch: u64 },
    /// They have it.
    Kept { epoch: u64, kept: Kept },
    /// The journal is believed, and ends below what shards or archives show was synced: as `Accepted`. What interrupts this is accepted
    /// once more, or is refused as before: either of them shows it until a journal has begun behind it.
    Shorter,
}

impl Way {
    /// What the copies and the manifest come to. `begins`: whether the journal begins with a write, where it has no copies.
    ///
    /// # Errors
    /// `Refused`: see [`Found::keep_to_age`]. As [`Journal::begins_with`]: what cannot be read for once is no reason to forget what is being given up.
    pub fn of(
        found: Option<&mut Found>,
        manifest: &Manifest,
        begins: impl Fn(Seq) -> Result<bool>,
    ) -> Result<Way> {
        let Some(found) = found else {
            return Ok(match manifest.given_up {
                Some(GivenUp { epoch, kept: Some(kept) }) if begins(kept.next)? => Way::Kept { epoch, kept },
                _ => Way::Whole,
            });
        };
        if let Some(mark) = manifest.given_up {
            let GivenUp { epoch, kept } = mark;
            let begun = |found: &Found| kept.map_or(Ok(false), |kept| found.begins_with(kept.next));
            let of_age = !mark.is_of_lost() && found.is_of_age(epoch);
            if found.goes_by(epoch) && (of_age || begun(found)?) {
                // Words of another age are no harm once the journal that was begun says it itself.
                if let Err(refused) = found.keep_to_age(epoch)
                    && !begun(found)?
                {
                    return Err(refused);
                }
                found.go_on_accepting();
                return Ok(match kept {
                    None => Way::Accepted { epoch },
                    Some(kept) => Way::Kept { epoch, kept },
                });
            }
            found.pass_over(epoch);
        }
        Ok(match found.is_accepted() {
            true => Way::Accepted { epoch: found.next_epoch() },
            false => Way::Whole,
        })
    }

    /// What the manifest is to say of it while the copies are given words.
    pub fn mark(self) -> Option<GivenUp> {
        match self {
            Way::Whole | Way::Shorter => None,
            Way::Accepted { epoch } => Some(GivenUp { epoch, kept: None }),
            Way::Kept { epoch, kept } => Some(GivenUp { epoch, kept: Some(kept) }),
        }
    }
}

/// Where a replay begins and what the log reaches at least, where nobody asks for what a copy lacks that the shards have.
pub fn from_where(way: Way, found: Option<&Found>, from: impl FnOnce() -> Result<Seq>) -> Result<Seq> {
    match (way, found) {
        (Way::Kept { kept, .. }, found) => {
            let begun = match found.map_or(Ok(true), |found| found.begins_with(kept.next)) {
                // Nothing of it is needed.
                Err(e) if e.kind() == ErrorKind::Corruption => false,
                begun => begun?,
            };
            Ok(if begun { Seq(kept.next.0.saturating_sub(1)) } else { kept.end })
        }
        (_, None) => from(),
        (_, Some(found)) => {
            let last = found.last()?;
            Ok(from()?.min(last))
        }
    }
}

/// Where the journal ends, if it can be read and has less than is known of the log. It is read twice, which is for those alone who accept
/// that.
pub fn ends_short(
    disk: &dyn Disk,
    dir: &Path,
    store: u128,
    found: Option<&Found>,
    (from, known): (Seq, Known),
) -> Option<Seq> {
    let last = match found {
        Some(found) if found.has(from, known) => return None,
        Some(found) => found.last(),
        None => {
            let dir = &dir.join(JOURNAL_DIR);
            let mut pass = |_: Seq, _: &[u8]| Ok(());
            if Journal::examine(disk, dir, store, from, known, &mut pass).is_ok() {
                return None;
            }
            let mut end = |first: Result<Seq>| {
                let before = Seq(first?.0.saturating_sub(1));
                Journal::examine(disk, dir, store, before, before, &mut pass).map(|report| report.last)
            };
            // Damage to what nothing is replayed of says nothing of the end.
            end(Journal::first_retained(disk, dir, store))
                .or_else(|_| end(Journal::newest_beginning(disk, dir, store)))
        }
    };
    // What else is wrong with it, opening it says.
    last.ok().filter(|last| *last < known.upto())
}

/// What giving a part of the journal up works on.
pub struct Carrying<'a> {
    pub dir: &'a Path,
    pub disk: &'a dyn Disk,
    pub below: Arc<dyn Disk>,
    pub journal_dir: &'a Path,
    pub config: JournalConfig,
    pub layout: &'a Layout,
    pub archives: &'a Archives,
    pub scrub: &'a Scrubbing,
}

/// Carries out what the mark says; returns the journal that begins behind it, and what was replayed: frames, and their bytes.
pub fn carry_out(
    at: Carrying<'_>,
    way: Way,
    from: Seq,
    manifest: &mut Manifest,
    replay: &mut Replay,
) -> Result<(Journal, u64, u64)> {
    let Carrying { dir, disk, below, journal_dir, config, layout, archives, scrub } = at;
    let (mut frames, mut bytes) = (0, 0);
    let kept = match way {
        Way::Kept { kept, .. } => {
            // One that was away: nothing tells it what it lacks.
            lost::fail_behind(layout, kept.level);
            kept
        }
        _ => {
            let mut visit = |seq: Seq, ops: &[u8]| replay.visit(seq, ops);
            // No shard may get what the copy could still lose: another would be sealed without it by the next opening.
            let unfinished = matches!(way, Way::Accepted { .. });
            let below = below.as_ref();
            let report = Journal::settle(below, journal_dir, config.store_id, from, unfinished, &mut visit)?;
            (frames, bytes) = (report.frames, report.bytes);
            replay.flush_all()?;
            let end = report.last;
            let open = layout.shards.iter().filter(|shard| shard.is_open());
            let level = open.map(|shard| shard.applied()).max().unwrap_or_default().max(end);
            let kept = Kept { end, level, next: anew::first_after(level)? };
            anew::level(layout, level);
            check_covered(layout)?;
            if let Some(mark) = &mut manifest.given_up {
                mark.kept = Some(kept);
                manifest.store_next(disk, dir)?;
            }
            kept
        }
    };
    anew::level(layout, Seq(kept.next.0.saturating_sub(1)));
    check_covered(layout)?;
    // The new numbers do not tell which archive has more than that. Behind the seals: without a mark they alone say then that the
    // journal lacks something.
    archives.parts_after(kept.end)?;
    archives.log_ends(kept.end)?;
    // Before the journal begins, which is what shows it where there is no mark.
    anew::compare(layout, scrub, disk, dir)?;
    let journal = Journal::begin_anew(below, journal_dir, config, kept.next)?;
    archives.log_begins(kept.next);
    drop_mark(manifest, disk, dir)?;
    log::warn!(
        "what the journal of {} had after {} is given up; writes go on with {}",
        dir.display(),
        kept.end,
        kept.next
    );
    Ok((journal, frames, bytes))
}

/// The mark goes: what it says has been carried out, or came to nothing, and the journal has opened.
pub fn drop_mark(manifest: &mut Manifest, disk: &dyn Disk, dir: &Path) -> Result<()> {
    match manifest.given_up.take() {
        Some(_) => manifest.store_next(disk, dir),
        None => Ok(()),
    }
}
