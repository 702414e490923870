//! Whether a history can be explained: an order of its operations, in which each takes effect between its call and its return,
//! that gives every read what it returned (linearizability, by the search of Wing and Gong with Lowe's table of states that
//! led nowhere), one key at a time; and for what reads several keys at once, a single moment that gives all of them.

use std::collections::HashSet;

/// A value that is written once in a history; none: there is no record.
pub type Value = Option<u64>;

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum What {
    /// With the version that the store gave it.
    Write(Value, u64),
    Read(Value),
}

/// One operation on one key, between two ticks of a clock that all threads share.
#[derive(Debug, Clone, Copy)]
pub struct Op {
    pub key: usize,
    pub called: u64,
    pub returned: u64,
    pub what: What,
}

/// All that a read of several keys at once returned.
#[derive(Debug, Clone)]
pub struct View {
    pub called: u64,
    pub returned: u64,
    pub values: Vec<Value>,
}

/// Checks the operations on one key, at most 64, from the value that it had before on.
pub fn is_linearizable(initial: Value, ops: &[Op]) -> bool {
    assert!(ops.len() <= 64);
    let all = if ops.len() == 64 { u64::MAX } else { (1 << ops.len()) - 1 };
    let mut dead: HashSet<(u64, Value)> = HashSet::new();
    let mut stack = vec![(0_u64, initial)];
    while let Some((done, value)) = stack.pop() {
        if done == all {
            return true;
        }
        if !dead.insert((done, value)) {
            continue;
        }
        let left = || ops.iter().enumerate().filter(|(i, _)| done & (1 << i) == 0);
        let first_return = left().map(|(_, op)| op.returned).min().unwrap_or(u64::MAX);
        for (i, op) in left().filter(|(_, op)| op.called <= first_return) {
            match op.what {
                What::Write(next, _) => stack.push((done | 1 << i, next)),
                What::Read(seen) if seen == value => stack.push((done | 1 << i, value)),
                What::Read(_) => {}
            }
        }
    }
    false
}

/// Whether the versions are an order of the writes that fits the times at which they were made, and no two keys' writes have one
/// unless they are of one batch.
pub fn versions_fit(ops: &[Op]) -> bool {
    let writes: Vec<(&Op, u64)> = (ops.iter())
        .filter_map(|op| if let What::Write(_, seq) = op.what { Some((op, seq)) } else { None })
        .collect();
    writes.iter().all(|(a, seq_a)| {
        writes.iter().all(|(b, seq_b)| {
            (a.returned >= b.called || seq_a < seq_b) && (seq_a != seq_b || a.called == b.called)
        })
    })
}

/// Whether there is a moment at which every key had the value that the view shows. `ops` are those of all keys.
pub fn is_of_one_moment(initial: &[Value], ops: &[Op], view: &View) -> bool {
    let mut writes: Vec<(u64, &Op, Value)> = Vec::new();
    for op in ops {
        if let What::Write(value, seq) = op.what {
            writes.push((seq, op, value));
        }
    }
    writes.sort_by_key(|(seq, op, _)| (*seq, op.key));
    let mut now = initial.to_vec();
    let mut at = 0;
    loop {
        // Whatever had returned before the view was asked for is in it, and nothing that was called after it had come.
        let late = writes[at..].iter().any(|(_, op, _)| op.returned < view.called);
        if !late && now == view.values {
            return true;
        }
        let Some((seq, op, _)) = writes.get(at) else { return false };
        if op.called > view.returned {
            return false;
        }
        let seq = *seq;
        while let Some((_, op, value)) = writes.get(at).filter(|(s, ..)| *s == seq) {
            now[op.key] = *value;
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(called: u64, returned: u64, what: What) -> Op {
        Op { key: 0, called, returned, what }
    }

    #[test]
    fn what_is_old_lost_or_from_nowhere_is_told() {
        let write = |n, called, returned| op(called, returned, What::Write(Some(n), n));
        let read = |n, called, returned| op(called, returned, What::Read(n));
        assert!(is_linearizable(None, &[write(1, 1, 2), read(Some(1), 3, 4)]));
        assert!(!is_linearizable(None, &[write(1, 1, 2), read(None, 3, 4)]), "lost");
        assert!(is_linearizable(None, &[write(1, 1, 4), read(None, 2, 3)]), "at once");
        assert!(!is_linearizable(None, &[write(1, 1, 9), read(Some(1), 2, 3), read(None, 4, 5)]), "back");
        assert!(!is_linearizable(None, &[read(Some(7), 1, 2)]), "from nowhere");
        assert!(!is_linearizable(
            None,
            &[write(1, 1, 2), write(2, 3, 4), read(Some(2), 5, 6), read(Some(1), 7, 8)]
        ));
        assert!(versions_fit(&[write(1, 1, 4), write(2, 2, 3)]));
        assert!(!versions_fit(&[write(2, 1, 2), write(1, 3, 4)]));
    }

    #[test]
    fn a_view_of_two_moments_is_told() {
        let of = |key, n, called, returned| Op { key, called, returned, what: What::Write(Some(n), n) };
        let ops = [of(0, 1, 1, 2), of(1, 2, 3, 4)];
        let view = |a, b, called, returned| View { called, returned, values: vec![a, b] };
        let fits = |view: &View| is_of_one_moment(&[None, None], &ops, view);
        assert!(fits(&view(Some(1), Some(2), 5, 6)));
        assert!(!fits(&view(None, Some(2), 1, 6)), "the second without the first");
        assert!(!fits(&view(Some(1), None, 5, 6)), "too old");
        assert!(fits(&view(Some(1), None, 2, 6)));
    }
}
