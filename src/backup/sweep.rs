//! Removing what no checkpoint names.
//!
//! Invariant: what is removed is in no manifest that is, or may come back after a power cut.

use super::checkpoint::{Body, CHECKPOINTS};
use super::hash::{OBJECTS, ObjectId};
use super::progress::Watch;
use super::repository::Session;
use crate::error::Result;
use std::collections::HashSet;

/// What has been removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    pub objects: u64,
    pub bytes: u64,
}

impl Session<'_> {
    /// Removes every object that no checkpoint names, and every file that never got its name.
    pub fn sweep(&self, watch: &Watch) -> Result<Swept> {
        let needed = self.needed(self.repository.load_all()?)?;
        self.sweep_but(&needed, watch)
    }

    /// What these checkpoints, all that are to stay, are made of.
    pub fn needed(&self, mut bodies: Vec<Body>) -> Result<HashSet<ObjectId>> {
        if crate::plants::is("prune-takes-what-others-name") {
            bodies.drain(..bodies.len().saturating_sub(1));
        }
        self.repository.named(&bodies)
    }

    /// Removes every object but those that are `needed`, and every file that never got its name, but for those of archives, which are
    /// left to a prune.
    pub fn sweep_but(&self, needed: &HashSet<ObjectId>, watch: &Watch) -> Result<Swept> {
        let storage = self.repository.storage.as_ref();
        // The manifests' deletions, also those that another writer had no time to settle.
        storage.settle()?;
        let mut swept = Swept::default();
        for digit in 0..16 {
            for object in storage.list(&format!("{OBJECTS}{digit:x}/"))? {
                let unnamed = ObjectId::from_name(&object.name).is_some_and(|id| !needed.contains(&id));
                if unnamed || object.name.ends_with(".tmp") {
                    storage.delete(&object.name)?;
                    swept.objects += 1;
                    swept.bytes += object.bytes;
                    watch.more(1, object.bytes)?;
                }
            }
        }
        for place in [CHECKPOINTS, ""] {
            for object in storage.list(place)?.iter().filter(|object| object.name.ends_with(".tmp")) {
                storage.delete(&object.name)?;
            }
        }
        storage.settle()?;
        Ok(swept)
    }
}
