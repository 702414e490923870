//! A real ext4 on a loop device that is cut off from it while it is in use, as if that had died (`EXT4_IOC_SHUTDOWN`), and is mounted
//! again afterwards.

use crate::Result;
use crate::mount::run;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const BYTES: u64 = 64 << 20;
/// How long a store may go on using a dead one.
const PATIENCE: Duration = Duration::from_secs(120);

pub struct Device {
    image: PathBuf,
    point: PathBuf,
}

impl Device {
    /// Makes and mounts one.
    pub fn new(place: &Path) -> Result<Device> {
        let device = Device { image: place.join("image"), point: place.join("device") };
        std::fs::create_dir_all(&device.point)?;
        std::fs::File::create(&device.image)?.set_len(BYTES)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&device.image))?;
        device.mount()?;
        Ok(device)
    }

    fn mount(&self) -> Result<()> {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.point)).map(drop)
    }

    /// `how`: what is in memory is still written (0), what is in the file system's own log is (1), nothing is (2).
    pub fn die(&self, how: u64) -> Result<()> {
        let script = "import fcntl,os,struct,sys; fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', int(sys.argv[2])))";
        run(Command::new("python3").args(["-c", script]).arg(&self.point).arg(how.to_string())).map(drop)
    }

    /// Mounts it again. As long as somebody has a file of the dead one open, what is mounted is that again.
    pub fn come_back(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            run(Command::new("umount").arg("-l").arg(&self.point))?;
            self.mount()?;
            let alive = std::fs::write(self.point.join("alive"), "");
            match alive {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error.into()),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.point).output();
    }
}
