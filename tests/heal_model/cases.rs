//! What the model has found, as it was when it had been made small: each of these failed once; the last one with a planted bug, which so few random
//! cases as a run has may miss.

use super::faults::{Harm, OPERATIONS};
use super::hanging::outcome_if_the_machine_runs;
use super::{Shape, Step, Wish, run};
use annulus::testing::EngineOperation as Op;

fn shape(shards: usize, replicas: usize, patient: bool) -> Shape {
    Shape { shards, replicas, patient, may_hang: false, seed: 0 }
}

fn operation(wanted: Op) -> usize {
    OPERATIONS.iter().position(|o| *o == wanted).unwrap()
}

fn removal(n: u8) -> Step {
    Step::Commit(vec![(n, None)], false)
}

/// Operations of the disk on any file of the shard's directory.
fn disk(operation: usize, error: usize) -> Harm {
    Harm::Disk { operation, error, file: 2, after: 0, times: None, short: false }
}

#[test]
fn a_shard_that_is_gone_after_it_failed_again_and_again() {
    let steps = [
        Step::Fault(0, disk(2, 0)),
        removal(0),
        removal(0),
        Step::Freeze,
        Step::Heal(1),
        Step::FlushOldest,
        Step::Heal(9),
        Step::Fault(0, Harm::Erased),
    ];
    run(&shape(3, 2, false), &steps);
    let steps = [
        removal(25),
        Step::Fault(26, Harm::Fails(operation(Op::Apply))),
        Step::Flush,
        Step::Heal(3),
        Step::Heal(2),
        Step::Heal(2),
        Step::Heal(2),
        Step::Fault(0, Harm::Erased),
    ];
    run(&shape(3, 2, false), &steps);
}

#[test]
fn a_shard_that_is_gone_after_it_could_not_be_written_to() {
    let steps = [Step::Fault(0, disk(0, 1)), Step::Scrub(1), Step::Fault(0, Harm::Erased)];
    run(&shape(3, 2, false), &steps);
}

#[test]
fn records_that_are_lost_between_two_openings_of_a_store_that_crashed_before() {
    let steps = [
        removal(0),
        Step::Commit(vec![(7, Some((1, 9))), (23, Some((2, 9)))], true),
        Step::Kill,
        Step::Fault(0, Harm::Page(7, 1)),
        Step::Reopen,
        Step::Recover,
        Step::Silent(0, vec![(7, 0), (23, 0)]),
        Step::Reopen,
    ];
    for shard in 0..3 {
        let mut steps = steps.clone();
        steps[6] = Step::Silent(shard, vec![(7, 0), (23, 0)]);
        run(&shape(3, 2, false), &steps);
    }
}

#[test]
fn records_that_a_scrub_found_to_be_lost_before_an_opening() {
    let steps = [
        Step::Commit(vec![(167, None), (0, None)], false),
        Step::Silent(118, vec![(167, 0)]),
        Step::Commit(vec![(23, Some((0, 0))), (0, None)], false),
        Step::Silent(0, vec![(183, 26)]),
        Step::Scrub(9),
        removal(0),
        Step::Reopen,
        removal(0),
    ];
    run(&shape(8, 2, false), &steps);
}

#[test]
fn a_store_that_is_closed_after_a_faulty_shard_has_left() {
    let steps = [
        Step::Fault(52, Harm::Panics(operation(Op::Open), 1)),
        Step::Change(vec![Wish::Drain(43)]),
        removal(0),
        removal(0),
        Step::Fault(0, Harm::Panics(operation(Op::Close), 1)),
        Step::ChangeSteps(3),
        Step::Reopen,
    ];
    run(&shape(3, 2, false), &steps);
}

#[test]
fn a_power_cut_of_an_unsynced_commit_while_a_shard_cannot_be_opened() {
    let steps = [
        Step::Scrub(5),
        Step::Fault(0, Harm::Page(0, 1)),
        Step::Change(vec![Wish::Add(0, 1)]),
        Step::Fault(0, Harm::FailsTimes(operation(Op::Open), 1)),
        removal(1),
        Step::Flush,
        Step::Commit(vec![(0, Some((0, 240))), (0, None), (0, None), (0, None)], false),
        Step::PowerCut(1881475840967439079),
        removal(0),
        Step::Reopen,
    ];
    run(&shape(4, 2, true), &steps);
}

#[test]
fn a_page_that_is_damaged_twice() {
    let steps = [
        Step::Commit(vec![(111, Some((0, 0)))], false),
        Step::Commit(vec![(0, None), (69, Some((0, 0)))], false),
        Step::Commit(vec![(235, Some((0, 0))), (133, Some((0, 0))), (0, None)], false),
        Step::Recover,
        Step::Fault(98, Harm::Disk { operation: 0, error: 0, file: 0, after: 0, times: None, short: false }),
        Step::Fault(0, Harm::Page(160, 1)),
        Step::Fault(0, Harm::Page(0, 2)),
        Step::Fault(0, Harm::Fails(operation(Op::Get))),
    ];
    run(&shape(5, 2, false), &steps);
}

/// Who reads from it waited for a minute then, whatever had been said.
#[test]
fn a_shard_that_was_taken_back_is_waited_for_no_longer_than_before() {
    let hanging = Shape { may_hang: true, ..shape(3, 2, false) };
    for shard in 0..3 {
        let steps = [
            Step::Commit((0..160).map(|n| (n, Some((n, 40)))).collect(), false),
            Step::Fault(shard, Harm::FailsTimes(operation(Op::Apply), 1)),
            Step::Flush,
            Step::Heal(19),
            Step::Heal(19),
            Step::Fault(shard, Harm::Hangs(operation(Op::Get))),
            Step::Check,
        ];
        outcome_if_the_machine_runs(&hanging, &steps).unwrap();
    }
}

/// It was given up, and is opened again when that answers, and not before: whoever opens it would wait for what hangs.
#[test]
fn a_shard_that_hangs_is_not_opened_again_while_it_does() {
    let hanging = Shape { may_hang: true, ..shape(3, 2, false) };
    for what in [Op::Apply, Op::Sync, Op::Get] {
        let steps = [
            Step::Commit((0..160).map(|n| (n, Some((n, 40)))).collect(), false),
            Step::Fault(1, Harm::Hangs(operation(what))),
            Step::Flush,
            Step::Check,
            Step::Heal(19),
            Step::Heal(19),
            Step::Check,
        ];
        outcome_if_the_machine_runs(&hanging, &steps).unwrap();
    }
}
