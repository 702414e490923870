use super::{Ring, equal};
use crate::ring::Partitioner;
use proptest::prelude::*;

const ALL: [Partitioner; 10] = [
    Partitioner::Whole,
    Partitioner::Prefix(1),
    Partitioner::Prefix(2),
    Partitioner::Prefix(3),
    Partitioner::Delimiter(0),
    Partitioner::Delimiter(1),
    Partitioner::Delimiter(b'{'),
    Partitioner::Delimiter(b'}'),
    Partitioner::Delimiter(255),
    Partitioner::HashTag,
];

#[test]
fn routing_parts() {
    let cases: [(Partitioner, &[u8], &[u8]); 20] = [
        (Partitioner::Whole, b"", b""),
        (Partitioner::Whole, b"a{b}c", b"a{b}c"),
        (Partitioner::Prefix(3), b"abcdef", b"abc"),
        (Partitioner::Prefix(3), b"abc", b"abc"),
        (Partitioner::Prefix(3), b"ab", b"ab"),
        (Partitioner::Prefix(usize::MAX), b"ab", b"ab"),
        (Partitioner::Delimiter(b':'), b"user:1:x", b"user"),
        (Partitioner::Delimiter(b':'), b"user", b"user"),
        (Partitioner::Delimiter(b':'), b":user", b""),
        (Partitioner::Delimiter(0), b"a\0b", b"a"),
        (Partitioner::HashTag, b"{user1000}.following", b"user1000"),
        (Partitioner::HashTag, b"foo{}{bar}", b"foo{}{bar}"),
        (Partitioner::HashTag, b"foo{{bar}}zap", b"{bar"),
        (Partitioner::HashTag, b"foo{bar}{zap}", b"bar"),
        (Partitioner::HashTag, b"foo{bar", b"foo{bar"),
        (Partitioner::HashTag, b"foo}bar{", b"foo}bar{"),
        (Partitioner::HashTag, b"}{a}", b"a"),
        (Partitioner::HashTag, b"{}", b"{}"),
        (Partitioner::HashTag, b"", b""),
        (Partitioner::HashTag, b"{\0}", b"\0"),
    ];
    for (partitioner, key, part) in cases {
        assert_eq!(partitioner.routing_part(key), part, "{partitioner:?} of {key:?}");
    }
}

#[test]
fn single_routes_that_matter() {
    let slash = Partitioner::Delimiter(b'/');
    assert_eq!(slash.single_route(b"cart/", Some(b"cart0")), Some(&b"cart"[..]));
    assert_eq!(slash.single_route(b"cart/17", Some(b"cart/18")), Some(&b"cart"[..]));
    assert_eq!(slash.single_route(b"cart/17", Some(b"cart1")), None);
    assert_eq!(slash.single_route(b"cart", Some(b"cart0")), None);
    assert_eq!(slash.single_route(b"cart/", None), None);
    assert_eq!(slash.single_route(b"cart", Some(b"cart\x01")), None);
    assert_eq!(Partitioner::HashTag.single_route(b"a{t}", Some(b"a{t~")), Some(&b"t"[..]));
    assert_eq!(Partitioner::HashTag.single_route(b"a{t", Some(b"a{u")), None);
    assert_eq!(Partitioner::Prefix(2).single_route(b"ab", Some(b"ac")), Some(&b"ab"[..]));
    assert_eq!(Partitioner::Prefix(2).single_route(b"\xff\xff\x01", None), Some(&b"\xff\xff"[..]));
    assert_eq!(Partitioner::Whole.single_route(b"key", Some(b"key\0")), Some(&b"key"[..]));
    assert_eq!(Partitioner::Whole.single_route(b"key", Some(b"key\x01")), None);
    assert_eq!(Partitioner::Whole.single_route(b"key", Some(b"key")), None);
    assert_eq!(Partitioner::Delimiter(0).single_route(b"a", Some(b"a\x01")), Some(&b"a"[..]));
}

#[test]
fn prefixes_have_limits() {
    assert!(Partitioner::Prefix(0).validate().is_err());
    assert!(Partitioner::Prefix(crate::limits::MAX_KEY_BYTES + 1).validate().is_err());
    assert!(Partitioner::Prefix(crate::limits::MAX_KEY_BYTES).validate().is_ok());
    assert!(ALL.iter().all(|partitioner| partitioner.validate().is_ok()));
}

#[test]
fn the_stored_form_is_kebab_case() {
    let stored: Vec<String> =
        [Partitioner::Whole, Partitioner::Prefix(4), Partitioner::Delimiter(47), Partitioner::HashTag]
            .iter()
            .map(|partitioner| serde_json::to_string(partitioner).unwrap())
            .collect();
    assert_eq!(stored, ["\"whole\"", "{\"prefix\":4}", "{\"delimiter\":47}", "\"hash-tag\""]);
}

/// Bytes at which something happens, and their neighbours.
const BYTES: [u8; 8] = [0, 1, 2, b'{', b'|', b'}', b'~', 255];

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(BYTES.to_vec()), 0..5)
}

/// All keys of up to two bytes, and for each beginning of a bound what comes right after it: if two keys of a range
/// differ in their routes, then two of these do.
fn witnesses(lo: &[u8], hi: Option<&[u8]>) -> Vec<Vec<u8>> {
    let mut beginnings: Vec<Vec<u8>> = vec![Vec::new()];
    for bound in [Some(lo), hi].into_iter().flatten() {
        for length in 0..=bound.len() {
            beginnings.push(bound[..length].to_vec());
            let at = bound.get(length).copied().unwrap_or_default();
            for byte in BYTES.into_iter().chain([at.wrapping_sub(1), at.wrapping_add(1)]) {
                beginnings.push([&bound[..length], &[byte]].concat());
            }
        }
    }
    let mut keys = beginnings.clone();
    for beginning in &beginnings {
        for a in BYTES {
            keys.push([beginning, &[a][..]].concat());
            for b in BYTES {
                keys.push([beginning, &[a, b][..]].concat());
            }
        }
    }
    keys.retain(|key| key.as_slice() >= lo && hi.is_none_or(|hi| key.as_slice() < hi));
    keys
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_single_route_is_found_exactly_when_there_is_one(
        mut lo in key(),
        hi in prop::option::weighted(0.9, key()),
        near in prop::option::of(prop::collection::vec(prop::sample::select(BYTES.to_vec()), 0..3)),
        cut in 0_usize..5,
    ) {
        // Half of the upper bounds begin like the lower one, or the range would nearly always be wide.
        let mut hi = hi;
        if let (Some(near), Some(hi)) = (near, hi.as_mut()) {
            *hi = lo[..cut.min(lo.len())].to_vec();
            hi.extend(near);
            if *hi < lo {
                std::mem::swap(hi, &mut lo);
            }
        }
        let empty = hi.as_ref().is_some_and(|hi| *hi <= lo);
        let keys = witnesses(&lo, hi.as_deref());
        for partitioner in ALL {
            let found = partitioner.single_route(&lo, hi.as_deref());
            if empty {
                prop_assert_eq!(found, None);
                continue;
            }
            let first = partitioner.routing_part(&lo);
            let same = keys.iter().all(|key| partitioner.routing_part(key) == first);
            prop_assert_eq!(found, same.then_some(first), "{:?} of {:?}..{:?}", partitioner, &lo, &hi);
        }
    }

    #[test]
    fn a_routing_part_is_a_part_of_the_key(key in prop::collection::vec(any::<u8>(), 0..40)) {
        for partitioner in ALL {
            let part = partitioner.routing_part(&key);
            prop_assert!(key.is_empty() || part.is_empty() || key.windows(part.len()).any(|window| window == part));
        }
    }
}

#[test]
fn a_ring_says_how_it_routes() {
    for partitioner in ALL {
        let ring = Ring::plan(equal(3), 2, 64, partitioner).unwrap();
        assert_eq!(ring.partitioner(), partitioner);
    }
}

/// A scan asks fewer shards for that.
#[test]
fn keys_between_two_of_the_same_part_lie_in_one_virtual_node() {
    let of = |partitioner, hi: Option<&[u8]>| {
        let ring = Ring::plan(equal(4), 2, 64, partitioner).unwrap();
        ring.single_virtual_node(b"user:1", hi).map(|found| found == ring.virtual_node("user:15"))
    };
    let by_user = Partitioner::Delimiter(b':');
    assert_eq!(of(by_user, Some(b"user:2")), Some(true));
    assert_eq!(of(by_user, Some(b"usher:2")), None);
    assert_eq!(of(by_user, None), None);
    assert_eq!(of(Partitioner::Whole, Some(b"user:2")), None);
}
