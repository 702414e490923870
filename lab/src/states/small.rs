//! The small files (manifest, identity, seal), replaced again and again, cut before every operation.

use super::explore::{Counts, Judge, Seen, explore};
use super::image::Image;
use super::{Limits, Part, locked};
use crate::Random;
use annulus::Options;
use annulus::testing::small_file::{Name, rewrite, wrap};
use annulus::testing::{Background, Disk, MemoryFactory, PowerCut, Seams, SimDisk};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};

const DIR: &str = "/store";

/// What they hold, or why there is no store to take them from.
type Bodies = Result<[(Name, &'static str, String); 3], String>;

static BODIES: LazyLock<Bodies> = LazyLock::new(|| {
    let disk = SimDisk::new(1);
    let seams = Seams {
        disk: Arc::new(disk.clone()),
        factory: Arc::new(MemoryFactory::new()),
        background: Background::Off,
    };
    let options = Options::new().shards(3).virtual_nodes(64).memory_budget(8 << 20);
    let store = annulus::testing::open(Path::new(DIR), &options, seams).map_err(|e| e.to_string())?;
    store.close().map_err(|e| e.to_string())?;
    let body = |name: &str| {
        let found = disk.files().into_iter().find(|(path, _)| path.ends_with(name)).ok_or(name)?;
        String::from_utf8(found.1[20..].to_vec()).map_err(|e| e.to_string())
    };
    Ok([
        (Name::Manifest, "MANIFEST", body("MANIFEST")?),
        (Name::Identity, "IDENTITY", body("IDENTITY")?),
        (Name::Seal, "SEAL", body("SEAL")?),
    ])
});

struct Newest<'a> {
    name: Name,
    path: PathBuf,
    written: &'a [Vec<u8>],
    /// How many of them were acknowledged.
    acknowledged: usize,
}

impl Judge for Newest<'_> {
    /// Which one is there, counted from 1; 0: none.
    type Outcome = Result<Vec<u8>, String>;

    fn reads(&self, path: &Path) -> bool {
        path == self.path
    }

    fn recover(&self, image: &Image) -> Self::Outcome {
        match image.read(&self.path).map_err(|e| e.to_string())? {
            Some(bytes) => rewrite(self.name, &bytes).map_err(|e| e.to_string()),
            None => Ok(Vec::new()),
        }
    }

    fn check(&self, outcome: &Self::Outcome) -> Result<(), String> {
        let found = outcome.as_ref().map_err(|error| format!("does not open: {error}"))?;
        let number = match found.is_empty() {
            true => Some(0),
            false => self.written.iter().rposition(|bytes| bytes == found).map(|at| at + 1),
        };
        match number {
            Some(number) if number >= self.acknowledged => Ok(()),
            found => Err(format!("lost: number {} was acknowledged, {found:?} came back", self.acknowledged)),
        }
    }
}

struct Watched {
    name: Name,
    path: PathBuf,
    written: Vec<Vec<u8>>,
    acknowledged: usize,
    counts: Counts,
    seen: Seen<Result<Vec<u8>, String>>,
    random: Random,
    failure: Option<String>,
}

/// Runs one script, and says what it went through.
pub fn script(seed: u64, limits: Limits) -> Part {
    let mut random = Random::new(seed);
    let (name, file, body) = match BODIES.as_ref() {
        Ok(bodies) => &bodies[random.below(3) as usize],
        Err(error) => return (Counts::default(), Err(error.clone())),
    };
    let mut disk = SimDisk::new(seed);
    disk.keep_versions();
    let made = disk.create_dir_all(Path::new(DIR)).and_then(|()| disk.sync_dir(Path::new("/")));
    let path = Path::new(DIR).join(file);
    let watched = Arc::new(Mutex::new(Watched {
        name: *name,
        path: path.clone(),
        written: Vec::new(),
        acknowledged: 0,
        counts: Counts::default(),
        seen: Seen::default(),
        random: random.clone(),
        failure: made.err().map(|e| e.to_string()),
    }));
    let looked = watched.clone();
    disk.watch(move |disk| {
        let watched = &mut *locked(&looked);
        let ends = disk.open_ends(64, watched.random.draw());
        let (path, written) = (watched.path.clone(), &watched.written);
        let judge = Newest { name: watched.name, path, written, acknowledged: watched.acknowledged };
        let bounds = (limits.cut, &mut watched.random);
        let outcome = explore(&ends, 0, 2, &judge, &mut watched.seen, bounds, &mut watched.counts);
        watched.failure = watched.failure.take().or(outcome.err());
    });
    for number in 1..=12u64 {
        let body = vary(*name, body, seed % 1000 * 100 + number, &mut random);
        let outcome = wrap(*name, body.as_bytes()).and_then(|bytes| rewrite(*name, &bytes));
        let bytes = match outcome {
            Ok(bytes) => bytes,
            Err(error) => return (Counts::default(), Err(error.to_string())),
        };
        locked(&watched).written.push(bytes.clone());
        let replaced = disk.replace(&path, &bytes);
        let mut now = locked(&watched);
        now.acknowledged = now.written.len();
        if let Some(failure) = now.failure.take().or(replaced.err().map(|e| e.to_string())) {
            return (now.counts, Err(failure));
        }
        drop(now);
        if random.below(4) == 0 {
            disk = disk.crash(PowerCut { seed: random.draw() });
        }
    }
    let counts = locked(&watched).counts;
    (counts, Ok(()))
}

/// The same file with other figures in it, and of another length.
fn vary(name: Name, body: &str, number: u64, random: &mut Random) -> String {
    let field = match name {
        Name::Manifest | Name::Identity => "\"generation\":",
        Name::Seal => "\"applied\":",
    };
    let Some(at) = body.find(field).map(|at| at + field.len()) else { return body.to_owned() };
    let end = body[at..].find([',', '}']).map_or(body.len(), |end| at + end);
    let number = number + (10u64.pow(random.below(12) as u32) - 1) * 1_000_000;
    format!("{}{number}{}", &body[..at], &body[end..])
}
