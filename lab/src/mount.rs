//! File systems on the disks: made, mounted through a loop device, and taken away again.

use crate::Result;
use crate::disk::{Disk, Image};
use crate::fuse::Rack;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// xfs makes none that is smaller than 300 MiB.
const BYTES: u64 = 320 << 20;
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ext4,
    Xfs,
    Btrfs,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Ext4, Kind::Xfs, Kind::Btrfs];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Ext4 => "ext4",
            Kind::Xfs => "xfs",
            Kind::Btrfs => "btrfs",
        }
    }

    /// The size of what a cut spares or takes. ext4 and btrfs write blocks that they read as one (the superblock), and do not
    /// survive themselves when one is torn; xfs is made for sectors.
    pub fn granules(self) -> &'static [usize] {
        match self {
            Kind::Xfs => &[512, 4096],
            Kind::Ext4 | Kind::Btrfs => &[4096],
        }
    }

    /// Whether what is written to a file that is marked synchronous is durable in order. btrfs takes the mark and ignores it.
    pub fn honours_the_mark(self) -> bool {
        self != Kind::Btrfs
    }

    fn make(self) -> &'static [&'static str] {
        match self {
            Kind::Ext4 => &[
                "mkfs.ext4",
                "-q",
                "-F",
                "-m",
                "0",
                "-E",
                "lazy_itable_init=0,lazy_journal_init=0,nodiscard",
            ],
            Kind::Xfs => &["mkfs.xfs", "-q", "-K", "-f"],
            Kind::Btrfs => &["mkfs.btrfs", "-q", "-K", "-f"],
        }
    }

    fn options(self) -> &'static str {
        match self {
            Kind::Ext4 => "rw",
            // Copies of one file system have one identity.
            Kind::Xfs => "nouuid",
            Kind::Btrfs => "nodiscard",
        }
    }

    /// A new file system; none if it cannot be made here.
    pub fn fresh(self, scratch: &Path) -> Result<Image> {
        let path = scratch.join("fresh");
        std::fs::File::create(&path)?.set_len(BYTES)?;
        let [program, arguments @ ..] = self.make() else { return Err("no program".into()) };
        run(Command::new(program).args(arguments).arg(&path))?;
        let image = Image::load(&path)?;
        std::fs::remove_file(&path)?;
        Ok(image)
    }
}

pub fn run(command: &mut Command) -> Result<String> {
    let out = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if !out.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&out.stderr).trim()).into());
    }
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

/// A disk with a file system that is mounted.
pub struct Mounted<'a> {
    rack: &'a Rack,
    number: u64,
    device: String,
    point: PathBuf,
}

impl<'a> Mounted<'a> {
    pub fn new(rack: &'a Rack, kind: Kind, disk: Arc<Mutex<Disk>>, point: &Path) -> Result<Mounted<'a>> {
        let (number, file) = rack.plug(disk);
        let attach = || run(Command::new("losetup").args(["--find", "--show", "--direct-io=on"]).arg(&file));
        // Another process may take the device that was found free.
        let again = |_| {
            std::thread::sleep(Duration::from_millis(200));
            attach()
        };
        let device = attach().or_else(again).or_else(again).inspect_err(|_| rack.unplug(number))?;
        let mut mounted = Mounted { rack, number, device, point: PathBuf::new() };
        let mut mount = Command::new("mount");
        run(mount.args(["-t", kind.name(), "-o", kind.options(), &mounted.device]).arg(point))?;
        mounted.point = point.to_owned();
        // From here on the kernel detaches it when it is unmounted, also where this process does not live to see that.
        run(Command::new("losetup").args(["-d", &mounted.device]))?;
        Ok(mounted)
    }
}

impl Mounted<'_> {
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// From now on its disk answers nothing, until it is to.
    pub fn silence(&self) {
        self.rack.silence(self.number);
    }

    pub fn answer(&self) {
        self.rack.answer(self.number);
    }
}

impl Drop for Mounted<'_> {
    /// Waits until the kernel has let go of the disk: it may hold it a little longer than the process that used it.
    fn drop(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let pause = || std::thread::sleep(Duration::from_millis(2));
        if self.point != Path::new("") {
            while run(Command::new("umount").arg(&self.point)).is_err() {
                if Instant::now() > deadline {
                    let _ = run(Command::new("umount").arg("-l").arg(&self.point));
                    break;
                }
                pause();
            }
        }
        if self.point == Path::new("") {
            let _ = run(Command::new("losetup").args(["-d", &self.device]));
        }
        let name = self.device.trim_start_matches("/dev/");
        let attached = PathBuf::from(format!("/sys/block/{name}/loop/backing_file"));
        let ours = || {
            std::fs::read_to_string(&attached)
                .is_ok_and(|file| file.trim_end().ends_with(&format!("/disk-{}", self.number)))
        };
        while ours() && Instant::now() < deadline {
            pause();
        }
        self.rack.unplug(self.number);
    }
}
