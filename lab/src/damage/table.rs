//! The tables of a run.

use super::kind::Kind;
use super::records::Found;
use super::{Subject, Trial};

fn count(trials: &[&Trial], found: Found) -> usize {
    trials.iter().filter(|trial| trial.found == found).count()
}

pub fn print(done: &[Trial]) {
    let of = |is: &dyn Fn(&Trial) -> bool| done.iter().filter(|trial| is(trial)).collect::<Vec<_>>();
    let peers: Vec<Subject> = (0..super::peers::NAMES.len()).map(Subject::Peer).collect();
    println!(
        "\nOf each: trials: wrong / silently missing / dead (panic, abort, hang) / an error / nothing lost.\n"
    );
    let names: Vec<&str> = peers.iter().map(|peer| peer.name()).collect();
    println!("| damage | {} | Annulus, R = 2, its store | Annulus, backups |", names.join(" | "));
    println!("|---|---|---|---|---|---|");
    for kind in Kind::ALL {
        let store = of(&|trial| trial.kind == kind && matches!(trial.subject, Subject::Store(_)));
        let backup = of(&|trial| trial.kind == kind && matches!(trial.subject, Subject::Backup(_)));
        let each = peers.iter().map(|peer| of(&|trial| trial.kind == kind && trial.subject == *peer));
        let cells: Vec<String> = each.chain([store, backup]).map(|trials| cell(&trials)).collect();
        println!("| {} | {} |", kind.name(), cells.join(" | "));
    }
    println!(
        "\n| file of Annulus | trials | wrong or silently missing | panic, hang | refused, naming the file | nothing lost, healed | broken |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|");
    for subject in Subject::all().into_iter().filter(|subject| !matches!(subject, Subject::Peer(_))) {
        let trials = of(&|trial| trial.subject == subject);
        let silent = count(&trials, Found::Wrong) + count(&trials, Found::Missing);
        let [dead, error, whole] =
            [Found::Dead, Found::Error, Found::Whole].map(|found| count(&trials, found));
        let broken = trials.iter().filter(|trial| !subject.is_kept(trial.kind, trial.found)).count();
        let (name, all) = (subject.name(), trials.len());
        println!("| {name} | {all} | {silent} | {dead} | {error} | {whole} | {broken} |");
    }
    println!();
}

fn cell(trials: &[&Trial]) -> String {
    let counts = Found::ALL.map(|found| count(trials, found).to_string());
    format!("{}: {}", trials.len(), counts.join(" / "))
}
