//! Every byte flipped, every block zeroed, every length cut to, every file lost, swapped, doubled: what was
//! acknowledged comes back, or opening fails and changes nothing.

use super::*;

const FRAMES: u64 = 45;

/// A journal of two sessions and several segments, as its process left it: closed, or killed after a last write.
pub fn sample(closed: bool) -> SimDisk {
    let disk = new_disk();
    let journal = create(&disk).unwrap();
    for seq in 1..=20 {
        append(&journal, if seq % 3 == 0 { Handoff::Os } else { Handoff::Buffered }).unwrap();
    }
    journal.write_buffered().unwrap();
    drop(journal);
    let disk = disk.kill();
    let (journal, _) = reopen(&disk).unwrap();
    while journal.last() < Seq(FRAMES) {
        append(&journal, Handoff::Buffered).unwrap();
    }
    journal.provision().unwrap();
    if closed {
        journal.close().unwrap();
    } else {
        journal.write_buffered().unwrap();
    }
    disk.kill()
}

pub fn segments(disk: &SimDisk) -> Vec<String> {
    let names = disk.list(dir()).unwrap();
    names.into_iter().filter(|name| name.ends_with(".seg")).collect()
}

pub fn contents(disk: &SimDisk) -> Vec<(String, Option<Vec<u8>>)> {
    let names = disk.list(dir()).unwrap();
    names.into_iter().map(|name| (name.clone(), disk.read(&dir().join(name)).unwrap())).collect()
}

/// Opens a damaged journal: all frames are there, or it is refused, and left as it was.
fn all_or_refused(disk: &SimDisk, what: &str) -> bool {
    let before = contents(disk);
    match reopen(disk) {
        Ok((_, report)) => {
            assert!(report.last >= Seq(FRAMES), "{what}: silently lost {} to {FRAMES}", report.last.next());
            true
        }
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::Corruption, "{what}: {e}");
            assert!(e.path().is_some() && e.advice().is_some(), "{what}: {e}");
            assert!(contents(disk) == before, "{what}: the disk was changed");
            false
        }
    }
}

/// Damages each file of a sample at every `step`, and returns how often it still opened, and how often it was refused.
fn damage(closed: bool, step: usize, change: impl Fn(&mut Vec<u8>, usize)) -> (u64, u64) {
    let sample = sample(closed);
    let (mut opened, mut refused) = (0, 0);
    for name in segments(&sample) {
        let len = sample.read(&dir().join(&name)).unwrap().unwrap().len();
        for at in (0..len).step_by(step) {
            let disk = sample.fork();
            disk.damage(&dir().join(&name), |bytes| change(bytes, at)).unwrap();
            let ok = all_or_refused(&disk, &format!("{name} at {at}, closed: {closed}"));
            *(if ok { &mut opened } else { &mut refused }) += 1;
        }
    }
    (opened, refused)
}

/// Every byte when asked for, else a sample that differs with the file's odd length.
fn stride() -> usize {
    if std::env::var_os("ANNULUS_EXHAUSTIVE").is_some() { 1 } else { 101 }
}

#[test]
fn a_flipped_byte_is_harmless_or_refused() {
    for closed in [false, true] {
        let (opened, refused) = damage(closed, stride(), |bytes, at| bytes[at] ^= 0xff);
        assert!(opened > 20 && refused > 20, "{opened} {refused}");
        damage(closed, stride(), |bytes, at| bytes[at] ^= 1 << (at % 8));
    }
}

#[test]
fn a_lost_block_is_harmless_or_refused() {
    for closed in [false, true] {
        for block in [512, 4096] {
            let (opened, refused) = damage(closed, block, |bytes, at| bytes[at..at + block].fill(0));
            assert!(opened > 2 && refused > 2, "{opened} {refused}");
            damage(closed, block, |bytes, at| bytes[at..at + block].fill(0xe5));
        }
    }
}

#[test]
fn a_truncated_file_is_refused() {
    for closed in [false, true] {
        let (opened, refused) = damage(closed, stride(), |bytes, at| bytes.truncate(at));
        assert!(opened == 0 && refused > 100, "{opened} {refused}");
    }
}

#[test]
fn a_block_written_in_the_wrong_place_is_harmless_or_refused() {
    for distance in [512, 4096] {
        damage(false, 512, |bytes, at| {
            let end = bytes.len();
            bytes.copy_within(at..at + 512, (at + distance) % end);
        });
    }
}

#[test]
fn a_lost_swapped_or_doubled_file_is_noticed() {
    for closed in [false, true] {
        let sample = sample(closed);
        let names = segments(&sample);
        assert!(names.len() > 4);
        let kept = |change: &dyn Fn(&str) -> Vec<(String, String)>| {
            let disk = sample.fork();
            let all: Vec<(String, String)> = names.iter().flat_map(|name| change(name)).collect();
            let pairs: Vec<(&str, &str)> = all.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
            disk.rearrange(dir(), &pairs).unwrap();
            disk
        };
        let same = |name: &str| vec![(name.to_string(), name.to_string())];
        assert!(all_or_refused(&kept(&same), "untouched"));
        assert!(!all_or_refused(&kept(&|_| vec![]), "all gone"));
        // The last one was made ready and never used: it may go.
        let (ready, used) = names.split_last().unwrap();
        for gone in used {
            let disk = kept(&|n| if n == gone { vec![] } else { same(n) });
            assert!(!all_or_refused(&disk, &format!("{gone} gone")), "{gone} gone, and not noticed");
            for other in &names {
                if other == gone {
                    continue;
                }
                let disk = kept(&|n| match n {
                    n if n == gone => vec![(n.into(), other.clone())],
                    n if n == other => vec![(n.into(), gone.clone())],
                    n => same(n),
                });
                assert!(!all_or_refused(&disk, &format!("{gone} and {other} swapped")));
                let disk = kept(&|n| if n == gone { vec![(other.clone(), n.into())] } else { same(n) });
                assert!(!all_or_refused(&disk, &format!("{gone} replaced by {other}")));
            }
            let copy = format!("copy of {gone}");
            let disk = kept(&|n| {
                if n == gone { vec![(n.into(), n.into()), (n.into(), copy.clone())] } else { same(n) }
            });
            assert!(!all_or_refused(&disk, "a copy under a name that is none"));
            let disk = kept(&|n| {
                let doubled = (n == gone).then(|| (n.to_string(), "00000000000000ff.seg".to_string()));
                same(n).into_iter().chain(doubled).collect()
            });
            assert!(!all_or_refused(&disk, "a copy under another generation's name"));
        }
        assert!(all_or_refused(
            &kept(&|n| if n == ready { vec![] } else { same(n) }),
            "the next segment gone"
        ));
        // The last two: the end marker before them knows.
        let cut = &names[names.len() - 2..];
        assert!(!all_or_refused(
            &kept(&|n| if cut.iter().any(|c| c == n) { vec![] } else { same(n) }),
            "a lost tail"
        ));
    }
}

#[test]
fn the_only_segment_of_the_last_session_is_missed_when_it_is_gone() {
    for closed in [false, true] {
        let disk = new_disk();
        drop(create(&disk).unwrap());
        for _ in 0..3 {
            let (journal, _) = reopen(&disk).unwrap();
            append(&journal, Handoff::Os).unwrap();
            if closed {
                journal.close().unwrap();
            }
        }
        let last = segments(&disk).pop().unwrap();
        disk.remove_file(&dir().join(&last)).unwrap();
        let error = reopen(&disk).unwrap_err();
        assert!(error.kind() == ErrorKind::Corruption && error.to_string().contains("case D"), "{error}");
        let text = "the segment after this one is missing; it held sequence 3 and up";
        assert!(error.to_string().contains(text), "{error}");
    }
}

/// A crash lies between a segment and the end marker that leads to it, and the shards have applied all before: the replay
/// begins behind the segment that lacks the marker.
#[test]
fn an_end_marker_that_a_crash_kept_back_is_written_by_the_next_opening() {
    let disk = new_disk();
    let journal = create(&disk).unwrap();
    for _ in 0..5 {
        append(&journal, Handoff::Os).unwrap();
    }
    journal.sync_to(Seq(5)).unwrap();
    let disk = disk.kill();
    let mut kept_back = 0;
    for stop in 0.. {
        let disk = disk.fork();
        disk.stop_after(stop);
        let through = reopen_from(&disk, Seq(5), Seq(5)).is_ok();
        assert!(through || disk.stopped());
        let disk = disk.kill();
        kept_back += usize::from(!through && segments(&disk).len() == 2);
        let (journal, report) = reopen_from(&disk, Seq(5), Seq(5)).unwrap();
        assert_eq!(report.last, Seq(5));
        append(&journal, Handoff::Os).unwrap();
        let disk = disk.kill();
        assert_eq!(reopen(&disk.fork()).unwrap().1.last, Seq(6), "stopped at {stop}");
        disk.remove_file(&dir().join(segments(&disk).pop().unwrap())).unwrap();
        for from in [Seq(0), Seq(5)] {
            let error = reopen_from(&disk.fork(), from, Seq(5)).unwrap_err();
            assert!(error.to_string().contains("case D"), "stopped at {stop}, from {from}: {error}");
        }
        if through {
            break;
        }
    }
    assert!(kept_back > 1, "{kept_back}");
}

/// What proves that the log went on lies further away than is looked through at once.
#[test]
fn frames_far_behind_a_wide_hole_are_evidence_of_it() {
    for wide in [300 << 10, 600 << 10, 1200 << 10] {
        let disk = new_disk();
        let journal = create_long(&disk).unwrap();
        while journal.lock().next_seq() < Seq(2000) {
            append(&journal, Handoff::Os).unwrap();
        }
        journal.sync_to(Seq::MAX).unwrap();
        // This one says that all before it is synced.
        let last = append(&journal, Handoff::Os).unwrap();
        journal.sync_to(last).unwrap();
        drop(journal);
        let disk = disk.crash(PowerCut { seed: 3 });
        let (path, place) = (dir().join(&segments(&disk)[0]), third_frame());
        disk.damage(&path, |bytes| bytes[place..place + wide].fill(0)).unwrap();
        let error = reopen(&disk).map(|(_, report)| report).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
    }
}

/// Where the frame with sequence 3 begins in the first segment.
pub fn third_frame() -> usize {
    segment::BODY as usize + (1..3).map(|seq| crate::frame::frame_bytes(payload(seq).len())).sum::<usize>()
}

#[test]
fn a_tail_that_was_cut_never_comes_back() {
    let disk = new_disk();
    let journal = create(&disk).unwrap();
    for _ in 0..6 {
        append(&journal, Handoff::Os).unwrap();
    }
    let place = third_frame();
    let whole = (0..)
        .map(|seed| disk.fork().crash(PowerCut { seed }))
        .find(|disk| reopen(&disk.fork()).is_ok_and(|(_, report)| report.last > Seq(4)))
        .unwrap();
    let kept = reopen(&whole.fork()).unwrap().1.last;
    let path = dir().join(&segments(&whole)[0]);
    let flip = |disk: &SimDisk| disk.damage(&path, |bytes| bytes[place + 16] ^= 1).unwrap();
    let bytes = |disk: &SimDisk| disk.read(&path).unwrap().unwrap()[place..place + 40].to_vec();
    // Sequence 3 cannot be read for a while: it, and what follows, was never synced, so the log is cut there.
    let unreadable = whole.fork();
    flip(&unreadable);
    let mut came_back = 0;
    for stop in 0.. {
        let disk = unreadable.fork();
        disk.stop_after(stop);
        let through = reopen(&disk).is_ok_and(|(_, report)| (report.last, report.case) == (Seq(2), 'H'));
        assert!(through || disk.stopped());
        let disk = disk.kill();
        // Then it can be read again, if no end marker has taken its place.
        if bytes(&disk) == bytes(&unreadable) {
            flip(&disk);
            came_back += 1;
        }
        let (journal, report) = reopen(&disk).unwrap();
        let last = report.last;
        assert!(last == Seq(2) || (!through && last == kept), "stopped at {stop}: {last}");
        assert_eq!(append(&journal, Handoff::Os).unwrap(), last.next());
        journal.sync_to(Seq::MAX).unwrap();
        let disk = disk.crash(PowerCut { seed: stop });
        assert_eq!(reopen_from(&disk, Seq(0), last.next()).unwrap().1.last, last.next(), "stopped at {stop}");
        if through {
            break;
        }
    }
    assert!(came_back > 3, "{came_back}");
}

#[test]
fn a_shorter_journal_than_the_shards_have_applied_is_refused() {
    let disk = sample(true);
    assert!(reopen_from(&disk.fork(), Seq(10), Seq(FRAMES)).is_ok());
    for (from, at_least) in [(0, FRAMES + 1), (FRAMES + 1, 0)] {
        let error = reopen_from(&disk, Seq(from), Seq(at_least)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption);
        assert!(error.to_string().contains("case I"), "{error}");
        let text = format!("ends below sequence {}", FRAMES + 1);
        assert!(error.to_string().contains(&text), "{error}");
    }
}

#[test]
fn files_of_another_store_or_version_are_refused_as_such() {
    let disk = sample(true);
    let other = JournalConfig { store_id: 1, ..CONFIG };
    let open = |disk: SimDisk, config| {
        Journal::open(Arc::new(disk), dir(), config, Seq(0), Seq(0), &mut |_, _| Ok(())).unwrap_err().kind()
    };
    assert_eq!(open(disk.fork(), other), ErrorKind::Foreign);
    let name = segments(&disk)[1].clone();
    disk.damage(&dir().join(name), |bytes| {
        for at in [0, segment::COPY_AT] {
            bytes[at + 8] = 9;
            let mut hasher = crc32fast::Hasher::new();
            hasher.update(&bytes[at..at + 12]);
            hasher.update(&bytes[at + 16..at + segment::HEADER_BLOCK]);
            bytes[at + 12..at + 16].copy_from_slice(&hasher.finalize().to_le_bytes());
        }
    })
    .unwrap();
    assert_eq!(open(disk, CONFIG), ErrorKind::Unsupported);
}

#[test]
fn damage_under_frames_that_are_known_to_be_synced_is_refused_after_a_power_cut_too() {
    let disk = sample(true).crash(PowerCut { seed: 1 });
    let mut refused = 0;
    for name in segments(&disk) {
        for at in (0..16 << 10).step_by(512) {
            let fork = disk.fork();
            fork.damage(&dir().join(&name), |bytes| bytes[at..at + 512].fill(0)).unwrap();
            refused += u64::from(!all_or_refused(&fork, &format!("{name} at {at}")));
        }
    }
    assert!(refused > 50, "{refused}");
}

proptest::proptest! {
    #[test]
    fn arbitrary_files_never_panic(
        files in proptest::collection::vec(
            (0u64..6, 0usize..3, proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300), 0usize..16 << 10),
            0..6,
        ),
    ) {
        let disk = sample(false);
        for (generation, extension, bytes, at) in files {
            let name = format!("{generation:016x}.{}", ["seg", "tmp", "spare"][extension]);
            let path = dir().join(name);
            if !disk.exists(&path).unwrap() {
                disk.open(&path, OpenMode::CreateNew).unwrap().write_at(0, &bytes).unwrap();
            } else {
                disk.open(&path, OpenMode::Write).unwrap().write_at(at as u64, &bytes).unwrap();
            }
        }
        // Only that it ends, with frames that are right (the helper checks each), or an error.
        if let Err(e) = reopen(&disk) {
            assert!(matches!(e.kind(), ErrorKind::Corruption | ErrorKind::Io), "{e}");
        }
    }
}

/// One copy of a header is mended from the other, and counted.
#[test]
fn headers_that_were_read_from_their_copies_are_counted() {
    let disk = sample(true);
    let names = segments(&disk);
    for name in &names[..3] {
        disk.damage(&dir().join(name), |bytes| bytes[40] ^= 1).unwrap();
    }
    let (_, report) = reopen(&disk).unwrap();
    assert_eq!((report.last, report.repaired_headers), (Seq(FRAMES), 3));
}
