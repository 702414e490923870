//! One suite over every engine: random runs, snapshots, removals and reopenings against a map of all versions.

use super::memory::MemoryFactory;
use super::sled::SledFactory;
use super::*;
use proptest::prelude::*;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::Path;

/// A directory for a test's shard: in memory where there is such a place, since every write of a shard on a disk is
/// synchronous.
pub(in crate::engine) fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

pub(in crate::engine) fn spec(dir: &Path, page_bytes: usize) -> EngineSpec {
    EngineSpec {
        dir: dir.join("engine"),
        shard: ShardId(7),
        cache_bytes: 64 << 20,
        page_bytes,
        create: false,
        resume: None,
        patience: std::time::Duration::from_secs(60),
    }
}

/// Key, sequence and value (none: removed) of each record.
pub(in crate::engine) type Run = Vec<(Vec<u8>, Seq, Option<Vec<u8>>)>;
/// The same of live records.
pub(in crate::engine) type Live = Vec<(Vec<u8>, Seq, Vec<u8>)>;
type Versions = BTreeMap<Reverse<Seq>, Option<Vec<u8>>>;

/// Every version ever applied and not removed by range.
#[derive(Debug, Clone, Default)]
pub(in crate::engine) struct Model {
    pub records: BTreeMap<Vec<u8>, Versions>,
}

impl Model {
    pub fn get(&self, key: &[u8], at: Seq) -> Option<(Seq, &[u8])> {
        let (seq, value) = self.records.get(key)?.range(Reverse(at)..).next()?;
        value.as_deref().map(|value| (seq.0, value))
    }

    pub fn scan(&self, range: &KeyRange, at: Seq) -> Live {
        let inside = self.records.keys().filter(|key| range.contains(key));
        inside
            .filter_map(|key| self.get(key, at).map(|(seq, value)| (key.clone(), seq, value.to_vec())))
            .collect()
    }

    pub fn replace(&mut self, range: &KeyRange, run: &Run) {
        self.records.retain(|key, _| !range.contains(key));
        self.apply(run);
    }

    pub fn apply(&mut self, run: &Run) {
        for (key, seq, value) in run {
            self.records.entry(key.clone()).or_default().insert(Reverse(*seq), value.clone());
        }
    }
}

/// Puts `run`, sorted as the trait wants it, in the place of what is in `range`.
pub(in crate::engine) fn replace(engine: &dyn Engine, range: &KeyRange, run: &Run) -> Result<()> {
    engine.replace_range(range, &sorted(run))
}

/// Whether the shard has exactly these versions in `range`.
pub(in crate::engine) fn check_versions(engine: &dyn Engine, range: &KeyRange, run: &Run) {
    let mut found = RunBuffer::default();
    let mut from = Some(range.lo.clone());
    while let Some(key) = from.take().filter(|key| range.contains(key)) {
        from = engine.versions(&key, 3000, &mut |key| range.contains(key), &mut found).unwrap();
    }
    assert!(found.records().eq(sorted(run)), "{} versions", run.len());
}

/// Every page that is damaged, found in steps of `bytes`.
pub(in crate::engine) fn verify(engine: &dyn Engine, bytes: usize) -> Result<Vec<Damage>> {
    let (mut bad, mut from) = (Vec::new(), Some(Vec::new()));
    while let Some(key) = from {
        from = engine.verify(&key, bytes, &mut bad)?;
        assert!(from.as_ref().is_none_or(|next| *next > key));
    }
    Ok(bad)
}

fn sorted(run: &Run) -> Vec<RunRecord<'_>> {
    let mut records: Vec<RunRecord<'_>> =
        run.iter().map(|(key, seq, value)| RunRecord { key, seq: *seq, value: value.as_deref() }).collect();
    records.sort_by_key(|record| (record.key, Reverse(record.seq)));
    records
}

/// Applies `run`, sorted as the trait wants it.
pub(in crate::engine) fn apply(engine: &dyn Engine, run: &Run, live: &[Seq]) -> Result<()> {
    engine.apply(&sorted(run), live)
}

/// A whole scan, large values fetched.
pub(in crate::engine) fn scan(engine: &dyn Engine, range: &KeyRange, at: Seq, reverse: bool) -> Result<Live> {
    let stem_from =
        range.hi.as_ref().map_or(0, |hi| hi.iter().zip(&range.lo).take_while(|(a, b)| a == b).count());
    let walk = Arc::new(Walk { range: range.clone(), at, reverse, stem_from });
    let mut cursor = engine.cursor(&walk)?;
    let mut block = Block::default();
    let mut found: Live = Vec::new();
    while cursor.next_block(&mut block)? {
        for index in 0..block.len() {
            let (head, tail) = block.key(index);
            let key = [head, tail].concat();
            assert_eq!(block.stem(index), crate::page::stem(&key, stem_from, reverse));
            assert!(block.cmp_key(index, &key).is_eq() && block.cmp_key(index, &[]).is_ge());
            let record = block.record(index);
            assert_eq!(&record.bytes[..record.suffix_len as usize], tail);
            let value = match record.value {
                Some((at, len)) => record.bytes[at as usize..][..len as usize].to_vec(),
                None => engine.get(&key, at)?.map(|found| found.value.to_vec()).unwrap_or_default(),
            };
            found.push((key, block.seq(index), value));
        }
    }
    assert!(block.is_empty());
    if reverse {
        found.reverse();
    }
    Ok(found)
}

pub(in crate::engine) fn check(engine: &dyn Engine, model: &Model, snapshots: &[Seq], range: &KeyRange) {
    for at in snapshots.iter().copied().chain([Seq::MAX]) {
        let wanted = model.scan(range, at);
        for reverse in [false, true] {
            let found = scan(engine, range, at, reverse).unwrap();
            assert!(
                found == wanted,
                "scan of {range:?} at {at}, reverse {reverse}: {} found, {} wanted",
                found.len(),
                wanted.len()
            );
        }
        for key in model.records.keys() {
            let found = engine.get(key, at).unwrap();
            assert_eq!(
                found.as_ref().map(|f| (f.seq, &f.value[..])),
                model.get(key, at),
                "{key:02x?} at {at}"
            );
            let beside = [key, &[0xff][..]].concat();
            if !model.records.contains_key(&beside) {
                assert_eq!(engine.get(&beside, at).unwrap(), None);
            }
        }
    }
}

type Values = Vec<Option<Vec<u8>>>;

#[derive(Debug, Clone)]
enum Step {
    Apply(Vec<(Vec<u8>, Option<Vec<u8>>)>),
    /// Applies the last run once more.
    Again,
    Snapshot,
    Release(usize),
    Remove(KeyRange),
    /// Versions to take the place of what is in a range; of those outside nothing is made.
    Replace(KeyRange, Vec<(Vec<u8>, Values)>),
    Verify(Vec<u8>, usize),
    Sync,
    Reopen {
        resume: bool,
    },
    Recount(usize),
    Check(KeyRange),
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![4 => 0u8..4u8, 1 => 0xfdu8..=0xff];
    let short = proptest::collection::vec(byte.clone(), 1..6);
    let runs = (0usize..12, byte).prop_map(|(n, last)| [vec![4], vec![0xff; n], vec![last]].concat());
    let long = (0u8..6, 50usize..1500).prop_map(|(byte, n)| vec![byte; n]);
    prop_oneof![8 => short, 2 => runs, 1 => long]
}

fn value() -> impl Strategy<Value = Option<Vec<u8>>> {
    let bytes = |range: std::ops::Range<usize>| {
        (any::<u8>(), range).prop_map(|(byte, n): (u8, usize)| Some((0..n).map(|i| byte ^ i as u8).collect()))
    };
    prop_oneof![8 => bytes(0..40), 2 => bytes(200..1200), 1 => bytes(5000..20_000), 4 => Just(None)]
}

fn range() -> impl Strategy<Value = KeyRange> {
    (prop_oneof![1 => Just(Vec::new()), 3 => key()], proptest::option::of(key()))
        .prop_map(|(lo, hi)| KeyRange { lo, hi })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => proptest::collection::vec((key(), value()), 1..120).prop_map(Step::Apply),
        1 => Just(Step::Again),
        2 => Just(Step::Snapshot),
        2 => (0usize..4).prop_map(Step::Release),
        1 => range().prop_map(Step::Remove),
        2 => (range(), proptest::collection::vec((key(), proptest::collection::vec(value(), 1..4)), 0..60))
            .prop_map(|(range, records)| Step::Replace(range, records)),
        1 => (key(), 0usize..20_000).prop_map(|(key, bytes)| Step::Verify(key, bytes)),
        1 => Just(Step::Sync),
        1 => any::<bool>().prop_map(|resume| Step::Reopen { resume }),
        1 => (1usize..20).prop_map(Step::Recount),
        4 => range().prop_map(Step::Check),
    ]
}

fn run_steps(factory: &dyn EngineFactory, page_bytes: usize, steps: Vec<Step>) {
    let dir = scratch();
    let mut spec = spec(dir.path(), page_bytes);
    spec.create = true;
    let mut engine = factory.open(&spec).unwrap();
    spec.create = false;
    let mut model = Model::default();
    let (mut next, mut snapshots, mut last) = (1u64, Vec::new(), Vec::new());
    for step in steps {
        match step {
            Step::Apply(run) => {
                last = run
                    .into_iter()
                    .map(|(key, value)| {
                        next += 1;
                        (key, Seq(next), value)
                    })
                    .collect();
                apply(&*engine, &last, &snapshots).unwrap();
                model.apply(&last);
            }
            Step::Again => apply(&*engine, &last, &snapshots).unwrap(),
            Step::Snapshot => snapshots.push(Seq(next)),
            Step::Release(index) => drop((index < snapshots.len()).then(|| snapshots.remove(index))),
            Step::Remove(range) => {
                let mut rest = range.clone();
                while let Some(next) = engine.remove_range(&rest, 1000).unwrap() {
                    assert!(rest.lo < next && rest.hi.as_ref().is_none_or(|hi| next < *hi));
                    rest.lo = next;
                }
                model.records.retain(|key, _| !range.contains(key));
                // What was removed must not come back from a run that is applied again.
                last.clear();
            }
            Step::Replace(range, records) => {
                let mut run: Run = Vec::new();
                for (key, values) in records.into_iter().filter(|(key, _)| range.contains(key)) {
                    for value in values {
                        next += 1;
                        run.push((key.clone(), Seq(next), value));
                    }
                }
                replace(&*engine, &range, &run).unwrap();
                model.replace(&range, &run);
                check_versions(&*engine, &range, &run);
                last.clear();
            }
            Step::Verify(from, bytes) => {
                let mut bad = Vec::new();
                let next = engine.verify(&from, bytes, &mut bad).unwrap();
                assert!(bad.is_empty() && next.is_none_or(|next| next > from), "{bad:?}");
                assert_eq!(engine.damaged(&from).unwrap(), None);
            }
            Step::Sync => {
                engine.sync(Seq(next)).unwrap();
                assert_eq!(engine.applied(), Seq(next));
            }
            Step::Reopen { resume } => {
                engine.sync(Seq(next)).unwrap();
                spec.resume = engine.figures().filter(|_| resume);
                engine.close().unwrap();
                assert_eq!(engine.get(b"k", Seq::MAX).unwrap_err().kind(), crate::error::ErrorKind::Closed);
                engine = factory.open(&spec).unwrap();
                assert_eq!((engine.applied(), engine.figures()), (Seq(next), spec.resume));
            }
            Step::Recount(pages) => {
                engine.recount(pages).unwrap();
            }
            Step::Check(range) => check(&*engine, &model, &snapshots, &range),
        }
    }
    check(&*engine, &model, &snapshots, &KeyRange { lo: Vec::new(), hi: None });
    check_copied(factory, &*engine, &spec, &model, &snapshots);
    // A first pass may end one that was under way; the second compares the figures with those kept up since.
    for _ in 0..2 {
        let last = std::iter::from_fn(|| Some(engine.recount(3).unwrap()));
        let last = last.into_iter().find(|slice| !matches!(slice, Recounted::Further)).unwrap();
        assert!(matches!(last, Recounted::Whole), "{last:?}");
    }
    let kept: usize = model.records.values().map(BTreeMap::len).sum();
    assert!(engine.figures().unwrap().records <= kept as u64);
    engine.close().unwrap();
}

/// RunBuffer into another shard in small steps, by halves, the records are there in all versions that snapshots see; and a
/// tombstone above all of them takes a key away as a whole.
fn check_copied(
    factory: &dyn EngineFactory,
    engine: &dyn Engine,
    like: &EngineSpec,
    model: &Model,
    snapshots: &[Seq],
) {
    let dir = scratch();
    let spec = EngineSpec { dir: dir.path().join("engine"), create: true, resume: None, ..like.clone() };
    let copy = factory.open(&spec).unwrap();
    let half = |key: &[u8]| key.last().is_some_and(|byte| byte % 2 == 1);
    for wanted in [true, false] {
        let mut from = Some(Vec::new());
        while let Some(key) = from {
            let mut copied = RunBuffer::default();
            from = engine.versions(&key, 1, &mut |key| half(key) == wanted, &mut copied).unwrap();
            assert!(from.as_ref().is_none_or(|next| *next > key));
            let run: Vec<RunRecord<'_>> = copied.records().collect();
            assert!(run.iter().all(|r| half(r.key) == wanted && r.key >= &key[..]));
            assert!(run.is_sorted_by_key(|record| (record.key, Reverse(record.seq))));
            copy.apply(&run, snapshots).unwrap();
        }
    }
    let all = KeyRange { lo: Vec::new(), hi: None };
    check(&*copy, model, snapshots, &all);
    assert!(copy.live_bytes().unwrap() <= copy.disk_bytes().unwrap());
    let mut left = model.clone();
    left.records.retain(|key, _| half(key));
    let gone: Vec<RunRecord<'_>> = (model.records.keys().filter(|key| !half(key)))
        .map(|key| RunRecord { key, seq: Seq::MAX, value: None })
        .collect();
    copy.apply(&gone, snapshots).unwrap();
    check(&*copy, &left, snapshots, &all);
    copy.close().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn sled_agrees_with_a_map(page in prop_oneof![Just(256usize), Just(600), Just(1024), Just(4096), Just(8192)],
                              steps in proptest::collection::vec(step(), 1..25)) {
        run_steps(&SledFactory::default(), page, steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn memory_agrees_with_a_map(steps in proptest::collection::vec(step(), 1..25)) {
        run_steps(&MemoryFactory::new(), 1024, steps);
    }
}

/// What a caller did wrong changes nothing, in either engine.
#[test]
fn a_run_that_does_not_fit_its_range_is_refused() {
    let dir = scratch();
    let mut spec = spec(dir.path(), 1024);
    spec.create = true;
    let run: Run = (0..9).map(|n| (vec![n], Seq(1), Some(vec![n]))).collect();
    for factory in [&SledFactory::default() as &dyn EngineFactory, &MemoryFactory::new()] {
        let engine = factory.open(&spec).unwrap();
        apply(&*engine, &run, &[]).unwrap();
        let figures = engine.figures();
        let range = KeyRange { lo: vec![2], hi: Some(vec![5]) };
        let record = |key: &'static [u8], seq| RunRecord { key, seq: Seq(seq), value: None };
        let misfits = [
            vec![record(&[1], 5)],
            vec![record(&[5], 5)],
            vec![record(&[3], 5), record(&[2], 5)],
            vec![record(&[3], 5), record(&[3], 6)],
            vec![record(&[3], 5), record(&[3], 5)],
        ];
        for misfit in misfits {
            let refused = engine.replace_range(&range, &misfit).unwrap_err();
            assert_eq!(refused.kind(), crate::error::ErrorKind::InvalidInput);
        }
        let nothing = KeyRange { lo: vec![5], hi: Some(vec![5]) };
        engine.replace_range(&nothing, &[]).unwrap();
        assert!(engine.replace_range(&nothing, &[record(&[5], 5)]).is_err());
        assert_eq!(engine.figures(), figures);
        check_versions(&*engine, &KeyRange { lo: Vec::new(), hi: None }, &run);
        engine.close().unwrap();
    }
}
