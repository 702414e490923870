//! Bugs that are planted on purpose, to see that the tests which should catch them do.
//!
//! Only a build with `--cfg annulus_plants` has them, and there one at a time: the one that `ANNULUS_PLANT` names. In any
//! other build asking for one is a constant, and costs nothing.

/// A bug that can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plant {
    /// What `ANNULUS_PLANT` names it by.
    pub name: &'static str,
    /// Which of the harnesses must catch it.
    pub harness: &'static str,
    /// What it does.
    pub what: &'static str,
}

const fn plant(name: &'static str, harness: &'static str, what: &'static str) -> Plant {
    Plant { name, harness, what }
}

/// All of them.
pub const PLANTS: &[Plant] = &[
    plant("journal-acks-before-sync", "powercut", "the journal acknowledges without a sync"),
    plant("journal-name-not-synced", "powercut", "the names of new journal segments are not synced"),
    plant("journal-trimmed-ahead", "powercut", "the journal is trimmed before the shards have what it held"),
    plant("seal-before-sync", "powercut", "the seal is written before the engine is synced"),
    plant("index-not-synchronous", "powercut", "sled's directory is not marked synchronous"),
    plant("pages-not-synced", "powercut", "the page file is not synced before the index refers to it"),
];

/// Whether a bug is planted.
#[cfg(annulus_plants)]
pub fn is(name: &str) -> bool {
    static PLANTED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let planted = PLANTED.get_or_init(|| std::env::var("ANNULUS_PLANT").ok());
    planted.as_deref() == Some(name)
}

/// Whether a bug is planted: never, in this build.
#[cfg(not(annulus_plants))]
#[inline(always)]
pub const fn is(_: &str) -> bool {
    false
}
