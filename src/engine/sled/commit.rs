//! Making what was applied durable: pages first, then the index that refers to them, then the word that it is complete.
//!
//! Invariants: a node reaches sled only after the pages it refers to are on the disk; the space of replaced pages is
//! given up only after the index without them is. So whatever a crash leaves of the nodes of one commit, old or new, each
//! of them refers to pages that are there, and any mixture of both holds every record that was committed before.
//! That holds for a run, which is applied again. What takes the place of a range must be there as a whole or not at all, so
//! a commit with such a change in it is announced before it begins ([`intent`](super::intent)).
//! Nothing is said to be durable before our own fsync of sled's files (it takes sync_file_range for durable, which
//! it is not). A failed fsync is final: what it did not write is gone from the page cache, and asking again would only
//! hide that.

use super::calls::Change;
use super::core::Core;
use super::intent::Encoded;
use super::node::stored_checksum;
use super::open::sync_tree;
use super::rest::Rest;
use super::writer::Writer;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Seq;
use crate::plants;
use std::sync::atomic::Ordering;

pub(super) const STATE_KEY: &[u8] = b"state";
const STATE_VERSION: u8 = 1;
/// More page ids than can have been given out between two commits.
const SKIPPED_IDS: u64 = 1 << 32;
/// How much may wait in sled's buffers: it puts no bound on that itself.
const MAX_UNWRITTEN: usize = 8 << 20;

impl Core {
    /// Makes all writes so far durable, and `applied` with them.
    pub fn sync(&self, applied: Seq) -> Result<()> {
        self.check()?;
        let mut writer = self.writer.lock();
        self.relocate(&mut writer)?;
        self.commit(&mut writer, Some(applied))
    }

    /// Makes all writes so far durable, and `applied` if there is news of it.
    pub fn commit(&self, writer: &mut Writer, applied: Option<Seq>) -> Result<()> {
        self.drain(writer)?;
        if writer.unsynced {
            if !plants::is("pages-not-synced") {
                self.write_file("sync", |file| file.sync_data())?;
            }
            writer.unsynced = false;
        }
        writer.give_buffer_back();
        let mut nodes = Vec::new();
        // From the right, since the right one of two nodes that reach over each other is the one that counts.
        for lower in writer.dirty.iter().rev() {
            let Some((number, _, Some(node))) = self.root.slot(lower) else { continue };
            nodes.push(Encoded { lower: lower.clone(), number, bytes: node.encode(number) });
        }
        if crate::plants::is("index-left-half-first") {
            nodes.reverse();
        }
        // From the left: where one that is still there ends, the one that it met is still there, too.
        writer.removed.sort();
        let intent = self.intent(writer, &nodes);
        let mut changes = intent.announced();
        let (mut unwritten, mut written) = (0, Vec::new());
        for Encoded { lower, number, bytes } in nodes {
            unwritten += bytes.len();
            written.push((lower, stored_checksum(&bytes)));
            changes.push(Change::Node(number, bytes));
            if unwritten > MAX_UNWRITTEN {
                unwritten = 0;
                changes.push(Change::Flush);
            }
        }
        changes.extend(writer.removed.iter().map(|(_, number)| Change::NoNode(*number)));
        changes.push(self.state(writer, applied));
        changes.extend(intent.withdrawn());
        changes.push(Change::Flush);
        let alone = self.rest.as_ref().map(Rest::begin);
        self.change_sled(changes)?;
        // Only now: a node that is not in memory any more must never be one that sled still has to write.
        for (lower, crc) in written {
            self.root.clean(&lower, crc);
        }
        writer.dirty.clear();
        writer.dirty_bytes = 0;
        writer.removed.clear();
        writer.atomic = false;
        sync_tree(self.place.index_dir().as_path())
            .map_err(|(path, error)| self.fail(Error::io("sync", path, error).on(self.place.shard)))?;
        drop(alone);
        self.place.check_files().map_err(|error| self.fail(error))?;
        if let Some(applied) = applied {
            self.applied.store(applied.0, Ordering::Release);
        }
        writer.uncommitted = writer.next_page;
        for (unit, count) in writer.freed.drain(..) {
            writer.space.release(unit, count);
        }
        writer.freed_units = 0;
        self.root.trim();
        if let Some(end) = writer.space.shrink() {
            self.write_file("shorten", |file| file.set_len(end * super::space::UNIT))?;
        }
        self.balance();
        Ok(())
    }

    fn state(&self, writer: &Writer, applied: Option<Seq>) -> Change {
        let applied = applied.map_or_else(|| self.applied.load(Ordering::Acquire), |applied| applied.0);
        let mut state = vec![STATE_VERSION];
        state.extend_from_slice(&applied.to_le_bytes());
        state.extend_from_slice(&writer.next_page.to_le_bytes());
        state.extend_from_slice(&crc32fast::hash(&state).to_le_bytes());
        Change::Meta(STATE_KEY.to_vec(), state)
    }

    /// After an end that was not in order: nothing says that what sled and the page file show has reached the disk, or which
    /// page ids were given out since. Makes the one true, and leaves out the others for ever.
    pub fn settle(&self, writer: &mut Writer) -> Result<()> {
        writer.next_page = writer.next_page.saturating_add(SKIPPED_IDS);
        writer.unsynced = true;
        self.commit(writer, None)
    }

    /// What was applied, and the least page id that was not given out.
    pub(super) fn decode_state(&self, state: &[u8]) -> Result<(Seq, u64)> {
        let bad = |what: &str| {
            self.place
                .corruption(format!("expected the shard's state, found {} bytes with {what}", state.len()))
        };
        let (body, crc) = state.split_last_chunk::<4>().ok_or_else(|| bad("no checksum"))?;
        if u32::from_le_bytes(*crc) != crc32fast::hash(body) {
            return Err(bad("a wrong checksum"));
        }
        match body {
            [STATE_VERSION, fields @ ..] => match fields.as_chunks::<8>() {
                ([applied, next_page], []) => {
                    Ok((Seq(u64::from_le_bytes(*applied)), u64::from_le_bytes(*next_page)))
                }
                _ => Err(bad("a wrong length")),
            },
            _ => Err(self.place.locate(
                Error::new(
                    ErrorKind::Unsupported,
                    "the shard's state has a format that this release does not read",
                )
                .remedy("use the release that wrote it, or a newer one"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::disk::DiskFile;
    use crate::engine::sled::SledEngine;
    use crate::engine::tests::{apply, scratch, spec};
    use crate::engine::{Engine, EngineSpec};
    use crate::error::ErrorKind;
    use crate::ids::Seq;
    use std::io;
    use std::sync::Arc;

    /// A page file whose syncs fail.
    #[derive(Debug)]
    struct Unsyncable(Arc<dyn DiskFile>);

    impl DiskFile for Unsyncable {
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
            self.0.read_at(offset, buf)
        }

        fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            self.0.write_at(offset, bytes)
        }

        fn sync_data(&self) -> io::Result<()> {
            Err(io::Error::other("no sync"))
        }

        fn sync_all(&self) -> io::Result<()> {
            self.sync_data()
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.0.set_len(len)
        }

        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }
    }

    #[test]
    fn the_index_never_refers_to_pages_that_are_not_synced() {
        let dir = scratch();
        let engine =
            SledEngine::open(&EngineSpec { create: true, ..spec(dir.path(), 512) }, &Arc::default()).unwrap();
        {
            let mut core = engine.core.write();
            let core = Arc::get_mut(core.as_mut().unwrap()).unwrap();
            core.file = Arc::new(Unsyncable(Arc::clone(&core.file)));
        }
        let index = || {
            let core = engine.core.read();
            let pairs = core.as_ref().unwrap().index.iter();
            pairs.map(|pair| pair.unwrap()).collect::<Vec<_>>()
        };
        let before = index();
        apply(&engine, &vec![(b"k".to_vec(), Seq(1), Some(vec![1; 30]))], &[]).unwrap();
        assert_eq!(engine.sync(Seq(1)).unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(index(), before, "a node was written before the page that it refers to was synced");
        assert_eq!(engine.applied(), Seq::ZERO);
        assert_eq!(engine.sync(Seq(1)).unwrap_err().kind(), ErrorKind::Io, "a failed sync is final");
    }
}
