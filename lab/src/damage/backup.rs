//! A repository: two checkpoints, one of which shares what it can with the other, and an archived log. Whatever of it is damaged,
//! what cannot be restored is found by `verify`, refused by a restore, and told exactly by a salvage.

use super::records::{Found, RECORDS, key, value};
use crate::Result;
use annulus::{At, BackupRepository, CheckpointId, Damage, Loss, Options, Seq, Store};
use std::collections::BTreeMap;
use std::path::Path;

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

type Class = (&'static str, fn(&str) -> bool);

/// Classes of files: a name, and whether a file, named by its path in the repository, is of it.
pub const CLASSES: [Class; 4] = [
    ("checkpoint's manifest", |path| path.starts_with("checkpoints/")),
    ("checkpoint's chunks and indexes", |path| path.starts_with("objects/")),
    ("archived log", |path| path.starts_with("archive/")),
    ("REPOSITORY", |path| path == "REPOSITORY"),
];

fn options() -> Options {
    Options::new().shards(2).virtual_nodes(32).memory_budget(8 << 20).journal_segment_bytes(256 << 10)
}

/// What there was at the first checkpoint, at the second, and at the end of the archive.
fn content(stage: u32) -> Content {
    let mut content: Content = (0..RECORDS - 1000).map(|n| (key(n).to_vec(), value(n, 0))).collect();
    if stage > 0 {
        content.extend((500..1000).map(|n| (key(n).to_vec(), value(n, 1))));
        (1000..1200).for_each(|n| drop(content.remove(&key(n)[..])));
        content.extend((RECORDS - 1000..RECORDS).map(|n| (key(n).to_vec(), value(n, 1))));
    }
    if stage > 1 {
        content.extend((0..300).map(|n| (key(n).to_vec(), value(n, 2))));
        (1300..1400).for_each(|n| drop(content.remove(&key(n)[..])));
    }
    content
}

/// Makes the repository, and notes the end of the archive beside it.
pub fn make(dir: &Path) -> Result<()> {
    let live = dir.with_extension("live");
    let store = options().open(&live)?;
    let repository = BackupRepository::open(dir)?;
    let mut before = Content::new();
    for stage in 0..3 {
        let after = content(stage);
        for (key, value) in after.iter().filter(|(key, value)| before.get(*key) != Some(value)) {
            store.insert(key, value)?;
        }
        for key in before.keys().filter(|key| !after.contains_key(*key)) {
            store.remove(key)?;
        }
        if stage < 2 {
            store.flush()?;
            store.checkpoint(&repository)?;
        }
        if stage > 0 {
            let end = store.archive(&repository)?;
            std::fs::write(dir.with_extension("end"), end.0.to_string())?;
        }
        before = after;
    }
    store.close()?;
    std::fs::remove_dir_all(live)?;
    Ok(())
}

/// Looks at a damaged repository; `end`: where its archive ends; `original`: what the damaged file was.
pub fn look(dir: &Path, end: Seq, damaged: &Path, original: &Path) -> (Found, String) {
    let repository = match BackupRepository::open(dir) {
        Ok(repository) => repository,
        Err(error) => return (Found::Error, format!("{error:?}")),
    };
    let mut worst = (Found::Whole, String::new());
    for stage in 0..2 {
        let found = match checkpoint(&repository, dir, stage) {
            Ok(None) => continue,
            Ok(Some(refused)) => (Found::Error, refused),
            Err((found, text)) => (found, format!("checkpoint {}: {text}", stage + 1)),
        };
        worst = worst.min(found);
    }
    // With the archive, up to its end.
    let new = dir.with_extension("until");
    let restored = repository
        .restore(CheckpointId(1))
        .and_then(|restore| restore.options(options()).until(At::Seq(end)).open(&new));
    let found = match restored {
        Err(error) => (Found::Error, format!("{error:?}")),
        Ok(store) => match gathered(&store) {
            Ok(found) if found == content(2) => (Found::Whole, String::new()),
            Ok(found) => (Found::Missing, format!("at the archive's end: {}", differs(&found, &content(2)))),
            Err(error) => (Found::Dead, format!("what was restored cannot be read: {error}")),
        },
    };
    worst.min(found).min(piece(&repository, damaged, original))
}

/// A damaged piece of the archive is found when all is verified, also one that no restore needs; one that is gone cannot be.
fn piece(repository: &BackupRepository, damaged: &Path, original: &Path) -> (Found, String) {
    let is_piece =
        damaged.parent().is_some_and(|chain| chain.parent().is_some_and(|dir| dir.ends_with("archive")));
    let was = std::fs::read(original).ok();
    let is_changed = std::fs::read(damaged).is_ok_and(|is| was.is_some_and(|was| is != was));
    if !is_piece || !is_changed {
        return (Found::Whole, String::new());
    }
    match repository.verify_all() {
        Ok(all) if all.damage.iter().any(|damage| damaged.ends_with(&damage.file)) => {
            (Found::Whole, String::new())
        }
        Ok(all) => (Found::Missing, format!("not found when all are verified: {:?}", all.damage)),
        Err(error) => (Found::Dead, format!("all cannot be verified: {error:?}")),
    }
}

fn gathered(store: &Store) -> annulus::Result<Content> {
    store.iter().map(|item| item.map(|(key, value)| (key.to_vec(), value.to_vec()))).collect()
}

fn differs(found: &Content, expected: &Content) -> String {
    let keys = found.keys().chain(expected.keys());
    let differ = keys.filter(|key| found.get(*key) != expected.get(*key)).count();
    format!("{differ} records differ, {} found, {} expected", found.len(), expected.len())
}

/// Looks at one checkpoint: none if it is whole, the error that it is refused with if all agree on that.
fn checkpoint(
    repository: &BackupRepository,
    dir: &Path,
    stage: u32,
) -> std::result::Result<Option<String>, (Found, String)> {
    let id = CheckpointId(u64::from(stage) + 1);
    let dead = |error: annulus::Error| (Found::Dead, format!("{error:?}"));
    let verified = repository.verify(id);
    let is_whole = verified.as_ref().is_ok_and(|verified| verified.is_whole());
    let all = repository.verify_all().map(|all| all.damage.iter().any(|damage| damage.checkpoint == id));
    let restored = repository
        .restore(id)
        .and_then(|restore| restore.options(options()).open(dir.with_extension(format!("new-{stage}"))));
    let refused = match restored {
        Ok(store) => {
            let found = gathered(&store).map_err(dead)?;
            if found != content(stage) {
                return Err((Found::Missing, format!("restored: {}", differs(&found, &content(stage)))));
            }
            if !is_whole {
                return Err((Found::Dead, format!("restored whole, but verified: {verified:?}")));
            }
            return Ok(None);
        }
        Err(error) => error,
    };
    if is_whole {
        return Err((Found::Missing, format!("verified as whole, and refused: {refused:?}")));
    }
    // A manifest that was deleted is no checkpoint any more; everything else is found among all.
    let is_gone = refused.kind() == annulus::ErrorKind::NotFound;
    if !is_gone && all.is_ok_and(|found| !found) {
        return Err((Found::Missing, format!("not found when all are verified: {refused:?}")));
    }
    if refused.path().is_none() {
        return Err((Found::Dead, format!("the error names no file: {refused:?}")));
    }
    let Ok(restore) = repository.restore(id) else { return Ok(Some(format!("{refused:?}"))) };
    let salvaged = restore.options(options()).salvage(dir.with_extension(format!("saved-{stage}")));
    let (store, damage) = salvaged.map_err(dead)?;
    let found = gathered(&store).map_err(dead)?;
    exact(&found, &damage, stage).map_err(|text| (Found::Missing, format!("salvaged: {text}")))?;
    Ok(Some(format!("{refused:?}")))
}

/// Whether all that a salvage left out or gave in an older form is in what it says, and no more is gone than that.
fn exact(found: &Content, damage: &[Damage], stage: u32) -> std::result::Result<(), String> {
    let (expected, older) = (content(stage), content(0));
    if damage.is_empty() {
        return Err("no damage is told".into());
    }
    let is_told = |key: &[u8], as_of: bool| {
        damage.iter().any(|damage| {
            let within = &damage.from[..] <= key && damage.to.as_ref().is_none_or(|to| key < &to[..]);
            let keyspace = damage.keyspace.as_deref().is_none_or(|name| name == "default");
            within && keyspace && (!as_of || matches!(damage.loss, Loss::AsOf(_)))
        })
    };
    let mut missing = 0;
    for key in found.keys().chain(expected.keys()) {
        let (have, want) = (found.get(key), expected.get(key));
        if have == want {
            continue;
        }
        missing += u64::from(have.is_none());
        if !is_told(key, have.is_some()) {
            return Err(format!("record {key:?} is missing or old, and not told of: {damage:?}"));
        }
        if have.is_some() && have != older.get(key) {
            return Err(format!("record {key:?} has a value that it never had"));
        }
    }
    let told = damage.iter().try_fold(0, |sum, damage| damage.records.map(|records| sum + records));
    match told {
        Some(told) if missing > told => Err(format!("{missing} are missing, {told} are told of")),
        _ => Ok(()),
    }
}
