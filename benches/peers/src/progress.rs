//! A bar on the standard error, drawn by a thread of its own, so that no operation is measured drawing it.

use indicatif::{ProgressBar, ProgressStyle};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

pub struct Progress {
    count: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    drawer: Option<JoinHandle<()>>,
}

impl Progress {
    pub fn start(label: String, len: u64) -> Progress {
        let (count, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let drawer = std::thread::spawn({
            let (count, ended) = (count.clone(), ended.clone());
            move || {
                let bar = ProgressBar::new(len);
                let style = "{msg:44} {bar:30} {pos:>9} of {len} {per_sec}";
                bar.set_style(ProgressStyle::with_template(style).expect("a template"));
                bar.set_message(label);
                while !ended.load(Ordering::Relaxed) {
                    bar.set_position(count.load(Ordering::Relaxed));
                    std::thread::park_timeout(Duration::from_millis(200));
                }
                bar.finish_and_clear();
            }
        });
        Progress { count, ended, drawer: Some(drawer) }
    }

    pub fn add(&self, n: u64) {
        self.count.fetch_add(n, Ordering::Relaxed);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(drawer) = self.drawer.take() {
            drawer.thread().unpark();
            let _ = drawer.join();
        }
    }
}
