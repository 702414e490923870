//! Looking for commits in a segment of which much is damaged.

use super::damage::segments;
use super::mirror::hooked::Hooked;
use super::mirror::spreading::frames;
use super::*;
use crate::disk::BLOCK;
use crate::frame::{ALIGN, HEADER_BYTES};
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

fn reader(disk: &dyn Disk, path: &Path) -> Reader {
    let file = disk.open(path, OpenMode::Read).unwrap();
    let mut page = vec![0; BODY as usize];
    file.read_at(0, &mut page).unwrap();
    let (header, _) = SegmentHeader::decode_page(&page).unwrap();
    Reader::new(file, path, header, Vec::new())
}

fn least(disk: &dyn Disk, path: &Path, seqs: std::ops::Range<u64>) -> Option<(u64, Seq)> {
    reader(disk, path).least_commit(BODY, Seq(seqs.start)..Seq(seqs.end)).unwrap()
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

/// Its header begins in one block and ends in the next, and blocks before and behind them cannot be read.
#[test]
fn the_least_of_some_commits_may_lie_across_two_blocks_among_some_that_cannot_be_read() {
    let (disk, path, places) = six();
    let away = BODY as usize + 100 * BLOCK - ALIGN;
    let (from, to) = (places[1] as usize, places[2] as usize);
    disk.damage(&path, |bytes| {
        bytes.copy_within(from..to, away);
        bytes[from..places[3] as usize].fill(0);
    })
    .unwrap();
    let hooked = Hooked::new(&disk, |_, _| Ok(()));
    for block in [90, 110] {
        hooked.spoil(&path, BODY + block * BLOCK as u64);
    }
    assert_eq!(least(&hooked, &path, 2..7), Some((away as u64, Seq(2))));
}

/// The next block cannot be read: a header may reach into that, and this one does not.
#[test]
fn what_the_block_before_one_that_cannot_be_read_shows_counts() {
    let (disk, path, places) = six();
    let last = places[5] as usize;
    let behind = BODY as usize + 89 * BLOCK;
    disk.damage(&path, |bytes| {
        bytes.copy_within(last..last + HEADER_BYTES, behind + BLOCK - HEADER_BYTES);
        bytes[last..behind].fill(0);
    })
    .unwrap();
    let hooked = Hooked::new(&disk, |_, _| Ok(()));
    assert_eq!(reader(&hooked, &path).evidence_left().reach, Seq(7));
    hooked.spoil(&path, (behind + BLOCK) as u64);
    assert_eq!(reader(&hooked, &path).evidence_left().reach, Seq(7));
    hooked.spoil(&path, behind as u64);
    assert_eq!(reader(&hooked, &path).evidence_left().reach, Seq(6));
}

/// A disk that is away is told from sectors that have gone bad.
#[test]
fn a_search_fails_only_where_nothing_of_the_segment_can_be_read() {
    let (disk, path, places) = six();
    let len = disk.open(&path, OpenMode::Read).unwrap().len().unwrap();
    let end = len - 10 * BLOCK as u64;
    let search = |hooked: &Hooked, at: u64, spoilt: &[u64]| {
        let mut reader = reader(hooked, &path);
        spoilt.iter().for_each(|at| hooked.spoil(&path, *at));
        reader.least_commit(at, Seq(1)..Seq(9))
    };
    let bad: Vec<u64> = (0..10).map(|block| end + block * BLOCK as u64).collect();
    let new = || Hooked::new(&disk, |_, _| Ok(()));
    // The header can be read, and nothing of what is asked for.
    assert_eq!(search(&new(), end, &bad).unwrap(), None);
    // Nor that.
    assert_eq!(search(&new(), end, &[&bad[..], &[8]].concat()).unwrap_err().kind(), ErrorKind::Io);
    // Some can, and the header cannot.
    assert_eq!(search(&new(), end, &[&bad[1..], &[8]].concat()).unwrap(), None);
    let found = search(&new(), BODY, &[8, BODY + 80 * BLOCK as u64]).unwrap();
    assert_eq!(found, Some((places[0], Seq(1))));
}
