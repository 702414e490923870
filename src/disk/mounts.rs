//! On which side of a mount point a directory lies.
//!
//! A disk that is not mounted leaves an empty directory on the file system above it, which is not to be taken for a disk that has been
//! replaced. Which of the two it is shows in how many file systems begin on the way there.

use super::Disk;
use std::io;
use std::path::Path;

/// How many file systems begin on the way to `dir`, which need not exist: from `base` on if it lies inside, else from the root on. 0 where
/// it lies on the file system of `base`, or where file systems are not known.
pub fn mounts(disk: &dyn Disk, base: &Path, dir: &Path) -> io::Result<u32> {
    let device = |path: &Path| disk.space(path).map(|space| space.map(|space| space.device));
    let (Some(mut below), Some(home)) = (device(dir)?, device(base)?) else { return Ok(0) };
    if below == home {
        return Ok(0);
    }
    let base = disk.canonicalize(base).unwrap_or_else(|_| base.to_path_buf());
    let inside = dir.starts_with(&base);
    let ancestors = dir.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty());
    let mut begun = 0;
    for ancestor in ancestors.take_while(|path| !inside || path.starts_with(&base)) {
        let Some(above) = device(ancestor)? else { return Ok(0) };
        begun += u32::from(above != below);
        below = above;
    }
    Ok(begun)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::SimDisk;

    #[test]
    fn mounts_on_the_way_are_counted_from_the_root_or_from_the_store() {
        let disk = SimDisk::new(1);
        let count = |base: &str, dir: &str| mounts(&disk, Path::new(base), Path::new(dir)).unwrap();
        assert_eq!(count("/srv/store", "/mnt/a/journal"), 0, "nothing is known");
        for dir in ["/mnt", "/mnt/a", "/srv", "/srv/store/b"] {
            disk.mount(Path::new(dir));
        }
        assert_eq!(count("/srv/store", "/mnt/a/journal"), 2);
        assert_eq!(count("/srv/store", "/mnt/journal"), 1);
        assert_eq!(count("/srv/store", "/home/journal"), 0, "the root's own");
        assert_eq!(count("/srv/store", "/srv/journal"), 0, "the store's own");
        assert_eq!(count("/srv/store", "/srv/store/journal"), 0);
        assert_eq!(count("/srv/store", "/srv/store/b/journal"), 1, "wherever the store is moved to");
        disk.unmount(Path::new("/mnt/a"));
        assert_eq!(count("/srv/store", "/mnt/a/journal"), 1);
    }
}
