//! Which directories may be taken for a copy. Making one clears them of all that has the name of a journal's file: so what lies there must be this
//! store's, or nothing.
//!
//! Invariants: nothing is changed here. What an interrupted copying has left is no reason to refuse, whatever a power cut has left of that: it
//! has names that nobody else gives, and wherever there are headers, they are this store's.

use super::words::{self, Word};
use super::{Mirrors, copy, locks};
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::segment::{self, BODY, HeaderDefect, Name, SegmentHeader};
use std::io;
use std::path::Path;
use std::sync::Arc;

impl Mirrors {
    /// Refuses a directory that is to hold a copy and did not before, unless it is empty or absent, or what is there is of this store's journal.
    ///
    /// # Errors
    /// `Foreign`: it holds other files. `Io`: that cannot be seen.
    pub fn check_vacant(disk: &dyn Disk, dir: &Path, store: u128) -> Result<()> {
        match Word::load(disk, dir, store) {
            Err(e) if e.kind() == ErrorKind::Foreign => return Err(e),
            Ok(Some(_)) => return Ok(()),
            // The files say it themselves.
            _ => {}
        }
        let (mut owned, mut unread) = (false, None);
        for name in names(disk, dir)? {
            let fits = match parse(&name) {
                Name::Segment(_) => match owner(disk, dir, &name)? {
                    Owner::Store(id) if id == store => {
                        owned = true;
                        true
                    }
                    Owner::Store(id) => return Err(anothers(dir, id)),
                    Owner::Nobody => {
                        unread = unread.or(Some(name.clone()));
                        true
                    }
                },
                Name::Spare(_) | Name::Temporary => match owner(disk, dir, &name)? {
                    Owner::Store(id) if id != store => return Err(anothers(dir, id)),
                    _ => true,
                },
                // The note says by being there all that it says.
                Name::Poisoned => {
                    open(disk, dir, &name)?.is_none_or(|file| file.len().is_ok_and(|len| len == 0))
                }
                Name::Misnamed => false,
                Name::Other => is_beside(&name),
            };
            if !fits {
                return Err(occupied(dir, &name));
            }
        }
        // A segment has its name only when its header is durable: one without is damage, to this journal or to whosever.
        unread.filter(|_| !owned).map_or(Ok(()), |name| Err(occupied(dir, &name)))
    }
}

/// Refuses a directory that holds segments of another store: one may have been made there, or been mounted, since the directory was named.
/// One that cannot be read says nothing: it may be what the copy was left behind for, and is to be replaced.
pub fn check_owner(disk: &dyn Disk, dir: &Path, store: u128) -> Result<()> {
    for name in names(disk, dir)? {
        let Name::Segment(_) = parse(&name) else { continue };
        match owner(disk, dir, &name) {
            Ok(Owner::Store(id)) if id != store => return Err(anothers(dir, id)),
            Err(e) if e.kind() == ErrorKind::Io => log::warn!("{e}"),
            owner => _ = owner?,
        }
    }
    Ok(())
}

/// Whose a file says it is.
enum Owner {
    Store(u128),
    Nobody,
}

fn names(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>> {
    match disk.list(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        names => names.map_err(|e| Error::io("look into a directory for a copy of the journal", dir, e)),
    }
}

/// A file that is being copied there counts as what it is to be, but it may end anywhere.
fn parse(name: &str) -> Name {
    match copy::is_unfinished(name) {
        true => Name::Temporary,
        false => segment::parse_name(name),
    }
}

/// What may lie beside the files of a journal, and stays.
fn is_beside(name: &str) -> bool {
    let word = name.strip_suffix(".tmp").unwrap_or(name) == words::FILE;
    word || name == locks::FILE || name == "lost+found"
}

fn open(disk: &dyn Disk, dir: &Path, name: &str) -> Result<Option<Arc<dyn DiskFile>>> {
    let path = dir.join(name);
    match disk.open(&path, OpenMode::Read) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        file => file.map(Some).map_err(|e| Error::io("look whose journal it is", path, e)),
    }
}

fn owner(disk: &dyn Disk, dir: &Path, name: &str) -> Result<Owner> {
    let Some(file) = open(disk, dir, name)? else { return Ok(Owner::Nobody) };
    let mut page = vec![0; BODY as usize];
    let read =
        file.read_at(0, &mut page).map_err(|e| Error::io("look whose journal it is", dir.join(name), e))?;
    match SegmentHeader::decode_page(page.get(..read).unwrap_or_default()) {
        Ok((header, _)) => Ok(Owner::Store(header.store_id)),
        Err(HeaderDefect::Damaged) => Ok(Owner::Nobody),
        Err(HeaderDefect::Version(_)) => Err(occupied(dir, name)),
    }
}

fn anothers(dir: &Path, store: u128) -> Error {
    let text = format!("the directory holds the journal of store {store:032x}, of which nothing was changed");
    Error::new(ErrorKind::Foreign, text).at(dir).remedy("name another directory")
}

fn occupied(dir: &Path, name: &str) -> Error {
    let text = format!("the directory for the journal is not empty: it holds {name}");
    Error::new(ErrorKind::Foreign, text).at(dir).remedy("name an empty or new directory")
}
