//! A shard's directory is deleted while the store serves: reads go on, and the shard heals.

use crate::show::{count, per_second, size};
use crate::{File, Outcome};
use annulus::{EventKind, Store};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub fn delete_a_shard(store: &Store, files: &[File]) -> Outcome<()> {
    let victim = store.stats()?.shards.into_iter().next().ok_or("there is no shard")?;
    let mut events = store.events();
    while events.try_next().is_some() {}
    let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    let healed = std::thread::scope(|scope| -> Outcome<_> {
        let reader = scope.spawn(|| -> annulus::Result<u64> {
            let mut missing = 0;
            for file in files.iter().cycle() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                missing += u64::from(store.get(&file.key)?.is_none());
                reads.fetch_add(1, Ordering::Relaxed);
            }
            Ok(missing)
        });
        std::fs::remove_dir_all(&victim.path)?;
        println!("Heal     rm -r {} while it serves", victim.path.display());
        // A write makes the store look at all of its shards.
        store.insert("tour/after-the-loss", b"written")?;
        store.flush()?;
        let healed = wait(store, &mut events);
        stop.store(true, Ordering::Relaxed);
        match reader.join().map_err(|_| "the reader panicked")?? {
            0 => healed,
            missing => Err(format!("{missing} reads found nothing").into()),
        }
    })?;
    let bytes = store.stats()?.shards.into_iter().find(|s| s.id == victim.id).map_or(0, |s| s.live_bytes);
    println!(
        "         shard {} rebuilt in {healed:.2?}, {} at {}/s; {} reads meanwhile, none failed",
        victim.id,
        size(bytes),
        size(per_second(bytes, healed)),
        count(reads.load(Ordering::Relaxed)),
    );
    let report = store.scrub()?.wait()?.ok_or("the scrub was cancelled")?;
    println!(
        "         scrubbed: {} records compared, {} differ, {} pages damaged",
        count(report.records_compared),
        count(report.records_reconciled),
        count(report.pages_repaired + report.pages_left),
    );
    Ok(())
}

/// Waits until every shard is online again, and says what happens meanwhile.
fn wait(store: &Store, events: &mut annulus::Events) -> Outcome<Duration> {
    let begun = Instant::now();
    while !store.health()?.is_good() {
        if begun.elapsed() > Duration::from_secs(300) {
            return Err(format!("not healed after {:?}: {:?}", begun.elapsed(), store.health()?).into());
        }
        let Some(event) = events.next_within(Duration::from_millis(100)) else { continue };
        let what = match event.kind {
            EventKind::Offline { .. } => "offline; its replicas answer",
            EventKind::Rebuilding { .. } => "made anew, and filled from its replicas",
            EventKind::Online => "online",
            _ => continue,
        };
        println!("         {:>6.2?} shard {}: {what}", begun.elapsed(), event.shard.map_or(0, |id| id.0));
    }
    Ok(begun.elapsed())
}
