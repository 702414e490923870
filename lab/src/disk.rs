//! A disk with a cache that a power cut empties, in memory.
//!
//! Invariants:
//! - What is read is what was written last, flushed or not.
//! - A flush makes everything that was written before it durable, and nothing else does. (A disk that lies makes nothing durable.)
//! - What survives a cut is what was durable, and of the writes since then, in the order of their arrival, those granules that
//!   the cut spares.

use crate::Random;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

pub const BLOCK: usize = 4096;

type Block = Arc<[u8; BLOCK]>;

/// The bytes of a disk: blocks that are not there are zeros.
#[derive(Clone)]
pub struct Image(Vec<Option<Block>>);

impl Image {
    pub fn new(bytes: u64) -> Image {
        Image(vec![None; usize::try_from(bytes).unwrap_or(0) / BLOCK])
    }

    pub fn bytes(&self) -> u64 {
        (self.0.len() * BLOCK) as u64
    }

    /// The blocks of a file; those of zeros are left out.
    pub fn load(path: &Path) -> io::Result<Image> {
        let mut file = File::open(path)?;
        let mut image = Image::new(file.metadata()?.len());
        for slot in &mut image.0 {
            let mut block = [0; BLOCK];
            file.read_exact(&mut block)?;
            *slot = (block != [0; BLOCK]).then(|| Arc::new(block));
        }
        Ok(image)
    }

    /// As a sparse file.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let mut file = File::create(path)?;
        file.set_len(self.bytes())?;
        for (at, block) in self.0.iter().enumerate() {
            if let Some(block) = block {
                file.seek(SeekFrom::Start((at * BLOCK) as u64))?;
                file.write_all(&block[..])?;
            }
        }
        Ok(())
    }

    fn block(&self, at: usize) -> [u8; BLOCK] {
        self.0.get(at).and_then(|block| block.as_deref().copied()).unwrap_or([0; BLOCK])
    }

    fn put(&mut self, at: usize, block: Block) {
        if let Some(slot) = self.0.get_mut(at) {
            *slot = Some(block);
        }
    }

    pub fn read(&self, offset: u64, out: &mut [u8]) {
        let mut at = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut rest = out;
        while !rest.is_empty() {
            let (index, within) = (at / BLOCK, at % BLOCK);
            let (part, others) = rest.split_at_mut(rest.len().min(BLOCK - within));
            match self.0.get(index) {
                Some(Some(block)) => part.copy_from_slice(&block[within..within + part.len()]),
                _ => part.fill(0),
            }
            at += part.len();
            rest = others;
        }
    }
}

/// What a write made of one block, and which of its bytes it wrote.
#[derive(Clone)]
struct Written {
    at: usize,
    from: usize,
    to: usize,
    block: Block,
}

/// Which of the writes that were not flushed a cut spares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// None of them.
    None,
    /// All of them: as the death of the process.
    All,
    /// Those that came first, up to some moment.
    Prefix,
    /// Each granule with a chance of one in two.
    Half,
}

impl Cut {
    pub const ALL: [Cut; 4] = [Cut::None, Cut::All, Cut::Prefix, Cut::Half];

    pub fn name(self) -> &'static str {
        match self {
            Cut::None => "none",
            Cut::All => "all",
            Cut::Prefix => "prefix",
            Cut::Half => "half",
        }
    }
}

/// One disk at one moment.
#[derive(Clone)]
struct Still {
    durable: Image,
    log: Vec<Written>,
}

impl Still {
    fn cut(&self, cut: Cut, granule: usize, random: &mut Random) -> Image {
        let mut left = self.durable.clone();
        let spared = match cut {
            Cut::None => 0,
            Cut::Prefix => random.below(self.log.len() as u64 + 1) as usize,
            Cut::All | Cut::Half => self.log.len(),
        };
        for write in self.log.iter().take(spared) {
            let mut block = left.block(write.at);
            for from in (write.from..write.to).step_by(granule) {
                if cut != Cut::Half || random.below(2) == 0 {
                    let to = (from + granule).min(write.to);
                    block[from..to].copy_from_slice(&write.block[from..to]);
                }
            }
            left.put(write.at, Arc::new(block));
        }
        left
    }
}

/// All disks of a machine at one moment, and what had been acknowledged by then.
pub struct Moment {
    disks: Vec<Still>,
    pub acks: Vec<String>,
}

impl Moment {
    /// How many blocks were not flushed.
    pub fn unflushed(&self) -> usize {
        self.disks.iter().map(|disk| disk.log.len()).sum()
    }

    /// What a power cut at this moment leaves.
    pub fn cut(&self, cut: Cut, granule: usize, random: &mut Random) -> Vec<Image> {
        self.disks.iter().map(|disk| disk.cut(cut, granule, random)).collect()
    }
}

/// When the disk takes down what a cut would find.
#[derive(Debug, Clone, Copy)]
pub struct Trigger {
    /// After so many writes since the disk was plugged in.
    pub writes: u64,
    /// Then at the next acknowledgement, in place of at once.
    pub at_ack: bool,
}

pub struct Disk {
    current: Image,
    durable: Image,
    log: Vec<Written>,
    writes: u64,
    /// Flushes make nothing durable.
    lies: bool,
    /// The next one last.
    triggers: Vec<Trigger>,
    pub moments: Vec<Moment>,
    /// What was acknowledged so far, that of earlier lives first.
    acks: Vec<String>,
    /// Another disk of the same machine. All are served by one thread, so nothing is under way there while this one is asked.
    pub beside: Option<Arc<Mutex<Disk>>>,
}

impl Disk {
    pub fn new(image: Image, acks: Vec<String>, mut triggers: Vec<Trigger>, lies: bool) -> Disk {
        triggers.sort_by_key(|trigger| std::cmp::Reverse(trigger.writes));
        Disk {
            current: image.clone(),
            durable: image,
            log: Vec::new(),
            writes: 0,
            lies,
            triggers,
            moments: Vec::new(),
            acks,
            beside: None,
        }
    }

    pub fn bytes(&self) -> u64 {
        self.current.bytes()
    }

    pub fn read(&self, offset: u64, out: &mut [u8]) {
        self.current.read(offset, out);
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let (mut at, mut rest) = (usize::try_from(offset).unwrap_or(usize::MAX), bytes);
        while !rest.is_empty() {
            let (index, from) = (at / BLOCK, at % BLOCK);
            let (part, others) = rest.split_at(rest.len().min(BLOCK - from));
            let mut block = if part.len() == BLOCK { [0; BLOCK] } else { self.current.block(index) };
            block[from..from + part.len()].copy_from_slice(part);
            let block = Arc::new(block);
            self.current.put(index, block.clone());
            self.log.push(Written { at: index, from, to: from + part.len(), block });
            at += part.len();
            rest = others;
        }
        self.writes += 1;
        self.look(false);
    }

    pub fn flush(&mut self) {
        // Before it counts: that is when most is unflushed.
        self.look(false);
        if !self.lies {
            for write in self.log.drain(..) {
                self.durable.put(write.at, write.block);
            }
        }
    }

    /// Something has been acknowledged to whoever uses what lies on the disk.
    pub fn acknowledged(&mut self, ack: String) {
        self.acks.push(ack);
        self.look(true);
    }

    fn look(&mut self, ack: bool) {
        let due =
            self.triggers.last().is_some_and(|next| next.writes <= self.writes && (ack || !next.at_ack));
        if due {
            self.triggers.pop();
            self.take_moment();
        }
    }

    /// What a cut would find now.
    pub fn take_moment(&mut self) {
        let still = |disk: &Disk| Still { durable: disk.durable.clone(), log: disk.log.clone() };
        let beside =
            self.beside.as_ref().map(|disk| still(&disk.lock().unwrap_or_else(PoisonError::into_inner)));
        let disks = [still(self)].into_iter().chain(beside).collect();
        self.moments.push(Moment { disks, acks: self.acks.clone() });
    }

    pub fn is_done(&self) -> bool {
        self.triggers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(image: &Image) -> Vec<u8> {
        let mut out = vec![0; image.bytes() as usize];
        image.read(0, &mut out);
        out
    }

    fn after(disk: &mut Disk, cut: Cut) -> Vec<u8> {
        disk.take_moment();
        let moment = disk.moments.pop().unwrap();
        read(&moment.cut(cut, 512, &mut Random::new(7))[0])
    }

    #[test]
    fn only_what_was_flushed_survives() {
        let mut disk = Disk::new(Image::new(4 * BLOCK as u64), Vec::new(), Vec::new(), false);
        disk.write(100, &[1; 5000]);
        disk.flush();
        disk.write(0, &[2; 2 * BLOCK]);
        let none = after(&mut disk, Cut::None);
        assert!(none[..100].iter().all(|b| *b == 0) && none[100..5100].iter().all(|b| *b == 1));
        let all = after(&mut disk, Cut::All);
        assert!(all[..2 * BLOCK].iter().all(|b| *b == 2) && all[2 * BLOCK..].iter().all(|b| *b == 0));
        let half = after(&mut disk, Cut::Half);
        let new = half[..2 * BLOCK].chunks(512).filter(|granule| granule.iter().all(|b| *b == 2)).count();
        assert!((2..15).contains(&new), "{new} of 16 granules survive whole");
        let mut out = vec![0; BLOCK];
        disk.read(0, &mut out);
        assert_eq!(out, [2; BLOCK], "a read sees what was not flushed");
    }

    #[test]
    fn a_prefix_has_nothing_that_came_later() {
        for seed in 0..50 {
            let mut disk = Disk::new(Image::new(8 * BLOCK as u64), Vec::new(), Vec::new(), false);
            for n in 0..8 {
                disk.write(n * BLOCK as u64, &[1; BLOCK]);
            }
            disk.take_moment();
            let left = read(&disk.moments[0].cut(Cut::Prefix, 512, &mut Random::new(seed))[0]);
            let there: Vec<bool> = left.chunks(BLOCK).map(|block| block[0] == 1).collect();
            assert!(there.is_sorted_by(|a, b| a >= b), "{there:?}");
        }
    }

    #[test]
    fn a_disk_that_lies_keeps_nothing() {
        let mut disk = Disk::new(Image::new(BLOCK as u64), Vec::new(), Vec::new(), true);
        disk.write(0, &[1; 512]);
        disk.flush();
        assert_eq!(after(&mut disk, Cut::None), [0; BLOCK]);
    }

    #[test]
    fn moments_are_taken_when_they_are_due_with_what_was_acknowledged_before() {
        let triggers = vec![Trigger { writes: 2, at_ack: true }, Trigger { writes: 1, at_ack: false }];
        let mut disk = Disk::new(Image::new(BLOCK as u64), Vec::new(), triggers, false);
        disk.acknowledged("a".into());
        assert!(disk.moments.is_empty());
        disk.write(0, &[1; 512]);
        disk.write(0, &[1; 512]);
        disk.write(0, &[1; 512]);
        disk.acknowledged("b".into());
        assert!(disk.is_done());
        let acks: Vec<&[String]> = disk.moments.iter().map(|moment| &moment.acks[..]).collect();
        assert_eq!(acks, [vec!["a"], vec!["a", "b"]]);
        assert_eq!(disk.moments[0].unflushed(), 1);
    }
}
