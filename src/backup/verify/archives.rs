//! Reading the archives of a repository, as far as a restore from one of its checkpoints may need them.
//!
//! Invariant: what a checkpoint lies behind is missed by nobody who goes on from there, so a gap counts only where there is none; pieces that are
//! damaged count all, since what was in them was there once.

use super::Verification;
use crate::backup::archive::Chain;
use crate::backup::checkpoint::CheckpointId;
use crate::backup::damage::{Damage, Loss};
use crate::backup::history::History;
use crate::backup::lineage::Lineage;
use crate::backup::piece::{Listed, prefix};
use crate::backup::progress::Watch;
use crate::backup::repository::BackupRepository;
use crate::backup::unread::{gives_others, twice};
use crate::batch;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Seq;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;

/// Of each store the checkpoints that a restore to a moment can begin with: not those of a history that was given up.
#[derive(Debug, Default)]
pub struct Begins(BTreeMap<u128, BTreeSet<(Seq, CheckpointId)>>);

impl Begins {
    /// Of all checkpoints, in the order of their numbers.
    pub fn of(all: &[(u128, Seq, CheckpointId, Lineage)]) -> Begins {
        let (mut begins, mut history) = (Begins::default(), History::default());
        for (store, seq, id, lineage) in all.iter().rev() {
            if history.has(*store, *seq, lineage) {
                begins.0.entry(*store).or_default().insert((*seq, *id));
            }
        }
        begins
    }
}

/// The pieces that a restore from a checkpoint of this sequence, or of a later one, may read.
fn needed(chain: &Chain, oldest: Seq) -> impl Iterator<Item = &Listed> {
    chain.from(oldest.next()).iter().filter(move |listed| listed.last > oldest)
}

fn damage(id: CheckpointId, file: PathBuf, (from, to): (Seq, Option<Seq>), error: Error) -> Damage {
    Damage {
        checkpoint: id,
        file,
        keyspace: None,
        from: Bytes::new(),
        to: None,
        records: None,
        loss: Loss::Archived { from, to },
        error,
    }
}

impl BackupRepository {
    /// How many bytes are read to verify the archives.
    pub(super) fn archived_bytes(&self, begins: &Begins) -> Result<u64> {
        let mut bytes = 0;
        for (store, checkpoints) in &begins.0 {
            let Some((oldest, _)) = checkpoints.first() else { continue };
            let objects = self.storage.list(&prefix(*store))?;
            let chain = Chain::of(*store, &objects);
            let names: HashSet<String> = needed(&chain, *oldest).map(|listed| listed.name(*store)).collect();
            bytes +=
                objects.iter().filter(|object| names.contains(&object.name)).map(|o| o.bytes).sum::<u64>();
        }
        Ok(bytes)
    }

    /// Verifies the archives.
    pub(super) fn verify_archives(
        &self,
        begins: &Begins,
        found: &mut Verification,
        watch: &Watch,
    ) -> Result<()> {
        for (store, checkpoints) in &begins.0 {
            let (Some((oldest, _)), Some((newest, last))) = (checkpoints.first(), checkpoints.last()) else {
                continue;
            };
            let mut next = oldest.next();
            for listed in needed(&self.chain(*store)?, *oldest) {
                if listed.first > newest.next().max(next) && !self.has_piece(*store, next)? {
                    let (from, to) = (newest.next().max(next), Seq(listed.first.0.saturating_sub(1)));
                    let file = self.storage.describe(&prefix(*store));
                    let text = format!("the archive lacks the writes with sequences {from} to {to}");
                    let error = Error::new(ErrorKind::Gap, text)
                        .at(&file)
                        .remedy("take a checkpoint now: a restore that begins with it needs none of them");
                    found.damage.push(damage(*last, file, (from, Some(to)), error));
                }
                let upto = self.verify_piece(*store, listed, found, watch).or_else(|error| {
                    let is_alone = || gives_others(self.storage.as_ref(), &listed.name(*store));
                    match error.kind() {
                        ErrorKind::Cancelled => return Err(error),
                        ErrorKind::Io if !is_alone() => return Err(error),
                        // Pruned since its name was read.
                        ErrorKind::NotFound if !self.chain(*store)?.pieces.contains(listed) => {}
                        _ => {
                            let before = checkpoints.iter().rev().find(|(seq, _)| *seq < listed.last);
                            let file = self.storage.describe(&listed.name(*store));
                            let to = (!listed.is_open()).then_some(listed.last);
                            let id = before.map_or(*last, |(_, id)| *id);
                            found.damage.push(damage(id, file, (listed.first, to), error));
                        }
                    }
                    Ok(listed.last)
                })?;
                next = next.max(upto.next());
            }
        }
        Ok(())
    }

    /// Whether a piece has a sequence by now: of those that were added while they were listed the list may have the later ones alone.
    fn has_piece(&self, store: u128, seq: Seq) -> Result<bool> {
        Ok(self
            .chain(store)?
            .from(seq)
            .first()
            .is_some_and(|listed| listed.first <= seq && listed.last >= seq))
    }

    /// Reads a piece, and all that it has; what it is complete up to.
    fn verify_piece(
        &self,
        store: u128,
        listed: &Listed,
        found: &mut Verification,
        watch: &Watch,
    ) -> Result<Seq> {
        let piece = twice(|| self.piece(store, listed))?;
        found.objects += 1;
        found.bytes += piece.size();
        watch.more(1, piece.size())?;
        let whole = piece.commits().try_for_each(|commit| {
            let (_, ops) = commit?;
            batch::decode(ops).try_for_each(|op| op.map(drop))
        });
        whole.map_err(|error| error.at(self.storage.describe(&listed.name(store))))?;
        Ok(piece.head.last)
    }
}
