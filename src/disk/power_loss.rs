//! What a directory's file system makes of a power cut, and the attribute that makes the best of it.
//!
//! sled takes `sync_file_range` for durable and reuses space on that belief. With FS_SYNC_FL (`chattr +S`) on its
//! directory before it creates its files, every write is durable in order, which is what it assumes: measured on ext4
//! and xfs. btrfs accepts the attribute and ignores it, so only file systems known to honour it count.

use crate::plants;
use std::path::Path;

/// Marks `dir` and what is in it synchronous. Returns whether the attribute was read back from all of it and is of a
/// file system that honours it.
pub fn mark_synchronous(dir: &Path) -> bool {
    imp::honoured(dir) && (plants::is("index-not-synchronous") || imp::mark_all(dir))
}

#[cfg(target_os = "linux")]
mod imp {
    use rustix::fs::{IFlags, fstatfs, ioctl_getflags, ioctl_setflags};
    use std::fs::{self, File};
    use std::io;
    use std::path::Path;

    const EXT4: u64 = 0xef53;
    const XFS: u64 = 0x5846_5342;

    pub fn honoured(dir: &Path) -> bool {
        let magic = File::open(dir).and_then(|dir| Ok(fstatfs(dir)?.f_type as u64));
        matches!(magic, Ok(EXT4 | XFS))
    }

    /// Whether the attribute is set, as read back, on the directory and everything in it.
    pub fn mark_all(dir: &Path) -> bool {
        let marked = mark_one(dir).and_then(|()| {
            for entry in fs::read_dir(dir)? {
                let path = entry?.path();
                let kind = match fs::symlink_metadata(&path) {
                    Ok(found) => found.file_type(),
                    // sled removes old snapshots in the background.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(e),
                };
                let done =
                    if kind.is_dir() { mark_all(&path) } else { !kind.is_file() || settled(mark_one(&path)) };
                if !done {
                    return Err(io::Error::other("the attribute does not stay"));
                }
            }
            Ok(())
        });
        settled(marked)
    }

    fn settled(marked: io::Result<()>) -> bool {
        match marked {
            Ok(()) => true,
            Err(e) => e.kind() == io::ErrorKind::NotFound,
        }
    }

    fn mark_one(path: &Path) -> io::Result<()> {
        let file = File::open(path)?;
        let flags = ioctl_getflags(&file)?;
        if flags.contains(IFlags::SYNC) {
            return Ok(());
        }
        ioctl_setflags(&file, flags | IFlags::SYNC)?;
        if ioctl_getflags(&file)?.contains(IFlags::SYNC) {
            Ok(())
        } else {
            Err(io::Error::other("the attribute does not stay"))
        }
    }

    #[cfg(test)]
    pub fn is_marked(path: &Path) -> bool {
        ioctl_getflags(File::open(path).unwrap()).unwrap().contains(IFlags::SYNC)
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    use std::path::Path;

    pub fn honoured(_: &Path) -> bool {
        false
    }

    pub fn mark_all(_: &Path) -> bool {
        false
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;
    use std::fs;

    /// The file system of the build directory, as `df` names it: what the answer must agree with.
    fn kind_of(dir: &Path) -> String {
        let out = std::process::Command::new("df").arg("--output=fstype").arg(dir).output().unwrap();
        String::from_utf8(out.stdout).unwrap().lines().last().unwrap().trim().to_owned()
    }

    #[test]
    fn the_attribute_is_set_inherited_and_read_back() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let kind = kind_of(dir.path());
        fs::create_dir(dir.path().join("old")).unwrap();
        fs::write(dir.path().join("old/file"), b"before").unwrap();
        let found = mark_synchronous(dir.path());
        if !matches!(kind.as_str(), "ext4" | "xfs") {
            assert!(!found, "{kind}");
            return;
        }
        assert!(found, "{kind}");
        fs::write(dir.path().join("new"), b"after").unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        for name in ["", "old", "old/file", "new", "sub"] {
            assert!(imp::is_marked(&dir.path().join(name)), "{name}");
        }
    }

    #[test]
    fn memory_file_systems_promise_nothing() {
        if let Ok(dir) = tempfile::tempdir_in("/dev/shm") {
            assert!(!mark_synchronous(dir.path()));
        }
        assert!(!mark_synchronous(Path::new("/nonexistent/annulus")));
    }
}
