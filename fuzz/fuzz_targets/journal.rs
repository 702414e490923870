//! A journal whose files have been changed in any way opens with consecutive frames, or refuses; what has opened once
//! takes appends and opens again.
//!
//! The input is a list of changes, each an operation, a file, an offset and some bytes. Two of them write frames and
//! headers with right checksums, which no random bytes would have.
#![no_main]

use annulus::testing::{
    Disk, Handoff, Header, Journal, JournalConfig, Kind, OpenMode, Origin, Payload, PowerCut, Salt, SegmentHeader,
    SimDisk, encode,
};
use annulus::{Error, ErrorKind, Seq};
use libfuzzer_sys::fuzz_target;
use std::path::Path;
use std::sync::{Arc, LazyLock};

const STORE: u128 = 0xf0_22;
const CONFIG: JournalConfig = JournalConfig { store_id: STORE, segment_bytes: 16 << 10, max_spares: 2 };

fn dir() -> &'static Path {
    Path::new("/journal")
}

/// Two sessions over five segments, and the next one ready.
static SAMPLE: LazyLock<SimDisk> = LazyLock::new(|| {
    let disk = SimDisk::new(1);
    let mut journal = Journal::create(Arc::new(disk.clone()), dir(), CONFIG, Seq(1)).unwrap();
    for seq in 1..40u64 {
        if seq == 20 {
            journal.close().unwrap();
            journal = open(&disk).unwrap().0;
        }
        let bytes = vec![seq as u8; (seq * 389 % 2000) as usize];
        journal.append(&Payload::new(&bytes), Handoff::Os).unwrap();
    }
    journal.provision().unwrap();
    disk.kill()
});

fn open(disk: &SimDisk) -> Result<(Journal, Seq), Error> {
    let mut last = Seq::ZERO;
    let (journal, report) = Journal::open(Arc::new(disk.clone()), dir(), CONFIG, Seq(0), Seq(0), &mut |seq, _| {
        assert_eq!(seq, last.next(), "a gap");
        last = seq;
        Ok(())
    })?;
    assert_eq!(report.last, last);
    Ok((journal, last))
}

fn change(disk: &SimDisk, operation: u8, generation: u64, offset: usize, bytes: &[u8]) -> std::io::Result<()> {
    let name = |generation: u64| dir().join(format!("{generation:016x}.seg"));
    let path = name(generation);
    let write = |at: usize, bytes: &[u8]| match disk.open(&path, OpenMode::Write) {
        Ok(file) => file.write_at(at as u64, bytes),
        Err(_) => disk.open(&path, OpenMode::CreateNew)?.write_at(at as u64, bytes),
    };
    let byte = |at: usize| u64::from(bytes.get(at).copied().unwrap_or(0));
    match operation % 8 {
        0 => write(offset, bytes),
        1 => disk.damage(&path, |all| all.truncate(offset)),
        2 => disk.remove_file(&path),
        3 => disk.rename(&path, &name(byte(0) % 12)),
        4 => {
            let copy = disk.read(&path)?.unwrap_or_default();
            let to = name(byte(0) % 12);
            let _ = disk.remove_file(&to);
            disk.open(&to, OpenMode::CreateNew)?.write_at(0, &copy)
        }
        5 => {
            let kind = [Kind::Commit, Kind::Tail, Kind::End][byte(0) as usize % 3];
            let payload = if kind == Kind::Commit { bytes.get(3..).unwrap_or_default() } else { &[] };
            let header = Header::commit(generation, Seq(byte(1)), Seq(byte(2)), &Payload::new(payload));
            let Some(header) = header else { return Ok(()) };
            let mut out = Vec::new();
            encode(&mut out, &Header { kind, ..header }, Salt::new(STORE, generation), payload);
            write(offset / 8 * 8, &out)
        }
        6 => {
            let origin = if byte(0) % 2 == 0 { Origin::Continuation } else { Origin::Start { first: Seq(byte(1)) } };
            let header = SegmentHeader {
                store_id: STORE,
                generation,
                boot_id: u128::from(byte(2) % 3),
                len: [16 << 10, offset as u64, 1 << 40][byte(3) as usize % 3],
                origin,
            };
            write(0, &header.encode_page())
        }
        _ => disk.damage(&path, |all| all.resize(offset, 0xa5)),
    }
}

fuzz_target!(|data: &[u8]| {
    let mut disk = SAMPLE.fork();
    let mut rest = data;
    let mut power = 0;
    while let Some(([operation, generation, low, high, count], after)) = rest.split_first_chunk::<5>() {
        let (bytes, after) = after.split_at((*count as usize).min(after.len()));
        let offset = usize::from(u16::from_le_bytes([*low, *high])) % (20 << 10);
        let _ = change(&disk, *operation, u64::from(*generation) % 12, offset, bytes);
        power |= operation & 128;
        rest = after;
    }
    if power != 0 {
        disk = disk.crash(PowerCut { seed: data.len() as u64 });
    }
    let (journal, last) = match open(&disk) {
        Ok(opened) => opened,
        Err(e) => {
            let known = [ErrorKind::Corruption, ErrorKind::Io, ErrorKind::Foreign, ErrorKind::Unsupported];
            assert!(known.contains(&e.kind()), "{e}");
            return;
        }
    };
    if last.0 > 1 << 40 {
        return;
    }
    for _ in 0..3 {
        journal.append(&Payload::new(&[1; 6000]), Handoff::Buffered).unwrap();
    }
    journal.sync_to(Seq::MAX).unwrap();
    let disk = disk.crash(PowerCut { seed: data.len() as u64 });
    let (_, again) = open(&disk).unwrap();
    assert_eq!(again.0, last.0 + 3);
});
