//! Page bounds: user keys rewritten so that sled 0.34 can walk over them backwards.
//!
//! sled finds the leaf before one that starts at `k` by seeking to `k` with its last byte lowered and four 0xff bytes
//! appended. If a key lies between that guess and `k` (it has a run of five or more 0xff bytes there), the walk finds
//! neither leaf, turns a million times and panics. So no bound contains 0xff: 0xfe is written `fe 00` and 0xff `fe 01`.
//!
//! Invariant: the rewriting is one to one and keeps the order of keys; most keys have neither byte and stay as they are.

use crate::error::{Error, Result};
use std::borrow::Cow;

const ESCAPE: u8 = 0xfe;

/// The bound of a key.
pub(super) fn encode(key: &[u8]) -> Cow<'_, [u8]> {
    let Some(first) = key.iter().position(|byte| *byte >= ESCAPE) else { return Cow::Borrowed(key) };
    let (plain, rest) = key.split_at(first);
    let mut bound = Vec::with_capacity(key.len() + rest.len());
    bound.extend_from_slice(plain);
    for byte in rest {
        if *byte >= ESCAPE {
            bound.extend_from_slice(&[ESCAPE, byte - ESCAPE]);
        } else {
            bound.push(*byte);
        }
    }
    Cow::Owned(bound)
}

/// The key of a bound.
pub(super) fn decode(bound: &[u8]) -> Result<Cow<'_, [u8]>> {
    let Some(first) = bound.iter().position(|byte| *byte >= ESCAPE) else { return Ok(Cow::Borrowed(bound)) };
    let (plain, rest) = bound.split_at(first);
    let mut key = plain.to_vec();
    let mut bytes = rest.iter();
    while let Some(byte) = bytes.next() {
        match (*byte, byte) {
            (ESCAPE, _) => match bytes.next() {
                Some(low @ (0 | 1)) => key.push(ESCAPE + low),
                _ => return Err(bad(bound)),
            },
            (0xff, _) => return Err(bad(bound)),
            (plain, _) => key.push(plain),
        }
    }
    Ok(Cow::Owned(key))
}

fn bad(bound: &[u8]) -> Error {
    Error::corruption(format!("expected a page bound, found {bound:02x?}")).remedy("repair the shard")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xfd), Just(0xfe), Just(0xff)], 0..8)
    }

    proptest! {
        #[test]
        fn bounds_keep_the_order_and_come_back(a in key(), b in key()) {
            let (x, y) = (encode(&a), encode(&b));
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
            prop_assert!(!x.contains(&0xff));
            prop_assert_eq!(&*decode(&x).unwrap(), &a[..]);
        }

        #[test]
        fn only_bounds_are_decoded(bytes in key()) {
            if let Ok(key) = decode(&bytes) {
                prop_assert_eq!(&*encode(&key), &bytes[..]);
            }
        }
    }
}
