//! One disk that a cut left: files in memory, to be read, and changed from outside between two recoveries.

use annulus::testing::{Disk, DiskFile, OpenMode};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub const SECTOR: usize = 512;

#[derive(Debug)]
pub struct ImageFile(Mutex<Content>);

#[derive(Debug)]
pub struct Content {
    pub bytes: Vec<u8>,
    /// What of `bytes` the file has.
    pub len: usize,
}

impl ImageFile {
    pub fn new(bytes: Vec<u8>, len: usize) -> Arc<ImageFile> {
        Arc::new(ImageFile(Mutex::new(Content { bytes, len })))
    }

    pub fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A disk that cannot be written to.
#[derive(Debug)]
pub struct Image {
    pub files: Vec<(PathBuf, Arc<ImageFile>)>,
    pub dirs: Vec<PathBuf>,
    pub boot: u128,
}

impl Image {
    pub fn file(&self, path: &Path) -> Option<&Arc<ImageFile>> {
        let found = self.files.iter().find(|(held, _)| held.as_os_str() == path.as_os_str());
        found.map(|(_, file)| file)
    }

    /// The bytes of all files.
    pub fn contents(&self) -> Vec<(&Path, Vec<u8>)> {
        let content = |file: &ImageFile| {
            let content = file.content();
            content.bytes[..content.len].to_vec()
        };
        self.files.iter().map(|(path, file)| (path.as_path(), content(file))).collect()
    }
}

fn read_only<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Disk for Image {
    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        read_only()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        if self.dirs.iter().all(|held| held != dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let here = self.files.iter().map(|(path, _)| path).chain(&self.dirs);
        let here = here.filter(|path| path.parent() == Some(dir));
        Ok(here.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.file(path).is_some() || self.dirs.iter().any(|dir| dir == path))
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(path.to_path_buf())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        match (mode, self.file(path)) {
            (OpenMode::Read, Some(file)) => Ok(file.clone()),
            (OpenMode::Read, None) => Err(io::ErrorKind::NotFound.into()),
            _ => read_only(),
        }
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        read_only()
    }

    fn remove_file(&self, _: &Path) -> io::Result<()> {
        read_only()
    }

    fn remove_dir_all(&self, _: &Path) -> io::Result<()> {
        read_only()
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        read_only()
    }

    fn lock(&self, _: &Path) -> io::Result<Box<dyn Send + Sync>> {
        read_only()
    }

    fn boot_id(&self) -> u128 {
        self.boot
    }
}

impl DiskFile for ImageFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let content = self.content();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len);
        let count = (content.len - start).min(buf.len());
        buf[..count].copy_from_slice(&content.bytes[start..start + count]);
        Ok(count)
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        read_only()
    }

    fn sync_data(&self) -> io::Result<()> {
        read_only()
    }

    fn sync_all(&self) -> io::Result<()> {
        read_only()
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        read_only()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.content().len as u64)
    }
}

/// 128 bits that stand for these bytes at this place (two lanes of folded multiplications): so many that no two of the
/// sectors of a run will have the same.
pub fn fingerprint(place: u64, bytes: &[u8]) -> u128 {
    let fold = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        (product as u64) ^ (product >> 64) as u64
    };
    let word = |bytes: &[u8]| {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(word)
    };
    let (mut one, mut two) = (place ^ 0x2d35_8dcc_aa6c_78a5, place.rotate_left(32) ^ 0x8bb8_4b93_962e_acc9);
    for chunk in bytes.chunks(16) {
        let (low, high) = chunk.split_at(chunk.len().min(8));
        let (low, high) = (word(low), word(high));
        one = fold(one ^ low ^ 0x4b33_a62e_d433_d4a3, high ^ 0xa0b8_9f93_5f1d_1d5b).rotate_left(7);
        two = fold(two ^ high ^ 0x9e37_79b9_7f4a_7c15, low ^ 0xe703_7ed1_a0b4_28db).rotate_left(11);
    }
    let end = bytes.len() as u64 | 1 << 40;
    u128::from(fold(one ^ end, 0xd6e8_feb8_6659_fd93)) << 64
        | u128::from(fold(two ^ end, 0xff51_afd7_ed55_8ccd))
}
