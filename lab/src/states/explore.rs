//! Every disk that a power cut at one moment may leave, recovered from.
//!
//! A *state* is an operation before which the power goes, and a choice for everything that is not synced: of each name's
//! change whether it is there, of each file whether it has grown, of each sector of 512 bytes which of the versions it
//! has that were written since it was durable. Where there are few choices all of them are gone through, else so many
//! are drawn. States whose disks are the same for whoever recovers are recovered once, and judged each: what must come back is
//! not the same for all of them.

use super::image::{Image, ImageFile, SECTOR, fingerprint};
use crate::Random;
use annulus::testing::{OpenEnds, OpenNames};
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::path::Path;
use std::sync::Arc;

/// What recovers from a disk, and says whether what came back is right.
pub trait Judge {
    type Outcome;
    /// Whether recovery looks at what is in such a file, and not at its name alone.
    fn reads(&self, path: &Path) -> bool;
    fn recover(&self, image: &Image) -> Self::Outcome;
    fn check(&self, outcome: &Self::Outcome) -> Result<(), String>;
    /// Looks further at a disk that no state before had.
    fn deepen(&self, _: &Image, _: &mut Counts) -> Result<(), String> {
        Ok(())
    }
}

/// What was gone through.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    /// Operations at which the power went.
    pub operations: u64,
    /// Of these, those of which all states were gone through.
    pub whole: u64,
    pub states: u64,
    /// Disks that differed, each of which was recovered from.
    pub recovered: u64,
    /// Of the states, those where the power went while an earlier cut was being recovered from.
    pub second: u64,
    /// Of the states, those where only the process died.
    pub killed: u64,
    /// Disks with a flipped bit, a lost or a misdirected block.
    pub damaged: u64,
    /// Of these, those that were refused with the file's name.
    pub refused: u64,
    /// Syncs or writes that failed.
    pub failed: u64,
    /// The most choices that one operation left open, sectors and names.
    pub open: u64,
    /// States from which less came back than had been written: the cut took something.
    pub lost: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        let Counts {
            operations,
            whole,
            states,
            recovered,
            second,
            killed,
            damaged,
            refused,
            failed,
            open,
            lost,
        } = *other;
        self.operations += operations;
        self.whole += whole;
        self.states += states;
        self.recovered += recovered;
        self.second += second;
        self.killed += killed;
        self.damaged += damaged;
        self.refused += refused;
        self.failed += failed;
        self.open = self.open.max(open);
        self.lost += lost;
    }
}

/// The key is a fingerprint already.
#[derive(Debug, Default)]
pub struct Plain(u64);

impl Hasher for Plain {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_le_bytes(word);
        }
    }

    fn write_u128(&mut self, number: u128) {
        self.0 = number as u64;
    }
}

pub type Seen<O> = HashMap<u128, O, BuildHasherDefault<Plain>>;

/// How far to go.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// States of one operation.
    pub states: u64,
    /// Sets of names of one operation.
    pub names: usize,
}

/// One thing that a cut leaves open.
struct Choice {
    file: usize,
    what: What,
    /// What each of the possibilities adds to the image's fingerprint.
    adds: Vec<u128>,
}

enum What {
    Sector { at: usize, versions: Vec<[u8; SECTOR]> },
    Len(Vec<usize>),
}

/// Goes through the states of a moment. `salt` stands for what else recovery depends on.
pub fn explore<J: Judge>(
    ends: &OpenEnds,
    salt: u128,
    boot: u128,
    judge: &J,
    seen: &mut Seen<J::Outcome>,
    (bounds, random): (Bounds, &mut Random),
    counts: &mut Counts,
) -> Result<(), String> {
    counts.operations += 1;
    let share = (bounds.states / ends.names.len().max(1) as u64).max(16);
    let mut whole = ends.all_names;
    for (number, names) in ends.names.iter().enumerate() {
        let mut walk = Walk::new(ends, names, salt, boot, judge);
        counts.open = counts.open.max((walk.choices.len() + ends.names.len().ilog2() as usize) as u64);
        let product =
            walk.choices.iter().try_fold(1u64, |all, choice| all.checked_mul(choice.adds.len() as u64));
        let outcome = match product {
            Some(product) if product <= share => walk.all(judge, seen, counts),
            _ => {
                whole = false;
                walk.some(share, judge, seen, random, counts)
            }
        };
        outcome.map_err(|what| format!("{what}; names {number}: {}", walk.told(names)))?;
    }
    counts.whole += u64::from(whole);
    Ok(())
}

struct Walk {
    image: Image,
    choices: Vec<Choice>,
    digits: Vec<usize>,
    print: u128,
}

impl Walk {
    fn new<J: Judge>(ends: &OpenEnds, names: &OpenNames, salt: u128, boot: u128, judge: &J) -> Walk {
        let mut walk = Walk {
            image: Image { files: Vec::new(), dirs: names.dirs.clone(), boot },
            choices: Vec::new(),
            digits: Vec::new(),
            print: salt,
        };
        for (path, number) in &names.files {
            let Some(open) = ends.files.iter().find(|file| file.number == *number) else { continue };
            let place = fingerprint(0, path.as_os_str().as_encoded_bytes()) as u64;
            walk.print ^= fingerprint(place, b"name");
            let (file, len) = (walk.image.files.len(), open.lens[0]);
            let handle: Arc<ImageFile> = ImageFile::new(open.durable.clone(), len);
            walk.image.files.push((path.clone(), handle));
            if !judge.reads(path) {
                continue;
            }
            let of_len = |len: usize| fingerprint(place ^ 1, &len.to_le_bytes());
            let of_sector = |at: usize, bytes: &[u8]| fingerprint(place ^ (at as u64 + 2) << 20, bytes);
            walk.print ^= of_len(len);
            for (at, sector) in open.durable.chunks(SECTOR).enumerate() {
                walk.print ^= of_sector(at, sector);
            }
            let adds = |all: &[u128]| all.iter().map(|print| print ^ all[0]).collect();
            if open.lens.len() > 1 {
                let prints: Vec<u128> = open.lens.iter().map(|len| of_len(*len)).collect();
                walk.choices.push(Choice { file, what: What::Len(open.lens.clone()), adds: adds(&prints) });
            }
            for (at, others) in &open.sectors {
                let end = open.durable.len().min((at + 1) * SECTOR);
                let mut old = [0; SECTOR];
                old[..end - at * SECTOR].copy_from_slice(&open.durable[at * SECTOR..end]);
                let versions: Vec<[u8; SECTOR]> = [old].into_iter().chain(others.iter().copied()).collect();
                let prints: Vec<u128> =
                    versions.iter().map(|v| of_sector(*at, &v[..end - at * SECTOR])).collect();
                let what = What::Sector { at: *at, versions };
                walk.choices.push(Choice { file, what, adds: adds(&prints) });
            }
        }
        walk.digits = vec![0; walk.choices.len()];
        walk
    }

    fn set(&mut self, index: usize, digit: usize) {
        let choice = &self.choices[index];
        let before = std::mem::replace(&mut self.digits[index], digit);
        if before == digit {
            return;
        }
        self.print ^= choice.adds[before] ^ choice.adds[digit];
        let mut content = self.image.files[choice.file].1.content();
        match &choice.what {
            What::Len(lens) => content.len = lens[digit],
            What::Sector { at, versions } => {
                let (start, end) = (at * SECTOR, content.bytes.len().min((at + 1) * SECTOR));
                content.bytes[start..end].copy_from_slice(&versions[digit][..end - start]);
            }
        }
    }

    fn all<J: Judge>(
        &mut self,
        judge: &J,
        seen: &mut Seen<J::Outcome>,
        counts: &mut Counts,
    ) -> Result<(), String> {
        loop {
            self.visit(judge, seen, counts)?;
            let mut index = 0;
            loop {
                let Some(choice) = self.choices.get(index) else { return Ok(()) };
                let next = (self.digits[index] + 1) % choice.adds.len();
                self.set(index, next);
                if next > 0 {
                    break;
                }
                index += 1;
            }
        }
    }

    /// Draws states: nothing spared, everything, a prefix of the sectors, a part of each density; each one once.
    fn some<J: Judge>(
        &mut self,
        count: u64,
        judge: &J,
        seen: &mut Seen<J::Outcome>,
        random: &mut Random,
        counts: &mut Counts,
    ) -> Result<(), String> {
        let mut drawn: HashSet<u128, BuildHasherDefault<Plain>> = HashSet::default();
        for turn in 0..count {
            let density = match turn {
                0 => 0,
                1 => 16,
                _ => [1, 4, 8, 12, 15][random.below(5) as usize],
            };
            let prefix =
                (turn > 1 && random.below(8) == 0).then(|| random.below(self.choices.len() as u64 + 1));
            for index in 0..self.choices.len() {
                let radix = self.choices[index].adds.len() as u64;
                let spared = match prefix {
                    Some(prefix) => (index as u64) < prefix,
                    None => random.below(16) < density,
                };
                // Of several versions the newest more often.
                let version = if random.below(2) == 0 { 1 } else { 1 + random.below(radix - 1) };
                self.set(index, if spared { version as usize } else { 0 });
            }
            if drawn.insert(self.print) {
                self.visit(judge, seen, counts)?;
            }
        }
        Ok(())
    }

    fn visit<J: Judge>(
        &mut self,
        judge: &J,
        seen: &mut Seen<J::Outcome>,
        counts: &mut Counts,
    ) -> Result<(), String> {
        counts.states += 1;
        if let Some(outcome) = seen.get(&self.print) {
            return judge.check(outcome);
        }
        counts.recovered += 1;
        let outcome = judge.recover(&self.image);
        judge.check(&outcome)?;
        judge.deepen(&self.image, counts)?;
        seen.insert(self.print, outcome);
        Ok(())
    }

    /// What of a state was spared.
    fn told(&self, names: &OpenNames) -> String {
        let files: Vec<String> = names.files.iter().map(|(path, _)| path.display().to_string()).collect();
        let spared = self.choices.iter().zip(&self.digits).filter(|(_, digit)| **digit > 0);
        let spared = spared.map(|(choice, digit)| {
            let name = self.image.files[choice.file].0.file_name().unwrap_or_default().to_string_lossy();
            match &choice.what {
                What::Sector { at, versions } => format!("{name}@{at} {digit}/{}", versions.len() - 1),
                What::Len(lens) => format!("{name} {} bytes", lens[*digit]),
            }
        });
        format!("{}; spared: {}", files.join(" "), spared.collect::<Vec<_>>().join(", "))
    }
}
