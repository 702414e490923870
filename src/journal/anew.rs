//! A journal that is begun anew in the place of one of which nothing is needed any more.

use super::open::begin;
use super::segment::{self, Name};
use super::supply::{Scarce, Supply};
use super::{Journal, JournalConfig};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::ids::Seq;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

impl Journal {
    /// Begins a journal in `dir` whose first frame will have the sequence `first`, above all that lie there; those go, whatever they
    /// hold. On return that is durable; where it was interrupted it is done again in the same way.
    ///
    /// # Errors
    /// `Io`, `Full`. `InvalidInput`: see [`JournalConfig`].
    pub fn begin_anew(disk: Arc<dyn Disk>, dir: &Path, config: JournalConfig, first: Seq) -> Result<Journal> {
        let config = config.checked()?;
        let names = disk.list(dir).map_err(|e| Error::io("list the journal's directory", dir, e))?;
        let generation = |name: &String| match segment::parse_name(name) {
            Name::Segment(generation) => Some(generation),
            _ => None,
        };
        let newest = names.iter().filter_map(generation).max().unwrap_or(0);
        let supply = Supply::new(disk, dir.to_path_buf(), config, Vec::new());
        // Before the others go: a directory that has a journal always has a segment. With a gap between them, so that what is left of the others,
        // in whatever order they go, passes for what an interrupted trim leaves.
        let journal =
            begin(supply, newest.saturating_add(2), first, VecDeque::new(), Scarce::Small { there: None })?;
        let ours = |name: &&String| !matches!(segment::parse_name(name), Name::Other | Name::Misnamed);
        let mut before: Vec<&String> = names.iter().filter(ours).collect();
        // The oldest first, as they are trimmed; a note of a failed sync is of what goes.
        before.sort_unstable();
        for name in before {
            let path = journal.supply.path(name);
            match journal.supply.disk.remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("remove a file of the journal", &path, e));
                }
                _ => {}
            }
        }
        journal.supply.sync_names()?;
        Ok(journal)
    }
}
