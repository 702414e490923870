//! Memory, disk and bytes written, from what Linux tells of this process.

use crate::outcome::{BareSync, Memory};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Instant;

pub const MIB: f64 = (1 << 20) as f64;

/// Measures from its making on.
pub struct Meter {
    written: u64,
}

impl Meter {
    /// Forgets the peak of resident memory so far.
    pub fn start() -> Meter {
        std::fs::write("/proc/self/clear_refs", "5")
            .expect("/proc/self/clear_refs: reset the peak of memory");
        Meter { written: written() }
    }

    pub fn memory(&self) -> Memory {
        let status = std::fs::read_to_string("/proc/self/status").expect("/proc/self/status");
        Memory {
            peak: kib(&status, "VmHWM:") / 1024.0,
            anon: kib(&status, "RssAnon:") / 1024.0,
            file: kib(&status, "RssFile:") / 1024.0,
        }
    }

    pub fn written_mib(&self) -> f64 {
        (written() - self.written) as f64 / MIB
    }
}

fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").expect("/proc/self/io");
    let line = io.lines().find_map(|l| l.strip_prefix("write_bytes: "));
    line.and_then(|n| n.parse().ok()).expect("write_bytes in /proc/self/io")
}

fn kib(status: &str, name: &str) -> f64 {
    let line =
        status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in status"));
    line.trim().trim_end_matches(" kB").parse().unwrap_or_else(|e| panic!("{name} in status: {e}"))
}

/// What an fdatasync costs beside the store, the median of 32: it differs between disks, and on a machine with other work
/// from minute to minute.
pub fn bare_sync(dir: &Path) -> BareSync {
    let path = dir.with_extension("probe");
    let block = [0x5a; 4096];
    let file = std::fs::File::create(&path).expect("a file beside the store");
    let run = |base: u64| {
        let mut times: Vec<f64> = (0..32)
            .map(|i| {
                let started = Instant::now();
                file.write_all_at(&block, (base + i) * 4096).expect("write beside the store");
                file.sync_data().expect("sync beside the store");
                started.elapsed().as_secs_f64() * 1e6
            })
            .collect();
        times.sort_by(f64::total_cmp);
        times[16]
    };
    let growing = run(0);
    let written = run(0);
    std::fs::remove_file(&path).expect("remove the file beside the store");
    BareSync { written, growing }
}

/// The blocks that the files below a directory hold, as `du` counts them.
pub fn disk_mib(dir: &Path) -> f64 {
    blocks(dir) as f64 * 512.0 / MIB
}

fn blocks(dir: &Path) -> u64 {
    // A file may go while the directory is read: engines remove theirs in the background.
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => blocks(&entry.path()),
            Ok(data) => data.blocks(),
            Err(_) => 0,
        })
        .sum()
}
