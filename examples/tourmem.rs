//! A tour of Annulus on real input: loads a tree of files, reads it back, scans, commits atomically, and survives a kill.
//!
//! ```text
//! cargo run --release --example tour [DIR] [--keep STORE]
//! ```
//! DIR is the tree to load: the sources of this project's dependencies unless given. The store lies in a temporary
//! directory that is removed at the end, or in STORE, which is kept.

use annulus::{Durability, Options, Store, WriteBatch};
use std::error::Error;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Names the store to the child that is going to be killed.
const CHILD: &str = "ANNULUS_TOUR_CHILD";

fn main() -> Outcome<()> {
    if let Ok(dir) = std::env::var(CHILD) {
        return write_until_killed(Path::new(&dir));
    }
    let (input, keep) = arguments()?;
    let temporary = tempfile::tempdir()?;
    let place = keep.clone().unwrap_or_else(|| temporary.path().join("store"));

    let files = find_files(&input)?;
    let bytes: u64 = files.iter().map(|f| f.bytes).sum();
    if files.is_empty() {
        return Err("there is no file to load; name a directory".into());
    }
    println!("Input    {} files, {} below {}", count(files.len() as u64), size(bytes), roots(&input));
    let store = Options::new().shards(4).replication_factor(2).open(&place)?;
    println!("Store    4 shards, replication factor 2, {} virtual nodes", store.ring().virtual_nodes());

    rss("start"); load(&store, &files)?; rss("load"); eprintln!("{:?}", {let s=store.stats()?; (s.memtable_bytes,s.frozen_bytes,s.journal.bytes,s.delayed_writes)});
    verify(&store, &files)?; rss("verify");
    show_ring(&store)?;
    scan(&store, &files)?; rss("scan");
    commit(&store)?;
    store.close()?;
    kill_and_recover(&place)?;
    println!("Memory   {} resident at most, of a budget of 256 MiB", peak_memory());
    if let Some(keep) = keep {
        println!("The store is kept in {}", keep.display());
    }
    Ok(())
}

fn arguments() -> Outcome<(Vec<PathBuf>, Option<PathBuf>)> {
    let (mut input, mut keep) = (None, None);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--keep" => keep = Some(PathBuf::from(words.next().ok_or("--keep needs a directory")?)),
            "--help" | "-h" => return Err("usage: tour [DIR] [--keep STORE]".into()),
            _ => input = Some(PathBuf::from(word)),
        }
    }
    Ok((input.map_or_else(dependencies, |dir| vec![dir]), keep))
}

/// The directories of the packages that this project is built from, or the project's own.
fn dependencies() -> Vec<PathBuf> {
    let project = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline"])
        .current_dir(&project)
        .output();
    let metadata: Option<serde_json::Value> =
        output.ok().and_then(|o| serde_json::from_slice(&o.stdout).ok());
    let manifests = metadata.as_ref().and_then(|m| m["packages"].as_array()).into_iter().flatten();
    let found: Vec<PathBuf> = manifests
        .filter_map(|p| Path::new(p["manifest_path"].as_str()?).parent().map(Path::to_path_buf))
        .filter(|dir| *dir != project && dir.is_dir())
        .collect();
    if found.is_empty() { vec![project] } else { found }
}

struct File {
    key: String,
    path: PathBuf,
    bytes: u64,
}

fn find_files(roots: &[PathBuf]) -> Outcome<Vec<File>> {
    let mut files = Vec::new();
    for root in roots {
        let name =
            root.canonicalize()?.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let mut open = vec![root.clone()];
        while let Some(dir) = open.pop() {
            for entry in std::fs::read_dir(&dir)? {
                let entry = entry?;
                let kind = entry.file_type()?;
                let skipped = ["target", ".git"].iter().any(|n| entry.file_name() == *n);
                if kind.is_dir() && !skipped {
                    open.push(entry.path());
                } else if kind.is_file() {
                    let bytes = entry.metadata()?.len();
                    let below = entry.path().strip_prefix(root)?.to_string_lossy().into_owned();
                    if bytes <= annulus::limits::MAX_VALUE_BYTES as u64 / 2 {
                        files.push(File { key: format!("{name}/{below}"), path: entry.path(), bytes });
                    }
                }
            }
        }
    }
    files.sort_by(|a, b| a.key.cmp(&b.key));
    files.dedup_by(|a, b| a.key == b.key);
    Ok(files)
}

/// The key of a line in the index: its file, and its number so that lines sort in order.
fn line_key(file: &str, line: u32) -> Vec<u8> {
    let mut key = file.as_bytes().to_vec();
    key.push(0);
    key.extend_from_slice(&line.to_be_bytes());
    key
}

/// Where each line of a file begins, and how long it is.
fn lines(content: &[u8]) -> impl Iterator<Item = (u32, [u8; 16])> {
    let mut at = 0u64;
    (1..).zip(content.split_inclusive(|b| *b == b'\n')).map(move |(number, line)| {
        let mut place = [0; 16];
        place[..8].copy_from_slice(&at.to_le_bytes());
        place[8..].copy_from_slice(&(line.len() as u64).to_le_bytes());
        at += line.len() as u64;
        (number, place)
    })
}

fn load(store: &Store, files: &[File]) -> Outcome<()> {
    let index = store.keyspace("lines")?;
    let mut progress = Progress::new("Load", files.len());
    let (started, mut records, mut bytes) = (Instant::now(), 0u64, 0u64);
    for file in files {
        let content = std::fs::read(&file.path)?;
        // A file and its lines appear together, whatever shards they fall on.
        let mut batch = WriteBatch::new();
        batch.insert(&file.key, &content);
        for (number, place) in lines(&content) {
            batch.insert_in(&index, line_key(&file.key, number), place);
        }
        records += batch.len() as u64;
        bytes += batch.byte_len() as u64;
        store.commit(batch)?;
        progress.step();
    }
    let acknowledged = started.elapsed();
    store.flush()?;
    let all = started.elapsed();
    progress.end(&format!(
        "{} records, {}: {}/s acknowledged, {}/s with both copies on disk",
        count(records),
        size(bytes),
        count(per_second(records, acknowledged)),
        count(per_second(records, all)),
    ));
    Ok(())
}

fn verify(store: &Store, files: &[File]) -> Outcome<()> {
    let index = store.keyspace("lines")?;
    let mut progress = Progress::new("Verify", files.len());
    let (started, mut records) = (Instant::now(), 0u64);
    for file in files {
        let content = std::fs::read(&file.path)?;
        let stored = store.get(&file.key)?.ok_or_else(|| format!("{} is missing", file.key))?;
        if stored != content {
            return Err(format!("{} is not what was loaded", file.key).into());
        }
        let mut expected = lines(&content);
        let mut prefix = file.key.clone().into_bytes();
        prefix.push(0);
        for item in index.scan_prefix(&prefix) {
            let (key, place) = item?;
            let (number, bytes) =
                expected.next().ok_or_else(|| format!("{} has too many lines", file.key))?;
            if key != line_key(&file.key, number) || place[..] != bytes {
                return Err(format!("line {number} of {} is not what was loaded", file.key).into());
            }
            records += 1;
        }
        if expected.next().is_some() {
            return Err(format!("{} lacks lines", file.key).into());
        }
        records += 1;
        progress.step();
    }
    let rate = per_second(records, started.elapsed());
    progress.end(&format!("{} records, every byte as loaded: {}/s", count(records), count(rate)));
    Ok(())
}

fn show_ring(store: &Store) -> Outcome<()> {
    let stats = store.stats()?;
    println!(
        "Ring     shard   virtual nodes   first owner of   records     pages       on disk     power cut"
    );
    for shard in &stats.shards {
        println!(
            "         {:<7} {:<15} {:<16} {:<11} {:<11} {:<11} {}",
            shard.id.to_string(),
            shard.virtual_nodes,
            shard.primaries,
            shard.records.map_or("counting".into(), count),
            shard.pages.map_or("counting".into(), count),
            size(shard.disk_bytes),
            shard.power_loss.map_or("offline".into(), |p| format!("{p:?}")),
        );
    }
    let loads: Vec<u64> = stats.shards.iter().map(|s| s.virtual_nodes).collect();
    let mean = loads.iter().sum::<u64>() as f64 / loads.len() as f64;
    let most = loads.iter().max().copied().unwrap_or(0) as f64;
    println!("         the fullest shard holds {:.4} times the mean", most / mean);
    for warning in &stats.warnings {
        println!("         warning: {warning}");
    }
    Ok(())
}

fn scan(store: &Store, files: &[File]) -> Outcome<()> {
    let middle = &files[files.len() / 2].key;
    let prefix = format!("{}/", middle.split('/').next().unwrap_or_default());
    let started = Instant::now();
    let (mut found, mut bytes) = (0u64, 0u64);
    for item in store.scan_prefix(&prefix) {
        let (_, content) = item?;
        found += 1;
        bytes += content.len() as u64;
    }
    let expected = files.iter().filter(|f| f.key.starts_with(&prefix)).count() as u64;
    if found != expected {
        return Err(format!("the scan of {prefix} found {found} files, not {expected}").into());
    }
    println!("Scan     {} files, {} below {prefix} in {:.1?}", count(found), size(bytes), started.elapsed());
    let started = Instant::now();
    let lines = store.keyspace("lines")?.len()?;
    println!("         {} lines counted at {}/s", count(lines), count(per_second(lines, started.elapsed())));
    Ok(())
}

fn commit(store: &Store) -> Outcome<()> {
    let counters = store.keyspace("counters")?;
    let mut batch = WriteBatch::new();
    for i in 0..1000 {
        batch.insert_in(&counters, format!("counter/{i}"), b"1");
    }
    batch.insert("tour/committed", b"1000 counters");
    let started = Instant::now();
    let seq = store.commit_with(batch, Durability::Sync)?;
    let took = started.elapsed();
    let found = counters.len()?;
    if found != 1000 || store.get_versioned("tour/committed")?.map(|(_, s)| s) != Some(seq) {
        return Err("the batch is not there as a whole".into());
    }
    println!(
        "Batch    1,001 records over 4 shards and 2 keyspaces, atomic and on disk in {took:.1?} (version {seq})"
    );
    Ok(())
}

/// What the child does: numbers rise under a few keys, two keys at a time, and each acknowledgement is printed.
fn write_until_killed(dir: &Path) -> Outcome<()> {
    let store = Store::open(dir)?;
    let out = std::io::stdout();
    for n in 1u64.. {
        let mut batch = WriteBatch::new();
        batch.insert(format!("kill/{n}"), n.to_be_bytes()).insert("kill/last", n.to_be_bytes());
        let durability = if n % 1000 == 0 { Durability::Sync } else { Durability::Process };
        store.commit_with(batch, durability)?;
        let mut out = out.lock();
        writeln!(out, "{n}")?;
        out.flush()?;
    }
    Ok(())
}

fn kill_and_recover(place: &Path) -> Outcome<()> {
    let mut child =
        Command::new(std::env::current_exe()?).env(CHILD, place).stdout(Stdio::piped()).spawn()?;
    let mut acknowledged = 0u64;
    let mut lines = BufReader::new(child.stdout.take().ok_or("the child has no output")?);
    let mut first = None;
    let mut line = String::new();
    while lines.read_line(&mut line)? > 0 {
        // A line cut short by the kill acknowledges nothing.
        if let Some(number) = line.strip_suffix('\n') {
            acknowledged = number.parse()?;
        }
        line.clear();
        if first.get_or_insert_with(Instant::now).elapsed() > Duration::from_millis(1500) {
            child.kill()?;
        }
    }
    child.wait()?;
    let started = Instant::now();
    let store = Store::open(place)?;
    let took = started.elapsed();
    let last = store.get("kill/last")?.map_or(0, |v| v.first_chunk().map_or(0, |b| u64::from_be_bytes(*b)));
    if last < acknowledged {
        return Err(format!("{acknowledged} was acknowledged, only {last} is there").into());
    }
    for n in 1..=last {
        if store.get(format!("kill/{n}"))?.as_deref() != Some(&n.to_be_bytes()[..]) {
            return Err(format!("write {n} of {last} is missing after the kill").into());
        }
    }
    println!(
        "Kill     SIGKILL after {} acknowledged commits: all there, none by halves",
        count(acknowledged)
    );
    println!(
        "         reopened in {took:.1?}, {} commits replayed from the journal",
        count(store.stats()?.opening.replayed_commits)
    );
    store.close()?;
    Ok(())
}

/// A line that counts up, where there is a terminal to show it.
struct Progress {
    name: &'static str,
    all: usize,
    done: usize,
    shown: Instant,
}

impl Progress {
    fn new(name: &'static str, all: usize) -> Progress {
        Progress { name, all, done: 0, shown: Instant::now() }
    }

    fn step(&mut self) {
        self.done += 1;
        if std::io::stderr().is_terminal() && self.shown.elapsed() > Duration::from_millis(100) {
            self.shown = Instant::now();
            let filled = self.done * 30 / self.all.max(1);
            eprint!("\r{:<8} [{:<30}] {}/{}", self.name, "#".repeat(filled), self.done, self.all);
        }
    }

    fn end(&self, outcome: &str) {
        if std::io::stderr().is_terminal() {
            eprint!("\r{:<70}\r", "");
        }
        println!("{:<8} {outcome}", self.name);
    }
}

fn per_second(count: u64, took: Duration) -> u64 {
    (count as f64 / took.as_secs_f64().max(1e-9)) as u64
}

fn count(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|g| std::str::from_utf8(g).unwrap_or_default()).collect();
    groups.join(",")
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

fn roots(input: &[PathBuf]) -> String {
    match input {
        [one] => one.display().to_string(),
        many => format!("the {} packages this project is built from", many.len()),
    }
}

/// The most memory this process had resident, where the system tells.
fn rss(what: &str) { let s = std::fs::read_to_string("/proc/self/status").unwrap(); for l in s.lines() { if l.starts_with("VmRSS") || l.starts_with("VmHWM") || l.starts_with("RssAnon") { eprint!("{what} {l}  "); } } eprintln!(); }
fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or_default();
    match line.trim().trim_end_matches(" kB").parse::<u64>() {
        Ok(kilobytes) => size(kilobytes * 1024),
        Err(_) => "unknown".into(),
    }
}
