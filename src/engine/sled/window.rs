//! Putting changed pages in: a window is some neighbouring nodes on their way to being replaced, and becomes new nodes in one
//! step, or is given up.
//!
//! Invariants: nodes are swapped only when their pages are on their way to the file; the space of what they replace is given
//! up after that, and the space of what was written in vain at once.

use super::core::Core;
use super::node::{Listed, Node};
use super::writer::Writer;
use crate::error::Result;

/// Pages in a node, at most and, if there are that many, at least.
const MAX_PAGES: usize = 128;
pub(super) const MIN_PAGES: usize = 16;
/// Bytes of bounds in a node; sled reads and writes about sixteen nodes at once.
const MAX_BOUND_BYTES: usize = 8 << 10;

/// Neighbouring nodes on their way to being replaced.
pub(super) struct Window {
    /// Pages from this id on were written for it.
    first: u64,
    /// The lower bounds of the nodes, and their numbers.
    pub old: Vec<(Box<[u8]>, u64)>,
    /// The pages that take the place of theirs, so far.
    pub pages: Vec<Listed>,
    /// The pages that are no more.
    pub gone: Vec<Listed>,
    pub upper: Option<Vec<u8>>,
}

impl Window {
    pub fn new(writer: &Writer) -> Window {
        Window { first: writer.next_page, old: Vec::new(), pages: Vec::new(), gone: Vec::new(), upper: None }
    }
}

impl Core {
    /// Puts a window in the place of the nodes that it was made from.
    pub(super) fn swap(&self, writer: &mut Writer, window: Window) -> Result<()> {
        self.drain(writer)?;
        let mut numbers = window.old.iter().cloned().collect::<std::collections::BTreeMap<_, _>>();
        let mut nodes = Vec::new();
        let mut rest = window.pages.as_slice();
        while !rest.is_empty() {
            let (part, others) = rest.split_at(node_end(rest));
            let upper = others.first().map(|next| next.lower.as_slice()).or(window.upper.as_deref());
            let node = Node::new(part, upper);
            let lower: Box<[u8]> = node.lower(0).into();
            let number = numbers.remove(&lower).unwrap_or_else(|| {
                writer.next_node += 1;
                writer.next_node - 1
            });
            writer.dirty_bytes += node.resident();
            nodes.push((lower, number, node));
            rest = others;
        }
        for (lower, _) in &window.old {
            writer.dirty.remove(lower);
        }
        writer.dirty.extend(nodes.iter().map(|(lower, ..)| lower.clone()));
        writer.removed.extend(numbers);
        let old: Vec<Box<[u8]>> = window.old.into_iter().map(|(lower, _)| lower).collect();
        self.root.replace(&old, nodes);
        for listed in window.pages.iter().filter(|listed| listed.page.id >= window.first) {
            writer.account(&listed.lower, &listed.page, true);
        }
        for listed in window.gone {
            if listed.page.id < window.first {
                writer.account(&listed.lower, &listed.page, false);
            }
            writer.free(&listed.page);
            if let Some(page) = self.cache.remove(listed.page.id) {
                self.pool.give_back(page.into_frame());
            }
        }
        Ok(())
    }

    /// Forgets what was written for a window that will not be put in.
    pub(super) fn abandon(&self, writer: &mut Writer, window: Window) {
        writer.forget_buffer();
        for listed in window.pages.into_iter().chain(window.gone) {
            if listed.page.id >= window.first {
                writer.free(&listed.page);
                self.cache.remove(listed.page.id);
            }
        }
    }
}

/// How many of `pages` make the next node: all if they fit, else about equal parts.
fn node_end(pages: &[Listed]) -> usize {
    let parts = pages.len().div_ceil(MAX_PAGES);
    let count = pages.len().div_ceil(parts.max(1));
    let mut bytes = 0;
    let fit = pages.iter().take_while(|listed| {
        bytes += listed.lower.len();
        bytes <= MAX_BOUND_BYTES
    });
    fit.count().clamp(1, count.max(1))
}
