use super::*;
use crate::error::ErrorKind;
use crate::ids::Seq;
use proptest::prelude::*;
use std::collections::BTreeMap;

type Versions = BTreeMap<(Vec<u8>, std::cmp::Reverse<u64>), Kind>;

#[derive(Debug, Clone)]
enum Kind {
    Value(Vec<u8>),
    Tombstone,
}

fn entries(versions: &Versions) -> Vec<Entry<'_>> {
    versions
        .iter()
        .map(|((key, seq), kind)| Entry {
            head: &key[..key.len() / 2],
            tail: &key[key.len() / 2..],
            seq: Seq(seq.0),
            content: match kind {
                Kind::Value(value) => Content::Value(value),
                Kind::Tombstone => Content::Tombstone,
            },
        })
        .collect()
}

fn encoded(lower: &[u8], upper: Option<&[u8]>, versions: &Versions) -> Vec<u8> {
    let mut out = vec![7; 3];
    encode(lower, upper, &entries(versions), &mut out);
    out.split_off(3)
}

fn versions() -> impl Strategy<Value = Versions> {
    let key = (0usize..4, proptest::collection::vec(0u8..4, 0..4))
        .prop_map(|(shared, rest)| [&b"common"[..shared + 2], &rest].concat());
    let kind = prop_oneof![
        4 => proptest::collection::vec(any::<u8>(), 0..40).prop_map(Kind::Value),
        1 => Just(Kind::Tombstone),
    ];
    proptest::collection::btree_map((key, (1u64..300).prop_map(std::cmp::Reverse)), kind, 0..40)
}

proptest! {
    #[test]
    fn what_goes_in_comes_out(versions in versions(), bounded in any::<bool>(), at in 0u64..310) {
        let upper = bounded.then_some(&b"d"[..]);
        let page = encoded(b"c", upper, &versions);
        let view = PageView::open(b"c", &page).unwrap();
        prop_assert_eq!(view.upper(), upper);
        prop_assert_eq!(view.len(), versions.len());
        view.check(b"c", upper).unwrap();
        for (index, wanted) in entries(&versions).iter().enumerate() {
            let found = view.entry(index).unwrap();
            prop_assert_eq!((found.key(), found.seq, found.content), (wanted.key(), wanted.seq, wanted.content));
        }
        for probe in versions.keys().flat_map(|(key, _)| [key.clone(), [key, &[0][..]].concat(), key[1..].to_vec()]) {
            let wanted = entries(&versions).into_iter().find(|entry| entry.key() == probe && entry.seq.0 <= at);
            let found = view.find(&probe, Seq(at)).unwrap();
            prop_assert_eq!(found.map(|e| (e.seq, e.content)), wanted.map(|e| (e.seq, e.content)));
            let bound = versions.keys().filter(|(key, _)| *key < probe).count();
            prop_assert_eq!(view.lower_bound(&probe).unwrap(), bound);
        }
    }

    #[test]
    fn the_cost_is_the_bytes(versions in versions()) {
        let list = entries(&versions);
        let shared = shared(&list);
        let records: usize = list.iter().map(|entry| cost(entry, shared)).sum();
        let page = encoded(b"", None, &versions);
        prop_assert_eq!(page.len(), FIXED_BYTES + 1 + shared.prefix + records);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), flags in 0u8..8, sealed in any::<bool>()) {
        if sealed && bytes.len() >= FIXED_BYTES {
            // With a right checksum, so that what lies behind it is reached too.
            bytes[4] = VERSION;
            bytes[5] = flags;
            bytes[7..10].fill(0);
            let crc = checksum(b"k", &bytes);
            bytes[..4].copy_from_slice(&crc.to_le_bytes());
        }
        if let Ok(view) = PageView::open(b"k", &bytes) {
            let _ = view.check(b"", None);
            let _ = (view.find(b"key", Seq::MAX), view.lower_bound(b"key"));
            for index in 0..view.len().min(300) {
                let _ = view.entry(index);
            }
        }
    }
}

fn sample() -> Versions {
    let mut versions = Versions::new();
    for n in 0..20u8 {
        let kind = match n % 5 {
            0 => Kind::Tombstone,
            _ => Kind::Value(vec![n; usize::from(n)]),
        };
        versions.insert((vec![b'k', n], std::cmp::Reverse(1000 + u64::from(n) * 90)), kind);
    }
    versions
}

#[test]
fn every_flipped_bit_is_an_error() {
    let page = encoded(b"k", Some(b"l"), &sample());
    for byte in 0..page.len() {
        for bit in 0..8 {
            let mut damaged = page.clone();
            damaged[byte] ^= 1 << bit;
            assert_eq!(
                PageView::open(b"k", &damaged).unwrap_err().kind(),
                ErrorKind::Corruption,
                "byte {byte}"
            );
        }
    }
    for len in 0..page.len() {
        assert_eq!(PageView::open(b"k", &page[..len]).unwrap_err().kind(), ErrorKind::Corruption);
    }
    assert_eq!(
        PageView::open(b"j", &page).unwrap_err().kind(),
        ErrorKind::Corruption,
        "a page in another's place"
    );
}

fn resealed(mut page: Vec<u8>, edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    edit(&mut page);
    let crc = checksum(b"k", &page);
    page[..4].copy_from_slice(&crc.to_le_bytes());
    page
}

#[test]
fn a_newer_page_is_unsupported_and_not_corrupt() {
    let page = encoded(b"k", None, &sample());
    let newer = resealed(page.clone(), |page| page[4] = 2);
    assert_eq!(PageView::open(b"k", &newer).unwrap_err().kind(), ErrorKind::Unsupported);
    let flagged = resealed(page.clone(), |page| page[5] |= 8);
    assert_eq!(PageView::open(b"k", &flagged).unwrap_err().kind(), ErrorKind::Unsupported);
    // The first record follows the fixed fields, the length of the prefix, the prefix, "k", and both tables.
    let expiring = resealed(page, |page| page[FIXED_BYTES + 2 + 20 * 4] |= 0x80);
    let view = PageView::open(b"k", &expiring).unwrap();
    assert_eq!(view.entry(0).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn a_page_over_64_kib_has_wide_offsets() {
    let mut versions = Versions::new();
    for n in 0..30u8 {
        versions.insert((vec![n; 3000], std::cmp::Reverse(5)), Kind::Value(vec![n; 3000]));
    }
    let page = encoded(b"", None, &versions);
    let view = PageView::open(b"", &page).unwrap();
    view.check(b"", None).unwrap();
    assert_eq!(
        view.find(&[29; 3000], Seq::MAX).unwrap().map(|e| e.content),
        Some(Content::Value(&[29; 3000]))
    );
}

#[test]
fn records_out_of_order_or_out_of_bounds_are_found() {
    let page = encoded(b"k", None, &sample());
    let view = PageView::open(b"k", &page).unwrap();
    assert_eq!(view.check(b"k\x01", None).unwrap_err().kind(), ErrorKind::Corruption);
    assert_eq!(view.check(b"k", Some(b"k\x13")).unwrap_err().kind(), ErrorKind::Corruption);
    let offsets = FIXED_BYTES + 2 + 20 * 2;
    let swapped = resealed(page.clone(), |page| {
        page.swap(offsets, offsets + 2);
        page.swap(offsets + 1, offsets + 3);
    });
    let view = PageView::open(b"k", &swapped).unwrap();
    assert_eq!(view.check(b"k", None).unwrap_err().kind(), ErrorKind::Corruption);
    let stem = resealed(page, |page| page[FIXED_BYTES + 2] ^= 1);
    let view = PageView::open(b"k", &stem).unwrap();
    assert_eq!(view.check(b"k", None).unwrap_err().kind(), ErrorKind::Corruption);
}
