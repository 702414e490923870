//! What is done to a file.

use crate::{Random, Result};
use std::path::Path;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Nothing,
    Truncated,
    TailCut,
    Garbage,
    Zeroed,
    Misdirected,
    Flipped,
    FlippedReopened,
    Emptied,
    Deleted,
}

impl Kind {
    pub const ALL: [Kind; 10] = [
        Kind::Nothing,
        Kind::Truncated,
        Kind::TailCut,
        Kind::Garbage,
        Kind::Zeroed,
        Kind::Misdirected,
        Kind::Flipped,
        Kind::FlippedReopened,
        Kind::Emptied,
        Kind::Deleted,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Nothing => "none",
            Kind::Truncated => "truncated at random",
            Kind::TailCut => "last bytes cut off",
            Kind::Garbage => "512 bytes of garbage",
            Kind::Zeroed => "4 KiB zeroed",
            Kind::Misdirected => "a block written in the wrong place",
            Kind::Flipped => "one bit flipped",
            Kind::FlippedReopened => "one bit flipped, after a reopening",
            Kind::Emptied => "emptied",
            Kind::Deleted => "deleted",
        }
    }

    /// Damages a file; a place with something in it, since nobody minds what befalls zeros that nobody reads. Says where.
    pub fn strike(self, path: &Path, random: &mut Random) -> Result<String> {
        let whole = std::fs::read(path)?;
        let used = whole.iter().rposition(|b| *b != 0).map_or(1, |last| last + 1);
        let mut said = String::new();
        // What changes nothing is no damage: it is drawn again.
        for _ in 0..64 {
            let mut bytes = whole.clone();
            let at = random.below(used as u64) as usize;
            said = format!("{self:?} at {at}");
            match self {
                Kind::Nothing => return Ok("no damage".into()),
                Kind::Deleted => {
                    std::fs::remove_file(path)?;
                    return Ok("Deleted".into());
                }
                Kind::Emptied => bytes.clear(),
                Kind::Truncated => bytes.truncate(at),
                Kind::TailCut => {
                    let left = used - 1 - random.below(used.min(100) as u64) as usize;
                    said = format!("{self:?} to {left}");
                    bytes.truncate(left);
                }
                Kind::Garbage => {
                    let end = (at + 512).min(bytes.len());
                    bytes[at..end].iter_mut().for_each(|b| *b = random.draw() as u8);
                }
                Kind::Zeroed => {
                    let end = (at + 4096).min(bytes.len());
                    bytes[at..end].fill(0);
                }
                Kind::Misdirected => {
                    let length = 512.min(used / 2).max(1);
                    let from = random.below((used - length) as u64) as usize;
                    let block = bytes[from..from + length].to_vec();
                    let to = at.min(bytes.len() - length);
                    said = format!("{self:?} from {from} to {to}");
                    bytes[to..to + length].copy_from_slice(&block);
                }
                Kind::Flipped | Kind::FlippedReopened => bytes[at] ^= 1 << random.below(8),
            }
            if bytes != whole {
                std::fs::write(path, bytes)?;
                break;
            }
        }
        Ok(said)
    }
}
