//! Every engine does what the vocabulary says: a benchmark of something else would be worth nothing.

use super::{Kind, Latencies, Opening, Reads, Session, Span, Write};
use crate::keys::Layout;

const OPENING: Opening = Opening { budget: 8 << 20, grouped: false };

fn all(session: &mut dyn Session, span: Span<'_>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    session.scan(span, &mut |key, value| found.push((key.to_vec(), value.to_vec())));
    found
}

fn whole() -> Span<'static> {
    Span { from: None, to: None, reverse: false, limit: usize::MAX }
}

fn get(session: &mut dyn Session, n: u64) -> Option<Vec<u8>> {
    let mut found = None;
    session.get(&Layout::Sorted20.key(n), &mut |value| found = value.map(<[u8]>::to_vec));
    found
}

fn write(n: u64, value: Option<&[u8]>) -> Write {
    Write { key: Layout::Sorted20.key(n), value: value.map(<[u8]>::to_vec) }
}

#[test]
fn what_is_written_is_read_and_stays() {
    for kind in Kind::all() {
        println!("{}", kind.label());
        let dir = tempfile::tempdir().unwrap();
        let engine = kind.open(&dir.path().join("store"), OPENING);
        let mut session = engine.session(Reads::AmongWrites);
        let mut latencies = Latencies::new_with_bounds(1, 1 << 40, 3).unwrap();
        assert_eq!(get(&mut *session, 1), None);

        session.insert(&Layout::Sorted20.key(1), b"one");
        session.insert_sync(&Layout::Sorted20.key(2), b"two");
        session.bulk(&[write(3, Some(b"three")), write(4, Some(b"four"))], &mut latencies);
        session.batch_sync(&[write(5, Some(b"five")), write(1, Some(b"uno"))]);
        session.bulk(&[write(4, None)], &mut latencies);
        assert_eq!(latencies.len(), 3);
        drop(session);
        engine.settle();
        engine.close();

        let engine = kind.open(&dir.path().join("store"), OPENING);
        let mut session = engine.session(Reads::Alone);
        let read: Vec<_> = (0..7).map(|n| get(&mut *session, n)).collect();
        let expected = [None, Some("uno"), Some("two"), Some("three"), None, Some("five"), None];
        assert_eq!(read, expected.map(|v| v.map(|v| v.as_bytes().to_vec())), "{}", kind.label());
        drop(session);
        engine.close();
    }
}

#[test]
fn scans_keep_to_their_bounds_in_both_directions() {
    for kind in Kind::all() {
        println!("{}", kind.label());
        let dir = tempfile::tempdir().unwrap();
        let engine = kind.open(&dir.path().join("store"), OPENING);
        let mut session = engine.session(Reads::AmongWrites);
        let writes: Vec<Write> = (0..100).map(|n| write(n, Some(&[n as u8]))).collect();
        session.bulk(&writes, &mut Latencies::new_with_bounds(1, 1 << 40, 3).unwrap());
        let values = |found: Vec<(Vec<u8>, Vec<u8>)>| found.iter().map(|(_, v)| v[0]).collect::<Vec<u8>>();
        let (from, to) = (Layout::Sorted20.key(10), Layout::Sorted20.key(20));
        let span = Span { from: Some(&from), to: Some(&to), ..whole() };
        assert_eq!(values(all(&mut *session, whole())), (0..100).collect::<Vec<u8>>());
        assert_eq!(values(all(&mut *session, span)), (10..20).collect::<Vec<u8>>());
        assert_eq!(values(all(&mut *session, Span { limit: 3, ..span })), [10, 11, 12]);
        assert_eq!(values(all(&mut *session, Span { limit: 3, reverse: true, ..span })), [19, 18, 17]);
        assert_eq!(values(all(&mut *session, Span { limit: 2, reverse: true, ..whole() })), [99, 98]);
        drop(session);
        engine.close();
    }
}

#[test]
fn a_reader_among_writes_sees_what_another_wrote() {
    for kind in Kind::all() {
        let dir = tempfile::tempdir().unwrap();
        let engine = kind.open(&dir.path().join("store"), OPENING);
        let mut reader = engine.session(Reads::AmongWrites);
        for n in 0..50 {
            assert_eq!(get(&mut *reader, n), None);
            let engine = &engine;
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    engine.session(Reads::AmongWrites).insert(&Layout::Sorted20.key(n), b"there");
                });
            });
            assert_eq!(get(&mut *reader, n).as_deref(), Some(&b"there"[..]), "{}", kind.label());
        }
        drop(reader);
        engine.close();
    }
}
