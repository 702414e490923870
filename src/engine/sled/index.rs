//! Reading the index at open: every node is walked once, checked, and made to tile the key space.
//!
//! A crash in the middle of a commit leaves old and new nodes side by side. Of two that reach over each other the right
//! one counts (nodes are written from the right), of two that begin at one key the younger. What that leaves out is
//! written anew by the next commit.

use super::core::Core;
use super::node::{Listed, Node, stored_checksum};
use super::root::{Root, Slot};
use super::space::{UNIT, units};
use super::writer::Writer;
use crate::error::{Error, Result};
use std::sync::Arc;

/// A node as it was found.
struct Stored {
    lower: Box<[u8]>,
    end: Option<Box<[u8]>>,
    number: u64,
    crc: u32,
    /// In memory while there is room.
    node: Option<Arc<Node>>,
}

/// What the walk comes to.
pub(super) struct Loaded {
    pub root: Root,
    pub writer: Writer,
}

impl Core {
    /// Reads the index of a shard that exists; `limit` bytes of its nodes may stay in memory.
    pub fn read_index(&self, limit: u64) -> Result<Loaded> {
        let mut writer = Writer::default();
        let stored = self.walk(limit, &mut writer)?;
        if stored.first().is_none_or(|first| !first.lower.is_empty()) {
            return Err(self
                .place
                .corruption("expected the index to begin at the first key: nodes are lost"));
        }
        let len = self
            .file
            .len()
            .map_err(|e| Error::io("read the length of", &self.path, e).on(self.place.shard))?;
        let mut nodes = Vec::new();
        let mut resident = 0;
        let mut stored = stored.into_iter().peekable();
        while let Some(mut found) = stored.next() {
            let next = stored.peek().map(|next| &*next.lower);
            let meets = found.end.as_deref() == next;
            let over = match (found.end.as_deref(), next) {
                (_, None) => false,
                (None, Some(_)) => true,
                (Some(end), Some(next)) => end > next,
            };
            if !meets && !over {
                return Err(self.hole(found.end.as_deref().unwrap_or_default()));
            }
            let mut node = match found.node.take() {
                Some(node) => node,
                None => Arc::new(self.stored_node(found.number, found.crc)?),
            };
            if over && let Some(next) = next {
                node = Arc::new(self.trimmed(&node, next)?);
                writer.dirty.insert(found.lower.clone());
                found.crc = 0;
            }
            self.enter(&mut writer, &node, len)?;
            let dirty = over;
            let room = resident + node.resident() as u64 <= limit;
            let kept = (dirty || room).then(|| {
                resident += node.resident() as u64;
                node
            });
            nodes.push((found.lower, Slot::new(found.number, found.crc, dirty, kept)));
        }
        writer.uncommitted = writer.next_page;
        Ok(Loaded { root: Root::new(nodes, limit), writer })
    }

    fn walk(&self, limit: u64, writer: &mut Writer) -> Result<Vec<Stored>> {
        let mut found: Vec<Stored> = Vec::new();
        let mut resident = 0;
        let mut walk = self.index.iter();
        while let Some((key, bytes)) = self.place.call("read the index", || walk.next().transpose())? {
            let number = key.as_ref().try_into().map(u64::from_be_bytes).map_err(|_| {
                self.place.corruption(format!("expected a node of the index, found the key {key:02x?}"))
            })?;
            let node = Node::decode(number, &bytes).map_err(|error| self.place.locate(error))?;
            writer.next_node = writer.next_node.max(number.saturating_add(1));
            resident += node.resident() as u64;
            found.push(Stored {
                lower: node.lower(0).into(),
                end: node.end().map(Box::from),
                number,
                crc: stored_checksum(&bytes),
                node: (resident <= limit).then(|| Arc::new(node)),
            });
        }
        found.sort_by(|a, b| a.lower.cmp(&b.lower).then(b.number.cmp(&a.number)));
        found.dedup_by(|older, younger| {
            let same = older.lower == younger.lower;
            if same {
                writer.removed.push((older.lower.clone(), older.number));
            }
            same
        });
        Ok(found)
    }

    /// A node without what lies at or above `upper`.
    pub(super) fn trimmed(&self, node: &Node, upper: &[u8]) -> Result<Node> {
        let mut listed: Vec<Listed> =
            node.listed().into_iter().take_while(|listed| listed.lower.as_slice() < upper).collect();
        let astride = listed.len().checked_sub(1).filter(|last| node.upper(*last) != Some(upper));
        if let Some(last) = astride.and_then(|last| listed.get_mut(last))
            // One that cannot be read costs its own records and not the shard; until it is put right, nothing counts them.
            && let Ok(page) = self.read_frame(&last.page).and_then(|frame| self.verify(&last.page, frame))
        {
            last.page.records = self.kept_count(&page.view()?, Some(upper))? as u32;
        }
        Ok(Node::new(&listed, Some(upper)))
    }

    /// Takes note of what the pages of a node take in the file of `len` bytes.
    fn enter(&self, writer: &mut Writer, node: &Node, len: u64) -> Result<()> {
        for (index, page) in node.pages().iter().enumerate() {
            let end = page.unit.checked_mul(UNIT).and_then(|start| start.checked_add(u64::from(page.bytes)));
            if end.is_none_or(|end| end > len) {
                return Err(self.place.corruption(format!(
                    "expected page {} of {} bytes at unit {} of the page file, found its end at byte {len}",
                    page.id, page.bytes, page.unit
                )));
            }
            if !writer.space.occupy(page.unit, units(page.bytes)) {
                return Err(self.place.corruption(format!(
                    "expected page {} alone at unit {} of the page file, found another there",
                    page.id, page.unit
                )));
            }
            writer.next_page = writer.next_page.max(page.id.saturating_add(1));
            writer.account(node.lower(index), page, true);
        }
        Ok(())
    }
}
