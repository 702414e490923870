//! The command line: every command on real stores, its JSON, its exit codes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use annulus::{BackupRepository, Heal, Options, Store};
use common::copy;
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

struct Ran {
    code: i32,
    out: Vec<u8>,
    err: String,
}

impl Ran {
    /// The objects on stdout, of which there is one a line.
    fn lines(&self) -> Vec<Value> {
        let text = std::str::from_utf8(&self.out).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn one(&self) -> Value {
        assert_eq!(self.lines().len(), 1, "{:?} {}", self.lines(), self.err);
        self.lines().remove(0)
    }

    /// The error on stderr, which is the only line there that is one.
    fn error(&self) -> Value {
        assert!(self.out.is_empty(), "an error, and results beside it");
        let lines = self.err.lines().map(|line| serde_json::from_str::<Value>(line).expect(line));
        let errors: Vec<Value> = lines.filter(|line| line.get("error").is_some()).collect();
        assert_eq!(errors.len(), 1, "{}", self.err);
        assert_eq!(errors[0]["error"]["exit_code"], self.code);
        errors[0]["error"].clone()
    }
}

fn feed(args: &[&str], input: &[u8]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_annulus"));
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().unwrap()
    });
    let (code, err) = (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(!err.contains("panicked"), "{args:?}: {err}");
    Ran { code, out: output.stdout, err }
}

fn run(args: &[&str]) -> Ran {
    feed(args, b"")
}

/// With JSON, and the exit code that is expected.
fn json(expected: i32, args: &[&str]) -> Ran {
    let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
    let ran = run(&args);
    assert_eq!(ran.code, expected, "{args:?}: {} {}", ran.err, String::from_utf8_lossy(&ran.out));
    ran
}

fn done(args: &[&str]) -> Value {
    json(0, args).one()
}

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        Place { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn open(&self, name: &str) -> Store {
        Options::new().memory_budget(8 << 20).heal(Heal::Manual).open(self.path(name)).unwrap()
    }

    /// A store with two keyspaces.
    fn filled(&self, name: &str, records: u32) {
        let store = self.open(name);
        let notes = store.keyspace("notes").unwrap();
        for n in 0..records {
            store.insert(format!("user/{n:05}"), vec![n as u8; 20 + n as usize % 200]).unwrap();
            if n % 3 == 0 {
                notes.insert(n.to_be_bytes(), b"note").unwrap();
            }
        }
        store.close().unwrap();
    }
}

/// The pieces of a stream with records in them: all but the first, which says what the source was, and the last.
fn records(stream: &[u8]) -> Vec<&[u8]> {
    let (mut rest, mut found) = (stream, Vec::new());
    while !rest.is_empty() {
        let length = u32::from_le_bytes(rest[5..9].try_into().unwrap()) as usize;
        let (piece, after) = rest.split_at(9 + length);
        found.extend((piece[4] == 2 || piece[4] == 3).then_some(piece));
        rest = after;
    }
    assert!(found.len() > 2, "a stream without records");
    found
}

fn objects(repo: &Path) -> Vec<PathBuf> {
    let dirs = std::fs::read_dir(repo.join("objects")).unwrap();
    dirs.flat_map(|dir| std::fs::read_dir(dir.unwrap().path()).unwrap()).map(|e| e.unwrap().path()).collect()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_store_goes_into_a_repository_and_out_onto_another_topology() {
    let place = Place::new();
    let (store, repo, new) = (place.text("store"), place.text("repo"), place.text("new"));
    place.filled("store", 2000);
    let taken = done(&["checkpoint", &store, &repo, "--label", "before", "--rate", "500M"]);
    assert_eq!((taken["label"].as_str(), taken["records"].as_u64()), (Some("before"), Some(2667)));
    let again = done(&["checkpoint", &store, &repo, "--full"]);
    assert_ne!(again["id"], taken["id"]);

    let listed = json(0, &["list", &repo]).lines();
    assert_eq!(listed, [taken.clone(), again.clone()]);
    let all = done(&["verify", &repo]);
    assert_eq!((all["whole"].as_bool(), all["checkpoints"].as_u64()), (Some(true), Some(2)));
    assert_eq!(done(&["verify", &repo, "--all"]), all);
    let one = done(&["verify", &repo, &taken["id"].to_string()]);
    assert_eq!(one["records"], taken["records"]);

    let id = taken["id"].to_string();
    let (far, near) = (place.text("far,away"), place.text("near"));
    let (far_shard, near_shard) = (format!("{far},zone=a,weight=2"), format!("{near},zone=b,weight=2"));
    let shape = ["--shard", &far_shard, "--shard", &near_shard, "--replication-factor", "2"];
    let made = done(&[&["restore", &repo, &new, "--id", &id][..], &shape].concat());
    assert_eq!((made["seq"].clone(), made["replication_factor"].as_u64()), (taken["seq"].clone(), Some(2)));
    assert_eq!(made["keyspaces"], serde_json::json!(["default", "notes"]));
    let seen = done(&["inspect", &new]);
    assert_eq!(seen["shards"][0]["zone"], "a");
    assert_eq!(seen["shards"][0]["weight"], 2.0);
    assert!(Path::new(&far).join("SEAL").exists());

    let (file, other) = (place.text("stream"), place.text("other"));
    let exported = done(&["export", &store, &file]);
    assert_eq!(exported["seq"], taken["seq"]);
    let stream = std::fs::read(&file).unwrap();
    assert_eq!(exported["bytes"], stream.len());
    done(&["export", &new, &other]);
    assert_eq!(records(&stream), records(&std::fs::read(&other).unwrap()));
    assert_eq!(json(1, &["export", &store, &file]).error()["kind"], "Io", "it exists");

    // Through a pipe, the result beside it.
    let piped = json(0, &["export", &store, "-"]);
    assert_eq!(records(&piped.out), records(&stream));
    // Warnings may come before it.
    let beside: Value = serde_json::from_str(piped.err.lines().last().unwrap()).unwrap();
    assert_eq!((&beside["seq"], &beside["bytes"]), (&exported["seq"], &piped.out.len().into()));
    let third = place.text("third");
    let ran = feed(&["import", "-", &third, "--shards", "5", "--json"], &stream);
    assert_eq!((ran.code, ran.one()["shards"].as_array().unwrap().len()), (0, 5), "{}", ran.err);
    assert_eq!(records(&json(0, &["export", &third, "-"]).out), records(&stream));
    let fourth = place.text("fourth");
    assert_eq!(done(&["import", &file, &fourth])["shards"].as_array().unwrap().len(), 4, "as the source");

    let notes = place.text("only");
    done(&["restore", &repo, &notes, "--latest", "--keyspace", "notes", "--shards", "1"]);
    let only = place.open("only");
    assert!(only.is_empty().unwrap() && !only.keyspace("notes").unwrap().is_empty().unwrap());
    drop(only);

    let gone = done(&["prune", &repo, "--keep-last", "1"]);
    assert_eq!(gone["checkpoints"], serde_json::json!([taken["id"]]));
    assert_eq!(done(&["list", &repo]), again);
    let gone = done(&["delete", &repo, &again["id"].to_string()]);
    assert_eq!(gone["checkpoints"], serde_json::json!([again["id"]]));
    assert!(json(0, &["list", &repo]).lines().is_empty());
}

#[test]
fn a_restore_says_what_it_is_of_and_asks_which_store_is_meant() {
    let place = Place::new();
    let (repo, one, two) = (place.text("repo"), place.text("one"), place.text("two"));
    place.filled("one", 30);
    place.filled("two", 40);
    let first = done(&["checkpoint", &one, &repo]);
    let made = done(&["restore", &repo, &place.text("first")]);
    for field in ["store", "taken"] {
        assert_eq!(made["of"][field], first[field]);
    }
    assert_eq!(made["of"]["checkpoint"], first["id"]);
    let second = done(&["checkpoint", &two, &repo]);
    for latest in [&["--latest"][..], &["--until", "now"], &[]] {
        let new = place.text("refused");
        let error = json(1, &[&["restore", &repo, &new][..], latest].concat()).error();
        assert_eq!(error["kind"], "Mismatch");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("--id"), "{message}");
        for taken in [&first, &second] {
            let named = format!("{} of store {}", taken["id"], taken["store"].as_str().unwrap());
            assert!(message.contains(&named), "{message}");
        }
        assert!(!place.path("refused").exists());
    }
    let id = first["id"].to_string();
    let made = done(&["restore", &repo, &place.text("again"), "--id", &id]);
    assert_eq!((&made["of"]["checkpoint"], &made["of"]["store"]), (&first["id"], &first["store"]));
    let ran = run(&["restore", &repo, &place.text("told"), "--id", &id]);
    let text = String::from_utf8(ran.out).unwrap();
    let told = format!("checkpoint {id} of store {}", &first["store"].as_str().unwrap()[..8]);
    assert!(text.contains(&told) && text.contains(first["taken"].as_str().unwrap()), "{text}");
}

#[test]
fn a_restore_goes_on_to_a_sequence_or_a_time() {
    let place = Place::new();
    let (store, repo) = (place.text("store"), place.text("repo"));
    place.filled("store", 100);
    done(&["checkpoint", &store, &repo]);
    let good = {
        let live = place.open("store");
        let repository = BackupRepository::open(&repo).unwrap();
        live.archive(&repository).unwrap();
        let good = live.insert("late", "good").unwrap();
        live.remove("user/00001").unwrap();
        live.archive(&repository).unwrap();
        live.close().unwrap();
        good
    };
    let archived = done(&["archive", &store, &repo]);
    assert_eq!(archived["archived_upto"], good.0 + 1);
    let (before, after, early) = (place.text("before"), place.text("after"), place.text("early"));
    assert_eq!(done(&["restore", &repo, &before, "--until", &good.to_string()])["seq"], good.0);
    assert_eq!(done(&["restore", &repo, &after, "--until", "now"])["seq"], good.0 + 1);
    let error = json(1, &["restore", &repo, &early, "--until", "2001-01-01T00:00:00Z"]).error();
    assert_eq!(error["kind"], "NotFound");
    let alone = place.text("alone");
    let restored = done(&["restore", &repo, &alone, "--until", &good.to_string(), "--keyspace", "notes"]);
    assert_eq!((restored["seq"].as_u64(), place.open("alone").len().unwrap()), (Some(good.0), 0));
    let (before, after) = (place.open("before"), place.open("after"));
    assert_eq!(before.get("late").unwrap().as_deref(), Some(&b"good"[..]));
    assert!(before.contains_key("user/00001").unwrap() && !after.contains_key("user/00001").unwrap());
}

#[test]
fn a_gap_in_an_archive_is_told_by_exit_code_three_and_archives_are_listed_and_forgotten() {
    let place = Place::new();
    let (store, repo) = (place.text("store"), place.text("repo"));
    place.filled("store", 100);
    done(&["checkpoint", &store, &repo]);
    assert!(json(0, &["archive", &store, "--list"]).lines().is_empty());
    done(&["archive", &store, &repo]);
    let listed = done(&["archive", &store, "--list"]);
    assert_eq!((&listed["upto"], &listed["given_up"]), (&134.into(), &false.into()));
    let id = format!("{:032x}", BackupRepository::open(&repo).unwrap().id());
    assert_eq!(listed["repository"], id);
    // More than the journal keeps.
    let small = Options::new().journal_segment_bytes(64 << 10).journal_retention(64 << 10);
    let live = small.memory_budget(8 << 20).open(place.path("store")).unwrap();
    for n in 0..4_000u32 {
        live.insert(n.to_be_bytes(), [7; 100]).unwrap();
        if n % 1_000 == 0 {
            live.flush().unwrap();
        }
    }
    live.close().unwrap();
    for _ in 0..2 {
        let error = json(3, &["archive", &store, &repo]).error();
        assert_eq!(error["kind"], "Gap");
        assert!(error["advice"].as_str().unwrap().contains("checkpoint"), "{error}");
    }
    done(&["checkpoint", &store, &repo]);
    assert_eq!(done(&["archive", &store, &repo])["archived_upto"], 4_134);
    assert_eq!(done(&["archive", &store, &id, "--forget"])["forgotten"], true);
    assert_eq!(done(&["archive", &store, &repo, "--forget"])["forgotten"], false);
    for args in
        [&["archive", &store][..], &["archive", &store, &repo, "--list"], &["archive", &store, "--forget"]]
    {
        json(2, args).error();
    }
    for args in
        [&["archive", &store, "--list"][..], &["archive", &store, &repo], &["archive", &store, "--list"]]
    {
        let ran = run(args);
        assert!(ran.code == 0 && ran.out.len() > 10, "{args:?}: {}", ran.err);
    }
}

#[test]
fn a_damaged_piece_of_an_archive_is_told_by_exit_code_three() {
    let place = Place::new();
    let (store, repo) = (place.text("store"), place.text("repo"));
    place.filled("store", 0);
    done(&["checkpoint", &store, &repo]);
    let open = place.open("store");
    open.insert("one", "write").unwrap();
    open.close().unwrap();
    done(&["archive", &store, &repo]);
    assert_eq!(done(&["verify", &repo])["whole"], true);
    let under = |dir: PathBuf| std::fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
    flip(&under(under(place.path("repo/archive"))), 30);
    let found = json(3, &["verify", &repo]).one();
    let damage = &found["damage"][0];
    assert!(damage["keyspace"].is_null() && damage["as_of"].is_null(), "{found}");
    assert_eq!((&damage["checkpoint"], &damage["writes"]), (&1.into(), &vec![1, 1].into()), "{found}");
    let text = run(&["verify", &repo]);
    assert!(
        text.code == 3
            && String::from_utf8_lossy(&text.out).contains("damaged: the archive behind checkpoint 1")
    );
    assert_eq!(done(&["verify", &repo, "1"])["whole"], true);
}

#[test]
fn damage_is_told_by_exit_code_three() {
    let place = Place::new();
    let (store, repo, new) = (place.text("store"), place.text("repo"), place.text("new"));
    place.filled("store", 2000);
    let file = place.text("stream");
    done(&["export", &store, &file]);
    done(&["checkpoint", &store, &repo]);
    let largest = objects(&place.path("repo")).into_iter().max_by_key(|path| path.metadata().unwrap().len());
    flip(&largest.unwrap(), 1000);

    let found = json(3, &["verify", &repo]).one();
    assert_eq!(found["whole"], false);
    assert!(found["damage"][0]["keyspace"].is_string(), "{found}");
    assert_eq!(json(3, &["verify", &repo, "1"]).one()["damage"], found["damage"]);
    let text = run(&["verify", &repo]);
    assert!(text.code == 3 && String::from_utf8_lossy(&text.out).contains("damaged: checkpoint 1"));
    assert_eq!(json(3, &["restore", &repo, &new]).error()["kind"], "Corruption");
    let salvaged = json(3, &["restore", &repo, &new, "--salvage"]).one();
    assert_eq!(salvaged["damage"], found["damage"]);
    assert!(!place.open("new").is_empty().unwrap());

    flip(Path::new(&file), 3000);
    let other = place.text("other");
    assert_eq!(json(3, &["import", &file, &other]).error()["kind"], "Corruption");
    assert_eq!(json(1, &["inspect", &other]).error()["kind"], "NotFound");
}

#[test]
fn a_store_is_inspected_scrubbed_repaired_and_drawn() {
    let place = Place::new();
    let (store, repo) = (place.text("store"), place.text("repo"));
    place.filled("store", 2000);
    done(&["checkpoint", &store, &repo]);
    let stream = json(0, &["export", &store, "-"]).out;
    let seen = done(&["inspect", &store]);
    assert_eq!(seen["problems"], serde_json::json!([]));
    assert!(seen["opened_by"].is_u64() && seen["shards"].as_array().unwrap().len() == 4);
    let report = done(&["scrub", &store, "--rate", "1G"])["report"].clone();
    assert_eq!((report["shards_verified"].as_u64(), report["pages_left"].as_u64()), (Some(4), Some(0)));

    // Pages.
    let pages = place.path("store/shards/0002/engine/pages");
    let length = std::fs::metadata(&pages).unwrap().len() as usize;
    (8192..length).step_by(1000).for_each(|at| flip(&pages, at));
    let scrubbed = json(3, &["scrub", &store]).one();
    assert!(scrubbed["report"]["pages_repaired"].as_u64() > Some(0), "{scrubbed}");
    assert_eq!(scrubbed["report"]["pages_left"], 0);
    done(&["scrub", &store]);

    // A shard.
    std::fs::remove_dir_all(place.path("store/shards/0001")).unwrap();
    let seen = json(3, &["inspect", &store]).one();
    assert!(seen["problems"][0].as_str().unwrap().starts_with("shard 1: "), "{seen}");
    let health = done(&["repair", &store, "1"])["health"].clone();
    assert_eq!((&health["under_replicated"], &health["shards"][1]["state"]), (&0.into(), &"online".into()));
    done(&["repair", &store, "3", "--rebuild"]);
    done(&["inspect", &store]);
    assert_eq!(json(1, &["repair", &store, "9"]).error()["shard"], 9);

    // More than replicas make up for.
    (0..3).for_each(|n| std::fs::remove_dir_all(place.path(&format!("store/shards/{n:04}"))).unwrap());
    assert_eq!(json(1, &["scrub", &store]).error()["kind"], "Unavailable");
    let repaired = done(&["repair", &store, "--from", &repo]);
    assert!(!repaired["shards"].as_array().unwrap().is_empty(), "{repaired}");
    assert_eq!(records(&json(0, &["export", &store, "-"]).out), records(&stream));

    let svg = place.text("ring.svg");
    let ring = done(&["ring", &store, "--svg", &svg]);
    assert_eq!((ring["virtual_nodes"].as_u64(), ring["svg"].as_str()), (Some(1024), Some(svg.as_str())));
    assert_eq!(std::fs::read_to_string(&svg).unwrap(), place.open("store").ring().to_svg());
}

#[test]
fn a_store_that_is_open_is_not_touched_and_its_process_named() {
    let place = Place::new();
    let (store, repo, file) = (place.text("store"), place.text("repo"), place.text("file"));
    place.filled("store", 100);
    done(&["checkpoint", &store, &repo]);
    let held = place.open("store");
    let us = format!("process {}", std::process::id());
    let refused: [&[&str]; 6] = [
        &["checkpoint", &store, &repo],
        &["archive", &store, &repo],
        &["export", &store, &file],
        &["scrub", &store],
        &["repair", &store, "0", "--rebuild"],
        &["repair", &store, "--from", &repo],
    ];
    for args in refused {
        let error = json(4, args).error();
        assert_eq!(error["kind"], "Locked");
        assert!(error["message"].as_str().unwrap().contains(&us), "{error}");
        let plain = run(args);
        assert!(plain.code == 4 && plain.err.contains(&us), "{}", plain.err);
    }
    assert!(!Path::new(&file).exists());
    assert_eq!(json(0, &["list", &repo]).lines().len(), 1);
    assert_eq!(json(1, &["restore", &repo, &store]).error()["kind"], "Foreign");
    assert_eq!(done(&["inspect", &store])["opened_by"], std::process::id());
    done(&["ring", &store]);
    held.close().unwrap();
    done(&["checkpoint", &store, &repo]);
}

#[test]
fn what_is_not_there_is_not_made() {
    let place = Place::new();
    let (absent, repo, new) = (place.text("absent"), place.text("repo"), place.text("new"));
    let cases: [&[&str]; 12] = [
        &["checkpoint", &absent, &repo],
        &["archive", &absent, &repo],
        &["export", &absent, &new],
        &["scrub", &absent],
        &["repair", &absent, "0"],
        &["inspect", &absent],
        &["ring", &absent],
        &["list", &absent],
        &["verify", &absent],
        &["restore", &absent, &new],
        &["prune", &absent, "--keep-last", "1"],
        &["delete", &absent, "1"],
    ];
    for args in cases {
        assert_eq!(json(1, args).error()["kind"], "NotFound", "{args:?}");
    }
    json(1, &["import", &absent, &new]).error();
    assert_eq!(std::fs::read_dir(place.dir.path()).unwrap().count(), 0);
    // An empty directory is no store either.
    std::fs::create_dir(&absent).unwrap();
    assert_eq!(json(1, &["checkpoint", &absent, &repo]).error()["kind"], "NotFound");
    assert_eq!(std::fs::read_dir(&absent).unwrap().count(), 0);
}

#[test]
fn a_wrong_command_line_ends_with_two_and_help_has_examples() {
    let place = Place::new();
    let (store, repo, copied) = (place.text("store"), place.text("repo"), place.text("copied"));
    place.filled("store", 10);
    done(&["checkpoint", &store, &repo]);
    let cases: [&[&str]; 10] = [
        &[],
        &["frobnicate"],
        &["checkpoint", &store],
        &["checkpoint", &store, &repo, "--rate", "fast"],
        &["verify", &repo, "1", "--all"],
        &["restore", &repo, &copied, "--id", "1", "--latest"],
        &["restore", &repo, &copied, "--until", "yesterday"],
        &["restore", &repo, &copied, "--shards", "0"],
        &["prune", &repo],
        &["repair", &store],
    ];
    for args in cases {
        json(2, args).error();
        let plain = run(args);
        assert!(plain.code == 2 && plain.out.is_empty() && !plain.err.is_empty(), "{args:?}");
    }
    assert!(!Path::new(&copied).exists() || std::fs::read_dir(&copied).unwrap().count() == 0);
    let commands = [
        "checkpoint",
        "archive",
        "list",
        "verify",
        "restore",
        "prune",
        "delete",
        "export",
        "import",
        "inspect",
        "scrub",
        "repair",
        "ring",
    ];
    let help = run(&["--help"]);
    assert!(help.code == 0 && String::from_utf8_lossy(&help.out).contains("Exit codes:"));
    for command in commands {
        let help = run(&[command, "--help"]);
        assert!(help.code == 0 && String::from_utf8_lossy(&help.out).contains("Examples:"), "{command}");
    }
    // Without JSON, all commands once more have something to say to people.
    copy(&place.path("store"), &place.path("copied"));
    for args in [&["inspect", &copied][..], &["ring", &copied], &["scrub", &copied], &["list", &repo]] {
        let ran = run(args);
        assert!(ran.code == 0 && ran.out.len() > 40, "{args:?}: {}", ran.err);
    }
}

#[test]
fn a_repository_may_have_an_address() {
    let place = Place::new();
    place.filled("data", 300);
    let (data, new) = (place.text("data"), place.text("new"));
    let address = format!("file://{}", place.text("bucket/orders"));
    assert_eq!(json(1, &["list", &address]).error()["kind"], "NotFound");
    assert!(!place.path("bucket").exists(), "what is read only is not made");
    assert_eq!(done(&["checkpoint", &data, &address])["id"], 1);
    assert_eq!(done(&["checkpoint", &data, &address, "--full"])["id"], 2);
    assert_eq!(done(&["verify", &address])["whole"], true);
    assert_eq!(done(&["prune", &address, "--keep-last", "1"])["checkpoints"][0], 1);
    assert_eq!(json(0, &["list", &address]).lines().len(), 1);
    done(&["restore", &address, &new]);
    assert_eq!(place.open("new").len().unwrap(), 300);
    // It is no other format than a directory's.
    assert_eq!(done(&["verify", &place.text("bucket/orders")])["whole"], true);
    flip(&objects(&place.path("bucket/orders"))[0], 30);
    let error = json(3, &["verify", &address]).one();
    assert!(error["damage"][0]["file"].as_str().unwrap().starts_with("file://"), "{error}");
    assert_eq!(json(2, &["list", "hdfs://namenode/orders"]).error()["kind"], "InvalidInput");
    let error = json(2, &["list", "s3://bucket/orders"]).error();
    assert!(error["advice"].as_str().unwrap().contains("feature"), "{error}");
}
