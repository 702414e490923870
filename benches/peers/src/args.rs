//! The command line.

use crate::engines::Kind;
use crate::workloads::{self, Plan};
use lexopt::prelude::*;
use serde::Serialize;
use std::path::PathBuf;

pub const HELP: &str = "\
Annulus beside other embedded stores.

  --quick             50,000 records, 1 round: about a minute
  --records N         records of 20 + 100 bytes [3200000]
  --records-1k N      records of 16 + 1000 bytes, for load-1k and YCSB [a quarter of --records]
  --ops N             operations of a workload, at most [1000000]
  --durable-ops N     durable operations of a workload, at most [4000]
  --max-seconds N     seconds of a workload, at most; loads, scans and deletes run to their end [60]
  --rounds N          rounds, engines by turns [3]
  --engines A,B       annulus annulus-1..4 sled sled-by-hand sled-by-hand-2..4 fjall redb heed rocksdb [all built]
  --workloads A,B     any of those in the README [all]
  --budget-mib N      memory that each engine is told to use [256]
  --dir DIR           where the stores are made, on a real file system [beside the executable]
  --out DIR           where table.md, results.json and the charts go [only the table, on standard output]";

pub enum Command {
    Help,
    Run(Box<Config>),
    Child(Box<Plan>),
}

/// What a run was asked to do.
#[derive(Debug, Clone, Serialize)]
pub struct Config {
    pub records: u64,
    pub records_1k: u64,
    pub ops: u64,
    pub durable_ops: u64,
    pub max_seconds: u64,
    pub rounds: u64,
    pub engines: Vec<Kind>,
    pub workloads: Vec<String>,
    pub budget_mib: u64,
    #[serde(skip)]
    pub dir: Option<PathBuf>,
    #[serde(skip)]
    pub out: Option<PathBuf>,
}

pub fn parse() -> Result<Command, lexopt::Error> {
    parse_from(lexopt::Parser::from_env())
}

fn parse_from(mut parser: lexopt::Parser) -> Result<Command, lexopt::Error> {
    let mut quick = false;
    let (mut records, mut records_1k, mut ops, mut durable_ops) = (None, None, None, None);
    let (mut max_seconds, mut rounds, mut budget_mib) = (None, None, 256);
    let (mut engines, mut chosen) = (Kind::all(), workloads::names().map(str::to_owned).collect());
    let (mut dir, mut out) = (None, None);
    while let Some(arg) = parser.next()? {
        match arg {
            Short('h') | Long("help") => return Ok(Command::Help),
            Long("quick") => quick = true,
            Long("records") => records = Some(positive(&mut parser)?),
            Long("records-1k") => records_1k = Some(positive(&mut parser)?),
            Long("ops") => ops = Some(positive(&mut parser)?),
            Long("durable-ops") => durable_ops = Some(positive(&mut parser)?),
            Long("max-seconds") => max_seconds = Some(positive(&mut parser)?),
            Long("rounds") => rounds = Some(positive(&mut parser)?),
            Long("budget-mib") => budget_mib = positive(&mut parser)?,
            Long("engines") => engines = list(&mut parser, parse_engine)?.concat(),
            Long("workloads") => chosen = list(&mut parser, parse_workload)?,
            Long("dir") => dir = Some(parser.value()?.into()),
            Long("out") => out = Some(parser.value()?.into()),
            // How the program starts itself.
            Long("child") => {
                let plan = parser.value()?.string()?;
                return Ok(Command::Child(serde_json::from_str(&plan).map_err(|e| e.to_string())?));
            }
            _ => return Err(arg.unexpected()),
        }
    }
    if budget_mib < 8 {
        return Err("the budget must be at least 8 MiB, the least of Annulus".into());
    }
    let records = records.unwrap_or(if quick { 50_000 } else { 3_200_000 });
    Ok(Command::Run(Box::new(Config {
        records,
        records_1k: records_1k.unwrap_or((records / 4).max(1)),
        ops: ops.unwrap_or(if quick { 20_000 } else { 1_000_000 }),
        durable_ops: durable_ops.unwrap_or(if quick { 100 } else { 4_000 }),
        max_seconds: max_seconds.unwrap_or(if quick { 2 } else { 60 }),
        rounds: rounds.unwrap_or(if quick { 1 } else { 3 }),
        engines,
        workloads: chosen,
        budget_mib,
        dir,
        out,
    })))
}

fn positive(parser: &mut lexopt::Parser) -> Result<u64, lexopt::Error> {
    match parser.value()?.parse()? {
        0 => Err("a number must be above 0".into()),
        n => Ok(n),
    }
}

fn list<T>(
    parser: &mut lexopt::Parser,
    one: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, lexopt::Error> {
    let words = parser.value()?.string()?;
    words.split(',').map(|word| one(word.trim()).map_err(Into::into)).collect()
}

fn parse_engine(name: &str) -> Result<Vec<Kind>, String> {
    Kind::named(name).ok_or_else(|| match name {
        "rocksdb" => "rocksdb needs `--features rocksdb` when this is built".to_owned(),
        _ => format!("no engine is called {name:?}"),
    })
}

fn parse_workload(name: &str) -> Result<String, String> {
    match workloads::names().any(|known| known == name) {
        true => Ok(name.to_owned()),
        false => {
            let known: Vec<&str> = workloads::names().collect();
            Err(format!("no workload is called {name:?}; there are {}", known.join(" ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &str) -> Result<Config, String> {
        match parse_from(lexopt::Parser::from_args(args.split_whitespace())) {
            Ok(Command::Run(config)) => Ok(*config),
            Ok(_) => Err("not a run".into()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn names_stand_for_engines() {
        let engines = config("--engines annulus,sled-by-hand-2").unwrap().engines;
        assert_eq!(
            engines,
            [1, 2, 3].map(Kind::Annulus).into_iter().chain([Kind::SledByHand(2)]).collect::<Vec<_>>()
        );
        assert!(config("--engines annulus-9").is_err());
        assert!(config("--engines nothing").unwrap_err().contains("nothing"));
    }

    #[test]
    fn quick_gives_way_to_what_is_said() {
        let quick = config("--quick --records 7").unwrap();
        assert_eq!((quick.records, quick.records_1k, quick.rounds), (7, 1, 1));
        let whole = config("").unwrap();
        assert_eq!((whole.records, whole.records_1k, whole.rounds), (3_200_000, 800_000, 3));
    }

    #[test]
    fn mistakes_are_named() {
        assert!(config("--workloads load,gett").unwrap_err().contains("gett"));
        assert!(config("--records 0").is_err());
        assert!(config("--budget-mib 4").unwrap_err().contains("8 MiB"));
        assert!(config("--nothing").is_err());
    }
}
