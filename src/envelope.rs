//! Small files of ours (manifest, identity, seal): a checked header around a JSON body, so that damage is found before
//! a byte is believed, and a person can still read the file.
//!
//! Layout, little-endian: magic (8 bytes), format version (u32), body length (u32), CRC-32 (u32) over version, length
//! and body, then the body. A file that is longer or shorter than its header says is damaged.

use crate::error::{Error, ErrorKind, Result};
use serde::{Serialize, de::DeserializeOwned};
use std::path::Path;

const HEADER: usize = 20;

/// One kind of small file.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    pub magic: &'static [u8; 8],
    /// The version that is written.
    pub version: u32,
    /// The oldest version that is still read.
    pub oldest: u32,
    /// What to call it in an error.
    pub name: &'static str,
    /// What to do about a damaged one.
    pub remedy: &'static str,
}

pub fn encode<T: Serialize>(kind: Kind, body: &T) -> Result<Vec<u8>> {
    let body = serde_json::to_vec(body)
        .map_err(|e| Error::invalid(format!("the {} cannot be written as JSON", kind.name)).caused_by(e))?;
    wrap(kind, &body)
}

/// Puts the header before a body.
pub fn wrap(kind: Kind, body: &[u8]) -> Result<Vec<u8>> {
    let length = u32::try_from(body.len())
        .map_err(|_| Error::invalid(format!("the {} would be over 4 GiB", kind.name)))?;
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend_from_slice(kind.magic);
    bytes.extend_from_slice(&kind.version.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&checksum(kind.version, length, body).to_le_bytes());
    bytes.extend_from_slice(body);
    Ok(bytes)
}

pub fn decode<T: DeserializeOwned>(kind: Kind, path: &Path, bytes: &[u8]) -> Result<T> {
    let damaged = |what: String| {
        Error::corruption(format!("the {} is damaged: {what}", kind.name)).at(path).remedy(kind.remedy)
    };
    if bytes.len() < HEADER {
        return Err(damaged(format!("it has {} bytes, fewer than its header's {HEADER}", bytes.len())));
    }
    let (header, body) = bytes.split_at(HEADER);
    let word = |at: usize| header[at..].first_chunk().map_or(0, |b| u32::from_le_bytes(*b));
    if !header.starts_with(kind.magic) {
        return Err(damaged("it does not begin with its magic bytes".into()));
    }
    let (version, length, crc) = (word(8), word(12), word(16));
    let found = u32::try_from(body.len()).unwrap_or(u32::MAX);
    if checksum(version, length, body) != crc && !crate::plants::is("small-file-checksum-not-checked") {
        return Err(damaged(format!(
            "its checksum does not match (its header announces {length} bytes, there are {found})"
        )));
    }
    // After the checksum, so that a flipped bit is never mistaken for another release's format.
    if !(kind.oldest..=kind.version).contains(&version) {
        let text = format!(
            "the {} has format version {version}; this release reads {} to {}",
            kind.name, kind.oldest, kind.version
        );
        return Err(Error::new(ErrorKind::Unsupported, text)
            .at(path)
            .remedy("open it with the release that wrote it, or a newer one"));
    }
    if length != found {
        return Err(damaged(format!("its header announces {length} bytes, there are {found}")));
    }
    serde_json::from_slice(body).map_err(|e| damaged("its body is not what it should be".into()).caused_by(e))
}

/// What a file that could not be read is: damaged where it is longer than any of ours, which is found before it is read.
pub fn unread(kind: Kind, path: &Path, error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::InvalidData => {
            Error::corruption(format!("the {} is damaged: {error}", kind.name)).at(path).remedy(kind.remedy)
        }
        _ => Error::io(&format!("read the {}", kind.name), path, error),
    }
}

fn checksum(version: u32, length: u32, body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&version.to_le_bytes());
    crc.update(&length.to_le_bytes());
    crc.update(body);
    crc.finalize()
}

/// Numbers of 128 bits as 32 hexadecimal digits, since many JSON readers round a number over 53 bits.
pub mod hex128 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{value:032x}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        let text = String::deserialize(deserializer)?;
        u128::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}

/// Bytes as hexadecimal digits.
pub mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&bytes.iter().map(|b| format!("{b:02x}")).collect::<String>())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digit = |c: &u8| (*c as char).to_digit(16).map(|d| d as u8);
        let digits: Option<Vec<u8>> = text.as_bytes().iter().map(digit).collect();
        match digits {
            Some(digits) if digits.len() % 2 == 0 => Ok(digits.chunks(2).map(|d| d[0] << 4 | d[1]).collect()),
            _ => Err(D::Error::custom("expected an even number of hexadecimal digits")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind =
        Kind { magic: b"ANNULUST", version: 3, oldest: 2, name: "test file", remedy: "restore it" };

    #[test]
    fn every_flip_and_every_cut_is_found() {
        let bytes = encode(KIND, &vec![1u32, 2, 3]).unwrap();
        assert_eq!(decode::<Vec<u32>>(KIND, Path::new("x"), &bytes).unwrap(), [1, 2, 3]);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << bit;
                let error = decode::<Vec<u32>>(KIND, Path::new("x"), &bad).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corruption, "byte {at} bit {bit}");
            }
            assert!(decode::<Vec<u32>>(KIND, Path::new("x"), &bytes[..at]).is_err());
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(decode::<Vec<u32>>(KIND, Path::new("x"), &longer).is_err());
    }

    #[test]
    fn a_fraction_is_read_as_it_was_written() {
        let fractions: Vec<f64> =
            (1..2000_i32).map(|n| f64::from(n).sqrt() * 10f64.powi(n % 500 - 250)).collect();
        let bytes = encode(KIND, &fractions).unwrap();
        assert_eq!(decode::<Vec<f64>>(KIND, Path::new("x"), &bytes).unwrap(), fractions);
    }

    #[test]
    fn another_version_is_refused_by_name() {
        let bytes = encode(Kind { version: 4, ..KIND }, &0u32).unwrap();
        let error = decode::<u32>(KIND, Path::new("x"), &bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("version 4"));
        let bytes = encode(Kind { version: 1, ..KIND }, &0u32).unwrap();
        assert_eq!(decode::<u32>(KIND, Path::new("x"), &bytes).unwrap_err().kind(), ErrorKind::Unsupported);
        let bytes = encode(Kind { version: 2, ..KIND }, &7u32).unwrap();
        assert_eq!(decode::<u32>(KIND, Path::new("x"), &bytes).unwrap(), 7);
    }
}
