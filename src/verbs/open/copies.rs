//! The shards' copies of the manifest, beside the one that an opening has found.
//!
//! Invariant: the store's own file is always durable before any copy of it is given to a shard. So where a copy is newer the file is out of a backup,
//! or what was taken in its place is not the newest copy; and nothing is changed by an opening that does not know what was made since.

use super::asking::Asking;
use crate::error::{Error, ErrorKind, Result};
use crate::manifest::{FILE, Manifest};
use crate::options::Options;
use crate::shard::identity::{self, Identity};
use crate::shard::{Layout, UNREAD};
use crate::state::Seams;
use std::path::{Path, PathBuf};

/// The copies in these directories, and where each is. One that cannot be read, or does not answer, is one copy fewer for now: nobody
/// writes over it before it has been read.
///
/// # Errors
/// `Unsupported`: one is of a version that is not known, and says what no older one does.
pub fn all(places: Vec<PathBuf>, asking: &Asking) -> Result<Vec<(PathBuf, Manifest)>> {
    let found = asking.each(&places, Identity::load);
    let mut copies = Vec::new();
    for (place, found) in places.into_iter().zip(found) {
        if let Some(found) = found
            && let Some(Identity { manifest: Some(copy), .. }) = known(found)?
        {
            copies.push((place, copy));
        }
    }
    Ok(copies)
}

/// Where shards lie by a manifest, or are to lie.
pub fn places(dir: &Path, manifest: &Manifest, options: &Options) -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = manifest.shards.iter().map(|shard| dir.join(&shard.path)).collect();
    for shard in &options.shard {
        if !places.contains(&shard.path) {
            places.push(shard.path.clone());
        }
    }
    places
}

/// What was read of an identity file, if it could be.
///
/// # Errors
/// `Unsupported`.
pub fn known(found: Result<Option<Identity>>) -> Result<Option<Identity>> {
    match found {
        Err(error) if error.kind() == ErrorKind::Unsupported => Err(error),
        found => Ok(found.ok().flatten()),
    }
}

/// What an opening has found of the manifest.
#[derive(Debug, Clone, Copy)]
pub struct Read<'a> {
    dir: &'a Path,
    store: u128,
    /// Of the file, or the copy, as it was found.
    generation: u64,
    /// It is a shard's copy.
    adopted: bool,
}

impl<'a> Read<'a> {
    /// What was found, if anything was, and the number of the copy that it was taken from, if it was; an error where a shard's directory that it or the options name has a newer copy.
    pub fn new(
        dir: &'a Path,
        found: Option<&Manifest>,
        taken: Option<u64>,
        options: &Options,
        asking: &Asking,
    ) -> Result<Read<'a>> {
        let (store, own) = found.map_or((0, u64::MAX), |found| (found.store, found.generation));
        let read = Read { dir, store, generation: taken.unwrap_or(own), adopted: taken.is_some() };
        let places = found.map_or_else(Vec::new, |found| places(dir, found, options));
        let own = all(places, asking)?.into_iter().filter(|(_, copy)| copy.store == store);
        match own.max_by_key(|(_, copy)| copy.generation) {
            Some((place, copy)) => read.check(&place, copy.generation).map(|()| read),
            None => Ok(read),
        }
    }

    /// An error where one that has been opened has, which may not have answered before.
    pub fn check_opened(&self, layout: &Layout, asking: &Asking) -> Result<()> {
        let (unread, read): (Vec<_>, Vec<_>) =
            layout.shards.iter().partition(|shard| shard.copied() == UNREAD);
        read.into_iter().try_for_each(|shard| self.check(&shard.dir, shard.copied()))?;
        // Once more: what failed may have passed.
        let dirs: Vec<PathBuf> = unread.into_iter().map(|shard| shard.dir.clone()).collect();
        for (dir, found) in dirs.iter().zip(asking.each(&dirs, Identity::load)) {
            if let Some(identity) = found.map(known).transpose()?.flatten() {
                self.check_identity(dir, &identity)?;
            }
        }
        Ok(())
    }

    /// An error where a shard's identity file has.
    pub fn check_identity(&self, shard: &Path, found: &Identity) -> Result<()> {
        match &found.manifest {
            Some(copy) if copy.store == self.store => self.check(shard, copy.generation),
            _ => Ok(()),
        }
    }

    fn check(&self, shard: &Path, copied: u64) -> Result<()> {
        if copied <= self.generation {
            return Ok(());
        }
        let copy = shard.join(identity::FILE);
        let (what, remedy) = match self.adopted {
            true => (
                "the newest manifest that the shards have which the options name",
                "name the directory of that shard in the options as well, and move the manifest away if there is one",
            ),
            false => (
                "the manifest",
                "put the newest one back, or move this one away and name the shards' directories in the options: the newest copy \
                 is taken then",
            ),
        };
        let text = format!(
            "{what} is older than a shard's copy: it is writing number {}, the copy in {} number {copied}; what was made between \
             them would be lost",
            self.generation,
            copy.display()
        );
        Err(Error::new(ErrorKind::Refused, text).at(self.dir.join(FILE)).remedy(remedy))
    }
}

/// Errors where a shard has a newer copy of the manifest that was read from the store's own file.
pub fn check_newest(dir: &Path, manifest: &Manifest, options: &Options, seams: &Seams) -> Result<()> {
    Read::new(dir, Some(manifest), None, options, &Asking::new(seams, options)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::MemoryFactory;
    use crate::ids::ShardId;
    use crate::state::Background;
    use std::sync::Arc;

    #[test]
    fn a_manifest_that_is_older_than_an_identitys_is_refused() {
        let (disk, factory) = (Arc::new(crate::disk::SimDisk::new(1)), Arc::new(MemoryFactory::new()));
        let seams = Seams { disk: disk.clone(), factory, background: Background::Off };
        let options = Options::new().shards(1).replication_factor(1);
        drop(crate::testing::open(Path::new("/store"), &options, seams).unwrap());
        let identity = Identity::load(disk.as_ref(), Path::new("/store/shards/0000")).unwrap().unwrap();
        let manifest = identity.manifest.clone().unwrap();
        let (store, generation) = (manifest.store, manifest.generation);
        let check = |store, generation, identity: &Identity| {
            let read = Read { dir: Path::new("/store"), store, generation, adopted: false };
            read.check_identity(Path::new("/store/shards/0000"), identity)
        };
        check(store, generation, &identity).unwrap();
        let error = check(store, generation - 1, &identity).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert!(error.to_string().contains("shards/0000"), "{error}");
        // Of another store, or of one that is being created, it says nothing.
        check(store ^ 1, generation - 1, &identity).unwrap();
        let created = Identity { store, shard: ShardId(0), manifest: None };
        check(store, generation - 1, &created).unwrap();
    }
}
