//! Looking for commits in a segment of which much is damaged.

use super::damage::segments;
use super::mirror::spreading::frames;
use super::*;
use crate::journal::scan::Reader;
use crate::journal::segment::{BODY, SegmentHeader};

/// Writes with sequences from 1 up to 6 in one large segment, and where the frames of these lie.
fn six() -> (SimDisk, std::path::PathBuf, Vec<u64>) {
    let disk = new_disk();
    let journal = create_long(&disk).unwrap();
    (0..6).for_each(|_| _ = append(&journal, Handoff::Os).unwrap());
    journal.sync_to(Seq::MAX).unwrap();
    drop(journal);
    let path = dir().join(&segments(&disk)[0]);
    let places = frames(&disk, &path).into_iter().take(6).map(|(_, _, at)| at).collect();
    (disk, path, places)
}

fn least(disk: &SimDisk, path: &Path, seqs: std::ops::Range<u64>) -> Option<(u64, Seq)> {
    let bytes = disk.read(path).unwrap().unwrap();
    let (header, _) = SegmentHeader::decode_page(&bytes[..BODY as usize]).unwrap();
    let file = disk.open(path, OpenMode::Read).unwrap();
    Reader::new(file, path, header, Vec::new()).least_commit(BODY, Seq(seqs.start)..Seq(seqs.end)).unwrap()
}

#[test]
fn the_least_of_some_commits_is_found() {
    let (disk, path, places) = six();
    assert_eq!(least(&disk, &path, 2..7), Some((places[1], Seq(2))));
    assert_eq!(least(&disk, &path, 4..7), Some((places[3], Seq(4))));
    assert_eq!(least(&disk, &path, 7..9), None);
    // Of which the header is whole, and nothing else.
    disk.damage(&path, |bytes| bytes[places[3] as usize + 44] ^= 1).unwrap();
    assert_eq!(least(&disk, &path, 4..7), Some((places[4], Seq(5))));
}

/// As a block does that was written in the wrong place: further away than is read at once.
#[test]
fn the_least_of_some_commits_may_lie_behind_the_others() {
    let (disk, path, places) = six();
    let away = BODY as usize + (600 << 10);
    let (from, to) = (places[1] as usize, places[2] as usize);
    disk.damage(&path, |bytes| {
        bytes.copy_within(from..to, away);
        bytes[from..places[3] as usize].fill(0);
    })
    .unwrap();
    assert_eq!(least(&disk, &path, 2..7), Some((away as u64, Seq(2))));
    // Nothing that lies further on is nearer than the second.
    assert_eq!(least(&disk, &path, 3..7), Some((places[3], Seq(4))));
}
