//! Times of pieces of earlier releases: the time of a piece's end may be one that was noted when the log had come to more.

use super::*;

/// It was archived in part, with the time that had been noted of the whole for the end of the part, and another process archived the rest.
#[test]
fn a_time_of_the_end_of_an_old_piece_is_refused_where_more_was_archived_behind_it() {
    for later_is_old in [false, true] {
        let told = Told::new();
        told.checkpoint(1, HOUR, 100);
        told.old_piece((90, 500), &[(2 * HOUR, 100), (13 * HOUR, 500)]);
        // There is no more of it.
        for time in [13 * HOUR, 13 * HOUR + 5, 18 * HOUR] {
            assert_eq!(told.at(time).unwrap(), 500, "{time}");
        }
        let later = if later_is_old { Told::old_piece } else { Told::piece };
        later(&told, (501, 2_000), &[(19 * HOUR, 2_000)]);
        for time in [13 * HOUR, 13 * HOUR + 5, 18 * HOUR] {
            told.refused(time, &["sequence 500", "2026-03-01T13:00:00", "sequence 2000", "2026-03-01T19"]);
        }
        told.refused(12 * HOUR, &["sequence 100", "sequence 500"]);
        assert_eq!(told.at(2 * HOUR + 5).unwrap(), 100);
        assert_eq!(told.at(19 * HOUR).unwrap(), 2_000);
        // What lies behind that is known to be more.
        told.piece((2_001, 2_001), &[(20 * HOUR, 2_001)]);
        match later_is_old {
            true => told.refused(19 * HOUR, &["sequence 2000", "sequence 2001"]),
            false => assert_eq!(told.at(19 * HOUR).unwrap(), 2_000),
        }
    }
}

/// The archiver had noted the time a second before.
#[test]
fn a_time_a_moment_behind_what_an_old_piece_is_sure_of_is_found() {
    let told = Told::new();
    told.checkpoint(1, HOUR, 100);
    told.old_piece((90, 500), &[(2 * HOUR, 100), (13 * HOUR, 490), (13 * HOUR + 1, 500)]);
    told.piece((501, 2_000), &[(19 * HOUR, 2_000)]);
    assert_eq!(told.at(13 * HOUR).unwrap(), 490);
    for time in [1, 2, 60] {
        assert_eq!(told.at(13 * HOUR + time).unwrap(), 500, "{time}");
    }
    told.refused(13 * HOUR + 61, &["sequence 500", "sequence 2000"]);
}

/// What has been noted later of the same sequence shows that it had come to no more.
#[test]
fn a_time_of_the_end_of_an_old_piece_is_that_where_the_store_is_known_to_have_rested() {
    let told = Told::new();
    told.checkpoint(1, HOUR, 100);
    told.old_piece((90, 500), &[(2 * HOUR, 100), (13 * HOUR, 500)]);
    told.piece((501, 2_000), &[(18 * HOUR, 500), (19 * HOUR, 2_000)]);
    for time in [13 * HOUR, 14 * HOUR, 18 * HOUR + 5] {
        assert_eq!(told.at(time).unwrap(), 500, "{time}");
    }
    told.refused(18 * HOUR + 61, &["sequence 500", "sequence 2000"]);
}

/// The time of an old piece's end does not show that nothing was written up to then.
#[test]
fn a_time_between_a_checkpoint_and_the_end_of_an_old_piece_at_it_is_refused() {
    let told = Told::new();
    told.checkpoint(1, HOUR, 100);
    told.checkpoint(2, 3 * HOUR, 500);
    told.old_piece((90, 500), &[(2 * HOUR, 100), (13 * HOUR, 500)]);
    assert_eq!(told.at(10 * HOUR).unwrap(), 500);
    told.piece((501, 2_000), &[(19 * HOUR, 2_000)]);
    told.refused(10 * HOUR, &["sequence 500", "sequence 2000"]);
    told.refused(13 * HOUR, &["sequence 500", "sequence 2000"]);
    assert_eq!(told.at(3 * HOUR + 5).unwrap(), 500);
}

/// More than the piece had was there by that time, and none of it counts as what was there.
#[test]
fn a_checkpoint_behind_the_end_of_an_old_piece_does_not_make_its_time_sure() {
    let told = Told::new();
    told.checkpoint(1, HOUR, 100);
    told.old_piece((90, 500), &[(2 * HOUR, 100), (13 * HOUR, 500)]);
    told.checkpoint(2, 19 * HOUR, 900);
    told.refused(13 * HOUR, &["sequence 500", "sequence 900"]);
    assert_eq!(told.at(19 * HOUR).unwrap(), 900);
}
