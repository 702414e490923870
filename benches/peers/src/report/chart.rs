//! Charts in SVG: a file a family of workloads; in it a group of bars a workload, a bar an engine, its length the ratio to
//! Annulus with one copy (or to the first engine, if that was not measured). Longer is better everywhere: where less is
//! better, the ratio is turned round. A bar that would make all others invisible is cut.

use super::table::{short, thousands};
use super::{Row, Run};
use crate::engines::Kind;
use crate::outcome::Unit;
use std::fmt::Write;

/// A ratio beyond which a bar is cut.
const MOST: f64 = 8.0;

struct Family {
    file: &'static str,
    title: &'static str,
    remark: &'static str,
    workloads: &'static [&'static str],
}

const FAMILIES: [Family; 5] = [
    Family {
        file: "writes.svg",
        title: "Loading, overwriting, deleting",
        remark: "",
        workloads: &["load", "load-sorted", "load-1k", "overwrite", "delete-all"],
    },
    Family {
        file: "reads.svg",
        title: "Single reads",
        remark: "",
        workloads: &["get", "miss", "zipf", "get-cold"],
    },
    Family {
        file: "scans.svg",
        title: "Scans",
        remark: "",
        workloads: &["scan", "scan-reverse", "scan-short"],
    },
    Family {
        file: "durable.svg",
        title: "Durable writes and opening",
        remark: "sled's flush does not wait for the disk's own cache: it promises less than the others",
        workloads: &["durable", "durable-batch", "reopen", "reopen-killed"],
    },
    Family {
        file: "ycsb.svg",
        title: "YCSB",
        remark: "",
        workloads: &["ycsb-a", "ycsb-b", "ycsb-c", "ycsb-d", "ycsb-e", "ycsb-e-prefix", "ycsb-f"],
    },
];

const BAR: f64 = 15.0;
const GAP: f64 = 34.0;
const LEFT: f64 = 150.0;
const WIDTH: f64 = 900.0;
/// Where the longest bar ends; figures stand after it.
const RIGHT: f64 = 690.0;
const TOP: f64 = 74.0;

struct Bar {
    engine: Kind,
    ratio: f64,
    figure: String,
}

struct Group {
    label: String,
    bars: Vec<Bar>,
}

/// The charts that have anything to show, with their file names.
pub fn render(run: &Run) -> Vec<(&'static str, String)> {
    let base = match run.config.engines.contains(&Kind::Annulus(1)) {
        true => Kind::Annulus(1),
        false => run.config.engines[0],
    };
    FAMILIES
        .iter()
        .filter_map(|family| {
            let rows = run.rows().into_iter().filter(|row| family.workloads.contains(&row.workload.as_str()));
            let groups: Vec<Group> = rows.filter_map(|row| group(run, &row, base)).collect();
            (!groups.is_empty()).then(|| (family.file, draw(family, base, &groups)))
        })
        .collect()
}

fn group(run: &Run, row: &Row, base: Kind) -> Option<Group> {
    let unit = run.cell(row, base)?.unit();
    let one = run.cell(row, base)?.median(|o| o.value);
    let bars = run.config.engines.iter().filter_map(|engine| {
        let value = run.cell(row, *engine)?.median(|o| o.value);
        let (ratio, figure) = match unit {
            Unit::PerSecond => (value / one, format!("{}/s", thousands(value.round() as u64))),
            Unit::Milliseconds => (one / value, format!("{} ms", short(value))),
        };
        Some(Bar { engine: *engine, ratio, figure })
    });
    Some(Group { label: row.label(), bars: bars.collect() })
}

fn draw(family: &Family, base: Kind, groups: &[Group]) -> String {
    let bars: usize = groups.iter().map(|g| g.bars.len()).sum();
    let height = TOP + bars as f64 * BAR + groups.len() as f64 * GAP + 10.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"DejaVu Sans, Helvetica, Arial, sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    text(&mut svg, (16.0, 26.0), "font-size=\"17\" font-weight=\"bold\" fill=\"#222\"", family.title);
    let scale = format!("speed as a ratio to {}; longer is better; bars over {MOST} are cut", base.label());
    text(&mut svg, (16.0, 46.0), "fill=\"#666\"", &scale);
    text(&mut svg, (16.0, 63.0), "fill=\"#666\"", family.remark);
    let mut y = TOP;
    for group in groups {
        y = draw_group(&mut svg, group, y);
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw_group(svg: &mut String, group: &Group, top: f64) -> f64 {
    let most = group.bars.iter().map(|b| b.ratio).fold(1.0, f64::max).min(MOST);
    let x = |ratio: f64| LEFT + (RIGHT - LEFT) * ratio / most;
    let mut y = top + 18.0;
    text(svg, (16.0, y), "font-size=\"13\" font-weight=\"bold\" fill=\"#222\"", &group.label);
    y += 6.0;
    let bottom = y + group.bars.len() as f64 * BAR;
    // Where the engine that all are compared with ends.
    let _ = writeln!(
        svg,
        "<line x1=\"{0:.1}\" y1=\"{y:.1}\" x2=\"{0:.1}\" y2=\"{bottom:.1}\" stroke=\"#aaa\"/>",
        x(1.0)
    );
    for bar in &group.bars {
        let middle = y + BAR - 4.0;
        text(svg, (LEFT - 8.0, middle), "text-anchor=\"end\" fill=\"#333\"", &bar.engine.label());
        let width = (x(bar.ratio.min(most)) - LEFT).max(1.0);
        let _ = writeln!(
            svg,
            "<rect x=\"{LEFT}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{}\"/>",
            y + 1.5,
            BAR - 3.0,
            colour(bar.engine)
        );
        if bar.ratio > most {
            cut(svg, LEFT + width, y);
        }
        let figure = format!("{} \u{d7}  ({})", short(bar.ratio), bar.figure);
        let halo = "fill=\"#333\" stroke=\"#fff\" stroke-width=\"4\" paint-order=\"stroke\"";
        text(svg, (LEFT + width + 7.0, middle), halo, &figure);
        y += BAR;
    }
    top + group.bars.len() as f64 * BAR + GAP
}

/// Two white strokes through a bar that ends at `end`.
fn cut(svg: &mut String, end: f64, top: f64) {
    for x in [end - 22.0, end - 15.0] {
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{top:.1}\" stroke=\"#fff\" stroke-width=\"3\"/>",
            top + BAR,
            x + 6.0
        );
    }
}

fn text(svg: &mut String, (x, y): (f64, f64), attributes: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" {attributes}>{text}</text>");
}

/// Annulus in blues, sled in browns, the others each in a colour of their own (after Okabe and Ito, for all eyes).
fn colour(engine: Kind) -> &'static str {
    match engine {
        Kind::Annulus(1) => "#08519c",
        Kind::Annulus(2) => "#3182bd",
        Kind::Annulus(_) => "#6baed6",
        Kind::Sled => "#8c6d31",
        Kind::SledByHand(2) => "#bd9e39",
        Kind::SledByHand(_) => "#e7cb94",
        Kind::Fjall => "#009e73",
        Kind::Redb => "#d55e00",
        Kind::Heed => "#cc79a7",
        Kind::Rocksdb => "#777777",
    }
}
