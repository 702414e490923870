//! Comparing two copies that are both believed, and making the one like the other, before a journal is opened.
//!
//! Invariant: of a segment that is not replayed nobody has looked at the frames, so none of them is written over another because it
//! lies in the copy that serves: only bytes that pass their checksums are put in the place of any, in whichever of the two copies.

use super::copy::{self, Copying, Failed, Outcome};
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::error::{Error, Result};
use crate::frame::{self, Kind};
use crate::journal::health::note_failure;
use crate::journal::scan::{Item, Reader};
use crate::journal::segment::{self, BODY, COPY_AT, Name, SegmentHeader};
use crate::sync::atomic::AtomicBool;
use std::path::Path;
use std::sync::Arc;

/// What two copies come to.
#[derive(Debug, Default)]
pub struct Compared {
    /// The target is not what it should be, or was not.
    pub differs: bool,
    /// Where the target has what the source should have.
    pub better: Vec<Patch>,
}

/// Bytes that belong into a file.
#[derive(Debug)]
pub struct Patch {
    pub name: String,
    pub at: u64,
    pub bytes: Vec<u8>,
}

/// Writes what the copy in `dir` should have. Where that is not synced the system may hold in memory what it no longer means to write, and would call
/// it durable: the file is made anew then, or, if that fails too, or somebody may have it open (`is_open`), the note is left of a failed sync.
pub fn patch(disk: &dyn Disk, dir: &Path, patches: &[Patch], is_open: bool) -> Result<()> {
    for Patch { name, at, bytes } in patches {
        let path = dir.join(name);
        let failed = |e| Error::io("mend a copy of the journal", &path, e).offset(*at);
        let file = disk.open(&path, OpenMode::Write).map_err(failed)?;
        let written = file.write_at(*at, bytes).and_then(|()| file.sync_all());
        if let Err(e) = written
            && (is_open || make_anew(disk, dir, name, patches).is_err())
        {
            note_failure(disk, dir);
            return Err(failed(e));
        }
        log::warn!("the copy of the journal at {} was damaged at byte {at}, and is mended", path.display());
    }
    Ok(())
}

/// Puts a new file in the place of one that is being mended, and could not be synced.
fn make_anew(disk: &dyn Disk, dir: &Path, name: &str, patches: &[Patch]) -> Outcome<()> {
    let stop = AtomicBool::new(false);
    let copying = Copying { disk, from: dir, to: dir, stop: &stop, gate: None, make_do: true };
    let Some(file) = copying.open(name)? else { return Ok(()) };
    copying.put(name, |copy| {
        copying.copy(file.as_ref(), copy, name, 0)?;
        let mut patches = patches.iter().filter(|patch| patch.name == name);
        patches
            .try_for_each(|patch| copy.write_at(patch.at, &patch.bytes))
            .map_err(|e| copying.target(e, name))
    })?;
    copying.sync()
}

impl Copying<'_> {
    /// Whether the files of two copies differ in what the journal goes by: segments from the generation `from_generation` on
    /// wholly, older ones in what an opening reads of them, the rest in what there is. With `change` the target is made like the
    /// source.
    pub fn align(&self, from_generation: u64, change: bool) -> Outcome<Compared> {
        let (wanted, found) = self.names()?;
        // A name that is no segment's refuses the opening from this copy, whatever else is alike.
        let misnamed = copy::misnamed(self.disk, self.to).map_err(Failed::Target)?;
        let differs = wanted != found || !misnamed.is_empty();
        let mut compared = Compared { differs, better: Vec::new() };
        if change {
            self.sweep()?;
            found.difference(&wanted).try_for_each(|name| self.remove(name))?;
        }
        for name in &wanted {
            if compared.differs && !change {
                break;
            }
            if !found.contains(name) {
                self.renew(name, false)?;
                continue;
            }
            match segment::parse_name(name) {
                Name::Segment(generation) if generation >= from_generation => {
                    compared.differs |= self.level(name, change)?;
                }
                Name::Segment(_) => self.older(name, change, &mut compared)?,
                _ => compared.differs |= self.fit(name, change)?,
            }
        }
        if change {
            self.sync()?;
        }
        Ok(compared)
    }

    fn both(&self, name: &str, change: bool) -> Outcome<[Arc<dyn DiskFile>; 2]> {
        let mode = if change { OpenMode::Write } else { OpenMode::Read };
        let file = self.disk.open(&self.from.join(name), OpenMode::Read);
        let file = file.map_err(|e| self.source(e, name))?;
        let copy = self.disk.open(&self.to.join(name), mode).map_err(|e| self.target(e, name))?;
        Ok([file, copy])
    }

    /// Sees to it that a file of which the bytes mean nothing is as long as the source's.
    fn fit(&self, name: &str, change: bool) -> Outcome<bool> {
        let [file, copy] = self.both(name, false)?;
        let len = file.len().map_err(|e| self.source(e, name))?;
        let differs = copy.len().map_err(|e| self.target(e, name))? != len;
        if differs && change {
            self.renew(name, false)?;
        }
        Ok(differs)
    }

    /// Compares of a segment what an opening reads though it is not replayed: its length, its header, and its first frame, without which
    /// the oldest one does not say where it begins.
    fn older(&self, name: &str, change: bool, compared: &mut Compared) -> Outcome<()> {
        let target = |e| self.target(e, name);
        let [file, copy] = self.both(name, change)?;
        let len = file.len().map_err(|e| self.source(e, name))?;
        let found = copy.len().map_err(target)?;
        let mut wrong: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut right = |at, bytes: &[u8]| {
            let patch = Patch { name: name.to_owned(), at, bytes: bytes.to_vec() };
            compared.better.push(patch);
        };
        let [ours, theirs] = [&file, &copy].map(|file| page(file.as_ref()));
        let header = [&ours, &theirs].into_iter().find_map(|page| SegmentHeader::decode_page(page).ok());
        let header = header.map(|(header, _)| header);
        let wanted = header.as_ref().map(SegmentHeader::encode_page).unwrap_or_default();
        for (at, part) in (0..).step_by(COPY_AT).zip(wanted.chunks(COPY_AT)) {
            let range = at..at + part.len();
            if ours.get(range.clone()) != Some(part) {
                right(at as u64, part);
            }
            if theirs.get(range) != Some(part) {
                wrong.push((at as u64, part.to_vec()));
            }
        }
        let first = |file: &Arc<dyn DiskFile>| first_frame(file, &self.from.join(name), header?);
        match (first(&file), first(&copy)) {
            (None, Some((_, bytes))) | (Some((Kind::Tail | Kind::End, _)), Some((Kind::Commit, bytes))) => {
                right(BODY, &bytes);
            }
            (Some((_, bytes)), other) if other.as_ref().is_none_or(|(_, other)| *other != bytes) => {
                wrong.push((BODY, bytes));
            }
            _ => {}
        }
        compared.differs |= found != len || !wrong.is_empty();
        if !change {
            return Ok(());
        }
        if found < len {
            self.copy(file.as_ref(), copy.as_ref(), name, found)?;
        } else if found > len {
            // What lies behind its end by its header is nothing.
            copy.set_len(len).map_err(target)?;
        }
        wrong.iter().try_for_each(|(at, bytes)| copy.write_at(*at, bytes).map_err(target))?;
        copy.sync_all().map_err(target)
    }
}

/// What a file begins with; nothing where it cannot be read.
fn page(file: &dyn DiskFile) -> Vec<u8> {
    let mut page = vec![0; BODY as usize];
    let read = file.read_at(0, &mut page).unwrap_or(0);
    page.truncate(read);
    page
}

/// The first frame, if it is whole.
fn first_frame(file: &Arc<dyn DiskFile>, path: &Path, header: SegmentHeader) -> Option<(Kind, Vec<u8>)> {
    let mut reader = Reader::new(file.clone(), path, header, Vec::new());
    // What lies behind it may be what cannot be read.
    reader.narrow();
    let Ok(Item::Frame(frame, payload)) = reader.item(BODY) else { return None };
    let mut bytes = Vec::new();
    frame::encode(&mut bytes, &frame, header.salt(), payload);
    Some((frame.kind, bytes))
}

/// Compares a copy with the one that serves, and puts into that what it should have; whether the other differs.
pub fn compare(copying: &Copying<'_>, from_generation: u64) -> Outcome<bool> {
    let compared = copying.align(from_generation, false)?;
    give_back(copying, &compared).map_err(Failed::Source)?;
    Ok(compared.differs)
}

/// Makes a copy like the one that serves, or that like it, where it is the better one.
pub fn mend(copying: &Copying<'_>, from_generation: u64) -> Result<()> {
    let compared = copying.align(from_generation, true)?;
    // The other has it by now.
    give_back(copying, &compared).or(Ok(()))
}

/// The copy that serves was read as it is, and goes on serving where it takes no writes; not with what may be in memory alone, if there is another.
fn give_back(copying: &Copying<'_>, compared: &Compared) -> Result<()> {
    let Err(e) = patch(copying.disk, copying.from, &compared.better, false) else { return Ok(()) };
    log::warn!("a copy of the journal is damaged where nothing is replayed, and not mended: {e}");
    match copying.disk.exists(&copying.from.join(segment::POISONED)) {
        Ok(false) => Ok(()),
        _ => Err(e),
    }
}
