//! Progress on the standard error: only where that is a terminal, and never beside JSON.

use annulus::BackupProgress;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use std::ops::ControlFlow;
use std::time::Duration;

const OF_ALL: &str = "{msg} {bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";

/// Shows that something is being done; gone when it is dropped.
pub struct Progress(pub ProgressBar);

impl Progress {
    /// Something that is done without its end being known.
    pub fn spinner(json: bool, what: &str) -> Progress {
        let bar = if json { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        bar.set_message(what.to_owned());
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        Progress(bar)
    }

    /// Something that has read or written so many bytes, of all that there are if that is known.
    pub fn bytes(json: bool, what: &str, all: Option<u64>) -> Progress {
        let progress = Self::spinner(json, what);
        let template = match all {
            Some(_) => OF_ALL,
            None => "{spinner} {msg} {bytes}, {bytes_per_sec}, {elapsed}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            progress.0.set_style(style);
        }
        if let Some(all) = all {
            progress.0.set_length(all);
        }
        progress
    }
}

/// Shows how far work with a backup has got.
pub fn shown(bar: &ProgressBar) -> impl Fn(BackupProgress) -> ControlFlow<()> + Send + Sync + 'static {
    let bar = bar.clone();
    move |at| {
        if let (Some(all), None) = (at.bytes_total, bar.length())
            && let Ok(style) = ProgressStyle::with_template(OF_ALL)
        {
            bar.set_style(style);
            bar.set_length(all);
        }
        bar.set_position(at.bytes);
        ControlFlow::Continue(())
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// `1.50 MiB`.
pub fn size(bytes: u64) -> HumanBytes {
    HumanBytes(bytes)
}

/// `1,234`.
pub fn count(number: u64) -> HumanCount {
    HumanCount(number)
}
