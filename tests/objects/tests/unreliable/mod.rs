//! Object storage in memory, with a clock that is set and requests that fail.

use annulus::object_store::memory::InMemory;
use annulus::object_store::path::Path;
use annulus::object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, SystemTime};

/// Longer than anything is waited for here.
const LONG: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done, though nobody is told so.
    Refused,
    /// It is done, and there is no answer.
    AnswerLost,
    /// It is done later, after somebody was told that it failed.
    Late,
    /// As `Late`, and so are all that follow.
    Cut,
}

#[derive(Debug)]
enum Plan {
    Never,
    /// The request after so many.
    After(u32, Fault),
    /// One in so many, by chance.
    Often(u64, u64, Fault),
    At(String, Fault),
}

#[derive(Debug)]
enum Late {
    Put(Path, PutPayload),
    Delete(Path),
}

type Hook = Arc<dyn Fn(&str) + Send + Sync>;

struct State {
    clock: SystemTime,
    written: HashMap<Path, SystemTime>,
    puts: HashMap<String, u32>,
    plan: Plan,
    failed: u32,
    late: Vec<Late>,
    held: Option<String>,
    is_held: bool,
    on_delete: Option<Hook>,
    on_get: Option<Hook>,
}

pub struct Unreliable {
    inner: Arc<InMemory>,
    state: Mutex<State>,
    changed: Condvar,
}

impl std::fmt::Debug for Unreliable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Unreliable")
    }
}

impl std::fmt::Display for Unreliable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Unreliable")
    }
}

fn lost() -> Error {
    Error::Generic { store: "Unreliable", source: "the connection was lost".into() }
}

impl Unreliable {
    pub fn new() -> Arc<Unreliable> {
        let state = State {
            clock: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000),
            written: HashMap::new(),
            puts: HashMap::new(),
            plan: Plan::Never,
            failed: 0,
            late: Vec::new(),
            held: None,
            is_held: false,
            on_delete: None,
            on_get: None,
        };
        Arc::new(Unreliable { inner: Arc::default(), state: Mutex::new(state), changed: Condvar::new() })
    }

    /// Sets the storage's clock forward.
    pub fn advance(&self, by: Duration) {
        self.state.lock().unwrap().clock += by;
    }

    pub fn fail_after(&self, requests: u32, fault: Fault) {
        self.state.lock().unwrap().plan = Plan::After(requests, fault);
    }

    pub fn fail_often(&self, seed: u64, one_in: u64, fault: Fault) {
        self.state.lock().unwrap().plan = Plan::Often(seed, one_in, fault);
    }

    pub fn fail_place(&self, place: &str, fault: Fault) {
        self.state.lock().unwrap().plan = Plan::At(place.to_owned(), fault);
    }

    /// Nothing fails any more. How many requests had.
    pub fn works_again(&self) -> u32 {
        let mut state = self.state.lock().unwrap();
        state.plan = Plan::Never;
        std::mem::take(&mut state.failed)
    }

    /// Carries out what was late. How many that was.
    pub fn deliver(&self) -> usize {
        let late = std::mem::take(&mut self.state.lock().unwrap().late);
        let count = late.len();
        for late in late {
            let done = match late {
                Late::Put(place, payload) => {
                    self.note(&place);
                    futures_util::FutureExt::now_or_never(self.inner.put(&place, payload)).unwrap().map(drop)
                }
                Late::Delete(place) => {
                    futures_util::FutureExt::now_or_never(self.inner.delete(&place)).unwrap()
                }
            };
            // A deletion may have been carried out by somebody else.
            assert!(done.is_ok() || matches!(done, Err(Error::NotFound { .. })));
        }
        count
    }

    pub fn on_delete(&self, hook: impl Fn(&str) + Send + Sync + 'static) {
        self.state.lock().unwrap().on_delete = Some(Arc::new(hook));
    }

    /// What is done before every read, on the thread of who reads.
    pub fn on_get(&self, hook: impl Fn(&str) + Send + Sync + 'static) {
        self.state.lock().unwrap().on_get = Some(Arc::new(hook));
    }

    /// The next put there stands still for very long.
    pub fn hold_put(&self, place: &str) {
        self.state.lock().unwrap().held = Some(place.to_owned());
    }

    pub fn wait_for_held(&self) {
        self.wait_while("nothing is held", |state| !state.is_held);
    }

    pub fn puts(&self, place: &str) -> u32 {
        self.state.lock().unwrap().puts.get(place).copied().unwrap_or_default()
    }

    pub fn wait_for_puts(&self, place: &str, count: u32) {
        let few = |state: &mut State| state.puts.get(place).is_none_or(|puts| *puts < count);
        self.wait_while("too few puts", few);
    }

    fn wait_while(&self, what: &str, so: impl FnMut(&mut State) -> bool) {
        let (state, waited) = self.changed.wait_timeout_while(self.state.lock().unwrap(), LONG, so).unwrap();
        drop(state);
        assert!(!waited.timed_out(), "{what}, for {LONG:?}");
    }

    fn note(&self, place: &Path) {
        let mut state = self.state.lock().unwrap();
        let clock = state.clock;
        state.written.insert(place.clone(), clock);
        *state.puts.entry(place.to_string()).or_default() += 1;
        self.changed.notify_all();
    }

    /// What becomes of a request.
    fn fate(&self, place: &Path) -> Option<Fault> {
        let mut state = self.state.lock().unwrap();
        let fault = match &mut state.plan {
            Plan::Never => None,
            Plan::After(0, fault) => Some(*fault),
            Plan::After(left, _) => {
                *left -= 1;
                None
            }
            Plan::Often(seed, one_in, fault) => {
                *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ((*seed >> 33) % *one_in == 0).then_some(*fault)
            }
            Plan::At(at, fault) => (at == place.as_ref()).then_some(*fault),
        };
        if fault.is_some() {
            state.failed += 1;
            // Once, and then all is well: what fails for good is no riddle.
            if matches!(state.plan, Plan::After(..) | Plan::At(..)) && fault != Some(Fault::Cut) {
                state.plan = Plan::Never;
            }
        }
        fault
    }

    fn dated(&self, mut meta: ObjectMeta) -> ObjectMeta {
        if let Some(written) = self.state.lock().unwrap().written.get(&meta.location) {
            meta.last_modified = (*written).into();
        }
        meta
    }
}

#[async_trait::async_trait]
impl ObjectStore for Unreliable {
    async fn put_opts(&self, place: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let is_held = {
            let mut state = self.state.lock().unwrap();
            let is_held = state.held.as_deref() == Some(place.as_ref());
            if is_held {
                state.held = None;
                state.is_held = true;
                self.changed.notify_all();
            }
            is_held
        };
        if is_held {
            tokio::time::sleep(Duration::from_secs(30)).await;
        }
        let fate = self.fate(place);
        match fate {
            Some(Fault::Refused) => return Err(lost()),
            // One that must not replace anything would be refused by then, or not: it is left out.
            Some(Fault::Late | Fault::Cut) => {
                if options.mode != PutMode::Create {
                    self.state.lock().unwrap().late.push(Late::Put(place.clone(), payload));
                }
                return Err(lost());
            }
            _ => {}
        }
        let done = self.inner.put_opts(place, payload, options).await?;
        self.note(place);
        if fate.is_some() { Err(lost()) } else { Ok(done) }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        panic!("objects are put whole")
    }

    async fn get_opts(&self, place: &Path, options: GetOptions) -> Result<GetResult> {
        let hook = self.state.lock().unwrap().on_get.clone();
        if let Some(hook) = hook {
            hook(place.as_ref());
        }
        if self.fate(place).is_some() {
            return Err(lost());
        }
        let mut found = self.inner.get_opts(place, options).await?;
        found.meta = self.dated(found.meta);
        Ok(found)
    }

    fn delete_stream(&self, places: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        // One by one, so that each can fail.
        let places: Vec<_> = futures_util::FutureExt::now_or_never(places.collect::<Vec<_>>()).unwrap();
        let mut outcomes = Vec::new();
        for place in places {
            let outcome = place.and_then(|place| {
                let hook = self.state.lock().unwrap().on_delete.clone();
                if let Some(hook) = hook {
                    hook(place.as_ref());
                }
                let fate = self.fate(&place);
                match fate {
                    Some(Fault::Refused) => return Err(lost()),
                    Some(Fault::Late | Fault::Cut) => {
                        self.state.lock().unwrap().late.push(Late::Delete(place.clone()));
                        return Err(lost());
                    }
                    _ => {}
                }
                futures_util::FutureExt::now_or_never(self.inner.delete(&place)).unwrap()?;
                if fate.is_some() { Err(lost()) } else { Ok(place) }
            });
            outcomes.push(outcome);
        }
        futures_util::stream::iter(outcomes).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        if self.fate(&prefix.cloned().unwrap_or_default()).is_some() {
            return Err(lost());
        }
        let mut found = self.inner.list_with_delimiter(prefix).await?;
        found.objects = found.objects.into_iter().map(|meta| self.dated(meta)).collect();
        Ok(found)
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        panic!("nothing is copied")
    }
}
