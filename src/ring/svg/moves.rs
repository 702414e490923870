//! The picture of what a next ring moves: the owners of before and after where they differ, who loses to whom, and the
//! loads on both sides.

use super::canvas::{Canvas, FAINT, INK, MUTED, PLAIN, QUIET, STRONG, Style, short, thousands};
use super::circle::{Detail, runs};
use super::palette::Palette;
use super::ring::ticks;
use super::{CENTRE, LEGEND, OUTER, ROW, ROWS, TOP, height};
use crate::error::Result;
use crate::ids::ShardId;
use crate::ring::table::{Move, Ring};
use crate::ring::topology::Member;
use std::collections::BTreeMap;

/// Few sectors: what moves is a small part, and is to be seen.
const DETAIL: Detail = Detail { arcs: 768, sectors: 8 };
const LOADS: f64 = 330.0;
const FLOWS: f64 = 300.0;
/// Between the two tables.
const GAP: f64 = 150.0;

/// Who loses a replica and who gains it; one of them may be nobody.
type Pair = (Option<ShardId>, Option<ShardId>);

pub(crate) fn moves_picture(before: &Ring, after: &Ring) -> Result<String> {
    let moves = before.moves_to(after)?;
    let members = union(before, after);
    let palette = Palette::new(members.iter().copied());
    let mut flows: BTreeMap<Pair, u64> = BTreeMap::new();
    moves.iter().flat_map(pairs).for_each(|pair| *flows.entry(pair).or_default() += 1);
    let mut flows: Vec<(Pair, u64)> = flows.into_iter().collect();
    flows.sort_by_key(|(pair, count)| (std::cmp::Reverse(*count), *pair));

    let columns = members.len().div_ceil(ROWS);
    let width = LEGEND + LOADS * columns as f64 + GAP + FLOWS;
    let rows = members.len().min(ROWS).max((flows.len() + 1).min(ROWS));
    let mut canvas = Canvas::new(width, height(rows), "What moves on the ring");
    circles(&mut canvas, after, &moves, &palette, flows.len() + 1);
    middle(&mut canvas, before, after, &moves);
    loads(&mut canvas, before, after, &members, &palette);
    table(&mut canvas, LEGEND + LOADS * columns as f64 + GAP, &flows, &palette);
    Ok(canvas.finish())
}

/// All members of both rings in order, each as the later one has it.
fn union<'a>(before: &'a Ring, after: &'a Ring) -> Vec<&'a Member> {
    let both = before.members().iter().chain(after.members());
    both.map(|member| (member.id, member)).collect::<BTreeMap<_, _>>().into_values().collect()
}

fn pairs(step: &Move) -> Vec<Pair> {
    let count = step.gained.len().max(step.lost.len());
    (0..count).map(|at| (step.lost.get(at).copied(), step.gained.get(at).copied())).collect()
}

/// Two circles, grey where nothing moves: outside who gains, inside who loses.
fn circles(canvas: &mut Canvas, after: &Ring, moves: &[Move], palette: &Palette, kinds: usize) {
    // A virtual node is cut into as many parts as fit all its moves side by side.
    let parts = after.replication_factor().max(moves.iter().map(|step| pairs(step).len()).max().unwrap_or(1));
    let mut colours: Vec<Option<Pair>> = vec![None; after.virtual_nodes() as usize * parts];
    for step in moves {
        for (at, pair) in pairs(step).into_iter().enumerate() {
            if let Some(colour) = colours.get_mut(step.virtual_node.0 as usize * parts + at) {
                *colour = Some(pair);
            }
        }
    }
    let turn = colours.len() as f64;
    let runs = runs(&colours, kinds, DETAIL);
    for (radius, gains) in [(OUTER - 34.0, true), (OUTER - 108.0, false)] {
        canvas.arcs(CENTRE, radius, 66.0, FAINT, &[(0.0, 1.0)]);
        let mut arcs: BTreeMap<ShardId, Vec<(f64, f64)>> = BTreeMap::new();
        for run in &runs {
            let shard = run.colour.and_then(|(lost, gained)| if gains { gained } else { lost });
            if let Some(shard) = shard {
                let (start, end) = (run.start as f64 / turn, run.end as f64 / turn);
                let arcs = arcs.entry(shard).or_default();
                // What one shard gains of several is one arc, not many with seams.
                match arcs.last_mut() {
                    Some(last) if last.1 == start => last.1 = end,
                    _ => arcs.push((start, end)),
                }
            }
        }
        for (shard, arcs) in arcs {
            canvas.arcs(CENTRE, radius, 66.0, palette.of(shard), &arcs);
        }
    }
    ticks(canvas);
}

fn middle(canvas: &mut Canvas, before: &Ring, after: &Ring, moves: &[Move]) {
    let copies: u64 = moves.iter().map(|step| step.gained.len() as u64).sum();
    let all = after.replication_factor() as u64 * u64::from(after.virtual_nodes());
    let style = Style { anchor: "middle", size: 12.5, ..QUIET };
    let title = Style { size: 18.0, bold: true, colour: INK, ..style };
    canvas.text(CENTRE, CENTRE - 40.0, title, &format!("{} copies", thousands(copies)));
    let (from, to) = (before.balance().max_over_mean, after.balance().max_over_mean);
    let lines = [
        format!("{:.1}% of {}", copies as f64 * 100.0 / all as f64, thousands(all)),
        format!(
            "at {} of {} virtual nodes",
            thousands(moves.len() as u64),
            thousands(after.virtual_nodes().into())
        ),
        format!("epoch {} → {}", before.epoch(), after.epoch()),
        "largest / mean load".to_owned(),
        format!("{from:.3} → {to:.3}"),
    ];
    for (at, line) in lines.iter().enumerate() {
        canvas.text(CENTRE, CENTRE - 16.0 + 19.0 * at as f64, style, line);
    }
}

fn loads(canvas: &mut Canvas, before: &Ring, after: &Ring, members: &[&Member], palette: &Palette) {
    canvas.text(LEGEND, 38.0, Style { size: 17.0, ..STRONG }, "What moves");
    canvas.text(LEGEND, 58.0, QUIET, "Outside: who gains; inside: who loses; grey: stays.");
    canvas.text(
        LEGEND,
        76.0,
        QUIET,
        "Large rings in sectors, what moves put together. Bars: load after; mark: before.",
    );
    let held = |ring: &Ring, id: ShardId, times: u32| {
        let balance = ring.balance();
        balance.shards.iter().find(|shard| shard.shard == id).map_or(0, |shard| shard.load * times)
    };
    // In virtual nodes of the later ring.
    let children = after.virtual_nodes() / before.virtual_nodes();
    let both: Vec<(u32, u32)> =
        members.iter().map(|m| (held(before, m.id, children), held(after, m.id, 1))).collect();
    let largest = both.iter().map(|(old, new)| (*old).max(*new)).max().unwrap_or(1).max(1);
    for (at, (member, (old, new))) in members.iter().zip(both).enumerate() {
        let (x, y) = (LEGEND + LOADS * (at / ROWS) as f64, TOP + ROW * (at % ROWS) as f64);
        let colour = palette.of(member.id);
        let (start, bar) = (x + 146.0, 70.0);
        let length = |load: u32| bar * f64::from(load) / f64::from(largest);
        canvas.bar(x, y + 4.0, 13.0, 13.0, colour);
        canvas.text(x + 20.0, y + 15.0, PLAIN, &format!("shard {}", member.id));
        canvas.text(x + 80.0, y + 15.0, Style { size: 11.0, ..QUIET }, &short(&member.zone, 9));
        canvas.bar(start, y + 6.0, bar, 9.0, FAINT);
        canvas.bar(start, y + 6.0, length(new), 9.0, colour);
        canvas.line((start + length(old), y + 3.0), (start + length(old), y + 18.0), INK, 1.2);
        let words = format!("{} → {}", thousands(old.into()), thousands(new.into()));
        canvas.text(x + LOADS - 24.0, y + 15.0, Style { anchor: "end", size: 11.0, ..QUIET }, &words);
    }
}

fn table(canvas: &mut Canvas, x: f64, flows: &[(Pair, u64)], palette: &Palette) {
    canvas.text(x, 38.0, Style { size: 17.0, ..STRONG }, "From whom to whom");
    let shown = if flows.len() > ROWS { ROWS - 1 } else { flows.len() };
    let most = flows.first().map_or(1, |(_, count)| *count);
    let name = |shard: Option<ShardId>| shard.map_or("–".to_owned(), |id| format!("shard {id}"));
    for (at, ((lost, gained), count)) in flows.iter().take(shown).enumerate() {
        let y = TOP + ROW * at as f64;
        for (shard, x) in [(lost, x), (gained, x + 92.0)] {
            canvas.bar(x, y + 4.0, 13.0, 13.0, shard.map_or(FAINT, |shard| palette.of(shard)));
            canvas.text(x + 18.0, y + 15.0, PLAIN, &name(*shard));
        }
        canvas.text(x + 80.0, y + 15.0, QUIET, "→");
        canvas.bar(x + 170.0, y + 6.0, 70.0 * *count as f64 / most as f64, 9.0, MUTED);
        canvas.text(x + 276.0, y + 15.0, Style { anchor: "end", size: 11.0, ..QUIET }, &thousands(*count));
    }
    if shown < flows.len() {
        let rest: u64 = flows[shown..].iter().map(|(_, count)| count).sum();
        let words = format!("and {} more, {} in all", flows.len() - shown, thousands(rest));
        canvas.text(x, TOP + ROW * shown as f64 + 15.0, QUIET, &words);
    }
}
