//! Files of a repository that the system does not give out, while it gives out others: a disk with a bad sector.
//!
//! Invariant: what is passed over for want of being read was asked for twice, and after that the repository has been listed and another
//! file of it read: a disk that is away damages nothing.

use super::checkpoint::{Body, CheckpointId};
use super::hash::{OBJECTS, ObjectId};
use super::piece::{Listed, Piece};
use super::repository::{BackupRepository, MARKER};
use super::storage::Storage;
use crate::error::{Error, ErrorKind, Result};

/// How many others are asked for before nothing is believed to be given out any more.
const OTHERS: usize = 8;

/// Why a piece or a manifest cannot be read.
#[derive(Debug)]
pub struct Unread {
    pub error: Error,
    /// Nothing else can be read either.
    pub of_all: bool,
}

/// Asks once more for what the system did not give out.
pub fn twice<T>(read: impl Fn() -> Result<T>) -> Result<T> {
    match read() {
        Err(error) if error.kind() == ErrorKind::Io => read(),
        done => done,
    }
}

/// Whether a storage that does not give out `name` gives out something else.
pub fn gives_others(storage: &dyn Storage, name: &str) -> bool {
    // Not the same one for each name: the system may have that one in its memory, whatever has become of the disk.
    let begin = name.bytes().map(usize::from).sum::<usize>();
    let mut failed = 0;
    for digit in (0..16).map(|digit| (begin + digit) % 16) {
        let Ok(objects) = storage.list(&format!("{OBJECTS}{digit:x}/")) else { return false };
        let others = objects.iter().cycle().skip(begin % objects.len().max(1)).take(objects.len());
        let is_other = |other: &str| other != name && ObjectId::from_name(other).is_some();
        for other in others.filter(|object| is_other(&object.name)) {
            match storage.read(&other.name) {
                Ok(Some(_)) => return true,
                // Swept since it was listed.
                Ok(None) => {}
                Err(_) => failed += 1,
            }
            if failed == OTHERS {
                return false;
            }
        }
    }
    // There is no other.
    failed == 0 && storage.read(MARKER).is_ok_and(|found| found.is_some())
}

impl BackupRepository {
    /// A piece of the archive, asked for twice.
    pub(crate) fn piece_or_why(&self, store: u128, listed: &Listed) -> Result<Piece, Unread> {
        twice(|| self.piece(store, listed)).map_err(|error| {
            let io = error.kind() == ErrorKind::Io;
            let of_all = io && !gives_others(self.storage.as_ref(), &listed.name(store));
            Unread { error, of_all }
        })
    }

    /// Whether a manifest cannot be read, though others can.
    pub(crate) fn is_unread(&self, id: CheckpointId) -> bool {
        self.load(id).is_err_and(|error| error.kind() == ErrorKind::Io)
            && gives_others(self.storage.as_ref(), &id.name())
    }

    /// A checkpoint; none if it cannot be used, which the log says, or was pruned since its name was read.
    ///
    /// # Errors
    /// `Io`: nothing can be read.
    pub(crate) fn usable(&self, id: CheckpointId) -> Result<Option<Body>> {
        match self.usable_or_why(id) {
            Ok(body) => Ok(body),
            Err(Unread { error, of_all: true }) => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// The same, and why it cannot be used.
    pub(super) fn usable_or_why(&self, id: CheckpointId) -> Result<Option<Body>, Unread> {
        let error = match self.load(id) {
            Ok(body) => return Ok(Some(body)),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => error,
        };
        let io = error.kind() == ErrorKind::Io;
        let of_all = io && !gives_others(self.storage.as_ref(), &id.name());
        if !of_all {
            log::error!("checkpoint {id} cannot be used: {error}");
        }
        Err(Unread { error, of_all })
    }
}
