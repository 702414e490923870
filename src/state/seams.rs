//! What a store stands on, and which threads it has.

use crate::disk::{Disk, RealDisk};
use crate::engine::{EngineFactory, SledFactory};
use crate::options::Options;
use std::sync::Arc;

/// What has threads of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Background {
    /// Nothing: every step is driven by hand, and whatever hangs holds up the caller.
    Off,
    /// What is asked of a shard, so that one that hangs can be left behind; every step is still driven by hand.
    Shards,
    /// All of it, and what schedules the steps.
    On,
}

impl Background {
    /// Whether somebody else does the steps.
    pub fn schedules(self) -> bool {
        self == Background::On
    }

    /// Whether a shard has threads.
    pub fn has_workers(self) -> bool {
        self != Background::Off
    }
}

/// What a store stands on: the parts that tests replace.
#[derive(Debug, Clone)]
pub struct Seams {
    pub disk: Arc<dyn Disk>,
    pub factory: Arc<dyn EngineFactory>,
    pub background: Background,
}

impl Seams {
    /// What users' stores stand on.
    pub fn real(options: &Options) -> Seams {
        let factory = SledFactory::within(options.shard_timeout_or_default());
        Seams { disk: Arc::new(RealDisk), factory: Arc::new(factory), background: Background::On }
    }
}
