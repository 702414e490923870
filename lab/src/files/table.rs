//! The tables of a run.

use super::Trial;
use super::fault::{Fault, Target};

pub fn print(done: &[Trial]) {
    let row = |name: &str, of: Vec<&Trial>| {
        let met: Vec<&&Trial> = of.iter().filter(|trial| trial.struck > 0).collect();
        let struck: u64 = met.iter().map(|trial| trial.struck).sum();
        let acknowledged: u64 = met.iter().map(|trial| trial.acknowledged).sum();
        let refused: u64 = met.iter().map(|trial| trial.refused).sum();
        let stopped = met.iter().filter(|trial| trial.stopped).count();
        let broken = of.iter().filter(|trial| trial.broken.is_some()).count();
        let (all, met) = (of.len(), met.len());
        println!("| {name} | {all} | {met} | {struck} | {acknowledged} | {refused} | {stopped} | {broken} |");
    };
    let head = |of: &str| {
        println!(
            "\n| {of} | trials | met | operations hit | batches acknowledged | refused | stopped, saying why | broken |"
        );
        println!("|---|---:|---:|---:|---:|---:|---:|---:|");
    };
    head("files");
    for target in Target::ALL {
        row(target.name(), done.iter().filter(|trial| trial.target == target).collect());
    }
    head("fault");
    for fault in Fault::ALL {
        row(fault.name(), done.iter().filter(|trial| trial.fault == fault).collect());
    }
    println!();
}
