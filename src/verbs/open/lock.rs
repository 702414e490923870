//! The lock of a store's directory: one opening at a time.

use super::create::LOCK;
use crate::disk::Disk;
use crate::error::{Error, ErrorKind, Result};
use crate::manifest::Manifest;
use std::path::Path;

/// The manifest of the store in `dir`, which is not open, and is not while the lock that comes with it is held.
pub fn locked(dir: &Path, disk: &dyn Disk) -> Result<(Manifest, Box<dyn Send + Sync>)> {
    let missing = || Error::new(ErrorKind::NotFound, "there is no store").at(dir);
    Manifest::load(disk, dir)?.ok_or_else(missing)?;
    let lock = lock_dir(disk, dir)?;
    Ok((Manifest::load(disk, dir)?.ok_or_else(missing)?, lock))
}

/// Takes the lock of the store in `dir`, which exists.
pub fn lock_dir(disk: &dyn Disk, dir: &Path) -> Result<Box<dyn Send + Sync>> {
    let path = dir.join(LOCK);
    disk.lock(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::WouldBlock => Error::new(ErrorKind::Locked, opened_elsewhere(disk.holder(&path)))
            .at(dir)
            .remedy("close it there, or share the handle: it can be cloned"),
        _ => Error::io("lock the store", path, e),
    })
}

fn opened_elsewhere(process: Option<u32>) -> String {
    match process {
        Some(id) if id == std::process::id() => {
            format!("the store is open already, by another handle in this process ({id})")
        }
        Some(id) => format!("the store is open in another process: process {id}"),
        None => "the store is open in another process, or by another handle in this one".to_owned(),
    }
}
