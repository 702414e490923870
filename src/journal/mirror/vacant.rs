//! Which directories may be taken for a copy, or are one still. Making one clears them of all that has the name of a journal's file, or ends like
//! that of a segment: so what lies there must be this store's, or nothing.
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
                Name::Poisoned => is_note(disk, dir, &name)?,
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

/// Refuses a directory in which a copy is to be made anew, where it holds segments of another store, or where nothing in it says that it is
/// this store's and a file has a name that would be cleared away: another directory may have been made there, or been mounted, since it was
/// named. Where something is this store's, what cannot be read says nothing: it may be what the copy was left behind for, and is to be
/// replaced.
pub fn check_owner(disk: &dyn Disk, dir: &Path, store: u128) -> Result<()> {
    let mut owned = match Word::load(disk, dir, store) {
        Err(e) if e.kind() == ErrorKind::Foreign => return Err(e),
        word => matches!(word, Ok(Some(_))),
    };
    let mut in_the_way = None;
    for name in names(disk, dir)? {
        let whosever = match parse(&name) {
            Name::Segment(_) => match owner(disk, dir, &name) {
                Ok(Owner::Store(id)) if id != store => return Err(anothers(dir, id)),
                Ok(Owner::Store(_)) => {
                    owned = true;
                    None
                }
                Ok(Owner::Nobody) => Some(nobodys(dir, &name)),
                Err(e) if e.kind() == ErrorKind::Io => {
                    log::warn!("{e}");
                    Some(e)
                }
                Err(e) => return Err(e),
            },
            Name::Poisoned => match is_note(disk, dir, &name) {
                Ok(true) => None,
                Ok(false) => Some(nobodys(dir, &name)),
                Err(e) => Some(e),
            },
            Name::Misnamed => Some(nobodys(dir, &name)),
            _ => None,
        };
        in_the_way = in_the_way.or(whosever);
    }
    in_the_way.filter(|_| !owned).map_or(Ok(()), Err)
}

/// The note of a failed sync says by being there all that it says.
fn is_note(disk: &dyn Disk, dir: &Path, name: &str) -> Result<bool> {
    Ok(open(disk, dir, name)?.is_none_or(|file| file.len().is_ok_and(|len| len == 0)))
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

fn nobodys(dir: &Path, name: &str) -> Error {
    let text = format!(
        "the directory of this copy of the journal holds {name}, and nothing that is of this store: it was left as it is"
    );
    Error::new(ErrorKind::Foreign, text).at(dir).remedy(
        "see whether it is the right directory; if so, move what is there away: the copy is made by itself then",
    )
}

fn occupied(dir: &Path, name: &str) -> Error {
    let text = format!("the directory for the journal is not empty: it holds {name}");
    Error::new(ErrorKind::Foreign, text).at(dir).remedy("name an empty or new directory")
}
