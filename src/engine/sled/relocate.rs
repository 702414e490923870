//! Giving space back: pages that lie far out in a file that is mostly free are moved to its beginning, a few at each sync,
//! so that its end can be cut off.

use super::core::Core;
use super::node::{Listed, Node};
use super::root::Which;
use super::space::{UNIT, units};
use super::writer::Writer;
use crate::error::Result;

/// Below this a file is not worth the trouble, in bytes.
const MIN_FILE: u64 = 256 << 10;
/// How much is moved, and how many nodes are looked at, in one go.
const MAX_MOVED: u64 = 4 << 20;
const MAX_NODES: usize = 64;

impl Core {
    /// Moves some pages if the file is mostly free. They count from the commit on that follows.
    pub fn relocate(&self, writer: &mut Writer) -> Result<()> {
        if writer.space.end() * UNIT < MIN_FILE || !writer.space.is_sparse() {
            return Ok(());
        }
        let far = writer.space.used() * 2;
        writer.space.restart();
        let mut next = std::mem::take(&mut writer.relocated);
        let mut moved = 0;
        for _ in 0..MAX_NODES {
            let Some(node) = self.node(Which::Holds(&next))? else { break };
            moved += self.relocate_node(writer, &node, far)?;
            match node.end() {
                Some(end) => next = end.to_vec(),
                None => {
                    next.clear();
                    break;
                }
            }
            if moved > MAX_MOVED {
                break;
            }
        }
        writer.relocated = next;
        Ok(())
    }

    fn relocate_node(&self, writer: &mut Writer, node: &Node, far: u64) -> Result<u64> {
        let mut listed: Vec<Listed> = node.listed();
        let mut moved = 0;
        let mut left = Vec::new();
        for page in listed.iter_mut().map(|listed| &mut listed.page).filter(|page| page.unit >= far) {
            // One that is damaged stays where it is, for whoever repairs it.
            let Ok(frame) = self.read_frame(page) else { continue };
            if self.verify(page, frame.clone()).is_err() {
                continue;
            }
            let count = units(page.bytes);
            let unit = writer.space.allocate(count);
            if unit >= page.unit {
                writer.space.release(unit, count);
                break;
            }
            let mut padded = frame.to_vec();
            padded.resize((count * UNIT) as usize, 0);
            self.write_file("write pages to", |file| file.write_at(unit * UNIT, &padded))?;
            left.push((page.unit, count));
            page.unit = unit;
            moved += count * UNIT;
        }
        if moved == 0 {
            return Ok(0);
        }
        let lower: Box<[u8]> = node.lower(0).into();
        let Some((number, ..)) = self.root.slot(&lower) else { return Err(self.hole(&lower)) };
        let changed = Node::new(&listed, node.end());
        self.root.replace(std::slice::from_ref(&lower), vec![(lower.clone(), number, changed)]);
        writer.dirty.insert(lower);
        writer.unsynced = true;
        for (unit, count) in left {
            writer.free_later(unit, count);
        }
        Ok(moved)
    }
}
