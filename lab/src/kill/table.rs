//! The table of a run.

use super::Kill;
use crate::report::middle_and_most;

pub fn print(kills: &[Kill], modes: &[&str]) {
    println!(
        "\n| killed while | kills, R = 1 | R = 2 | R = 3 | batches acknowledged | opened afterwards, ms, median / most | broken |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|");
    let row = |name: &str, of: Vec<&Kill>| {
        let each = [1, 2, 3].map(|replicas| {
            of.iter().filter(|kill| kill.replicas == replicas).map(|kill| kill.kills).sum::<usize>()
        });
        let acknowledged: u64 = of.iter().map(|kill| kill.acknowledged).sum();
        let broken = of.iter().filter(|kill| kill.broken.is_some()).count();
        let opened = middle_and_most(of.iter().filter_map(|kill| kill.opened));
        let [one, two, three] = each;
        println!("| {name} | {one} | {two} | {three} | {acknowledged} | {opened} | {broken} |");
    };
    for mode in modes {
        row(mode, kills.iter().filter(|kill| kill.mode == *mode).collect());
    }
    row("all", kills.iter().collect());
    let (interrupted, whole) =
        kills.iter().fold((0, 0), |(a, b), kill| (a + kill.restores.0, b + kill.restores.1));
    println!(
        "\nOf the directories that were restored into {interrupted} were no stores and were restored again, {whole} were whole.\n"
    );
}
