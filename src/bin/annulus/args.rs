//! What can be asked for, with help and examples. Nothing is done here.

use annulus::{At, Options, Seq, ShardOptions};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Look after Annulus stores: checkpoints, restores, checks, repairs.
#[derive(Debug, Parser)]
#[command(name = "annulus", version, max_term_width = 110, after_help = CODES)]
pub struct Cli {
    /// Write JSON: an object for each result on stdout, a line each, and errors and warnings as objects on stderr
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

const CODES: &str = "\
Exit codes:
  0  done
  1  failed: the error says why, and what to do
  2  the command line makes no sense; nothing was done
  3  damage found (in a backup, a stream or a store); what could be done was done
  4  the store is open in another process, or the repository is being written to; the error names the process

A repository is a directory, or, in a program built with the feature s3, gcs or azure, an address: s3://bucket/prefix,
gs://bucket/prefix, az://container/prefix. Credentials come from the environment (AWS_ACCESS_KEY_ID, AWS_REGION, AWS_ENDPOINT,
GOOGLE_SERVICE_ACCOUNT, AZURE_STORAGE_ACCOUNT_NAME, ...) or from the machine.

Every command but `inspect` and `ring` opens the store, so it must not be open in a running program.
`annulus COMMAND --help` has examples.";

#[derive(Debug, Subcommand)]
pub enum Command {
    Checkpoint(Checkpoint),
    Archive(Archive),
    List(List),
    Verify(Verify),
    Restore(Restore),
    Prune(Prune),
    Delete(Delete),
    Export(Export),
    Import(Import),
    Inspect(Inspect),
    Scrub(Scrub),
    Repair(Repair),
    Ring(Ring),
}

/// Put a checkpoint of a store into a backup repository, which is made if it is absent
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  annulus checkpoint data/orders /backup/orders
  annulus checkpoint data/orders /backup/orders --label 'before the migration' --rate 50M
  annulus checkpoint data/orders /backup/orders --full    # after damage to the repository: trusts nothing in it")]
pub struct Checkpoint {
    /// The store's directory
    pub store: PathBuf,
    /// The repository's directory, or its address, such as s3://bucket/prefix
    pub repo: PathBuf,
    /// What the checkpoint is called
    #[arg(long, default_value = "")]
    pub label: String,
    /// Read at most so many bytes a second; K, M and G are units of 1024
    #[arg(long, value_parser = bytes, value_name = "BYTES")]
    pub rate: Option<u64>,
    /// Read every record and write every object anew
    #[arg(long)]
    pub full: bool,
}

/// Put what the journal of a store has, and the archive of a repository has not, into that archive, for `restore --until`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  annulus archive data/orders /backup/orders
  annulus archive data/orders --list                      # the archives that the journal is kept for
  annulus archive data/orders /backup/orders --forget     # the journal is kept for this one no longer

For a store whose program archives continuously and was killed: what it wrote last. The journal is kept for every archive that it was
ever put into, up to journal_retention, until that archive is forgotten. Where more was written than that, the archive lacks writes:
exit code 3, until there is a checkpoint behind them.")]
pub struct Archive {
    /// The store's directory
    pub store: PathBuf,
    /// The repository's directory, or its address, such as s3://bucket/prefix
    #[arg(required_unless_present = "list")]
    pub repo: Option<PathBuf>,
    /// Archive nothing: list the archives that the journal is kept for, by the ids of their repositories
    #[arg(long, conflicts_with_all = ["repo", "forget"])]
    pub list: bool,
    /// Archive nothing: keep the journal no longer for this archive. REPO may be its repository's id
    #[arg(long)]
    pub forget: bool,
}

/// List the checkpoints of a repository, from the oldest to the newest
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  annulus list /backup/orders
  annulus list /backup/orders --json    # an object a line for each checkpoint")]
pub struct List {
    /// The repository's directory, or its address, such as s3://bucket/prefix
    pub repo: PathBuf,
}

/// Read every byte of one checkpoint, or of all and of the archives, and say what is damaged (exit code 3)
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  annulus verify /backup/orders       # all of them
  annulus verify /backup/orders 17")]
pub struct Verify {
    /// The repository's directory, or its address, such as s3://bucket/prefix
    pub repo: PathBuf,
    /// The checkpoint's number; all checkpoints unless it is given
    pub id: Option<u64>,
    /// Verify all checkpoints, as is done unless a number is given
    #[arg(long, conflicts_with = "id")]
    pub all: bool,
}

/// Make a new store of a checkpoint
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  annulus restore /backup/orders data/new
  annulus restore /backup/orders data/new --id 17 --shards 8 --replication-factor 3
  annulus restore /backup/orders data/new --shard /mnt/a/orders,zone=a,weight=2 --shard /mnt/b/orders,zone=b
  annulus restore /backup/orders data/new --until 2026-03-01T11:59:00Z    # needs an archive of the time in between
  annulus restore /backup/orders data/new --salvage    # of a damaged checkpoint, what is left (exit code 3)")]
pub struct Restore {
    /// The repository's directory, or its address, such as s3://bucket/prefix
    pub repo: PathBuf,
    /// The new store's directory, empty or absent
    pub store: PathBuf,
    /// The checkpoint's number
    #[arg(long, value_name = "ID")]
    pub id: Option<u64>,
    /// The checkpoint with the highest number, as is done unless a number is given; refused where there are checkpoints of several stores
    #[arg(long, conflicts_with = "id")]
    pub latest: bool,
    /// Go on to a later write (its sequence) or time (2026-03-01T12:00:00Z, or with an offset; `now`), by the archive
    #[arg(long, value_parser = at, value_name = "SEQ|TIME")]
    pub until: Option<At>,
    #[command(flatten)]
    pub topology: Topology,
    /// Restore this keyspace alone
    #[arg(long, value_name = "NAME")]
    pub keyspace: Option<String>,
    /// Restore what can be read of a damaged checkpoint, and say what is missing (exit code 3)
    #[arg(long)]
    pub salvage: bool,
}

/// Where the new store's shards lie. What is not given is as the source had it.
#[derive(Debug, Args)]
pub struct Topology {
    /// How many shards, inside the store's directory
    #[arg(long, value_name = "N", conflicts_with = "shard")]
    pub shards: Option<usize>,
    /// A shard in a directory of its own, with the failure domain that it lies in and its share of the data; repeatable
    #[arg(long, value_parser = shard, value_name = "PATH[,zone=Z][,weight=W]")]
    pub shard: Vec<ShardOptions>,
    /// How many copies of every key
    #[arg(long, value_name = "R")]
    pub replication_factor: Option<usize>,
    /// How many virtual nodes, a power of two
    #[arg(long, value_name = "Q")]
    pub virtual_nodes: Option<u32>,
}

impl Topology {
    pub fn options(self) -> Options {
        let mut options = Options::new();
        if let Some(shards) = self.shards {
            options = options.shards(shards);
        }
        if let Some(factor) = self.replication_factor {
            options = options.replication_factor(factor);
        }
        if let Some(nodes) = self.virtual_nodes {
            options = options.virtual_nodes(nodes);
        }
        self.shard.into_iter().fold(options, Options::shard)
    }
}

/// Delete the checkpoints that no rule keeps, and what only they needed
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  annulus prune /backup/orders --keep-last 7 --daily 30 --monthly 12")]
pub struct Prune {
    /// The repository's directory, or its address, such as s3://bucket/prefix
    pub repo: PathBuf,
    /// Keep the last N of each store
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub keep_last: usize,
    /// Keep one for each of the last N hours that have one
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub hourly: usize,
    /// Keep one for each of the last N days that have one
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub daily: usize,
    /// Keep one for each of the last N weeks that have one
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub weekly: usize,
    /// Keep one for each of the last N months (of 30 days) that have one
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub monthly: usize,
}

/// Delete one checkpoint, also a damaged one, and what only it needed
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  annulus delete /backup/orders 17")]
pub struct Delete {
    /// The repository's directory, or its address, such as s3://bucket/prefix
    pub repo: PathBuf,
    /// The checkpoint's number
    pub id: u64,
}

/// Write all of a store into one checksummed stream
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  annulus export data/orders orders.annulus
  annulus export data/orders - | ssh elsewhere annulus import - data/orders

With - the stream is all that goes to stdout; the result goes to stderr.")]
pub struct Export {
    /// The store's directory
    pub store: PathBuf,
    /// The file, which must not exist, or - for stdout
    pub file: PathBuf,
}

/// Make a new store of a stream that `export` wrote
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  annulus import orders.annulus data/new
  annulus import - data/new --shards 8 --replication-factor 3 < orders.annulus")]
pub struct Import {
    /// The file, or - for stdin
    pub file: PathBuf,
    /// The new store's directory, empty or absent
    pub store: PathBuf,
    #[command(flatten)]
    pub topology: Topology,
}

/// Look at a store without opening or changing it: shards, sizes, ring, what its small files say
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  annulus inspect data/orders    # also while a program has it open; exit code 3 if something is damaged or missing
  annulus inspect data/orders --json | jq .shards")]
pub struct Inspect {
    /// The store's directory
    pub store: PathBuf,
}

/// Read and verify every page of a store, compare replicas, and put right what can be (exit code 3 if anything was found)
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  annulus scrub data/orders
  annulus scrub data/orders --rate 20M")]
pub struct Scrub {
    /// The store's directory
    pub store: PathBuf,
    /// Read at most so many bytes a second; K, M and G are units of 1024
    #[arg(long, value_parser = bytes, value_name = "BYTES")]
    pub rate: Option<u64>,
}

/// Make a damaged or missing shard whole again from its replicas, or all lost ones from a backup
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  annulus repair data/orders 3
  annulus repair data/orders 3 --rebuild    # whatever state it is in: set its files aside, fill it anew
  annulus repair data/orders --from /backup/orders    # a store that does not open, since all replicas of something are lost")]
pub struct Repair {
    /// The store's directory
    pub store: PathBuf,
    /// The shard's number
    #[arg(required_unless_present = "from", conflicts_with = "from")]
    pub shard: Option<u32>,
    /// Fill it anew even if it seems to be well
    #[arg(long, conflicts_with = "from")]
    pub rebuild: bool,
    /// The repository to take lost shards from
    #[arg(long, value_name = "REPO")]
    pub from: Option<PathBuf>,
}

/// Show how a store's virtual nodes lie on its shards, without opening it
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  annulus ring data/orders
  annulus ring data/orders --svg ring.svg")]
pub struct Ring {
    /// The store's directory
    pub store: PathBuf,
    /// Draw it into this file, in the place of one that is there
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

fn bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.trim_end_matches(['B', 'b', 'i']).as_bytes() {
        [digits @ .., b'k' | b'K'] => (digits, 10),
        [digits @ .., b'm' | b'M'] => (digits, 20),
        [digits @ .., b'g' | b'G'] => (digits, 30),
        digits => (digits, 0),
    };
    let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u64>().ok());
    let found = number.and_then(|number| number.checked_mul(1 << shift)).filter(|bytes| *bytes > 0);
    found.ok_or_else(|| "expected a number of bytes such as 1048576, 512K, 50M or 1G".to_owned())
}

fn at(text: &str) -> Result<At, String> {
    if let Ok(seq) = text.parse() {
        return Ok(At::Seq(Seq(seq)));
    }
    let expected = "expected a sequence such as 1234, or a time such as 2026-03-01T12:00:00Z or 2026-03-01T12:00:00+01:00";
    crate::time::parse(text).map(At::Time).ok_or_else(|| expected.to_owned())
}

/// What comes after the path is taken off from behind, so that a path may have commas.
fn shard(text: &str) -> Result<ShardOptions, String> {
    let (mut rest, mut zone, mut weight) = (text, None, None);
    while let Some((before, last)) = rest.rsplit_once(',') {
        let (place, value) = match last.split_once('=') {
            Some(("zone", value)) => (&mut zone, value),
            Some(("weight", value)) => (&mut weight, value),
            _ => break,
        };
        if place.replace(value).is_some() {
            return Err("zone and weight may be given once for each shard".to_owned());
        }
        rest = before;
    }
    if rest.is_empty() {
        return Err("expected the path of a directory".to_owned());
    }
    let weight = weight.map_or(Ok(1.0), str::parse);
    let weight = weight.map_err(|_| "the weight is a number above 0, such as 1.5".to_owned())?;
    Ok(ShardOptions::new(rest).zone(zone.unwrap_or_default()).weight(weight))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound_and_every_command_has_examples() {
        let mut command = Cli::command();
        command.build();
        command.clone().debug_assert();
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("annulus {}", sub.get_name())), "{}", sub.get_name());
            assert!(sub.get_about().is_some(), "{}", sub.get_name());
        }
    }

    #[test]
    fn what_is_typed_is_understood_or_refused() {
        assert_eq!(bytes("7"), Ok(7));
        assert_eq!(bytes("3K"), Ok(3 << 10));
        assert_eq!(bytes("50MiB"), Ok(50 << 20));
        assert_eq!(bytes("2g"), Ok(2 << 30));
        for bad in ["", "0", "M", "-1", "1.5M", "99999999999G", "7T"] {
            assert!(bytes(bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            shard("/a,b,weight=2.5,zone=left"),
            Ok(ShardOptions::new("/a,b").zone("left").weight(2.5))
        );
        assert_eq!(shard("/a"), Ok(ShardOptions::new("/a")));
        for bad in ["", ",zone=a", "/a,weight=x", "/a,zone=a,zone=b"] {
            assert!(shard(bad).is_err(), "{bad:?}");
        }
        assert_eq!(at("17"), Ok(At::Seq(Seq(17))));
        assert!(matches!(at("2026-03-01T12:00:00Z"), Ok(At::Time(_))));
        assert!(at("yesterday").is_err());
    }
}
