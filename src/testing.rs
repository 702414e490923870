//! What this crate's own fuzz targets, benches and integration tests need of its inside. Not part of the interface:
//! it may change in any release.
#![allow(missing_docs)]

pub use crate::disk::{Disk, DiskFile, Fault, OpenMode, Operation, PowerCut, RealDisk, SimDisk};
pub use crate::frame::{HEADER_BYTES, Header, Kind, Payload, Salt, encode, find, frame_bytes};
pub use crate::journal::segment::{Origin, SegmentHeader};
pub use crate::journal::{Appender, Handoff, Journal, JournalConfig, JournalStats, ReplayReport};
