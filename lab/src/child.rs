//! Child processes: one works on a store until the power is cut, one looks at what is left.
//!
//! Each believes that the machine has been started anew: Annulus tells the death of a process from a power cut by the kernel's boot
//! id, which a child sees another one of in a mount namespace of its own.

use crate::Result;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::io::Write;
use std::path::{Path, PathBuf};

/// What a child is told on its command line.
pub struct Task {
    pub dir: PathBuf,
    /// Where the journal is, if it has a disk of its own.
    pub journal: Option<PathBuf>,
    pub replicas: usize,
    pub mode: String,
    pub seed: u64,
    pub acks: Vec<String>,
    /// The process dies, and the machine goes on: what is acknowledged at `Process` must be there as well.
    pub only_dies: bool,
}

/// Gives this process, which must have one thread, mounts of its own: they end with it and its children, however they end.
pub fn own_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    Ok(mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?)
}

/// Gives this process, which must have one thread, a boot id of its own.
pub fn start_anew(boot: &Path) -> Result<()> {
    own_mounts()?;
    let none = None::<&str>;
    mount(Some(boot), "/proc/sys/kernel/random/boot_id", none, MsFlags::MS_BIND, none)?;
    Ok(())
}

/// Tells the parent something, in one write.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush());
}
