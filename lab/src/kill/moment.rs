//! When a kill comes: some time after something, or when names in the store's directories have changed so often. The steps that a
//! crash might find between are mostly marked by a name that comes, goes or is replaced.

use crate::{Random, Result};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// No kill is waited for longer: a store whose names change seldom is killed then.
const LONGEST: Duration = Duration::from_millis(1500);

pub struct Moment {
    /// It counts from when the child says `mark`, in place of from its start.
    pub after_opening: bool,
    pub mark: &'static str,
    after: Duration,
    /// And so many changes of names.
    changes: u64,
}

impl Moment {
    pub fn draw(mode: &str, random: &mut Random) -> Moment {
        let (after_opening, longest, names) = match mode {
            "opening" => (false, 60, 40),
            // A store of this size is restored in less than that, and its shards come first.
            "restore" => (true, 120, 150),
            // Some are killed before they have opened, or made, the store.
            _ => (random.below(8) > 0, 400, 40),
        };
        let mark = match mode {
            "move" if random.below(2) == 0 => "moving",
            "restore" => "restoring",
            _ => "open",
        };
        let by_name = random.below(2) == 0;
        let after = Duration::from_micros(if by_name { 0 } else { random.below(longest * 1000) });
        Moment { after_opening, mark, after, changes: if by_name { 1 + random.below(names) } else { 0 } }
    }

    pub fn has_come(&self, passed: Duration, changes: u64) -> bool {
        passed >= self.after && (changes >= self.changes || passed >= LONGEST)
    }
}

/// Counts the changes of names below a directory.
pub struct Watched {
    /// None where the system has no more to give: then every kill comes by the time.
    inotify: Option<Inotify>,
    dirs: HashMap<WatchDescriptor, PathBuf>,
    pub changes: u64,
}

impl Watched {
    pub fn new(dir: &Path) -> Watched {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok();
        let mut watched = Watched { inotify, dirs: HashMap::new(), changes: 0 };
        watched.add(dir);
        watched
    }

    /// A directory may go while this is at it.
    fn add(&mut self, dir: &Path) {
        let what = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ONLYDIR;
        let Some(inotify) = &self.inotify else { return };
        let Ok(descriptor) = inotify.add_watch(dir, what) else { return };
        self.dirs.insert(descriptor, dir.to_owned());
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                self.add(&entry.path());
            }
        }
    }

    pub fn look(&mut self) -> Result<()> {
        let Some(inotify) = &self.inotify else { return Ok(()) };
        let events = match inotify.read_events() {
            Err(Errno::EAGAIN) => return Ok(()),
            events => events?,
        };
        for event in events {
            self.changes += 1;
            let made = event.mask.contains(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_ISDIR);
            let parent = self.dirs.get(&event.wd).cloned();
            if let (true, Some(parent), Some(name)) = (made, parent, event.name) {
                self.add(&parent.join(name));
            }
        }
        Ok(())
    }

    pub fn forget(&mut self) -> Result<()> {
        self.look()?;
        self.changes = 0;
        Ok(())
    }
}
