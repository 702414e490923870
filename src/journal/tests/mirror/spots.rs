//! Single places of a copy: put right beside the writers, and searched where not every copy can be asked.

use super::spreading::frames;
use super::*;
use crate::disk::BLOCK;
use crate::journal::behind::least_commit;
use crate::journal::segment::{BODY, SegmentHeader};

/// Writes with sequences from 1 on: the open journal, its first segment in either copy, and where its frames lie.
fn written() -> (SimDisk, Arc<Mirrors>, Journal, [PathBuf; 2], Vec<u64>) {
    let disk = dirs_disk(71);
    let (mirrors, journal) = Model::default().create(&disk);
    (0..4).for_each(|_| _ = append(&journal, Handoff::Os).unwrap());
    journal.sync_to(Seq::MAX).unwrap();
    let names = disk.list(Path::new(DIRS[0])).unwrap();
    let name = names.iter().find(|name| name.ends_with(".seg")).unwrap();
    let paths = DIRS.map(|dir| Path::new(dir).join(name));
    let places = frames(&disk, &paths[0]).into_iter().map(|(_, _, at)| at).collect();
    (disk, mirrors, journal, paths, places)
}

/// What lies further away is mended, or counts, when somebody comes to it.
#[test]
fn a_spot_that_is_put_right_is_compared_as_far_around_as_a_block_reaches() {
    let next = BLOCK as i64;
    for (other, is_near) in [(next, false), (100, true), (-500, true), (-next, false)] {
        let (disk, mirrors, _journal, [whole, damaged], places) = written();
        // In the midst of a block, and far from both ends.
        let at = places[1] + BLOCK as u64;
        disk.damage(&damaged, |bytes| {
            bytes[at as usize] ^= 1;
            bytes[(at as i64 + other) as usize] ^= 1;
        })
        .unwrap();
        let right = disk.read(&whole).unwrap().unwrap()[at as usize..at as usize + 60].to_vec();
        assert!(at % BLOCK as u64 > 500 && at % (BLOCK as u64) < 3900, "{at}");
        assert_eq!(mirrors.mend_spot(&whole, 1, 0, at, &right), !is_near, "{other}");
        assert_eq!(good(&mirrors), [true, !is_near], "{other}");
        let now = disk.read(&damaged).unwrap().unwrap();
        assert!(now[at as usize..at as usize + 60] == right, "{other}");
    }
}

/// It may have what would be passed over.
#[test]
fn what_is_found_in_one_copy_counts_beside_one_that_cannot_be_read_only_if_nothing_could_come_before_it() {
    let (disk, mirrors, _journal, [path, other], places) = written();
    let page = disk.read(&path).unwrap().unwrap();
    let (header, _) = SegmentHeader::decode_page(&page[..BODY as usize]).unwrap();
    let least = || least_commit(mirrors.as_ref(), &path, header, BODY, Seq(2)..Seq(4));
    absent(&disk, 0);
    assert_eq!(least().unwrap(), Some((places[1], Seq(2))));
    disk.damage(&other, |bytes| bytes[places[1] as usize + 44] ^= 1).unwrap();
    assert!(least().is_err());
    disk.heal();
    assert_eq!(least().unwrap(), Some((places[1], Seq(2))));
}
