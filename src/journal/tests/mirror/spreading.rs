//! Damage in the copy that another one is made from: what that has is not lost with it.

use super::*;
use crate::frame::Kind;
use crate::journal::scan::{Item, Reader};
use crate::journal::segment::{BODY, MARKER_DISTANCE, SegmentHeader};

pub fn segments(disk: &SimDisk, copy: usize) -> Vec<PathBuf> {
    let mut names = disk.list(Path::new(DIRS[copy])).unwrap();
    names.retain(|name| name.ends_with(".seg"));
    names.sort();
    names.iter().map(|name| Path::new(DIRS[copy]).join(name)).collect()
}

/// Where the frames of a segment lie, up to and with the first marker.
pub fn frames(disk: &SimDisk, path: &Path) -> Vec<(Kind, Seq, u64)> {
    let file = disk.open(path, OpenMode::Read).unwrap();
    let bytes = disk.read(path).unwrap().unwrap();
    let (header, _) = SegmentHeader::decode_page(&bytes[..BODY as usize]).unwrap();
    let mut reader = Reader::new(file, path, header, Vec::new());
    let (mut at, mut found) = (BODY, Vec::new());
    while let Ok(Item::Frame(frame, _)) = reader.item(at) {
        found.push((frame.kind, frame.seq, at));
        if frame.kind != Kind::Commit {
            break;
        }
        at += frame.frame_bytes() as u64;
    }
    found
}

/// A journal of which the second copy was left behind after 60 writes, and the first has 10 more.
pub fn behind(seed: u64) -> (Model, SimDisk, Arc<Mirrors>, Journal) {
    let (mut model, disk) = (Model::default(), dirs_disk(seed));
    let (mirrors, journal) = model.create(&disk);
    left_behind(&mut model, &disk, &mirrors, &journal);
    (model, disk, mirrors, journal)
}

/// Writes up to the 70th, of which the second copy gets 60.
pub fn left_behind(model: &mut Model, disk: &SimDisk, mirrors: &Mirrors, journal: &Journal) {
    (journal.last().0..60).for_each(|_| model.append(journal, Handoff::Os).unwrap());
    model.sync(journal).unwrap();
    fault(disk, Operation::Sync, 1, 1);
    model.append(journal, Handoff::Os).unwrap();
    model.sync(journal).unwrap();
    (0..9).for_each(|_| model.append(journal, Handoff::Os).unwrap());
    model.sync(journal).unwrap();
    assert_eq!(good(mirrors), [true, false]);
}

pub fn each_alone_has(model: &Model, disk: &SimDisk, last: Seq, case: &str) {
    for copy in [0, 1] {
        let (mut model, disk) = (model.clone(), disk.fork());
        absent(&disk, 1 - copy);
        match model.open(&disk, None) {
            Ok((_, _, report)) => assert_eq!(report.last, last, "{case}, copy {copy}"),
            Err(e) => panic!("{case}, copy {copy}: {e}"),
        }
    }
}

#[test]
fn a_copy_is_not_made_from_damage_where_it_was_whole() {
    let (_, disk, ..) = behind(70);
    let mut places: Vec<(usize, u64)> = Vec::new();
    for (index, path) in segments(&disk, 0).iter().enumerate() {
        let mut commits = frames(&disk, path);
        commits.retain(|(kind, seq, _)| *kind == Kind::Commit && *seq <= Seq(60));
        if !commits.is_empty() {
            places.extend([(index, 100), (index, 2048 + 100)]);
        }
        // Of a header and of a payload.
        places.extend(commits.iter().flat_map(|(_, _, at)| [(index, at + 20), (index, at + 44)]));
    }
    assert!(places.len() > 100);
    let (mut mended, mut kept) = (0, 0);
    for (index, at) in places {
        let (mut model, disk, mirrors, journal) = behind(70);
        let [path, there] = [0, 1].map(|copy| segments(&disk, copy)[index].clone());
        disk.damage(&path, |bytes| {
            bytes[at as usize] ^= 4;
            // Both of the headers, which one damaged block does not come to.
            if at == 100 {
                bytes[2048 + 100] ^= 4;
            }
        })
        .unwrap();
        let before = [&path, &there].map(|path| disk.read(path).unwrap());
        if mirrors.mend() == 0 {
            // Nothing shows that it is the same, since they have no other frame in common there.
            assert!(mirrors.copies()[1].cause.as_ref().is_some_and(|e| e.to_string().contains("it is kept")));
            assert!(before == [&path, &there].map(|path| disk.read(path).unwrap()));
            kept += 1;
            // With the segment the damage goes.
            journal.trim(journal.last().next()).unwrap();
            let gone = !disk.exists(&path).unwrap();
            assert_eq!((mirrors.mend() == 1, gone), (gone, gone), "{} at {at}", path.display());
            continue;
        }
        mended += 1;
        model.append(&journal, Handoff::Os).unwrap();
        model.sync(&journal).unwrap();
        // Each of them alone has all.
        each_alone_has(
            &model,
            &disk.crash(PowerCut { seed: at }),
            Seq(71),
            &format!("{} at {at}", path.display()),
        );
    }
    assert!(mended > kept * 4 && kept > 0, "{mended} mended, {kept} kept");
}

/// Writes other values of the same length into frames of a copy.
fn rewrite(disk: &SimDisk, path: &Path, places: &[(Kind, Seq, u64)], value: u8) {
    disk.damage(path, |bytes| {
        let (header, _) = SegmentHeader::decode_page(&bytes[..BODY as usize]).unwrap();
        for (_, _, at) in places.iter().filter(|(kind, ..)| *kind == Kind::Commit) {
            let at = *at as usize;
            let old = crate::frame::Header::decode(&bytes[at..], header.salt(), header.generation).unwrap();
            let payload = vec![value; old.length as usize];
            let new =
                crate::frame::Header::commit(old.generation, old.seq, old.durable, &Payload::new(&payload));
            let mut frame = Vec::new();
            crate::frame::encode(&mut frame, &new.unwrap(), header.salt(), &payload);
            bytes[at..at + frame.len()].copy_from_slice(&frame);
        }
    })
    .unwrap();
}

/// A generation is used again where an opening has cut all of its segment: what lies in the copy that was away is another write, though a first one
/// may be the same.
#[test]
fn a_frame_of_another_life_is_not_put_in_the_place_of_a_damaged_one() {
    let (_, disk, ..) = behind(73);
    let all = segments(&disk, 0);
    let in_both = |path: &Path| frames(&disk, path).iter().filter(|(_, seq, _)| *seq <= Seq(60)).count();
    let index = all.iter().position(|path| in_both(path) > 5).unwrap();
    let places = frames(&disk, &all[index]);
    let mut kept = Vec::new();
    for (alike, which) in (0..2).flat_map(|alike| (alike..4).map(move |which| (alike, which))) {
        // The header of the frame, and its payload: then the header tells what it was.
        for harm in [20, 44] {
            let (model, disk, mirrors, journal) = behind(73);
            let [ours, theirs] = [0, 1].map(|copy| segments(&disk, copy)[index].clone());
            rewrite(&disk, &theirs, &places[alike..], 9);
            disk.damage(&ours, |bytes| bytes[places[which].2 as usize + harm] ^= 1).unwrap();
            let before = disk.read(&ours).unwrap();
            let case = format!("{alike} alike, {which} damaged at {harm}");
            if mirrors.mend() == 0 {
                kept.push((alike, which, harm));
            }
            assert!(disk.read(&ours).unwrap() == before, "{case}: it was changed");
            drop(journal);
            assert_eq!(
                model.clone().open(&disk.kill(), None).unwrap_err().kind(),
                ErrorKind::Corruption,
                "{case}"
            );
        }
    }
    // In doubt; the others are known to be of another life.
    assert_eq!(kept, [(0, 0, 20), (1, 1, 20)]);
}

/// The end of a segment, with the marker that announces the next one.
#[test]
fn the_lost_end_of_a_segment_comes_back_from_the_copy_that_has_it() {
    let (_, disk, ..) = behind(74);
    let all = segments(&disk, 0);
    let in_both = |path: &Path| frames(&disk, path).iter().filter(|(_, seq, _)| *seq <= Seq(60)).count();
    let index = all.iter().position(|path| in_both(path) > 5).unwrap();
    let places = frames(&disk, &all[index]);
    for (lost, by) in (1..places.len()).flat_map(|lost| ["zeros", "truncation"].map(|by| (lost, by))) {
        let (mut model, disk, mirrors, journal) = behind(74);
        let ours = segments(&disk, 0)[index].clone();
        let at = places[lost].2 as usize;
        disk.damage(&ours, |bytes| match by {
            "zeros" => bytes[at..].fill(0),
            _ => bytes.truncate(at),
        })
        .unwrap();
        assert_eq!(mirrors.mend(), 1, "{by} from {lost}: {:?}", mirrors.copies());
        model.append(&journal, Handoff::Os).unwrap();
        model.sync(&journal).unwrap();
        drop(journal);
        let disk = disk.kill();
        each_alone_has(&model, &disk, Seq(71), &format!("{by} from {lost}"));
    }
}

/// What nobody has any more is no reason to have one copy fewer of the rest.
#[test]
fn damage_that_no_copy_can_mend_does_not_keep_one_from_being_made() {
    let (model, disk, mirrors, journal) = behind(71);
    let holds = |path: &PathBuf| {
        frames(&disk, path).iter().any(|(kind, seq, _)| *kind == Kind::Commit && *seq == Seq(66))
    };
    let path = segments(&disk, 0).into_iter().find(holds).unwrap();
    let (_, _, at) = frames(&disk, &path).into_iter().find(|(_, seq, _)| *seq == Seq(66)).unwrap();
    disk.damage(&path, |bytes| bytes[at as usize + 44] ^= 1).unwrap();
    assert_eq!(mirrors.mend(), 1, "{:?}", mirrors.copies());
    assert_eq!(good(&mirrors), [true; 2]);
    drop(journal);
    let error = model.clone().open(&disk.kill(), None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption);
}

/// The copy that was away has a write that the other's opening has cut: the number is another write's by now.
#[test]
fn what_an_opening_has_cut_does_not_come_back_from_a_copy_that_was_away() {
    for spoiled in 0..4 {
        let (mut model, disk) = (Model::default(), dirs_disk(72));
        let (_, journal) = model.create(&disk);
        (0..20).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
        model.sync(&journal).unwrap();
        let [before, there] = [0, 1].map(|copy| segments(&disk, copy).pop().unwrap());
        let whole = disk.read(&before).unwrap().unwrap();
        (0..2).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
        drop(journal);
        assert_eq!(segments(&disk, 0).pop().unwrap(), before, "in one segment");
        let longer = disk.read(&there).unwrap().unwrap();
        // A power cut takes the last two from the one, and not from the other.
        let disk = disk.crash(PowerCut { seed: 1 });
        disk.damage(&before, |bytes| bytes.copy_from_slice(&whole)).unwrap();
        disk.damage(&there, |bytes| bytes.copy_from_slice(&longer)).unwrap();
        absent(&disk, 1);
        let (mirrors, journal, report) = model.open(&disk, None).unwrap();
        assert_eq!(report.last, Seq(20));
        (0..3).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
        model.sync(&journal).unwrap();
        disk.heal();
        let (_, _, at) = frames(&disk, &before).into_iter().find(|(kind, ..)| *kind == Kind::End).unwrap();
        let (header, _) = SegmentHeader::decode_page(&whole[..BODY as usize]).unwrap();
        disk.damage(&before, |bytes| {
            let at = at as usize;
            // The marker; its second; both; and a frame that says that the log reaches further, which a power cut may leave.
            if spoiled != 1 {
                bytes[at + 20] ^= 1;
            }
            if spoiled == 1 || spoiled == 2 {
                bytes[at + MARKER_DISTANCE + 20] ^= 1;
            }
            if spoiled == 3 {
                let salt = header.salt();
                let mut frame = Vec::new();
                let late =
                    crate::frame::Header::commit(header.generation, Seq(22), Seq(20), &Payload::new(b"late"))
                        .unwrap();
                crate::frame::encode(&mut frame, &late, salt, b"late");
                bytes[at + 400..][..frame.len()].copy_from_slice(&frame);
            }
        })
        .unwrap();
        let found = disk.read(&before).unwrap();
        assert_eq!(mirrors.mend(), 1, "{spoiled}: {:?}", mirrors.copies());
        assert!(disk.read(&before).unwrap() == found, "{spoiled}: it was changed");
        drop(journal);
        let disk = disk.kill();
        each_alone_has(&model, &disk, Seq(23), &format!("{spoiled}"));
    }
}

/// A segment of the first copy that both have more than five frames of, and where they lie.
pub fn in_both(disk: &SimDisk) -> (usize, Vec<(Kind, Seq, u64)>) {
    let all = segments(disk, 0).into_iter().map(|path| frames(disk, &path)).enumerate();
    let mut fitting =
        all.filter(|(_, frames)| frames.iter().filter(|(_, seq, _)| *seq <= Seq(60)).count() > 5);
    fitting.next().unwrap()
}

pub fn is_whole(disk: &SimDisk, path: &Path, (.., seq, at): (Kind, Seq, u64)) -> bool {
    let file = disk.open(path, OpenMode::Read).unwrap();
    let (header, _) = SegmentHeader::decode_page(&disk.read(path).unwrap().unwrap()).unwrap();
    let mut reader = Reader::new(file, path, header, Vec::new());
    matches!(reader.item(at), Ok(Item::Frame(frame, _)) if frame.seq == seq)
}

/// It is a valid frame, and not the one that belongs there.
#[test]
fn a_frame_that_was_written_in_the_place_of_another_is_damage() {
    let (_, disk, ..) = behind(75);
    let (index, places) = in_both(&disk);
    for (from, to) in [(0, 2), (3, 1)] {
        let (mut model, disk, mirrors, journal) = behind(75);
        let ours = segments(&disk, 0)[index].clone();
        let [begin, end, to] = [from, from + 1, to].map(|at: usize| places[at].2 as usize);
        disk.damage(&ours, |bytes| bytes.copy_within(begin..end, to)).unwrap();
        assert_eq!(mirrors.mend(), 1, "{:?}", mirrors.copies());
        model.append(&journal, Handoff::Os).unwrap();
        model.sync(&journal).unwrap();
        drop(journal);
        each_alone_has(&model, &disk.kill(), Seq(71), &format!("{from} to {to}"));
    }
}

/// Readers pass over a frame that neither has, where they do not ask for it.
#[test]
fn behind_what_neither_copy_has_a_frame_is_put_back_as_well() {
    let (_, disk, mirrors, _journal) = behind(76);
    let (index, places) = in_both(&disk);
    let both = [0, 1].map(|copy| segments(&disk, copy)[index].clone());
    let harm = |copy: usize, place: usize| {
        disk.damage(&both[copy], |bytes| bytes[places[place].2 as usize + 44] ^= 1).unwrap();
    };
    [(0, 1), (1, 1), (0, 3)].into_iter().for_each(|(copy, place)| harm(copy, place));
    assert_eq!(mirrors.mend(), 1, "{:?}", mirrors.copies());
    for path in &both {
        let whole: Vec<bool> = places.iter().map(|place| is_whole(&disk, path, *place)).collect();
        assert!(!whole[1] && whole.iter().filter(|whole| !**whole).count() == 1, "{whole:?}");
    }
}

/// The next segment's header would say whether an opening has cut the log there.
#[test]
fn what_nobody_can_say_was_cut_is_kept() {
    let (_, disk, mirrors, journal) = behind(77);
    let (index, places) = in_both(&disk);
    let [ours, theirs] = [0, 1].map(|copy| segments(&disk, copy)[index].clone());
    let next = segments(&disk, 0)[index + 1].clone();
    disk.damage(&ours, |bytes| bytes[places[2].2 as usize + 44] ^= 1).unwrap();
    let headers = disk.read(&next).unwrap().unwrap()[..BODY as usize].to_vec();
    disk.damage(&next, |bytes| [100, 2048 + 100].into_iter().for_each(|at| bytes[at] ^= 1)).unwrap();
    mirrors.mend();
    assert!(is_whole(&disk, &theirs, places[2]), "the only whole one is gone");
    disk.damage(&next, |bytes| bytes[..BODY as usize].copy_from_slice(&headers)).unwrap();
    assert_eq!((mirrors.mend(), good(&mirrors)), (1, [true; 2]), "{:?}", mirrors.copies());
    assert!(is_whole(&disk, &ours, places[2]) && is_whole(&disk, &theirs, places[2]));
    drop(journal);
}

/// A disk loses the last write of a block, and shows what was there before: a marker in the place of a frame that the log has gone on behind.
#[test]
fn a_lost_write_is_not_taken_for_the_end_of_a_segment_and_spread() {
    let mut harmed = 0;
    for lost in 2..60 {
        let (mut model, disk) = (Model::default(), dirs_disk(75));
        let (mirrors, journal) = model.create(&disk);
        (1..lost).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
        let ours = segments(&disk, 0).pop().unwrap();
        let remembered = disk.read(&ours).unwrap().unwrap();
        let (_, _, at) = frames(&disk, &ours).pop().unwrap();
        left_behind(&mut model, &disk, &mirrors, &journal);
        let block = at as usize / 4096 * 4096;
        let before = disk.read(&ours).unwrap().unwrap();
        disk.damage(&ours, |bytes| {
            bytes[block..block + 4096].copy_from_slice(&remembered[block..block + 4096]);
        })
        .unwrap();
        let marked = frames(&disk, &ours).pop();
        // It may be the end marker that is lost.
        if before == disk.read(&ours).unwrap().unwrap() || marked.is_none_or(|(kind, ..)| kind != Kind::Tail)
        {
            continue;
        }
        assert_eq!(marked, Some((Kind::Tail, Seq(lost), at)));
        harmed += 1;
        match mirrors.mend() {
            1 => {
                model.append(&journal, Handoff::Os).unwrap();
                model.sync(&journal).unwrap();
                drop(journal);
                each_alone_has(&model, &disk.kill(), Seq(71), &format!("{lost} lost"));
            }
            // Nothing is the same there, so what the other copy has may be of another life: it is kept.
            _ => assert!(
                mirrors.copies()[1].cause.as_ref().is_some_and(|e| e.to_string().contains("it is kept")),
                "{lost}: {:?}",
                mirrors.copies()
            ),
        }
    }
    assert!(harmed > 30, "{harmed}");
}
