//! What names an object: the BLAKE3 hash of its bytes.
//!
//! Whoever writes records chooses what is in a chunk, so a hash for which two inputs can be made on purpose would let one
//! user's record stand in for another's. That leaves out SHA-1. BLAKE3 needs no instructions of its own to be fast, and its
//! tree was small (see docs/ARCHITECTURE.md).

use crate::envelope;
use crate::error::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// The directory of objects; the first digit of the hash and `/` follow.
pub const OBJECTS: &str = "objects/";

/// The name of an object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(pub [u8; 32]);

impl ObjectId {
    pub fn of(bytes: &[u8]) -> ObjectId {
        ObjectId(*blake3::hash(bytes).as_bytes())
    }

    /// Its name in a repository.
    pub fn name(&self) -> String {
        format!("{OBJECTS}{:x}/{self}", self.0[0] >> 4)
    }

    /// The object that a name is of, if it is one's.
    pub fn from_name(name: &str) -> Option<ObjectId> {
        let id = name.rsplit('/').next()?.parse_hex()?;
        (id.name() == name).then_some(id)
    }
}

trait ParseHex {
    fn parse_hex(&self) -> Option<ObjectId>;
}

impl ParseHex for str {
    fn parse_hex(&self) -> Option<ObjectId> {
        let digits = self.as_bytes();
        let mut id = [0; 32];
        if digits.len() != 64 {
            return None;
        }
        for (byte, pair) in id.iter_mut().zip(digits.chunks(2)) {
            let digit = |c: &u8| match c {
                b'0'..=b'9' => Some(c - b'0'),
                b'a'..=b'f' => Some(c - b'a' + 10),
                _ => None,
            };
            let [high, low] = pair else { return None };
            *byte = digit(high)? << 4 | digit(low)?;
        }
        Some(ObjectId(id))
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ObjectId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ObjectId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ObjectId, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse_hex().ok_or_else(|| serde::de::Error::custom("expected 64 hexadecimal digits"))
    }
}

/// 128 bits from the operating system's random numbers, by way of the standard library's hash keys.
pub fn random() -> u128 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let half = || u128::from(RandomState::new().build_hasher().finish());
    half() << 64 | half()
}

/// The kinds of small files in a repository.
pub const fn kind(magic: &'static [u8; 8], name: &'static str, remedy: &'static str) -> envelope::Kind {
    envelope::Kind { magic, version: 1, oldest: 1, name, remedy }
}

/// Errors for what a whole object is.
pub fn unsupported(what: &str, version: u32) -> Error {
    let text = format!("the {what} has format version {version}; this release reads 1");
    Error::new(crate::error::ErrorKind::Unsupported, text)
        .remedy("use the release that wrote it, or a newer one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_and_nothing_else_is_one() {
        let id = ObjectId::of(b"chunk");
        let name = id.name();
        assert_eq!(ObjectId::from_name(&name), Some(id));
        assert_eq!(serde_json::from_str::<ObjectId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
        let wrong = ["", "objects/", "objects/0/xyz", &name[..name.len() - 1], &name.to_uppercase()];
        for wrong in wrong {
            assert_eq!(ObjectId::from_name(wrong), None, "{wrong}");
        }
        assert_eq!(ObjectId::from_name(&format!("{name}.tmp")), None);
    }
}
