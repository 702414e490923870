//! What a power cut leaves open, all of it, for whoever wants to see every disk that it may leave and not one at random.
//!
//! Harder than [`PowerCut`](super::PowerCut): a sector that was written several times since the last sync may hold any of
//! that, and what a failed sync gave up may have reached the disk after all.

use super::inode::{Inode, OpenFile};
use super::names::{Names, Node, Tree};
use super::{Rng, SimDisk};
use std::path::{Path, PathBuf};

/// The names that a cut may leave: every path of a file, and the file's number.
#[derive(Debug, Clone)]
pub struct OpenNames {
    pub files: Vec<(PathBuf, u64)>,
    pub dirs: Vec<PathBuf>,
}

/// All that a power cut at one moment leaves open.
#[derive(Debug, Clone)]
pub struct OpenEnds {
    /// Files that have a name in any of `names`.
    pub files: Vec<OpenFile>,
    /// The names that there may be; the first are those where every change of names is lost.
    pub names: Vec<OpenNames>,
    /// Whether `names` are all there may be, and not a part of them, drawn at random.
    pub all_names: bool,
}

impl SimDisk {
    /// From now on files that are made keep what is written over before it is synced: it takes memory.
    pub fn keep_versions(&self) {
        self.machine.lock().versions = true;
    }

    /// What a power cut now would leave open, with at most `most` sets of names.
    pub fn open_ends(&self, most: usize, seed: u64) -> OpenEnds {
        let m = self.machine.lock();
        let pending = m.names.pending();
        let all_names = pending < 20 && 1 << pending <= most;
        let mut names: Vec<OpenNames> = Vec::new();
        let mut add = |tree: Tree| {
            let found = listed(tree);
            if names.iter().all(|other| other.files != found.files) {
                names.push(found);
            }
        };
        if all_names {
            (0..1u32 << pending).for_each(|set| add(m.names.after(|index| set >> index & 1 == 1)));
        } else {
            let mut rng = Rng(seed);
            add(m.names.after(|_| false));
            add(m.names.after(|_| true));
            for _ in 2..most {
                let set: Vec<bool> = (0..pending).map(|_| rng.below(2) == 0).collect();
                add(m.names.after(|index| set.get(index) == Some(&true)));
            }
        }
        let named = |number: &u64| names.iter().any(|n| n.files.iter().any(|(_, other)| other == number));
        let files = m.inodes.iter().filter(|(number, _)| named(number));
        let files = files.map(|(number, inode)| inode.open_ends(*number)).collect();
        OpenEnds { files, names, all_names }
    }

    /// All files as they are now, synced or not.
    pub fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let m = self.machine.lock();
        let named = listed(m.names.all()).files.into_iter();
        named
            .filter_map(|(path, number)| {
                let inode = m.inodes.get(&number)?;
                let mut bytes = vec![0; usize::try_from(inode.len()).ok()?];
                inode.read(0, &mut bytes);
                Some((path, bytes))
            })
            .collect()
    }

    /// A disk that has these directories and files, durably, in the run of the machine that `boot` says; files keep their
    /// versions, as by [`keep_versions`](Self::keep_versions).
    pub fn with_files(seed: u64, boot: u64, dirs: &[PathBuf], files: &[(&Path, &[u8])]) -> SimDisk {
        let disk = SimDisk::new(seed);
        let mut m = disk.machine.lock();
        (m.versions, m.boot) = (true, boot);
        let mut tree: Tree = dirs.iter().map(|dir| (dir.clone(), Node::Dir)).collect();
        for (path, bytes) in files {
            let number = m.add(Inode::durable(bytes.to_vec(), true));
            tree.insert(path.to_path_buf(), Node::File(number));
        }
        m.names = Names::durable(tree);
        drop(m);
        disk
    }
}

fn listed(tree: Tree) -> OpenNames {
    let mut found = OpenNames { files: Vec::new(), dirs: Vec::new() };
    for (path, node) in tree {
        match node {
            Node::File(number) => found.files.push((path, number)),
            Node::Dir => found.dirs.push(path),
        }
    }
    found
}
