//! Checkpoints of what was given up for an older copy of the store.

use super::*;

/// An older copy of the store was put back after the second one, and went on; the third is of that.
fn put_back() -> Told {
    let told = Told::new();
    told.checkpoint(1, HOUR, 100);
    told.checkpoint(2, 2 * HOUR, 200);
    told.checkpoint(3, 5 * HOUR, 150);
    told
}

#[test]
fn a_checkpoint_of_what_was_given_up_for_an_older_copy_is_in_no_later_moment() {
    let told = put_back();
    assert_eq!(told.at(6 * HOUR).unwrap(), 150);
    assert_eq!(told.at(HOUR + 60).unwrap(), 100);
    // What came after is not laid over it, either.
    told.piece((101, 300), &[(8 * HOUR, 300)]);
    let at = |number, seq| {
        let named = told.repo.load(CheckpointId(number))?;
        let point = point(&told.repo, named, At::Seq(Seq(seq)), None, &Watch::default())?;
        Ok::<_, crate::Error>((point.body.id.0, point.until))
    };
    assert_eq!(at(3, 300).unwrap(), (3, Some(Seq(300))));
    assert_eq!(at(3, 200).unwrap(), (3, Some(Seq(200))));
    assert_eq!(at(1, 300).unwrap(), (1, Some(Seq(300))));
    for seq in [200, 300] {
        let error = at(2, seq).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
        assert!(error.advice().is_some_and(|advice| advice.contains("itself")), "{error}");
    }
}

/// It is of that time, and of no moment that anything else leads to.
#[test]
fn a_time_at_which_a_checkpoint_was_taken_that_was_given_up_names_that_checkpoint() {
    let told = put_back();
    for time in [2 * HOUR, 4 * HOUR] {
        let error = told.at(time).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
        assert!(error.to_string().contains("checkpoint 2"), "{error}");
    }
}

/// No restore to a moment begins with it.
#[test]
fn a_checkpoint_of_what_was_given_up_closes_no_gap_for_a_verification() {
    let told = put_back();
    told.piece((101, 160), &[(6 * HOUR, 160)]);
    told.piece((181, 220), &[(8 * HOUR, 220)]);
    let found = told.repo.verify_all().unwrap();
    let gaps: Vec<_> = found.damage.iter().map(|damage| (&damage.loss, damage.error.kind())).collect();
    let missing = Loss::Archived { from: Seq(161), to: Some(Seq(180)) };
    assert_eq!(gaps, [(&missing, ErrorKind::Gap)]);
    assert_eq!((found.checkpoints, found.damage[0].checkpoint), (3, CheckpointId(3)));
    told.checkpoint(4, 9 * HOUR, 200);
    assert!(told.repo.verify_all().unwrap().is_whole());
}

impl Told {
    fn numbers(&self) -> Vec<u64> {
        self.repo.ids().unwrap().iter().map(|id| id.0).collect()
    }

    /// This checkpoint is not deleted for want of these to have gone before.
    fn keeps(&self, number: u64, shown: &[&str]) {
        let before = self.numbers();
        let error = self.repo.delete(CheckpointId(number)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        let advice = error.advice().unwrap_or_default();
        assert!(shown.iter().all(|shown| advice.contains(shown)), "{error}: {advice}");
        assert_eq!(self.numbers(), before);
    }
}

/// Without it the other would count again, and what came later would be laid over it.
#[test]
fn a_checkpoint_that_shows_another_to_be_of_what_was_given_up_is_deleted_after_that_one_alone() {
    let told = put_back();
    told.keeps(3, &["checkpoint 2"]);
    told.checkpoint(4, 6 * HOUR, 190);
    told.checkpoint(5, 7 * HOUR, 300);
    // Either of the two shows it, and the first one, which has less, goes with all that lies before.
    for number in [1, 3] {
        assert_eq!(told.repo.delete(CheckpointId(number)).unwrap().checkpoints, [CheckpointId(number)]);
    }
    told.keeps(4, &["checkpoint 2"]);
    assert_eq!(told.at(6 * HOUR).unwrap(), 190);
    for number in [2, 4, 5] {
        told.repo.delete(CheckpointId(number)).unwrap();
    }
    assert!(told.numbers().is_empty());
}

/// What cannot be read shows nothing, and is what is to be got rid of.
#[test]
fn a_checkpoint_that_cannot_be_read_is_deleted_whatever_it_showed() {
    let mut told = put_back();
    told.lose(3, ErrorKind::Corruption);
    told.repo.delete(CheckpointId(3)).unwrap();
    assert_eq!(told.numbers(), [1, 2]);
}

#[test]
fn a_prune_that_keeps_a_checkpoint_of_what_was_given_up_keeps_the_one_that_shows_that_it_is() {
    let told = put_back();
    told.checkpoint(4, 5 * HOUR + 60, 300);
    let pruned =
        |rule| told.repo.prune(rule).unwrap().checkpoints.iter().map(|id| id.0).collect::<Vec<u64>>();
    assert_eq!(pruned(Retention::keep_last(0).hourly(2)), [1]);
    assert_eq!(told.numbers(), [2, 3, 4]);
    let error = told.at(4 * HOUR).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    // With the last that it shows it goes.
    assert_eq!(pruned(Retention::keep_last(0).hourly(1)), [2, 3]);
}
