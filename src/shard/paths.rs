//! Where shards' directories lie: paths resolved, and checked against each other.
//!
//! Invariant: no two shards share a directory or lie inside each other's, and none is, or holds, the store's own.

use crate::disk::Disk;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// The name of the journal's directory inside the store's.
pub const JOURNAL_DIR: &str = "journal";

/// The directories of new shards as the manifest keeps them: absolute, or relative to the store's where they lie inside
/// it. `taken` are those of shards that exist, as the manifest keeps them.
pub fn resolve_all<'a>(
    disk: &dyn Disk,
    dir: &Path,
    taken: impl IntoIterator<Item = &'a Path>,
    paths: impl IntoIterator<Item = &'a Path>,
) -> Result<Vec<PathBuf>> {
    let base = resolve(disk, dir)?;
    let mut all: Vec<PathBuf> =
        taken.into_iter().map(|path| resolve(disk, &dir.join(path))).collect::<Result<_>>()?;
    let mut resolved: Vec<PathBuf> = Vec::new();
    for asked in paths {
        let path = resolve(disk, asked)?;
        if path == base || path.starts_with(base.join(JOURNAL_DIR)) || base.starts_with(&path) {
            let text = "a shard's directory cannot be, or hold, the store's own";
            return Err(Error::invalid(text).at(asked).remedy("name a directory beside it, or below it"));
        }
        if let Some(other) = all.iter().find(|o| path.starts_with(o) || o.starts_with(&path)) {
            let text = if *other == path {
                "the same directory is named for two shards".to_owned()
            } else {
                format!("one shard's directory lies inside another's, {}", other.display())
            };
            return Err(Error::invalid(text).at(asked).remedy("give each shard a directory of its own"));
        }
        all.push(path.clone());
        resolved.push(path.strip_prefix(&base).map(Path::to_path_buf).unwrap_or(path));
    }
    Ok(resolved)
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
