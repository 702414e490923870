//! Draws a ring, and what a new shard moves on it: `cargo run --release --example ring -- docs/charts`.

use annulus::{Member, Partitioner, Ring, ShardId};
use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let directory =
        PathBuf::from(std::env::args().nth(1).ok_or("usage: ring DIRECTORY [SHARDS [VIRTUAL_NODES]]")?);
    let count = |at, usual: u32| std::env::args().nth(at).map_or(Ok(usual), |arg| arg.parse());
    let shards = count(2, 12)?;
    let virtual_nodes = count(3, Ring::recommended_virtual_nodes(shards as usize))?;

    // The first disk of each of three controllers is twice as large as the others.
    let member = |id: u32| {
        let weight = if id < 3 { 2.0 } else { 1.0 };
        Member::new(ShardId(id)).zone(["nvme", "sata", "usb"][id as usize % 3]).weight(weight)
    };
    let ring = Ring::plan((0..shards).map(member), 2, virtual_nodes, Partitioner::Whole)?;
    let wider = ring.replan((0..=shards).map(member), 2)?;

    std::fs::create_dir_all(&directory)?;
    std::fs::write(directory.join("ring.svg"), ring.to_svg())?;
    std::fs::write(directory.join("ring-moves.svg"), ring.to_svg_of_moves(&wider)?)?;
    let copies: usize = ring.moves_to(&wider)?.iter().map(|step| step.gained.len()).sum();
    println!("{shards} shards; one more takes {copies} of {} copies", 2 * virtual_nodes);
    Ok(())
}
