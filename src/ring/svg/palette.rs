//! A colour for every shard: the shards of a zone have neighbouring hues, so that zones are seen as families.

use crate::ids::ShardId;
use crate::ring::topology::Member;
use std::collections::BTreeMap;

/// The hue of the first zone, in degrees: a blue.
const FIRST: f64 = 212.0;
/// How much of its part of the circle of hues a zone uses.
const USED: f64 = 0.62;
/// Lightness of neighbours differs, where hues are close.
const LIGHTNESS: [f64; 3] = [0.46, 0.62, 0.76];

/// For each shard its place among all, zone by zone, and its colour.
pub(super) struct Palette(BTreeMap<ShardId, (usize, String)>);

impl Palette {
    pub fn new<'a>(members: impl IntoIterator<Item = &'a Member>) -> Palette {
        let mut zones: BTreeMap<&str, Vec<ShardId>> = BTreeMap::new();
        let mut colours = BTreeMap::new();
        for member in members {
            if colours.insert(member.id, (0, String::new())).is_none() {
                zones.entry(&member.zone).or_default().push(member.id);
            }
        }
        let part = 360.0 / zones.len().max(1) as f64;
        let mut rank = 0;
        for (number, ids) in zones.values_mut().enumerate() {
            ids.sort_unstable();
            let alone = part >= 360.0;
            let width = if alone { 360.0 } else { part * USED };
            for (at, id) in ids.iter().enumerate() {
                // Alone, the last hue would be the first again.
                let steps = if alone { ids.len() } else { ids.len().saturating_sub(1).max(1) };
                let offset = if ids.len() == 1 { 0.5 } else { at as f64 / steps as f64 };
                let hue = FIRST + part * number as f64 + width * (offset - 0.5);
                let step = if ids.len() <= 4 && alone { 0 } else { at % LIGHTNESS.len() };
                colours.insert(*id, (rank, hex(hue, 0.62, LIGHTNESS[step])));
                rank += 1;
            }
        }
        Palette(colours)
    }

    pub fn of(&self, shard: ShardId) -> &str {
        self.0.get(&shard).map_or("#000000", |(_, colour)| colour)
    }

    /// Where a shard stands if those of a zone stand together.
    pub fn rank(&self, shard: ShardId) -> usize {
        self.0.get(&shard).map_or(usize::MAX, |(rank, _)| *rank)
    }
}

fn hex(hue: f64, saturation: f64, lightness: f64) -> String {
    let reach = saturation * lightness.min(1.0 - lightness);
    let channel = |n: f64| {
        let k = (n + hue.rem_euclid(360.0) / 30.0) % 12.0;
        let value = lightness - reach * (k - 3.0).min(9.0 - k).clamp(-1.0, 1.0);
        (value * 255.0).round() as u8
    };
    format!("#{:02x}{:02x}{:02x}", channel(0.0), channel(8.0), channel(4.0))
}
