//! Restores that are killed: what they leave is whole or no store, and restoring there again makes one.

use crate::annulus::{checkpoint, compare};
use crate::child::{Task, say};
use crate::model;
use crate::{Random, Result};
use annulus::{BackupRepository, ErrorKind, Options, Store};
use std::path::{Path, PathBuf};

/// Directories that are restored into have such names, and a number.
const PREFIX: &str = "restored-live-";

fn options(replicas: usize) -> Options {
    Options::new()
        .memory_budget(8 << 20)
        .journal_segment_bytes(1 << 20)
        .shards(3)
        .replication_factor(replicas)
}

/// Takes a checkpoint, and restores it into a directory of its own: nobody but who looks removes that.
pub fn restore(store: &Store, task: &Task, random: &mut Random) -> Result<()> {
    checkpoint(store, &task.dir, random)?;
    let repository = BackupRepository::open(task.dir.join("backup"))?;
    let list = repository.list()?;
    let one = &list[random.below(list.len() as u64) as usize];
    let number =
        (0u64..).find(|n| !task.dir.join(format!("{PREFIX}{n}")).exists()).ok_or("no name is free")?;
    std::fs::write(wanted(&task.dir.join(format!("{PREFIX}{number}"))), one.seq.0.to_string())?;
    say("restoring");
    repository
        .restore(one.id)?
        .options(options(task.replicas))
        .open(task.dir.join(format!("{PREFIX}{number}")))?
        .close()?;
    say(&format!("restored {number}"));
    Ok(())
}

/// Where it says with which write at the least a store ends that is whole: of one without anything nothing else tells it.
fn wanted(restored: &Path) -> PathBuf {
    let name = restored.file_name().unwrap_or_default().to_string_lossy();
    restored.with_file_name(format!("wanted-{name}"))
}

/// Looks at all that was restored, or was being restored, and removes it.
pub fn check_restored(task: &Task) -> Result<()> {
    let acked = |path: &Path| {
        let number =
            path.file_name().and_then(|name| name.to_str()?.strip_prefix(PREFIX)).unwrap_or_default();
        task.acks.iter().any(|ack| {
            ack.strip_prefix("restored ").is_some_and(|rest| rest.starts_with(&format!("{number} ")))
        })
    };
    let entries = std::fs::read_dir(&task.dir)?.map(|entry| Ok(entry?.path()));
    let mut dirs: Vec<PathBuf> = entries.collect::<std::io::Result<_>>()?;
    dirs.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX)));
    for dir in dirs {
        let existing =
            Options::new().memory_budget(8 << 20).journal_segment_bytes(1 << 20).existing_only(true);
        match existing.open(&dir) {
            Ok(store) => {
                let seq = std::fs::read_to_string(wanted(&dir))?.parse::<u64>()?;
                let last = store.stats()?.last_seq;
                if last.0 < seq {
                    return Err(
                        format!("half restored: it ends with {last}, the checkpoint with {seq}").into()
                    );
                }
                one_moment(&store, "restored")?;
                say("restore whole");
            }
            Err(error) if acked(&dir) => {
                return Err(format!("restored: it was acknowledged: {error:?}").into());
            }
            Err(error) if ![ErrorKind::Refused, ErrorKind::NotFound].contains(&error.kind()) => {
                return Err(format!("half restored: refused in other words: {error:?}").into());
            }
            Err(_) => {
                let repository = BackupRepository::open(task.dir.join("backup"))?;
                // Not into a directory of nothing: a checkpoint that was being restored was there before.
                let restore = repository.restore_latest().map_err(|e| format!("half restored: {e:?}"))?;
                let again = restore.options(options(1).shards(2)).open(&dir);
                let again = again.map_err(|e| format!("half restored: not again: {e:?}"))?;
                one_moment(&again, "restored again")?;
                say("restore interrupted");
            }
        }
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(())
}

/// Whether a store holds exactly what the writers' numbers in it say.
pub fn one_moment(store: &Store, when: &str) -> Result<()> {
    let mut there = Vec::new();
    for writer in 0..model::WRITERS {
        there.push(store.get(model::last_key(writer))?.map_or(0, |value| model::number(&value)));
    }
    compare(store, &model::Expected::after(&there), when)?;
    Ok(store.close()?)
}
