//! What recovery does where a segment's frames stop: the lettered table, as data. Pure.
//!
//! Invariant: every observation meets exactly one row (a test tries them all).

/// What stopped the reading of a segment, and what else is known. `e` is the sequence that was expected there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// A later session says where this one ended: below its own first sequence.
    pub limit: Limit,
    pub stop: Stop,
    /// Something valid further on says that a frame at or above `e` was written.
    pub reached: bool,
    /// Something valid says that `e` was synced.
    pub proven: bool,
    /// The shards have applied `e`, or an archive has it, which they do only after it was synced.
    pub applied: bool,
    /// The machine has not been started since the segment was written, nor has a write or a sync failed, so that no write can have
    /// been lost.
    pub same_boot: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// No later session.
    None,
    /// A later session begins at `e`.
    Here,
    /// A later session begins above `e`.
    Above,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// No frame with sequence `e`: blank, torn, stale, damaged, or another sequence.
    Open,
    /// A valid end marker, and the next segment is there and fits.
    EndFollowed,
    /// A valid end marker, and the next segment is missing or does not fit.
    EndAlone,
}

/// The table's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Case {
    /// The session is complete: go on with the next one.
    A,
    /// The session is cut short, and the next one proves that it was longer: damage.
    B,
    /// The segment is full: go on with the next one.
    C,
    /// The segment is full, and the next one is gone: damage.
    D,
    /// The end of the log, clean or torn by the write that never returned: cut here.
    E,
    /// Later writes are there although the machine never stopped: damage.
    F,
    /// Later writes prove that `e` was synced before the machine stopped: damage.
    G,
    /// A hole among writes that were never synced when the machine stopped: cut here.
    H,
    /// The log would end here, but the shards have applied more, or an archive has more: damage.
    I,
}

/// Whether a row applies.
type Pattern = fn(&Observation) -> bool;

/// The table.
pub const TABLE: [(Case, Pattern); 9] = [
    (Case::A, |o| o.limit == Limit::Here),
    (Case::B, |o| o.limit == Limit::Above && o.stop == Stop::Open),
    (Case::C, |o| o.limit != Limit::Here && o.stop == Stop::EndFollowed),
    (Case::D, |o| o.limit != Limit::Here && o.stop == Stop::EndAlone),
    (Case::E, |o| last(o) && !o.applied && !o.proven && !o.reached),
    (Case::F, |o| last(o) && o.reached && o.same_boot),
    (Case::G, |o| last(o) && o.proven && !(o.reached && o.same_boot)),
    (Case::H, |o| last(o) && !o.applied && !o.proven && o.reached && !o.same_boot),
    (Case::I, |o| last(o) && o.applied && !o.proven && !(o.reached && o.same_boot)),
];

fn last(o: &Observation) -> bool {
    o.limit == Limit::None && o.stop == Stop::Open
}

impl Case {
    pub fn letter(self) -> char {
        match self {
            Case::A => 'A',
            Case::B => 'B',
            Case::C => 'C',
            Case::D => 'D',
            Case::E => 'E',
            Case::F => 'F',
            Case::G => 'G',
            Case::H => 'H',
            Case::I => 'I',
        }
    }

    /// The row that `o` meets. The table leaves no gap; if it did, damage would be the careful answer.
    pub fn of(o: &Observation) -> Case {
        TABLE.iter().find(|(_, meets)| meets(o)).map_or(Case::B, |(case, _)| *case)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Observation> {
        let mut all = Vec::new();
        for limit in [Limit::None, Limit::Here, Limit::Above] {
            for stop in [Stop::Open, Stop::EndFollowed, Stop::EndAlone] {
                for bits in 0..16 {
                    let [reached, proven, applied, same_boot] = [1, 2, 4, 8].map(|bit| bits & bit != 0);
                    all.push(Observation { limit, stop, reached, proven, applied, same_boot });
                }
            }
        }
        all
    }

    #[test]
    fn every_observation_meets_exactly_one_row_and_every_row_is_met() {
        let mut met = std::collections::BTreeSet::new();
        for o in all() {
            let rows: Vec<Case> =
                TABLE.iter().filter(|(_, meets)| meets(&o)).map(|(case, _)| *case).collect();
            assert_eq!(rows.len(), 1, "{o:?} meets {rows:?}");
            assert_eq!(rows[0], Case::of(&o));
            met.extend(rows);
        }
        assert_eq!(met.len(), TABLE.len());
    }

    #[test]
    fn the_log_is_never_cut_where_something_acknowledged_may_have_been() {
        for o in all() {
            let cut = matches!(Case::of(&o), Case::E | Case::H);
            let acknowledged = o.proven || o.applied || (o.reached && o.same_boot) || o.limit == Limit::Above;
            assert!(!(cut && acknowledged), "{o:?}");
        }
    }
}
