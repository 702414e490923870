//! Bugs that are planted on purpose, to see that the tests which should catch them do.
//!
//! Only a build with `--cfg annulus_plants` has them, and there one at a time: the one that `ANNULUS_PLANT` names. In any
//! other build asking for one is a constant, and costs nothing. `lab/` runs them: `plants` those that tests must catch,
//! and `--plants` of its own harnesses those that these must.

/// A bug that can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plant {
    /// What `ANNULUS_PLANT` names it by.
    pub name: &'static str,
    /// Which of the harnesses must catch it: one of the lab's (`powercut`, `damage`, `kill`, `files`), or a test's binary (`lib`: the library's own) and what the
    /// names of its tests begin with.
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
    plant("small-file-not-synced", "states", "a small file gets its name before its bytes are durable"),
    plant("small-file-name-not-synced", "states", "the new name of a small file is not synced"),
    plant(
        "journal-segment-named-before-it-is-durable",
        "states",
        "a journal segment gets its name before its header is durable",
    ),
    plant(
        "journal-spare-used-under-its-old-name",
        "states",
        "a freed segment is used again before its new name is durable",
    ),
    plant("journal-full-segment-not-synced", "states", "of several segments only the last one is synced"),
    plant(
        "journal-past-the-cache-before-the-rest",
        "states",
        "frames are written past the cache while earlier ones are in it",
    ),
    plant(
        "journal-cut-in-any-order",
        "states",
        "segments beyond the end of the log may vanish in any order at an opening",
    ),
    plant(
        "journal-read-before-it-is-durable",
        "states",
        "an opening builds on frames that are not durable yet",
    ),
    plant(
        "woken-before-the-call-is-there",
        "schedules",
        "who waits for a sync is woken before it can see why",
    ),
    plant("lead-not-passed-on", "schedules", "a leader leaves those that came too late without one"),
    plant(
        "durable-before-the-sync",
        "schedules",
        "the others are told that frames are durable while they are synced",
    ),
    plant(
        "sequence-seen-before-its-records",
        "schedules",
        "a commit counts as there before its records are in the memtable",
    ),
    plant(
        "table-changed-in-two-steps",
        "schedules",
        "a memtable is in no list for a moment when it is frozen",
    ),
    plant(
        "emptiness-told-outside-the-lock",
        "schedules",
        "the word that the memtables are empty may come after the next commit",
    ),
    plant(
        "journal-payload-not-checked",
        "lib journal::tests::damage",
        "the checksum of a frame's payload is not looked at",
    ),
    plant(
        "journal-poison-forgotten",
        "lib journal::tests",
        "after a failed write or sync the journal goes on acknowledging",
    ),
    plant(
        "journal-hole-taken-for-the-end",
        "lib journal::tests::damage",
        "the log is cut where a frame is lost that later ones prove",
    ),
    plant(
        "journal-shorter-than-the-shards",
        "lib journal::tests::damage",
        "nobody asks whether the log reaches what the shards have applied",
    ),
    plant(
        "journal-not-written-again",
        "lib journal::tests",
        "after a failed sync the next opening believes what the cache shows",
    ),
    plant("replay-half-a-batch", "model", "of a batch only the first operation comes back"),
    plant(
        "copy-left-behind-is-believed",
        "lib journal::tests::mirror",
        "a copy of the journal that was left out counts as complete",
    ),
    plant(
        "shortest-copy-wins",
        "lib journal::tests::mirror",
        "of several copies of the journal the one that lacks the newest is read",
    ),
    plant(
        "copy-left-out-without-a-word",
        "lib journal::tests::mirror",
        "a copy is left out, and no word of it made durable",
    ),
    plant(
        "copy-made-under-a-mount-point",
        "mirrors",
        "a copy of the journal whose disk is not mounted is made anew where that would be",
    ),
    plant(
        "damage-spread-to-the-whole-copy",
        "lib journal::tests::mirror",
        "a copy of the journal is made anew from damage, in place of what was whole",
    ),
    plant(
        "page-checksum-not-checked",
        "lib engine::sled::tests::damage",
        "the checksum of a page is not looked at",
    ),
    plant(
        "index-left-half-first",
        "lib engine::sled::tests::crash",
        "of a node that was split the left half is written first",
    ),
    plant(
        "intent-not-finished",
        "lib engine::sled::tests::repair",
        "a change of the index that was cut off is not finished at opening",
    ),
    plant(
        "figures-not-compared",
        "lib engine::sled::tests::damage",
        "an index that is not the sealed one is believed",
    ),
    plant(
        "unfinished-snapshots-left",
        "lib engine::sled::tests::crash",
        "snapshots that sled did not finish are left where it reads them",
    ),
    plant(
        "merge-keeps-the-older",
        "lib engine::tests",
        "of two versions of a key a page keeps the one that it has",
    ),
    plant(
        "space-given-up-before-the-commit",
        "lib engine::sled::tests::crash",
        "pages that the index on the disk refers to are written over",
    ),
    plant("flush-leaves-out-an-owner", "heal", "one shard is sealed without its part of a flush"),
    plant("flush-drops-tombstones", "heal", "removals do not reach the shards"),
    plant("flush-forgets-snapshots", "api", "a flush drops versions that a snapshot needs"),
    plant(
        "table-forgotten-before-the-shards-have-it",
        "concurrency",
        "a memtable goes before its records are in the shards",
    ),
    plant(
        "changed-keys-not-noted",
        "checkpoint_model",
        "the next checkpoint is not told which keys a flush has taken away",
    ),
    plant(
        "flush-overtakes-a-chunk",
        "lib verbs::reshard::tests",
        "a flush begins while a chunk is on its way between shards",
    ),
    plant(
        "journal-trimmed-past-a-failed-shard",
        "heal",
        "the journal is trimmed without regard to shards that are offline",
    ),
    plant("archive-not-waited-for", "checkpoint_archive", "the journal is trimmed before it is archived"),
    plant("failed-shard-goes-on-serving", "heal", "a shard that missed a flush goes on being read"),
    plant(
        "record-cache-not-told",
        "concurrency",
        "records that are kept in memory survive the flush of newer ones",
    ),
    plant("older-table-first", "model", "of two frozen memtables the older one is asked first"),
    plant(
        "scan-not-opened-anew",
        "api",
        "a scan does not notice that records went from memory to the shards",
    ),
    plant("reads-wait-for-ever", "lib engine::sled::tests::patience", "who reads waits for the disk himself"),
    plant("writes-wait-for-ever", "watchdog writing", "who writes waits for the disk without a limit"),
    plant("opens-for-ever", "watchdog opening", "who opens a store waits for its own disk without a limit"),
    plant("owners-asked-once", "heal", "owners are not asked again though their health has changed"),
    plant("old-copies-seen-by-scans", "elastic", "a scan shows what a shard no longer owns"),
    plant(
        "next-owners-not-written-to",
        "lib verbs::reshard::tests",
        "flushes do not reach those who own a record next",
    ),
    plant(
        "flip-without-comparing",
        "lib verbs::reshard::tests",
        "new owners serve before their copies have been compared",
    ),
    plant(
        "sweep-spares-first-owners-alone",
        "elastic",
        "what a shard owns as a replica is removed with its old copies",
    ),
    plant("copy-skips-a-record", "elastic", "the last record of every chunk is not copied"),
    plant(
        "copy-without-the-flush-under-way",
        "lib verbs::reshard::tests",
        "a chunk brings back what a flush under way has removed",
    ),
    plant(
        "copy-ahead-of-the-journal",
        "lib verbs::reshard::tests",
        "a chunk brings shards what is not durable in the journal",
    ),
    plant(
        "grace-not-waited-for",
        "lib verbs::reshard::tests",
        "old copies are removed while somebody reads them",
    ),
    plant(
        "catch-up-one-commit-late",
        "heal",
        "a shard that catches up is not given the first commit that it lacks",
    ),
    plant("rebuilt-shard-not-compared", "heal", "a shard serves as soon as it has been filled"),
    plant("scrub-prefers-the-older", "heal", "where replicas differ the older version is taken for right"),
    plant(
        "healed-shard-waited-for-as-usual",
        "heal_model",
        "reads of a shard that was taken back wait for a minute, whatever was said",
    ),
    plant(
        "opened-while-it-hangs",
        "heal_model",
        "a shard is opened again while something is still in a call of it",
    ),
    plant("mended-from-one-that-is-behind", "heal", "a page is put in from a replica that has applied less"),
    plant(
        "scrub-of-shards-that-are-not-level",
        "heal",
        "replicas are compared before all have had the same flushes",
    ),
    plant("lost-tail-believed", "faults an_engine", "a shard that holds less than its seal says is opened"),
    plant(
        "checkpoint-named-before-its-objects",
        "checkpoint_model",
        "a checkpoint gets its name before its objects are durable",
    ),
    plant("object-hash-not-checked", "checkpoint", "the hash of a checkpoint's object is not looked at"),
    plant(
        "prune-takes-what-others-name",
        "checkpoint",
        "only the newest checkpoint's objects survive a prune",
    ),
    plant("checkpoint-of-many-moments", "checkpoint", "each keyspace is read as of when its turn comes"),
    plant(
        "restore-stops-before-the-end",
        "checkpoint_archive",
        "a restore leaves out the last archived commit",
    ),
    plant("small-file-checksum-not-checked", "damage", "the checksum of a small file is not looked at"),
    plant(
        "short-segment-believed",
        "damage",
        "a segment of the journal that was cut off is read as if it ended there",
    ),
    plant(
        "acknowledged-before-the-system-has-it",
        "kill",
        "a write at `Process` is acknowledged while it is in the process alone",
    ),
    plant(
        "replayed-log-given-up",
        "kill",
        "what an opening has replayed is trimmed from the journal at once",
    ),
    plant("half-restored-opens", "kill", "a restore writes the manifest before the records"),
    plant("replicas-not-asked-after-an-error", "files", "a read that fails on one shard fails"),
    plant("journal-sync-error-ignored", "files", "a failed sync of the journal counts as one that was done"),
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
