//! A tour of Annulus on real input: loads a tree of files, reads it back, grows and shrinks under load, heals a shard whose
//! directory is deleted, scans, commits atomically, takes a checkpoint, is destroyed and restored, and survives a kill.
//!
//! ```text
//! cargo run --release --example tour [DIR] [--keep STORE]
//! ```
//! DIR is the tree to load: some 64 MiB of the sources of this project's dependencies unless given. The store lies in a temporary
//! directory that is removed at the end, or in STORE, which is kept.

mod backup;
mod elastic;
mod heal;
mod kill;
mod records;
mod show;

use annulus::Options;
use show::{count, peak_memory, roots, show_ring, size};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    if let Ok(dir) = std::env::var(kill::CHILD) {
        return kill::write_until_killed(Path::new(&dir));
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
    // One that a tour has left is taken as it is.
    let options = match place.exists() {
        true => Options::new(),
        false => Options::new().shards(4).replication_factor(2),
    };
    let store = options.open(&place)?;
    let ring = store.ring();
    let (shards, copies) = (ring.members().len(), ring.replication_factor());
    println!("Store    {shards} shards, replication factor {copies}, {} virtual nodes", ring.virtual_nodes());

    records::load(&store, &files)?;
    records::verify(&store, &files)?;
    show_ring(&store)?;
    elastic::grow_and_drain(&store, &place)?;
    records::verify(&store, &files)?;
    show_ring(&store)?;
    heal::delete_a_shard(&store, &files)?;
    records::verify(&store, &files)?;
    records::scan(&store, &files)?;
    records::commit(&store)?;
    let store = backup::destroy_and_restore(store, &place, &files)?;
    store.close()?;
    kill::kill_and_recover(&place)?;
    println!("Memory   {} resident at most, of a budget of 256 MiB", peak_memory());
    if let Some(keep) = keep {
        println!("The store is kept in {}, its backup beside it", keep.display());
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
    let input = match input {
        Some(dir) => vec![dir],
        None => dependencies()?,
    };
    Ok((input, keep))
}

/// What is loaded unless a directory is given, however many packages there are.
const ENOUGH: u64 = 64 << 20;

/// The directories of packages that this project is built from, as many as are enough, or the project's own.
fn dependencies() -> Outcome<Vec<PathBuf>> {
    let project = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline"])
        .current_dir(&project)
        .output();
    let metadata: Option<serde_json::Value> =
        output.ok().and_then(|o| serde_json::from_slice(&o.stdout).ok());
    let manifests = metadata.as_ref().and_then(|m| m["packages"].as_array()).into_iter().flatten();
    // Of those in the same workspace the sources are the project's own.
    let dirs = manifests
        .filter_map(|p| Path::new(p["manifest_path"].as_str()?).parent().map(Path::to_path_buf))
        .filter(|dir| !dir.starts_with(&project) && dir.is_dir());
    let (mut found, mut bytes) = (Vec::new(), 0);
    for dir in dirs {
        bytes += find_files(std::slice::from_ref(&dir))?.iter().map(|file| file.bytes).sum::<u64>();
        found.push(dir);
        if bytes >= ENOUGH {
            break;
        }
    }
    Ok(if found.is_empty() { vec![project] } else { found })
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
