//! Damaged files: found, and never taken for records that are not there.

use super::*;

/// Whether every page that `lost` names fails, and every other record is still there.
fn only_fails(engine: &SledEngine, n: u64, lost: impl Fn(u64) -> bool) {
    for n in 0..n {
        match engine.get(&key(n), Seq::MAX) {
            Ok(found) => assert!(found.is_some() && !lost(n), "{n}"),
            Err(error) => {
                assert!(error.kind() == ErrorKind::Corruption && lost(n), "{n}: {error}");
                assert!(error.path().is_some() && error.shard().is_some());
            }
        }
    }
}

#[test]
fn every_damaged_page_is_corruption_and_never_absence() {
    let dir = scratch();
    let (_, engine) = created(dir.path(), 512);
    apply(&engine, &numbers(0..200, 1, 30), &[]).unwrap();
    engine.sync(Seq(1)).unwrap();
    let held = core(&engine);
    for listed in pages(&held) {
        let offset = listed.page.unit * crate::engine::sled::space::UNIT;
        let frame = held.read_frame(&listed.page).unwrap();
        let page = Page::verify(&listed.page, frame.clone()).unwrap();
        let view = page.view().unwrap();
        let keys: Vec<Vec<u8>> = (0..view.len()).map(|index| view.entry(index).unwrap().key()).collect();
        // Emptied, and in another's place: a whole page that says that it is another.
        let other = pages(&held).into_iter().find(|other| other.page.id != listed.page.id).unwrap();
        let mut foreign = held.read_frame(&other.page).unwrap().to_vec();
        foreign.resize(frame.len(), 0);
        for damage in [vec![0; frame.len()], foreign] {
            held.file.write_at(offset, &damage).unwrap();
            held.cache.remove(listed.page.id);
            only_fails(&engine, 200, |n| keys.contains(&key(n)));
            for reverse in [false, true] {
                assert_eq!(scan(&engine, &ALL, Seq::MAX, reverse).unwrap_err().kind(), ErrorKind::Corruption);
            }
            assert_eq!(recount(&engine).unwrap_err().kind(), ErrorKind::Corruption);
            let before = engine.figures();
            let into = apply(&engine, &vec![(keys[0].clone(), Seq(2), None)], &[]);
            assert_eq!(into.unwrap_err().kind(), ErrorKind::Corruption);
            assert_eq!(engine.figures(), before, "a run that failed changed nothing");
        }
        held.file.write_at(offset, &frame).unwrap();
        assert_eq!(scan(&engine, &ALL, Seq::MAX, true).unwrap().len(), 200);
    }
    assert_eq!(recount(&engine).unwrap(), counted(&held));
}

#[test]
fn a_key_that_was_missed_in_a_page_costs_no_reading_of_it_again() {
    let dir = scratch();
    let (_, engine) = created(dir.path(), 512);
    apply(&engine, &numbers(0..200, 1, 30), &[]).unwrap();
    engine.sync(Seq(1)).unwrap();
    let held = core(&engine);
    engine.set_cache(0, 1 << 20);
    let absent = |n: u64| [&key(n)[..], b"x"].concat();
    let missed = |engine: &SledEngine| {
        (0..200).filter(|n| matches!(engine.get(&absent(*n), Seq::MAX), Ok(None))).count()
    };
    assert_eq!(missed(&engine), 200);
    for listed in pages(&held) {
        held.file
            .write_at(listed.page.unit * super::super::space::UNIT, &vec![0; listed.page.bytes as usize])
            .unwrap();
    }
    let found = missed(&engine);
    assert!((180..=200).contains(&found), "{found} of 200 were known to be absent");
    only_fails(&engine, 200, |_| true);
    // A page that is written anew has other keys.
    let dir = scratch();
    let (_, engine) = created(dir.path(), 512);
    apply(&engine, &numbers(0..200, 1, 30), &[]).unwrap();
    assert_eq!(missed(&engine), 200);
    let run: Vec<_> = (0..200).map(|n| (absent(n), Seq(2), Some(vec![1]))).collect();
    apply(&engine, &run, &[]).unwrap();
    assert_eq!(missed(&engine), 0);
}

#[test]
fn a_flip_of_any_byte_of_a_page_is_found() {
    let dir = scratch();
    let (_, engine) = created(dir.path(), 512);
    apply(&engine, &numbers(0..20, 1, 30), &[]).unwrap();
    engine.sync(Seq(1)).unwrap();
    let held = core(&engine);
    let listed = pages(&held).remove(1);
    let frame = held.read_frame(&listed.page).unwrap();
    for at in 0..frame.len() {
        let mut damaged = frame.to_vec();
        damaged[at] ^= 0x10;
        // The header's own checksum is for those who search the file without an index.
        let harmless = (4..8).contains(&at);
        assert_eq!(
            held.verify(
                &listed.page,
                held.pool
                    .frame(damaged.len(), |frame| {
                        frame.copy_from_slice(&damaged);
                        Ok::<(), ()>(())
                    })
                    .unwrap()
            )
            .is_ok(),
            harmless,
            "byte {at}"
        );
    }
}

/// Changes the index behind the engine's back; returns what opening with the seal's figures, and without, comes to.
fn tampered(tamper: impl Fn(&Core)) -> [crate::Result<SledEngine>; 2] {
    [true, false].map(|resume| {
        let dir = scratch();
        let (mut spec, engine) = created(dir.path(), 300);
        apply(&engine, &numbers(0..3000, 1, 30), &[]).unwrap();
        engine.sync(Seq(1)).unwrap();
        let held = core(&engine);
        tamper(&held);
        drop(held);
        spec.resume = engine.figures().filter(|_| resume);
        engine.close().unwrap();
        try_open(&spec)
    })
}

fn kind_of(opened: &crate::Result<SledEngine>) -> Option<ErrorKind> {
    opened.as_ref().err().map(crate::Error::kind)
}

#[test]
fn every_lost_or_damaged_node_is_found_at_open() {
    let count = {
        let dir = scratch();
        let (_, engine) = created(dir.path(), 300);
        apply(&engine, &numbers(0..3000, 1, 30), &[]).unwrap();
        engine.sync(Seq(1)).unwrap();
        core(&engine).index.len()
    };
    assert!(count > 3, "{count} nodes");
    for lost in 0..count {
        let number = |core: &Core| core.index.iter().keys().nth(lost).unwrap().unwrap();
        let gone = tampered(|core| drop(core.index.remove(number(core)).unwrap()));
        assert_eq!(gone.each_ref().map(kind_of), [Some(ErrorKind::Corruption); 2], "node {lost}");
        let flipped = tampered(|core| {
            let mut node = core.index.get(number(core)).unwrap().unwrap().to_vec();
            let middle = node.len() / 2;
            node[middle] ^= 1;
            core.index.insert(number(core), node).unwrap();
        });
        assert_eq!(flipped.each_ref().map(kind_of), [Some(ErrorKind::Corruption); 2], "node {lost}");
    }
    let none = tampered(|core| drop(core.meta.remove(b"state").unwrap()));
    assert_eq!(none.each_ref().map(kind_of), [Some(ErrorKind::Corruption); 2]);
}

#[test]
fn a_node_that_went_back_in_time_is_found() {
    let dir = scratch();
    let (mut spec, engine) = created(dir.path(), 300);
    apply(&engine, &numbers(0..3000, 1, 30), &[]).unwrap();
    engine.sync(Seq(1)).unwrap();
    let held = core(&engine);
    let (number, old) = held.index.iter().nth(2).unwrap().unwrap();
    // The same sizes, so that the bounds stay and cannot show it.
    apply(&engine, &numbers(0..3000, 2, 30), &[]).unwrap();
    engine.sync(Seq(2)).unwrap();
    spec.resume = engine.figures();
    held.index.insert(number, old).unwrap();
    assert_eq!(recount(&engine).unwrap_err().kind(), ErrorKind::Corruption, "a scrub finds it");
    drop(held);
    engine.close().unwrap();
    assert_eq!(try_open(&spec).unwrap_err().kind(), ErrorKind::Corruption);
}

#[test]
fn a_shortened_or_missing_page_file_is_found_at_open() {
    let dir = scratch();
    let (spec, engine) = created(dir.path(), 512);
    apply(&engine, &numbers(0..500, 1, 30), &[]).unwrap();
    engine.sync(Seq(1)).unwrap();
    engine.close().unwrap();
    let path = spec.dir.join("pages");
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(file.metadata().unwrap().len() - 600).unwrap();
    assert_eq!(try_open(&spec).unwrap_err().kind(), ErrorKind::Corruption);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(try_open(&spec).unwrap_err().kind(), ErrorKind::Corruption);
    assert!(!path.exists(), "what is lost is not made anew");
}

fn files(dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let files = ["", "index"].into_iter().flat_map(|sub| std::fs::read_dir(dir.join(sub)).unwrap());
    let files = files.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    files.map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect()
}

/// Whatever happens to sled's files, the engine opens or says why not; it never panics, never holds on to the files,
/// and every key is right, an error, or, where `applied` or the figures give it away, from before.
#[test]
fn damaged_files_are_errors_that_leave_no_locks() {
    let dir = scratch();
    let (spec, engine) = created(dir.path(), 1024);
    apply(&engine, &numbers(0..3000, 1, 100), &[]).unwrap();
    engine.sync(Seq(1)).unwrap();
    apply(&engine, &numbers(0..3000, 2, 100), &[]).unwrap();
    engine.sync(Seq(2)).unwrap();
    let sealed = engine.figures();
    engine.close().unwrap();
    let whole = files(&spec.dir);
    let (mut refused, mut given_away, mut harmless) = (0, 0, 0);
    for trial in 0..40u64 {
        for (path, bytes) in files(&spec.dir) {
            std::fs::remove_file(path).unwrap();
            drop(bytes);
        }
        for (path, bytes) in &whole {
            std::fs::write(path, bytes).unwrap();
        }
        let (path, bytes) = &whole[if trial % 8 == 0 {
            trial as usize / 8 % whole.len()
        } else {
            whole
                .iter()
                .position(|(path, _)| path.ends_with(if trial % 3 == 0 { "db" } else { "pages" }))
                .unwrap()
        }];
        let coin = crate::digest::hash128(&[&trial.to_le_bytes()]);
        let at = (coin % bytes.len().max(1) as u128) as usize;
        let mut damaged = bytes.clone();
        match trial % 4 {
            0 => damaged.truncate(at),
            1 => damaged.iter_mut().skip(at).take(512).for_each(|byte| *byte ^= 0x5a),
            2 => damaged.iter_mut().skip(at).take(4096).for_each(|byte| *byte = 0),
            _ => damaged[at] ^= 1 << ((coin >> 64) as u32 % 8),
        }
        std::fs::write(path, damaged).unwrap();
        match try_open(&spec) {
            Err(error) => {
                assert!(
                    matches!(error.kind(), ErrorKind::Corruption | ErrorKind::Io | ErrorKind::Unsupported),
                    "{error:?}"
                );
                refused += 1;
            }
            Ok(engine) => {
                let behind = engine.applied() < Seq(2);
                let mut wrong = 0;
                for n in 0..3000 {
                    match engine.get(&key(n), Seq::MAX) {
                        Ok(Some(found)) if found.seq == Seq(2) && found.value == vec![n as u8; 100] => {}
                        Ok(_) => wrong += 1,
                        Err(error) => assert!(matches!(error.kind(), ErrorKind::Corruption | ErrorKind::Io)),
                    }
                }
                let figures = recount(&engine).ok();
                if figures == sealed && !behind {
                    assert_eq!(wrong, 0, "trial {trial}: nothing gave it away");
                    harmless += 1;
                } else {
                    given_away += 1;
                }
                let _ = engine.close();
            }
        }
        assert!(
            crate::engine::sled::open::is_free(&spec.dir.join("index/db")).unwrap_or(true),
            "trial {trial}"
        );
    }
    assert!(refused > 3 && refused + given_away + harmless == 40, "{refused} {given_away} {harmless}");
}
