//! The house: a file imports only from its own floor or from floors below, verbs do not call each other, only the sled
//! engine names sled, and no room grows too large.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

/// The floor of each room at the top of `src`.
const FLOORS: &[(&str, u32)] = &[
    ("error", 0),
    ("ids", 0),
    ("limits", 0),
    ("plants", 0),
    ("sync", 0),
    ("batch", 1),
    ("digest", 1),
    ("envelope", 1),
    ("frame", 1),
    ("options", 1),
    ("page", 1),
    ("plan", 1),
    ("record", 1),
    ("ring", 1),
    ("allocator", 2),
    ("disk", 2),
    ("engine", 2),
    ("backup", 3),
    ("journal", 3),
    ("manifest", 3),
    ("memtable", 3),
    ("shard", 3),
    ("state", 4),
    ("verbs", 5),
    ("background", 6),
    ("backups", 6),
    ("handle", 6),
    ("inspection", 6),
    ("keyspace", 6),
    ("range", 6),
    ("scrub", 6),
    ("store", 6),
    ("testing", 6),
    ("topology", 6),
    ("bin", 7),
];

fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut open, mut files) = (vec![root.clone()], Vec::new());
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                files.push((path.strip_prefix(&root).unwrap().to_path_buf(), text));
            }
        }
    }
    files
}

fn room(path: &Path) -> String {
    let first = path.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

fn floor(room: &str) -> Option<u32> {
    FLOORS.iter().find(|(name, _)| *name == room).map(|(_, floor)| *floor)
}

/// The code without its comments and its tests.
fn code(text: &str) -> String {
    let lines = text.lines().take_while(|line| !line.contains("#[cfg(test)]"));
    lines.filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Every `crate::a::b` that the code names, as the words after `crate::`.
fn imports(code: &str) -> Vec<Vec<String>> {
    let words = |rest: &str| {
        let path: String = rest.chars().take_while(|c| c.is_alphanumeric() || "_:".contains(*c)).collect();
        path.split("::").filter(|w| !w.is_empty()).map(str::to_owned).collect()
    };
    code.match_indices("crate::").map(|(at, found)| words(&code[at + found.len()..])).collect()
}

fn is_test(path: &Path) -> bool {
    path.to_string_lossy().contains("test") && room(path) != "testing"
}

#[test]
fn imports_never_climb() {
    for (path, text) in sources() {
        let room = room(&path);
        if room == "lib" || is_test(&path) {
            continue;
        }
        let own =
            floor(&room).unwrap_or_else(|| panic!("{} is on no floor: add it to FLOORS", path.display()));
        for import in imports(&code(&text)) {
            let target = floor(&import[0]);
            // What is not a room is a name that lib.rs exports: only the face may go that way.
            let target = target.unwrap_or(6);
            assert!(target <= own, "{} (floor {own}) imports crate::{}", path.display(), import.join("::"));
        }
    }
}

#[test]
fn verbs_do_not_call_each_other() {
    for (path, text) in sources() {
        if room(&path) == "verbs" {
            for import in imports(&code(&text)) {
                assert_ne!(import[0], "verbs", "{} imports crate::{}", path.display(), import.join("::"));
            }
        }
    }
}

#[test]
fn only_the_sled_engine_names_sled() {
    for (path, text) in sources() {
        if !path.starts_with("engine/sled") {
            let named = code(&text).contains("sled::") && !code(&text).contains("engine::sled::");
            assert!(!named || path.starts_with("engine"), "{} names sled", path.display());
        }
    }
}

#[test]
fn no_room_is_too_large() {
    for (path, text) in sources() {
        let lines = code(&text).lines().filter(|line| !line.trim().is_empty()).count();
        assert!(is_test(&path) || lines <= 420, "{} has {lines} lines of code", path.display());
    }
}

/// Shuttle's atomics and locks belong to one thread of the system: two tests that shared one broke it.
#[test]
fn statics_are_of_the_standard_library() {
    for (path, text) in sources() {
        let code = code(&text);
        let shared = code.lines().map(str::trim_start).filter(|line| line.contains("static "));
        let mut kinds =
            shared.filter_map(|line| line.split_once("static ")?.1.split_once(": ")).map(|(_, kind)| kind);
        // A kind that is named without its path is of the module that the file takes all of its locks and atomics from.
        let ours = code.contains("crate::sync::atomic") || code.contains("crate::sync::{");
        let own = |kind: &str| match kind {
            _ if kind.starts_with("Atomic") => !ours,
            _ => !["Mutex", "RwLock", "Condvar", "crate::sync"].iter().any(|name| kind.starts_with(name)),
        };
        assert!(kinds.all(own), "{} has a static of crate::sync", path.display());
    }
}

#[test]
fn only_two_calls_of_the_system_are_unsafe() {
    for (path, text) in sources() {
        let named = code(&text).contains("unsafe {") || code(&text).contains("unsafe fn");
        let known = ["allocator.rs", "disk/cached.rs"].iter().any(|known| path == Path::new(known));
        assert!(!named || known, "{} has unsafe code", path.display());
    }
}

/// The names of the plants that the code asks for.
fn plants(text: &str) -> Vec<&str> {
    let ends = text.match_indices("plants::is(\"").map(|(at, found)| &text[at + found.len()..]);
    ends.filter_map(|rest| rest.split('"').next()).collect()
}

#[test]
fn every_plant_is_used_and_every_one_used_is_listed() {
    let sources = sources();
    let mut used: Vec<&str> = sources.iter().flat_map(|(_, text)| plants(text)).collect();
    let mut listed: Vec<&str> = annulus::testing::PLANTS.iter().map(|plant| plant.name).collect();
    used.sort_unstable();
    listed.sort_unstable();
    // Each at one place: one that is at two may be caught for one of them, and go unnoticed at the other.
    assert_eq!(listed, used);
    assert!(listed.windows(2).all(|pair| pair[0] != pair[1]), "a name is listed twice");
    assert!(listed.len() >= 30, "{} are planted", listed.len());
    assert!(annulus::testing::PLANTS.iter().all(|plant| !plant.what.is_empty() && !plant.harness.is_empty()));
}
