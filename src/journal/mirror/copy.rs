//! Making one copy's directory like another's.
//!
//! Invariants: the copy that is changed is not counted complete while this goes on; on return all of it is durable. After
//! a failed sync the system may hold bytes in memory that it no longer means to write, so what is copied from scratch is
//! copied into new files.

use crate::disk::{Disk, OpenMode};
use crate::error::{Error, Result};
use crate::journal::segment::{self, BODY, Name};
use std::collections::BTreeSet;
use std::path::Path;

/// How much is copied at a time.
const STEP: usize = 256 << 10;
/// How the name of a file ends that is being copied.
const UNFINISHED: &str = ".copy";

/// The journal's own files in a directory.
pub fn names(disk: &dyn Disk, dir: &Path) -> Result<BTreeSet<String>> {
    let listed = disk.list(dir).map_err(|e| Error::io("list a copy of the journal", dir, e))?;
    Ok(listed.into_iter().filter(|name| is_ours(name)).collect())
}

fn is_ours(name: &str) -> bool {
    !matches!(segment::parse_name(name), Name::Other | Name::Misnamed)
}

/// Removes the journal's files from a directory.
pub fn clear(disk: &dyn Disk, dir: &Path) -> Result<()> {
    // Files of a name that is no segment's would keep the journal from opening.
    let listed = disk.list(dir).map_err(|e| Error::io("list a copy of the journal", dir, e))?;
    let ours = |name: &&String| segment::parse_name(name) != Name::Other || name.ends_with(UNFINISHED);
    for name in listed.iter().filter(ours) {
        remove(disk, &dir.join(name))?;
    }
    sync_dir(disk, dir)
}

pub fn remove(disk: &dyn Disk, path: &Path) -> Result<()> {
    match disk.remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove a file from a copy of the journal", path, e))
        }
        _ => Ok(()),
    }
}

pub fn sync_dir(disk: &dyn Disk, dir: &Path) -> Result<()> {
    disk.sync_dir(dir).map_err(|e| Error::io("sync a copy of the journal", dir, e))
}

/// Copies one file into a new one. False if the source is not there (any more).
pub fn anew(disk: &dyn Disk, name: &str, from: &Path, to: &Path) -> Result<bool> {
    let (source, target) = (from.join(name), to.join(name));
    let read = |e| Error::io("read a copy of the journal", &source, e);
    let write = |e| Error::io("make a copy of the journal", &target, e);
    let file = match disk.open(&source, OpenMode::Read) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(read(e)),
    };
    let temporary = to.join(format!("{name}{UNFINISHED}"));
    remove(disk, &temporary)?;
    let copy = disk.open(&temporary, OpenMode::CreateNew).map_err(write)?;
    let mut buf = vec![0; STEP];
    let mut at = 0;
    loop {
        let count = file.read_at(at, &mut buf).map_err(read)?;
        copy.write_at(at, buf.get(..count).unwrap_or_default()).map_err(write)?;
        at += count as u64;
        if count < buf.len() {
            break;
        }
    }
    copy.sync_all().map_err(write)?;
    disk.rename(&temporary, &target).map_err(write)?;
    Ok(true)
}

/// Makes the file in `to` like the one in `from`, up to `limit` bytes, where they differ; says whether they did. With
/// `change` unset it only looks.
pub fn level(disk: &dyn Disk, name: &str, from: &Path, to: &Path, limit: u64, change: bool) -> Result<bool> {
    let (source, target) = (from.join(name), to.join(name));
    let read = |e| Error::io("read a copy of the journal", &source, e);
    let write = |e| Error::io("mend a copy of the journal", &target, e);
    let file = disk.open(&source, OpenMode::Read).map_err(read)?;
    let mode = if change { OpenMode::Write } else { OpenMode::Read };
    let copy = disk.open(&target, mode).map_err(write)?;
    let len = file.len().map_err(read)?;
    if copy.len().map_err(write)? != len {
        return if change { anew(disk, name, from, to) } else { Ok(true) };
    }
    let (mut ours, mut theirs) = (vec![0; STEP], vec![0; STEP]);
    let (mut at, mut differs) = (0, false);
    while at < len.min(limit) {
        let count = file.read_at(at, &mut ours).map_err(read)?;
        let bytes = ours.get(..count).unwrap_or_default();
        // What cannot be read is written again.
        let found = copy.read_at(at, &mut theirs).unwrap_or(0);
        if theirs.get(..found) != Some(bytes) {
            differs = true;
            if !change {
                return Ok(true);
            }
            copy.write_at(at, bytes).map_err(write)?;
        }
        if count == 0 {
            break;
        }
        at += count as u64;
    }
    if change {
        copy.sync_all().map_err(write)?;
    }
    Ok(differs)
}

/// Whether the files of two copies differ in what the journal goes by: segments from the generation `from_generation` on
/// wholly, older ones in their headers, the rest in what there is. With `change` they are made alike.
pub fn align(disk: &dyn Disk, from: &Path, to: &Path, from_generation: u64, change: bool) -> Result<bool> {
    let (wanted, found) = (names(disk, from)?, names(disk, to)?);
    let mut differs = wanted != found;
    if change {
        for name in found.difference(&wanted) {
            remove(disk, &to.join(name))?;
        }
    }
    for name in &wanted {
        if differs && !change {
            break;
        }
        if !found.contains(name) {
            anew(disk, name, from, to)?;
            continue;
        }
        let limit = match segment::parse_name(name) {
            Name::Segment(generation) if generation >= from_generation => u64::MAX,
            Name::Segment(_) => BODY,
            _ => 0,
        };
        differs |= level(disk, name, from, to, limit, change)?;
    }
    if change {
        sync_dir(disk, to)?;
    }
    Ok(differs)
}
