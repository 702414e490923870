//! Clocks that go back, or do not go on.

use super::*;

#[test]
fn a_time_that_the_clock_has_shown_before_it_went_back_is_refused() {
    for midnight in [0, MIDNIGHT] {
        let told = Told::since(midnight);
        told.checkpoint(1, 20, 10);
        told.piece((11, 30), &[(100, 20), (200, 30)]);
        told.piece((31, 40), &[(50, 40)]);
        told.refused(150, &["sequence 30", "00:03:20", "sequence 40", "00:00:50", "went back"]);
        assert_eq!(told.at(30).unwrap(), 10);
        // Of the clock alone, neither is later.
        told.refused(60, &["sequence 40"]);
        told.refused(300, &["sequence 30", "sequence 40"]);
        told.piece((41, 50), &[(201, 50)]);
        assert_eq!(told.at(300).unwrap(), 50);
    }
}

/// It is not forgotten where nothing was written from before it went back to after.
#[test]
fn a_time_that_the_clock_has_shown_before_it_went_back_in_a_rest_is_refused() {
    let told = Told::new();
    told.checkpoint(1, 20, 4);
    let mut marks = Vec::new();
    for (time, seq) in [(100, 5), (200, 5), (50, 5), (60, 6), (120, 7)] {
        archive::note(&mut marks, Mark { time: told.millis(time), seq: Seq(seq) });
    }
    let marks: Vec<(u64, u64)> = marks.iter().map(|mark| (mark.time, mark.seq.0)).collect();
    told.piece_at((5, 7), &marks);
    told.refused(130, &["sequence 5", "00:03:20", "sequence 7", "went back"]);
    told.refused(55, &["sequence 5", "went back"]);
    assert_eq!(told.at(30).unwrap(), 4);
}

#[test]
fn a_time_before_a_checkpoint_that_the_clock_shows_too_early_is_refused() {
    let told = Told::new();
    told.checkpoint(1, HOUR, 100);
    told.checkpoint(2, 5 * HOUR, 200);
    told.checkpoint(3, 2 * HOUR, 300);
    assert_eq!(told.at(HOUR + 60).unwrap(), 100);
    told.refused(4 * HOUR, &["sequence 200", "sequence 300", "went back"]);
    told.refused(6 * HOUR, &["sequence 200", "sequence 300", "went back"]);
    told.checkpoint(4, 5 * HOUR + 1, 400);
    assert_eq!(told.at(6 * HOUR).unwrap(), 400);
}

#[test]
fn a_clock_that_is_put_right_by_a_second_makes_no_time_unknown() {
    let told = Told::new();
    told.checkpoint_at(1, told.millis(1), 10);
    let marks = [(2_000, 20), (3_000, 30), (1_900, 40), (4_000, 50)];
    let marks = marks.map(|(time, seq)| (told.millis(0) + time, seq));
    told.piece_at((11, 50), &marks);
    // Not what was written later than at any moment at which the clock showed it.
    assert_eq!([1, 2, 3, 4, 5].map(|time| told.at(time).unwrap()), [10, 20, 40, 50, 50]);
}

/// A machine without a clock that goes on while it is off, until it has asked another.
#[test]
fn times_in_1970_say_nothing_of_those_in_between_and_spoil_none_before() {
    let told = Told::new();
    told.checkpoint(1, HOUR, 100);
    told.piece((90, 500), &[(2 * HOUR, 100), (2 * HOUR + 1, 300), (3 * HOUR, 300), (3 * HOUR + 1, 500)]);
    told.piece_at((501, 700), &[(70_000, 500), (80_000, 600), (told.millis(9 * HOUR), 700)]);
    assert_eq!(told.at(2 * HOUR + 30).unwrap(), 300);
    assert_eq!(told.at(3 * HOUR + 30).unwrap(), 500);
    told.refused(8 * HOUR, &["sequence 500", "sequence 600", "1970"]);
    assert_eq!(told.at(9 * HOUR).unwrap(), 700);
    told.checkpoint_at(2, 60_000, 800);
    assert_eq!(told.at(9 * HOUR + 30).unwrap(), 700);
    told.refused(10 * HOUR, &["sequence 700", "sequence 800", "1970"]);
}

/// Nor does it say that the clock went back.
#[test]
fn a_time_in_1970_in_the_middle_of_a_rest_leaves_the_times_before_as_they_were() {
    let told = Told::new();
    told.checkpoint(1, HOUR, 100);
    told.piece_at((90, 200), &[(told.millis(3 * HOUR), 100), (70_000, 100), (told.millis(4 * HOUR), 200)]);
    assert_eq!(told.at(2 * HOUR).unwrap(), 100);
}

/// Where nothing was archived, and a checkpoint by a wrong clock may be the one that is asked for.
#[test]
fn a_checkpoint_whose_time_is_unknown_is_not_passed_over_for_one_that_is_older() {
    let told = Told::new();
    told.checkpoint_at(1, 60_000, 100);
    told.refused(HOUR, &["sequence 100", "1970"]);
    told.checkpoint(2, 2 * HOUR, 200);
    told.refused(HOUR, &["sequence 100", "1970"]);
    told.checkpoint_at(3, 60_000, 300);
    told.refused(9 * HOUR, &["sequence 200", "sequence 300", "1970"]);
    told.checkpoint(4, 10 * HOUR, 400);
    told.refused(9 * HOUR, &["sequence 200", "sequence 300", "1970"]);
    assert_eq!(told.at(11 * HOUR).unwrap(), 400);
}

/// Old pieces are many, and each is read whole.
#[test]
fn pieces_behind_a_checkpoint_of_days_before_are_not_read_for_a_time() {
    let told = Told::new();
    let days = |days: u64| days * 24 * HOUR;
    told.checkpoint(1, 0, 100);
    told.checkpoint(2, days(1), 200);
    told.piece((201, 300), &[(days(3), 300)]);
    // The clock had gone ahead, and nobody who asks for a time of now is to be bothered for ever.
    told.piece((101, 200), &[(days(900), 150), (days(1), 200)]);
    assert_eq!(told.at(days(3)).unwrap(), 300);
    told.refused(days(1) + 5, &["went back"]);
}
