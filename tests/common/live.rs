//! A store under a workload of checked reads, writes, removals and scans, for tests that damage it meanwhile.
//!
//! Every key has a version that counts up with each write of it. What a read may return lies between the version that was
//! acknowledged before it began and the one that was begun before it ended; anything else is wrong. No error is right.

#![allow(dead_code)]

use annulus::{Event, EventKind, Options, ShardId, Store};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

pub const KEYS: usize = 4000;
const WRITERS: usize = 2;
/// How long anything may take that comes by itself.
pub const LIMIT: Duration = Duration::from_secs(150);

/// A generator of random numbers (xorshift), whose seed is printed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// The seed in `ANNULUS_SEED`, or one of the clock's; printed.
pub fn seed(name: &str) -> u64 {
    let clock = || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        u64::from(now.subsec_nanos()) ^ now.as_secs() << 20
    };
    let seed = std::env::var("ANNULUS_SEED").map_or_else(|_| clock(), |seed| seed.parse().unwrap());
    println!("{name}: ANNULUS_SEED={seed}");
    seed
}

pub fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |v| v.parse().expect("a number"))
}

pub fn key(n: usize) -> [u8; 8] {
    (n as u64).to_be_bytes()
}

fn is_removed(version: u64) -> bool {
    version == 0 || version % 5 == 3
}

fn value(n: usize, version: u64) -> Vec<u8> {
    let mut random = Random::new(n as u64 ^ version << 20);
    let length = if random.below(300) == 0 { 9000 } else { 16 + random.below(300) };
    let mut value = version.to_le_bytes().to_vec();
    value.extend(std::iter::repeat_with(|| random.next() as u8).take(length));
    value
}

#[derive(Default)]
struct Versions {
    acknowledged: AtomicU64,
    begun: AtomicU64,
}

/// What the threads of the workload share.
struct Shared {
    // Taken for the length of one operation; who takes it alone finds nothing under way.
    store: RwLock<Option<Store>>,
    keys: Vec<Versions>,
    stop: AtomicBool,
    wrong: Mutex<Vec<String>>,
    reads: AtomicU64,
    writes: AtomicU64,
    refused: AtomicU64,
    /// Whether a write may be refused at the moment.
    lenient: AtomicBool,
}

/// What was done to a store, and what it did.
#[derive(Debug, Default, Clone)]
pub struct Figures {
    pub faults: u64,
    pub flips: u64,
    pub reads: u64,
    pub wrong: u64,
    pub lost: u64,
    pub heals: Vec<f64>,
}

/// A store under a workload.
pub struct Live {
    pub dir: PathBuf,
    options: Options,
    shared: Arc<Shared>,
    threads: Vec<std::thread::JoinHandle<()>>,
    pub figures: Figures,
}

impl Live {
    pub fn start(dir: PathBuf, options: Options, seed: u64) -> Live {
        let store = options.open(&dir).unwrap();
        let shared = Arc::new(Shared {
            store: RwLock::new(Some(store)),
            keys: std::iter::repeat_with(Versions::default).take(KEYS).collect(),
            stop: AtomicBool::new(false),
            wrong: Mutex::default(),
            reads: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            lenient: AtomicBool::new(false),
        });
        (0..KEYS).for_each(|n| shared.write(n));
        let spawn = |thread: usize| {
            let (shared, mut random) = (shared.clone(), Random::new(seed ^ 1000 ^ thread as u64));
            std::thread::spawn(move || {
                while !shared.stop.load(Ordering::Relaxed) {
                    shared.operate(thread, &mut random);
                }
            })
        };
        let threads = (0..WRITERS).map(spawn).collect();
        Live { dir, options, shared, threads, figures: Figures::default() }
    }

    /// Something is done with the store while the workload goes on.
    pub fn with<T>(&self, f: impl FnOnce(&Store) -> T) -> T {
        f(self.shared.store.read().unwrap().as_ref().unwrap())
    }

    /// Whether writes may be refused; reads may never.
    pub fn lenient(&self, lenient: bool) {
        drop(self.shared.store.write().unwrap());
        self.shared.lenient.store(lenient, Ordering::SeqCst);
    }

    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::SeqCst)
    }

    /// Waits until the workload has done so many operations more.
    pub fn operations(&self, count: u64) {
        let done = || self.shared.reads.load(Ordering::SeqCst) + self.shared.writes.load(Ordering::SeqCst);
        let (until, begun) = (done() + count, Instant::now());
        while done() < until {
            self.check();
            assert!(begun.elapsed() < LIMIT, "the workload does not get any further");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for a condition, looking again with each event.
    pub fn wait_for(&self, what: &str, is: impl Fn(&Store) -> bool) -> Duration {
        let begun = Instant::now();
        let mut events = self.with(|store| store.events());
        while !self.with(&is) {
            self.check();
            events.next_within(Duration::from_millis(5));
            let health = || self.with(|store| format!("{:#?}", store.health()));
            assert!(begun.elapsed() < LIMIT, "{what}: {}; {:#?}", health(), self.last_events());
        }
        begun.elapsed()
    }

    pub fn last_events(&self) -> Vec<Event> {
        let mut events = self.with(|store| store.events());
        let all: Vec<Event> = std::iter::from_fn(|| events.try_next()).collect();
        all[all.len().saturating_sub(12)..].to_vec()
    }

    pub fn saw(&self, shard: ShardId, is: impl Fn(&EventKind) -> bool) -> bool {
        let mut events = self.with(|store| store.events());
        std::iter::from_fn(|| events.try_next()).any(|e| e.shard == Some(shard) && is(&e.kind))
    }

    pub fn wait_until_good(&self) -> Duration {
        self.wait_for("not healed", |store| store.health().unwrap().is_good())
    }

    /// Notes how long a fault was there, from its end on.
    pub fn healed(&mut self, took: Duration) {
        self.figures.heals.push(took.as_secs_f64());
    }

    /// Fails if anything wrong has been seen.
    pub fn check(&self) {
        let wrong = self.shared.wrong.lock().unwrap().clone();
        if let Some(first) = wrong.first() {
            let store = self.shared.store.try_read().ok();
            let mut events = store.as_ref().and_then(|store| store.as_ref()).map(|store| store.events());
            let events: Vec<Event> = std::iter::from_fn(|| events.as_mut()?.try_next()).collect();
            panic!(
                "{} wrong, the first: {first}; {:#?}",
                wrong.len(),
                &events[events.len().saturating_sub(12)..]
            );
        }
    }

    /// With the workload at rest: closes the store, does something to its files, and opens it again.
    pub fn reopen(&self, meanwhile: impl FnOnce()) {
        let mut store = self.shared.store.write().unwrap();
        store.take().unwrap().close().unwrap();
        meanwhile();
        *store = Some(self.options.open(&self.dir).unwrap_or_else(|error| panic!("not opened: {error}")));
    }

    /// With the workload at rest: every record, in the answers, and the same version of it on each of its owners, and on no
    /// shard anything else.
    pub fn check_copies(&mut self) {
        self.try_check_copies().unwrap();
    }

    /// The same where damage may be left that no repair looks for, in sled's own file: it is met when a node that was evicted is read,
    /// which costs the shard, and no answer.
    pub fn check_copies_in_time(&mut self) {
        let begun = Instant::now();
        while let Err(error) = self.try_check_copies() {
            assert_eq!(error.kind(), annulus::ErrorKind::Unavailable, "{error}");
            assert!(begun.elapsed() < LIMIT, "{error}; {:#?}", self.last_events());
            self.wait_until_good();
        }
    }

    #[allow(clippy::readonly_write_lock)] // It keeps the workload at rest.
    fn try_check_copies(&mut self) -> annulus::Result<()> {
        self.check();
        let store = self.shared.store.write().unwrap();
        let store = store.as_ref().unwrap();
        // Of a write that was refused nobody knows whether it is there: the next one of its key decides.
        for (n, versions) in self.shared.keys.iter().enumerate() {
            if versions.begun.load(Ordering::SeqCst) != versions.acknowledged.load(Ordering::SeqCst) {
                self.shared.write_to(store, n);
            }
        }
        self.check();
        store.flush().unwrap();
        let (ring, mut versions) = (store.ring(), vec![None; KEYS]);
        for shard in store.health().unwrap().shards {
            let held = annulus::testing::held_by(store, annulus::KeyspaceId(0), shard.id)?;
            let mut held = held.into_iter().peekable();
            for (n, known) in versions.iter_mut().enumerate() {
                let there = held.next_if(|(key_, _)| key_[..] == key(n)).map(|(_, seq)| seq);
                let is_due = ring.preference_list(key(n)).contains(&shard.id);
                let is_live = !is_removed(self.shared.keys[n].acknowledged.load(Ordering::SeqCst));
                if there.is_some() != (is_due && is_live) {
                    self.figures.lost += 1;
                    panic!("shard {}: record {n}: {there:?}, due {is_due}, live {is_live}", shard.id);
                }
                if let Some(seq) = there {
                    assert_eq!(*known.get_or_insert(seq), seq, "shard {}: record {n} is another", shard.id);
                }
            }
            assert_eq!(held.next(), None, "shard {} holds what it should not", shard.id);
        }
        for n in 0..KEYS {
            self.shared.read(store, n);
        }
        self.shared.scan(store, 0, KEYS);
        Ok(())
    }

    /// Ends the workload, looks at everything once more, and says what there was.
    pub fn finish(mut self, name: &str) -> Figures {
        self.check_copies();
        self.check();
        self.figures.reads = self.shared.reads.load(Ordering::SeqCst);
        self.shared.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
        self.shared.store.write().unwrap().take().unwrap().close().unwrap();
        let figures = std::mem::take(&mut self.figures);
        let Figures { faults, flips, reads, wrong, lost, heals } = &figures;
        let mut heals = heals.clone();
        heals.sort_by(f64::total_cmp);
        let at = |part: f64| heals.get((heals.len() as f64 * part) as usize).copied().unwrap_or(0.0);
        let longest = heals.last().copied().unwrap_or(0.0);
        println!(
            "{name}: {faults} faults ({flips} flipped bits), {reads} records read meanwhile, {} writes, {wrong} wrong answers, {lost} lost writes; \
             healed in {:.2} s (median), {longest:.2} s (longest)",
            self.shared.writes.load(Ordering::SeqCst),
            at(0.5)
        );
        figures
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn operate(&self, thread: usize, random: &mut Random) {
        let store = self.store.read().unwrap();
        let Some(store) = store.as_ref() else { return };
        match random.below(100) {
            0..40 => {
                let n = random.below(KEYS / WRITERS) * WRITERS + thread;
                self.write_to(store, n);
            }
            40..98 => self.read(store, random.below(KEYS)),
            _ => {
                let (from, length) = (random.below(KEYS), 1 + random.below(200));
                self.scan(store, from, (from + length).min(KEYS));
            }
        }
    }

    fn write(&self, n: usize) {
        self.write_to(self.store.read().unwrap().as_ref().unwrap(), n);
    }

    fn write_to(&self, store: &Store, n: usize) {
        let version = self.keys[n].begun.load(Ordering::SeqCst) + 1;
        self.keys[n].begun.store(version, Ordering::SeqCst);
        let written = match is_removed(version) {
            true => store.remove(key(n)).map(drop),
            false => store.insert(key(n), value(n, version)).map(drop),
        };
        match written {
            Ok(()) => {
                self.keys[n].acknowledged.store(version, Ordering::SeqCst);
                self.writes.fetch_add(1, Ordering::SeqCst);
            }
            Err(error) if self.lenient.load(Ordering::SeqCst) => {
                // It may have been refused, or may be there all the same: the next one decides.
                self.refused.fetch_add(1, Ordering::SeqCst);
                let _ = error;
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => self.wrong(format!("write of {n} was refused: {error}")),
        }
    }

    fn before(&self, n: usize) -> u64 {
        self.keys[n].acknowledged.load(Ordering::SeqCst)
    }

    fn judge(&self, how: &str, n: usize, before: u64, found: Option<&[u8]>) {
        let after = self.keys[n].begun.load(Ordering::SeqCst);
        let right = match found {
            None => (before..=after).any(is_removed),
            Some(bytes) => bytes.first_chunk().is_some_and(|version| {
                let version = u64::from_le_bytes(*version);
                (before..=after).contains(&version) && !is_removed(version) && bytes == value(n, version)
            }),
        };
        self.reads.fetch_add(1, Ordering::SeqCst);
        if !right {
            let found = found.map(|f| f[..f.len().min(8)].to_vec());
            self.wrong(format!("{how} of {n}: {found:?}, versions {before} to {after}"));
        }
    }

    fn read(&self, store: &Store, n: usize) {
        let before = self.before(n);
        match store.get(key(n)) {
            Ok(found) => self.judge("get", n, before, found.as_deref()),
            Err(error) => self.wrong(format!("get of {n} failed: {error}")),
        }
    }

    fn scan(&self, store: &Store, from: usize, to: usize) {
        let before: Vec<u64> = (from..to).map(|n| self.before(n)).collect();
        let mut next = from;
        for item in store.range(key(from)..key(to)) {
            let (found, value) = match item {
                Ok(item) => item,
                Err(error) => return self.wrong(format!("a scan from {from} failed: {error}")),
            };
            let n = u64::from_be_bytes(*found.first_chunk().unwrap()) as usize;
            if !(next..to).contains(&n) {
                return self.wrong(format!("a scan from {from} to {to} came to {n} after {next}"));
            }
            (next..n).for_each(|n| self.judge("scan", n, before[n - from], None));
            self.judge("scan", n, before[n - from], Some(&value));
            next = n + 1;
        }
        (next..to).for_each(|n| self.judge("scan", n, before[n - from], None));
    }

    fn wrong(&self, text: String) {
        self.wrong.lock().unwrap().push(text);
    }
}
