//! The report as Markdown: an overview with an engine a column, and then a table a workload with all figures.

use super::{Cell, Row, Run};
use crate::engines::Kind;
use crate::outcome::Unit;
use std::fmt::Write;

pub fn render(run: &Run) -> String {
    let mut out = String::new();
    head(&mut out, run);
    levels(&mut out, run);
    overview(&mut out, run);
    for row in run.rows() {
        details(&mut out, run, &row);
    }
    for failure in &run.failures {
        let _ = writeln!(out, "**FAILED** {failure}\n");
    }
    out
}

fn head(out: &mut String, run: &Run) {
    let (config, machine) = (&run.config, &run.machine);
    let _ = writeln!(
        out,
        "{} records of 20 + 100 bytes, {} of 16 + 1000; {} MiB of memory each; {} rounds, engines by turns, medians \
         (least..most); {:.0} s in all.\n\n{}, {} cores, {} MiB, Linux {}; annulus at {}.\n",
        thousands(config.records),
        thousands(config.records_1k),
        config.budget_mib,
        config.rounds,
        run.seconds,
        machine.processor,
        machine.cores,
        machine.memory_mib,
        machine.kernel,
        machine.commit,
    );
}

fn levels(out: &mut String, run: &Run) {
    out.push_str("| engine | version | a write that is not durable | a durable write |\n|---|---|---|---|\n");
    for engine in engines(run) {
        let (label, version) = (engine.label(), engine.version());
        let _ =
            writeln!(out, "| {label} | {version} | {} | {} |", engine.process_level(), engine.sync_level());
    }
    out.push('\n');
}

fn overview(out: &mut String, run: &Run) {
    let engines = engines(run);
    out.push_str("Operations a second; milliseconds for opening.\n\n| workload |");
    for engine in &engines {
        let _ = write!(out, " {} |", engine.label());
    }
    let _ = writeln!(out, "\n|---|{}", "---:|".repeat(engines.len()));
    for row in run.rows() {
        let _ = write!(out, "| {} |", row.label());
        for engine in &engines {
            let value = run.cell(&row, *engine).map_or("-".to_owned(), |c| value(c, c.median(|o| o.value)));
            let _ = write!(out, " {value} |");
        }
        out.push('\n');
    }
    out.push('\n');
}

fn details(out: &mut String, run: &Run, row: &Row) {
    let cells: Vec<&Cell> = engines(run).into_iter().filter_map(|e| run.cell(row, e)).collect();
    let Some(first) = cells.first() else { return };
    let has = |f: fn(&Cell) -> bool| cells.iter().any(|c| f(c));
    let settled = has(|c| c.outcomes.iter().any(|o| o.settled.is_some()));
    let latency = has(|c| c.outcomes.iter().any(|o| o.latency.is_some()));
    let synced = has(|c| c.outcomes.iter().any(|o| o.bare_sync.is_some()));
    let notes = has(|c| c.outcomes.iter().any(|o| o.note.is_some()));
    let _ = writeln!(out, "### {}\n", row.label());
    let unit = if first.unit() == Unit::PerSecond { "ops/s" } else { "ms" };
    let _ = write!(out, "| engine | {unit} |");
    let mut rule = "|---|---:|".to_owned();
    let mut column = |name: &str, wanted: bool| {
        if wanted {
            let _ = write!(out, " {name} |");
            rule.push_str("---:|");
        }
    };
    column("settled ops/s", settled);
    ["p50 us", "p99 us", "p99.9 us", "max us"].into_iter().for_each(|name| column(name, latency));
    ["peak MiB", "anon MiB", "file MiB", "disk MiB", "written MiB"].into_iter().for_each(|n| column(n, true));
    ["bare fdatasync us", "of a growing file"].into_iter().for_each(|name| column(name, synced));
    column("note", notes);
    let _ = writeln!(out, "\n{rule}");
    for cell in cells {
        let (least, most) = cell.spread();
        let (least, most) = (value(cell, least), value(cell, most));
        let _ = write!(out, "| {} | {}", cell.engine.label(), value(cell, cell.median(|o| o.value)));
        let _ = if cell.outcomes.len() > 1 { write!(out, " ({least}..{most}) |") } else { write!(out, " |") };
        let mut figure = |wanted: bool, figure: Option<String>| {
            if wanted {
                let _ = write!(out, " {} |", figure.as_deref().unwrap_or("-"));
            }
        };
        figure(settled, cell.median_of(|o| o.settled).map(|v| thousands(v as u64)));
        let latencies: [fn(&crate::outcome::Latency) -> f64; 4] =
            [|l| l.p50, |l| l.p99, |l| l.p999, |l| l.max];
        for of in latencies {
            figure(latency, cell.median_of(|o| o.latency.as_ref().map(of)).map(short));
        }
        figure(true, Some(short(cell.median(|o| o.memory.peak))));
        figure(true, Some(short(cell.median(|o| o.memory.anon))));
        figure(true, Some(short(cell.median(|o| o.memory.file))));
        figure(true, Some(short(cell.median(|o| o.disk_mib))));
        figure(true, Some(short(cell.median(|o| o.written_mib))));
        figure(synced, cell.median_of(|o| o.bare_sync.map(|s| s.written)).map(short));
        figure(synced, cell.median_of(|o| o.bare_sync.map(|s| s.growing)).map(short));
        figure(notes, Some(cell.outcomes[0].note.clone().unwrap_or_default()));
        out.push('\n');
    }
    out.push('\n');
}

fn engines(run: &Run) -> Vec<Kind> {
    run.config.engines.clone()
}

fn value(cell: &Cell, value: f64) -> String {
    match cell.unit() {
        Unit::PerSecond => thousands(value.round() as u64),
        Unit::Milliseconds => short(value),
    }
}

/// Three digits that matter.
pub fn short(value: f64) -> String {
    match value {
        v if v >= 1e4 => thousands(v.round() as u64),
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
