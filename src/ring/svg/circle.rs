//! Which colours a circle is made of.
//!
//! Where there are more virtual nodes than can be seen, the circle is cut into sectors, and inside a sector virtual
//! nodes of the same colour lie together: proportions are kept, and the number of arcs is bounded.
//!
//! Invariant: the arcs follow one another and cover the circle.

/// A stretch of a circle of one colour, in units of which `of` make a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run<T> {
    pub start: u64,
    pub end: u64,
    pub colour: T,
}

/// How fine a circle is drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Detail {
    /// So many parts are drawn one by one, and about so many arcs at most.
    pub arcs: usize,
    /// The most sectors, if they are not.
    pub sectors: usize,
}

/// The arcs for these colours, one for each equal part of the turn, with so many kinds of them.
pub(super) fn runs<T: Copy + Ord>(colours: &[T], kinds: usize, detail: Detail) -> Vec<Run<T>> {
    let sector = sector(colours.len(), kinds, detail);
    let mut runs: Vec<Run<T>> = Vec::new();
    let mut sorted = colours.to_vec();
    if sector > 1 {
        sorted.chunks_mut(sector).for_each(<[T]>::sort_unstable);
    }
    for (at, colour) in sorted.into_iter().enumerate() {
        let at = at as u64;
        match runs.last_mut() {
            Some(last) if last.colour == colour => last.end = at + 1,
            _ => runs.push(Run { start: at, end: at + 1, colour }),
        }
    }
    runs
}

/// How many parts make a sector: 1 if all can be drawn as they are.
pub(super) fn sector(parts: usize, kinds: usize, detail: Detail) -> usize {
    if parts <= detail.arcs {
        return 1;
    }
    parts.div_ceil((detail.arcs / kinds.max(1)).clamp(1, detail.sectors))
}
