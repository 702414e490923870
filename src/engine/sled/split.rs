//! Where to cut records into pages.
//!
//! Invariants: no cut parts versions of one key; every piece has a record; the pieces are near the size asked for
//! unless single keys are larger.

/// How the records came to be too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Growth {
    /// Among the old ones: more will come anywhere, so every piece gets room (halves, as in a B-tree).
    Inside,
    /// After the old ones: more will come at the end, so the pieces are filled.
    AtEnd,
}

/// The indexes at which pieces start, the first being 0. `costs` are the records' bytes, `overhead` a page's own,
/// `cuttable(i)` whether a piece may start at `i`.
pub(super) fn cut(
    costs: &[u32],
    overhead: usize,
    page_bytes: usize,
    growth: Growth,
    cuttable: impl Fn(usize) -> bool,
    starts: &mut Vec<usize>,
) {
    starts.clear();
    starts.push(0);
    let total: usize = costs.iter().map(|cost| *cost as usize).sum();
    let room = page_bytes.saturating_sub(overhead).max(1);
    if total <= room {
        return;
    }
    let pieces = match growth {
        Growth::AtEnd => 0,
        Growth::Inside if total > 3 * room => total.div_ceil(room - room / 16),
        Growth::Inside => total.div_ceil(room),
    };
    let (mut piece, mut before) = (0, 0);
    for (index, cost) in costs.iter().enumerate() {
        let cost = *cost as usize;
        let full = match growth {
            Growth::AtEnd => piece + cost > room - room / 16,
            // A record that lies astride a boundary goes where most of it lies, unless the piece would be too large.
            Growth::Inside => {
                let boundary = starts.len() < pieces && (before + cost / 2) * pieces >= total * starts.len();
                boundary || piece + cost > room
            }
        };
        if piece > 0 && full && cuttable(index) {
            starts.push(index);
            piece = 0;
        }
        piece += cost;
        before += cost;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pieces(costs: &[u32], page: usize, growth: Growth) -> Vec<usize> {
        let mut starts = Vec::new();
        cut(costs, 10, page, growth, |_| true, &mut starts);
        let ends = starts[1..].iter().copied().chain([costs.len()]);
        starts.iter().zip(ends).map(|(from, to)| costs[*from..to].iter().sum::<u32>() as usize).collect()
    }

    #[test]
    fn random_growth_halves_and_sequential_growth_fills() {
        assert_eq!(pieces(&[10; 100], 1010, Growth::Inside), [1000]);
        assert_eq!(pieces(&[10; 101], 1010, Growth::Inside), [500, 510]);
        assert_eq!(pieces(&[10; 101], 1010, Growth::AtEnd), [930, 80]);
    }

    proptest! {
        #[test]
        fn pieces_are_whole_bounded_and_never_part_a_key(
            costs in proptest::collection::vec(1u32..400, 1..200), page in 200usize..2000, at_end: bool, every in 1usize..4,
        ) {
            let growth = if at_end { Growth::AtEnd } else { Growth::Inside };
            let mut starts = Vec::new();
            cut(&costs, 20, page, growth, |index| index % every == 0, &mut starts);
            prop_assert_eq!(starts[0], 0);
            prop_assert!(starts.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(starts.iter().all(|start| start % every == 0 && *start < costs.len()));
            let ends = starts[1..].iter().copied().chain([costs.len()]);
            for (from, to) in starts.iter().zip(ends) {
                let size: u32 = costs[*from..to].iter().sum();
                // No cut was possible within the last `every` records.
                prop_assert!(size as usize <= page - 20 || to - from <= every || size as usize <= page - 20 + 400 * every);
            }
        }
    }
}
