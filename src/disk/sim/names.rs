//! The simulated disk's names: as they are now, as they are durable, and the changes between the two.
//!
//! Invariant: applying all pending changes in order to the durable names gives the names as they are now.

use super::{Mood, Rng};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path, PathBuf};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    File(u64),
    Dir,
}

#[derive(Debug, Clone)]
enum Change {
    Put(PathBuf, Node),
    /// The file goes along, since its creation under the old name may be lost while the rename is kept.
    Rename(PathBuf, PathBuf, Node),
    Remove(PathBuf),
}

impl Change {
    fn dir(&self) -> &Path {
        let (Change::Put(path, _) | Change::Rename(_, path, _) | Change::Remove(path)) = self;
        path.parent().unwrap_or(Path::new("/"))
    }

    fn apply(&self, tree: &mut Tree) {
        match self {
            Change::Put(path, node) => {
                tree.insert(path.clone(), *node);
            }
            Change::Rename(from, to, node) => {
                if tree.get(from) == Some(node) {
                    tree.remove(from);
                }
                tree.insert(to.clone(), *node);
            }
            Change::Remove(path) => tree.retain(|p, _| !p.starts_with(path)),
        }
    }
}

pub type Tree = BTreeMap<PathBuf, Node>;

#[derive(Debug, Clone, Default)]
pub struct Names {
    now: Tree,
    durable: Tree,
    pending: Vec<Change>,
    /// What lies on file systems that are not mounted, durably.
    away: BTreeMap<PathBuf, Tree>,
}

/// One spelling for each path: absolute, without `.`.
pub fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}

impl Names {
    pub fn get(&self, path: &Path) -> Option<Node> {
        let path = normal(path);
        if path == Path::new("/") { Some(Node::Dir) } else { self.now.get(&path).copied() }
    }

    pub fn file(&self, path: &Path) -> io::Result<u64> {
        match self.get(path) {
            Some(Node::File(number)) => Ok(number),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub fn check_parent(&self, path: &Path) -> io::Result<()> {
        let path = normal(path);
        match self.get(path.parent().unwrap_or(Path::new("/"))) {
            Some(Node::Dir) => Ok(()),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub fn missing_dirs(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut missing = Vec::new();
        for dir in normal(dir).ancestors() {
            match self.get(dir) {
                Some(Node::Dir) => break,
                Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None => missing.push(dir.to_path_buf()),
            }
        }
        missing.reverse();
        Ok(missing)
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.now);
        self.pending.push(change);
    }

    pub fn make_dir(&mut self, dir: &Path) {
        self.change(Change::Put(normal(dir), Node::Dir));
    }

    pub fn create(&mut self, path: &Path, number: u64) {
        self.change(Change::Put(normal(path), Node::File(number)));
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = Node::File(self.file(from)?);
        self.check_parent(to)?;
        if normal(from) != normal(to) {
            self.change(Change::Rename(normal(from), normal(to), node));
        }
        Ok(())
    }

    pub fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.file(path)?;
        self.change(Change::Remove(normal(path)));
        Ok(())
    }

    pub fn remove_dir_all(&mut self, dir: &Path) -> io::Result<()> {
        if self.get(dir).is_none() {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.change(Change::Remove(normal(dir)));
        Ok(())
    }

    pub fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        match self.get(dir) {
            Some(Node::Dir) => {}
            Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
            None => return Err(io::ErrorKind::NotFound.into()),
        }
        let dir = normal(dir);
        let names = self.now.keys().filter(|path| path.parent() == Some(&dir));
        Ok(names.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
    }

    pub fn sync(&mut self, dir: &Path) -> io::Result<()> {
        if self.get(dir) != Some(Node::Dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let dir = normal(dir);
        let durable = &mut self.durable;
        self.pending.retain(|change| {
            let synced = change.dir() == dir;
            if synced {
                change.apply(durable);
            }
            !synced
        });
        Ok(())
    }

    pub fn lose(&mut self, rng: &mut Rng) {
        let mood = Mood::pick(rng);
        for change in std::mem::take(&mut self.pending) {
            if mood.spares(rng) {
                change.apply(&mut self.durable);
            }
        }
        drop_orphans(&mut self.durable);
        self.now = self.durable.clone();
    }

    /// How many changes are not durable.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// The names that a power cut leaves which spares the pending changes that `spares` says.
    pub fn after(&self, spares: impl Fn(usize) -> bool) -> Tree {
        let mut tree = self.durable.clone();
        for (_, change) in self.pending.iter().enumerate().filter(|(index, _)| spares(*index)) {
            change.apply(&mut tree);
        }
        drop_orphans(&mut tree);
        tree
    }

    /// All names as they are now.
    pub fn all(&self) -> Tree {
        self.now.clone()
    }

    /// These names, durably.
    pub fn durable(tree: Tree) -> Names {
        Names { now: tree.clone(), durable: tree, ..Names::default() }
    }

    /// The files that have a name, for counting what is used.
    pub fn live_now(&self) -> BTreeSet<u64> {
        numbers(&self.now)
    }

    /// The files that have a durable name.
    pub fn live_inodes(&self) -> BTreeSet<u64> {
        let away = self.away.values().flat_map(numbers);
        away.chain(numbers(&self.durable)).collect()
    }

    /// Takes what lies below `dir` out of sight, as it is now.
    pub fn unmount(&mut self, dir: &Path) {
        let dir = normal(dir);
        let lies_there = |path: &Path| path.starts_with(&dir) && path != dir;
        let tree = self
            .now
            .iter()
            .filter(|(path, _)| lies_there(path))
            .map(|(p, node)| (p.clone(), *node))
            .collect();
        for names in [&mut self.now, &mut self.durable] {
            names.retain(|path, _| !lies_there(path));
        }
        self.pending.retain(|change| !change.dir().starts_with(&dir));
        self.away.insert(dir, tree);
    }

    /// Brings what was unmounted back, in place of what lies there now.
    pub fn mount(&mut self, dir: &Path) {
        let dir = normal(dir);
        let Some(tree) = self.away.remove(&dir) else { return };
        for names in [&mut self.now, &mut self.durable] {
            names.retain(|path, _| !path.starts_with(&dir) || *path == dir);
            names.extend(tree.iter().map(|(path, node)| (path.clone(), *node)));
        }
        self.pending.retain(|change| !change.dir().starts_with(&dir));
    }

    pub fn is_away(&self, dir: &Path) -> bool {
        self.away.contains_key(&normal(dir))
    }

    pub fn clear_dir(&mut self, dir: &Path) {
        let dir = normal(dir);
        for tree in [&mut self.now, &mut self.durable] {
            tree.retain(|path, node| path.parent() != Some(&dir) || *node == Node::Dir);
        }
        self.pending.retain(|change| change.dir() != dir);
    }

    pub fn force(&mut self, path: &Path, number: u64) {
        for tree in [&mut self.now, &mut self.durable] {
            tree.insert(normal(path), Node::File(number));
        }
    }
}

/// What lies in a directory whose own name was lost is lost with it.
fn drop_orphans(tree: &mut Tree) {
    let dirs: BTreeSet<PathBuf> =
        tree.iter().filter(|(_, n)| **n == Node::Dir).map(|(p, _)| p.clone()).collect();
    tree.retain(|path, _| {
        path.ancestors().skip(1).all(|above| above == Path::new("/") || dirs.contains(above))
    });
}

fn numbers(tree: &Tree) -> BTreeSet<u64> {
    tree.values()
        .filter_map(|node| if let Node::File(number) = node { Some(*number) } else { None })
        .collect()
}
