//! The reports of a run that is made up.

use super::{Machine, Run, chart, json, table};
use crate::args::Config;
use crate::engines::Kind;
use crate::outcome::{BareSync, Latency, Memory, Outcome, Unit};

fn outcome(workload: &str, threads: u64, value: f64) -> Outcome {
    Outcome {
        workload: workload.into(),
        threads,
        value,
        unit: Unit::PerSecond,
        settled: None,
        latency: None,
        memory: Memory { peak: 100.0, anon: 80.0, file: 20.0 },
        disk_mib: 7.5,
        written_mib: 12.25,
        bare_sync: None,
        note: None,
    }
}

fn run() -> Run {
    let machine = Machine {
        processor: "a processor".into(),
        cores: 2,
        memory_mib: 1024,
        kernel: "6".into(),
        commit: "abc".into(),
    };
    let config = Config {
        records: 3_200_000,
        records_1k: 800_000,
        ops: 1,
        durable_ops: 1,
        max_seconds: 1,
        rounds: 3,
        engines: vec![Kind::Annulus(1), Kind::Fjall, Kind::Redb],
        workloads: vec![],
        budget_mib: 256,
        dir: None,
        out: None,
    };
    let mut run = Run { config, machine, cells: vec![], failures: vec![], seconds: 12.0 };
    let latency = Some(Latency { p50: 1.5, p99: 20.0, p999: 300.0, max: 12_345.0 });
    for value in [1_000.0, 3_000.0, 2_000.0] {
        let load = Outcome { settled: Some(value / 2.0), latency, ..outcome("load", 1, value) };
        run.add(Kind::Annulus(1), load);
    }
    let bare_sync = Some(BareSync { written: 50.0, growing: 4_000.0 });
    run.add(Kind::Fjall, Outcome { bare_sync, ..outcome("durable", 8, 300.0) });
    run.add(Kind::Fjall, outcome("get", 2, 5_000_000.4));
    run.add(Kind::Annulus(1), outcome("get", 2, 2_500_000.0));
    run.add(Kind::Fjall, outcome("load", 1, 4_000.0));
    for (engine, value) in [(Kind::Annulus(1), 50.0), (Kind::Fjall, 200.0)] {
        let unit = Unit::Milliseconds;
        let note = Some("0 of 9 lost".into());
        run.add(engine, Outcome { unit, note, ..outcome("reopen-killed", 1, value) });
    }
    run
}

fn line(text: &str, start: &str) -> String {
    text.lines().find(|l| l.starts_with(start)).unwrap_or_else(|| panic!("{start} in\n{text}")).to_owned()
}

#[test]
fn the_overview_has_medians_and_dashes_for_what_is_not_there() {
    let table = table::render(&run());
    assert_eq!(line(&table, "| load |"), "| load | 2,000 | 4,000 | - |");
    assert_eq!(line(&table, "| get, 2 threads |"), "| get, 2 threads | 2,500,000 | 5,000,000 | - |");
    assert_eq!(line(&table, "| reopen-killed |"), "| reopen-killed | 50.0 | 200 | - |");
    let place = |what| table.find(what).unwrap();
    assert!(place("### load") < place("### get") && place("### get") < place("### reopen-killed"));
}

#[test]
fn details_have_the_columns_that_apply() {
    let table = table::render(&run());
    let load = table.split("### load\n").nth(1).unwrap().split("###").next().unwrap();
    assert_eq!(
        line(load, "| engine"),
        "| engine | ops/s | settled ops/s | p50 us | p99 us | p99.9 us | max us | peak MiB | anon MiB | file MiB | disk MiB | written MiB |"
    );
    assert_eq!(
        line(load, "| annulus R=1"),
        "| annulus R=1 | 2,000 (1,000..3,000) | 1,000 | 1.50 | 20.0 | 300 | 12,345 | 100 | 80.0 | 20.0 | 7.50 | 12.2 |"
    );
    assert_eq!(
        line(load, "| fjall"),
        "| fjall | 4,000 | - | - | - | - | - | 100 | 80.0 | 20.0 | 7.50 | 12.2 |"
    );
    let durable = table.split("### durable, 8 threads").nth(1).unwrap();
    assert!(line(durable, "| engine").ends_with("| written MiB | bare fdatasync us | of a growing file |"));
    assert!(line(durable, "| fjall").ends_with("| 50.0 | 4000 |"));
    let killed = table.split("### reopen-killed").nth(1).unwrap();
    assert_eq!(
        line(killed, "| engine"),
        "| engine | ms | peak MiB | anon MiB | file MiB | disk MiB | written MiB | note |"
    );
    assert!(line(killed, "| fjall").ends_with("| 0 of 9 lost |"));
}

#[test]
fn every_line_of_a_table_has_as_many_cells() {
    let table = table::render(&run());
    for block in table.split("\n\n").filter(|b| b.starts_with('|')) {
        let cells: Vec<usize> = block.lines().map(|l| l.matches('|').count()).collect();
        assert!(cells.windows(2).all(|w| w[0] == w[1]), "{block}");
    }
}

#[test]
fn failures_are_in_the_table() {
    let mut run = run();
    run.failures.push("Small, round 1, fjall: gone".into());
    assert!(table::render(&run).contains("**FAILED** Small, round 1, fjall: gone"));
}

#[test]
fn the_json_has_every_round() {
    let json: serde_json::Value = serde_json::from_str(&json::render(&run())).unwrap();
    let load = &json["results"][0];
    assert_eq!((&load["workload"], &load["engine"]), (&"load".into(), &"annulus R=1".into()));
    assert_eq!(load["median"], 2_000.0);
    assert_eq!(load["rounds"].as_array().unwrap().len(), 3);
    assert_eq!(load["rounds"][1]["value"], 3_000.0);
    assert_eq!(json["config"]["engines"][0], serde_json::json!({ "annulus": 1 }));
}

#[test]
fn bars_are_ratios_and_longer_is_better() {
    let charts = chart::render(&run());
    let names: Vec<&str> = charts.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["writes.svg", "reads.svg", "durable.svg"]);
    let svg = |name: &str| &charts.iter().find(|(n, _)| *n == name).unwrap().1;
    assert!(svg("writes.svg").contains("2.00 \u{d7}  (4,000/s)"));
    // Four times as long to open is a quarter as good.
    assert!(svg("durable.svg").contains("0.25 \u{d7}  (200 ms)"));
    assert!(!svg("writes.svg").contains("stroke-width=\"3\""));
    for (_, svg) in &charts {
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert!(svg.matches("<text").count() == svg.matches("</text>").count());
    }
}

#[test]
fn a_bar_that_would_dwarf_all_others_is_cut() {
    let mut run = run();
    run.add(Kind::Redb, outcome("load", 1, 100_000.0));
    let (_, svg) = &chart::render(&run)[0];
    assert!(svg.contains("50.0 \u{d7}") && svg.matches("stroke-width=\"3\"").count() == 2);
    // One eighth of what there is for bars.
    assert!(svg.contains("width=\"67.5\""), "{svg}");
}

#[test]
fn figures_are_short() {
    let shown = [0.0, 0.123, 9.99, 12.34, 99.94, 123.4, 9_999.0, 12_345.6].map(table::short);
    assert_eq!(shown, ["0.00", "0.12", "9.99", "12.3", "99.9", "123", "9999", "12,346"]);
    assert_eq!([0, 999, 1_000, 1_234_567].map(table::thousands), ["0", "999", "1,000", "1,234,567"]);
}
