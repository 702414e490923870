//! Writers beside a drop of their keyspace: what was acknowledged to them is there at its moment.

use crate::common::copy;
use crate::{Place, content, options};
use annulus::testing::{self, Background, Disk, DiskFile, OpenMode, RealDisk, Seams, SledFactory};
use annulus::{At, ErrorKind, Seq, Store};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

type Hook = dyn Fn(&str) -> io::Result<()> + Send + Sync;

/// A disk with a hook before a file gets its name.
#[derive(Clone)]
struct Naming(Arc<Mutex<Arc<Hook>>>);

impl fmt::Debug for Naming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Naming")
    }
}

impl Naming {
    /// A place whose store lies on one, with 20 writes, a checkpoint and an archive.
    fn place() -> (Place, Naming) {
        let mut place = Place::new();
        place.store.close().unwrap();
        let disk = Naming(Arc::new(Mutex::new(Arc::new(|_: &str| Ok(())))));
        let factory = Arc::new(SledFactory::default());
        let seams = Seams { disk: Arc::new(disk.clone()), factory, background: Background::On };
        place.store = testing::open(&place.path("live"), &options(), seams).unwrap();
        place.write(20);
        place.store.checkpoint(&place.repo).unwrap();
        place.store.archive(&place.repo).unwrap();
        (place, disk)
    }

    /// Told the names of the files.
    fn on(&self, hook: impl Fn(&str) -> io::Result<()> + Send + Sync + 'static) {
        *self.0.lock().unwrap() = Arc::new(hook);
    }

    fn off(&self) {
        self.on(|_| Ok(()));
    }
}

impl Disk for Naming {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        RealDisk.exists(path)
    }
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        RealDisk.canonicalize(path)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        RealDisk.open(path, mode)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let hook = self.0.lock().unwrap().clone();
        hook(&to.file_name().unwrap().to_string_lossy())?;
        RealDisk.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_file(path)
    }
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealDisk.remove_dir_all(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        RealDisk.lock(path)
    }
    fn boot_id(&self) -> u128 {
        RealDisk.boot_id()
    }
}

/// Writes into "notes" whenever a file gets its name, as long as that is taken; the last version that was acknowledged.
fn writing_meanwhile(disk: &Naming, store: &Store) -> Arc<Mutex<Option<Seq>>> {
    let last = Arc::new(Mutex::new(None));
    let (noted, notes) = (last.clone(), store.keyspace("notes").unwrap());
    disk.on(move |name| {
        if matches!(name, "ARCHIVES" | "MANIFEST" | "IDENTITY") {
            match notes.insert(name, "written while it was being dropped") {
                Ok(seq) => {
                    // Several files get their names at once, and who was told of an earlier write may note it later.
                    let mut noted = noted.lock().unwrap();
                    *noted = (*noted).max(Some(seq));
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
            }
        }
        Ok(())
    });
    last
}

#[test]
fn a_keyspace_is_there_at_every_moment_at_which_a_write_to_it_was_acknowledged() {
    let (mut place, disk) = Naming::place();
    place.moment();
    let last = writing_meanwhile(&disk, &place.store);
    place.store.drop_keyspace("notes").unwrap();
    disk.off();
    let last = last.lock().unwrap().take().unwrap();
    assert_eq!(last, place.store.stats().unwrap().last_seq);
    place.store.keyspace("notes").unwrap().insert("of the same name", "another").unwrap();
    place.moment();
    place.store.archive(&place.repo).unwrap();
    place.check_moments("");
    let restored = content(&place.restored(At::Seq(last), "dropping").unwrap());
    for name in ["ARCHIVES", "MANIFEST", "IDENTITY"] {
        assert!(restored.contains_key(&("notes".into(), name.into())), "{name}: {restored:?}");
    }
    // And all that it had before.
    let missing = place.moments[0].2.iter().find(|(key, _)| !restored.contains_key(key));
    assert_eq!(missing, None);
}

/// It was dropped, and nothing says up to which write it was there.
#[test]
fn a_drop_that_ends_before_its_last_word_takes_nothing_that_was_acknowledged() {
    for killed in [false, true] {
        let (mut place, disk) = Naming::place();
        let last = Arc::new(Mutex::new(None));
        let (noted, notes) = (last.clone(), place.store.keyspace("notes").unwrap());
        let (live, copied) = (place.path("live"), place.path("copied"));
        disk.on(move |name| {
            let mut noted = noted.lock().unwrap();
            match name {
                "MANIFEST" if noted.is_none() => {
                    *noted = Some(notes.insert("written", "while it was being dropped").unwrap());
                }
                "ARCHIVES" if noted.is_some() => {
                    if killed {
                        copy(&live, &copied);
                    }
                    return Err(io::Error::other("no more can be written"));
                }
                _ => {}
            }
            Ok(())
        });
        place.store.drop_keyspace("notes").unwrap();
        let last = last.lock().unwrap().unwrap();
        if killed {
            place.store.close().unwrap();
            place.store = options().open(place.path("copied")).unwrap();
            assert_eq!(place.store.list_keyspaces().unwrap(), ["default"]);
        } else {
            // Else its moments would be taken for those of the one that was dropped, after another opening.
            let error = place.store.keyspace("notes").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Io, "{error}");
            disk.off();
        }
        place.store.keyspace("notes").unwrap().insert("of the same name", "another").unwrap();
        place.moment();
        place.store.close().unwrap();
        let dir = place.path(if killed { "copied" } else { "live" });
        place.store = options().open(dir).unwrap();
        place.store.archive(&place.repo).unwrap();
        place.check_moments(&format!("killed: {killed}"));
        let restored = content(&place.restored(At::Seq(last), "dropping").unwrap());
        assert!(restored.contains_key(&("notes".into(), "written".into())), "killed: {killed}");
    }
}

/// The new manifest is in its place, and neither its name could be made durable nor the old one be written again: which of the two an opening
/// finds nobody knows.
#[test]
fn a_drop_of_which_nobody_knows_whether_it_came_about_is_told_to_the_archive_if_it_has() {
    let (mut place, disk) = Naming::place();
    place.write(1);
    place.store.archive(&place.repo).unwrap();
    // A piece that does not begin where the checkpoint ends has to tell of it.
    place.write(1);
    place.moment();
    let live = place.path("live");
    let tried = Mutex::new(0);
    disk.on(move |name| {
        if name != "MANIFEST" {
            return Ok(());
        }
        let mut tried = tried.lock().unwrap();
        *tried += 1;
        if *tried == 1 {
            std::fs::rename(live.join("MANIFEST.tmp"), live.join("MANIFEST")).unwrap();
        }
        Err(io::Error::other("no more can be written"))
    });
    let error = place.store.drop_keyspace("notes").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Poisoned, "{error}");
    disk.off();
    drop(place.store.close());
    place.store = options().open(place.path("live")).unwrap();
    assert_eq!(place.store.list_keyspaces().unwrap(), ["default"]);
    place.store.archive(&place.repo).unwrap();
    place.check_moments("");
}
