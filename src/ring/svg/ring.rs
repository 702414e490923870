//! The picture of a ring: a circle for the primaries, one for each further replica inside it, and the loads beside.

use super::canvas::{
    Canvas, FAINT, INK, MUTED, PLAIN, QUIET, STRONG, Style, number, point, short, thousands,
};
use super::circle::{Detail, runs, sector};
use super::palette::Palette;
use super::{CENTRE, LEGEND, OUTER, ROW, ROWS, TOP, height};
use crate::ids::{ShardId, VirtualNode};
use crate::ring::balance::ShardBalance;
use crate::ring::table::Ring;
use std::collections::BTreeMap;

/// About so many arcs in all circles together, and in one of them.
const ARCS: usize = 3072;
const ARCS_OF_ONE: usize = 384;
const SECTORS: usize = 48;
const COLUMN: f64 = 330.0;
/// The width of the lines above the legend.
const HEAD: f64 = 590.0;
/// The part of the radius that is left free for the words in the middle.
const HOLE: f64 = 0.42;

pub(crate) fn ring_picture(ring: &Ring) -> String {
    let balance = ring.balance();
    let palette = Palette::new(ring.members());
    let entries = entries(ring, &balance.shards);
    let columns = entries.len().div_ceil(ROWS);
    let width = LEGEND + (COLUMN * columns as f64).max(HEAD) + 10.0;
    let mut canvas = Canvas::new(width, height(entries.len().min(ROWS)), "The ring");
    let arcs = (ARCS / ring.replication_factor()).min(ARCS_OF_ONE);
    let detail = Detail { arcs, sectors: SECTORS };
    circles(&mut canvas, ring, &palette, detail);
    middle(&mut canvas, ring, balance.max_over_mean);

    canvas.text(LEGEND, 38.0, Style { size: 17.0, ..STRONG }, "Who holds what");
    let nodes = sector(ring.virtual_nodes() as usize, ring.members().len(), detail);
    let grouped = match nodes {
        1 => String::new(),
        _ => format!(" In sectors of {}, grouped by shard.", thousands(nodes as u64)),
    };
    let circles = format!("Virtual nodes; outside: primaries, inside: the other replicas.{grouped}");
    canvas.text(LEGEND, 58.0, QUIET, &circles);
    canvas.text(
        LEGEND,
        76.0,
        QUIET,
        "Bars: how many each shard holds; mark: its share, by weights, zones and replicas.",
    );
    let largest = balance.shards.iter().map(|s| f64::from(s.load).max(s.share)).fold(1.0, f64::max);
    for (at, entry) in entries.iter().enumerate() {
        let (x, y) = (LEGEND + COLUMN * (at / ROWS) as f64, TOP + ROW * (at % ROWS) as f64);
        match entry {
            Entry::Zone(zone, load) => heading(&mut canvas, x, y, zone, *load),
            Entry::Shard(shard) => row(&mut canvas, (x, y), shard, palette.of(shard.shard), largest),
        }
    }
    canvas.finish()
}

fn circles(canvas: &mut Canvas, ring: &Ring, palette: &Palette, detail: Detail) {
    let replicas = ring.replication_factor();
    let band = OUTER * (1.0 - HOLE) / (replicas as f64 + 0.8).max(2.2);
    let turn = f64::from(ring.virtual_nodes());
    let mut outside = OUTER;
    for replica in 0..replicas {
        // The primaries are what most look for.
        let width = if replica == 0 { band * 1.4 } else { band * 0.9 };
        let radius = outside - width / 2.0;
        let owner = |node| ring.owners(VirtualNode(node)).get(replica).copied();
        let colours: Vec<(usize, ShardId)> =
            (0..ring.virtual_nodes()).filter_map(owner).map(|shard| (palette.rank(shard), shard)).collect();
        let mut arcs: BTreeMap<ShardId, Vec<(f64, f64)>> = BTreeMap::new();
        for run in runs(&colours, ring.members().len(), detail) {
            arcs.entry(run.colour.1).or_default().push((run.start as f64 / turn, run.end as f64 / turn));
        }
        for (shard, arcs) in arcs {
            canvas.arcs(CENTRE, radius, width, palette.of(shard), &arcs);
        }
        outside -= width + band * 0.1;
    }
    ticks(canvas);
}

/// Where positions begin with these digits.
pub(super) fn ticks(canvas: &mut Canvas) {
    for (quarter, digits) in ["00…", "40…", "80…", "c0…"].into_iter().enumerate() {
        let turn = quarter as f64 / 4.0;
        canvas.line(point(CENTRE, OUTER + 3.0, turn), point(CENTRE, OUTER + 9.0, turn), MUTED, 1.0);
        let (x, y) = point(CENTRE, OUTER + 24.0, turn);
        canvas.text(x, y + 4.0, Style { anchor: "middle", size: 11.0, ..QUIET }, digits);
    }
}

fn middle(canvas: &mut Canvas, ring: &Ring, max_over_mean: f64) {
    let zones =
        ring.members().iter().map(|member| &member.zone).collect::<std::collections::BTreeSet<_>>().len();
    let many = |count: usize, what: &str| {
        format!("{} {what}{}", thousands(count as u64), if count == 1 { "" } else { "s" })
    };
    let lines = [
        many(ring.virtual_nodes() as usize, "virtual node"),
        many(ring.replication_factor(), "replica"),
        format!("{}, {}", many(ring.members().len(), "shard"), many(zones, "zone")),
        format!("largest / mean load {max_over_mean:.3}"),
    ];
    let middle = Style { anchor: "middle", size: 12.5, ..QUIET };
    canvas.text(
        CENTRE,
        CENTRE - 34.0,
        Style { size: 17.0, bold: true, colour: INK, ..middle },
        &format!("Epoch {}", ring.epoch()),
    );
    for (at, line) in lines.iter().enumerate() {
        canvas.text(CENTRE, CENTRE - 10.0 + 19.0 * at as f64, middle, line);
    }
}

enum Entry<'a> {
    Zone(&'a str, u64),
    Shard(&'a ShardBalance),
}

/// The shards by zone, with a heading for each if there are several.
fn entries<'a>(ring: &'a Ring, shards: &'a [ShardBalance]) -> Vec<Entry<'a>> {
    let mut zones: BTreeMap<&str, Vec<&ShardBalance>> = BTreeMap::new();
    for (member, shard) in ring.members().iter().zip(shards) {
        zones.entry(&member.zone).or_default().push(shard);
    }
    let mut entries = Vec::new();
    let several = zones.len() > 1 || zones.keys().any(|zone| !zone.is_empty());
    for (zone, shards) in zones {
        if several {
            entries.push(Entry::Zone(zone, shards.iter().map(|shard| u64::from(shard.load)).sum()));
        }
        entries.extend(shards.into_iter().map(Entry::Shard));
    }
    entries
}

fn heading(canvas: &mut Canvas, x: f64, y: f64, zone: &str, load: u64) {
    let name = if zone.is_empty() { "no zone".to_owned() } else { format!("zone {}", short(zone, 28)) };
    canvas.text(x, y + 15.0, STRONG, &name);
    canvas.text(x + COLUMN - 30.0, y + 15.0, Style { anchor: "end", ..QUIET }, &thousands(load));
}

fn row(canvas: &mut Canvas, (x, y): (f64, f64), shard: &ShardBalance, colour: &str, largest: f64) {
    const BAR: f64 = 76.0;
    canvas.bar(x, y + 4.0, 13.0, 13.0, colour);
    canvas.text(x + 20.0, y + 15.0, PLAIN, &format!("shard {}", shard.shard));
    canvas.text(x + 92.0, y + 15.0, QUIET, &format!("×{}", number(shard.weight)));
    let start = x + 138.0;
    canvas.bar(start, y + 6.0, BAR, 9.0, FAINT);
    canvas.bar(start, y + 6.0, BAR * f64::from(shard.load) / largest, 9.0, colour);
    let share = start + BAR * shard.share / largest;
    canvas.line((share, y + 3.0), (share, y + 18.0), INK, 1.2);
    canvas.text(
        x + COLUMN - 30.0,
        y + 15.0,
        Style { anchor: "end", size: 11.0, ..QUIET },
        &format!("{} of {}", thousands(shard.load.into()), number(shard.share)),
    );
}
