//! Where shards' directories lie: paths resolved, and checked against each other.
//!
//! Invariant: no two shards share a directory or lie inside each other's, and none is, or holds, the store's own.

use crate::disk::Disk;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// The name of the journal's directory inside the store's.
pub const JOURNAL_DIR: &str = "journal";

/// The directories of new shards as the manifest keeps them: absolute, or relative to the store's where they lie inside
/// it.
pub fn resolve_all<'a>(
    disk: &dyn Disk,
    dir: &Path,
    paths: impl IntoIterator<Item = &'a Path>,
) -> Result<Vec<PathBuf>> {
    let asked: Vec<(&Path, PathBuf)> =
        paths.into_iter().map(|path| Ok((path, resolve(disk, path)?))).collect::<Result<_>>()?;
    place(&resolve(disk, dir)?, Vec::new(), &asked)
}

/// The same of paths that are resolved already, each beside what was asked for, in a store whose directory is `base`. `taken` are
/// the directories of shards that exist.
pub fn place(base: &Path, mut taken: Vec<PathBuf>, asked: &[(&Path, PathBuf)]) -> Result<Vec<PathBuf>> {
    let mut placed: Vec<PathBuf> = Vec::new();
    for (asked, path) in asked {
        if path == base || path.starts_with(base.join(JOURNAL_DIR)) || base.starts_with(path) {
            let text = "a shard's directory cannot be, or hold, the store's own";
            return Err(Error::invalid(text).at(*asked).remedy("name a directory beside it, or below it"));
        }
        if let Some(other) = taken.iter().find(|other| overlap(path, other)) {
            let text = if other == path {
                "the same directory is named for two shards".to_owned()
            } else {
                format!("one shard's directory lies inside another's, {}", other.display())
            };
            return Err(Error::invalid(text).at(*asked).remedy("give each shard a directory of its own"));
        }
        taken.push(path.clone());
        placed.push(path.strip_prefix(base).map_or_else(|_| path.clone(), Path::to_path_buf));
    }
    Ok(placed)
}

/// Whether one is, or lies inside, the other.
pub fn overlap(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// Whether a shard's directory lies on another file system than the store's; false where that cannot be told.
pub fn is_on_another_disk(disk: &dyn Disk, dir: &Path, shard: &Path) -> bool {
    let device = |path: &Path| disk.space(path).ok().flatten().map(|space| space.device);
    device(dir).zip(device(shard)).is_some_and(|(store, shard)| store != shard)
}

/// The absolute path with links resolved, of a directory that need not exist yet.
pub fn resolve(disk: &dyn Disk, path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path).map_err(|e| Error::io("resolve the path", path, e))?;
    for ancestor in absolute.ancestors() {
        if let Ok(real) = disk.canonicalize(ancestor) {
            let rest = absolute.strip_prefix(ancestor).unwrap_or(Path::new(""));
            if rest.components().any(|c| c == std::path::Component::ParentDir) {
                return Err(Error::invalid("the path has .. after a directory that does not exist").at(path));
            }
            return Ok(if rest.as_os_str().is_empty() { real } else { real.join(rest) });
        }
    }
    Ok(absolute)
}
