//! A store in one stream: self-contained, checksummed, read and written from front to back. See docs/FORMAT.md.
//!
//! Invariant: a reader that came to the end has seen every byte's checksum; one that did not says so.

use super::Versions;
use super::buffers::Buffers;
use super::builder::ChunkBuilder;
use super::checkpoint::Body;
use super::chunk::{BlockCursor, ChunkRecord, ChunkView, Coding, PlainBlock, RecordCursor};
use super::hash::unsupported;
use crate::batch::KEYSPACE_BYTES;
use crate::error::{Error, Result};
use crate::ids::KeyspaceId;
use crate::record::RunRecord;
use std::io::{self, Read, Write};

const MAGIC: &[u8; 8] = b"ANNULUSX";
const VERSION: u32 = 1;
const HEADER: usize = 9;
/// A piece is a chunk at most; one has a record of 64 MiB and some more.
const MOST: u32 = 80 << 20;

const HEAD: u8 = 1;
const KEYSPACE: u8 = 2;
const CHUNK: u8 = 3;
const END: u8 = 4;

/// Writes a stream.
pub struct StreamWriter<W> {
    out: W,
    hash: blake3::Hasher,
    chunk: ChunkBuilder,
    buffers: Buffers,
    chunks: u64,
    records: u64,
}

fn failed(error: io::Error) -> Error {
    let text = "the stream cannot be written";
    Error::new(crate::error::ErrorKind::Io, text).remedy("begin the export anew").caused_by(error)
}

impl<W: Write> StreamWriter<W> {
    /// Begins a stream of what `body` describes.
    pub fn new(out: W, body: &Body) -> Result<StreamWriter<W>> {
        let mut head = MAGIC.to_vec();
        head.extend_from_slice(&VERSION.to_le_bytes());
        let text = serde_json::to_vec(body);
        head.extend(text.map_err(|e| Error::invalid("a manifest cannot be written as JSON").caused_by(e))?);
        let (hash, chunk) = (blake3::Hasher::new(), ChunkBuilder::default());
        let buffers = Buffers::default();
        let mut stream = StreamWriter { out, hash, chunk, buffers, chunks: 0, records: 0 };
        stream.piece(HEAD, &head)?;
        Ok(stream)
    }

    fn piece(&mut self, kind: u8, body: &[u8]) -> Result<()> {
        let mut header = [0; HEADER];
        header[4] = kind;
        header[5..].copy_from_slice(&(body.len() as u32).to_le_bytes());
        let mut crc = crc32fast::Hasher::new();
        crc.update(&header[4..]);
        crc.update(body);
        header[..4].copy_from_slice(&crc.finalize().to_le_bytes());
        self.hash.update(&header);
        self.hash.update(body);
        self.out.write_all(&header).and_then(|()| self.out.write_all(body)).map_err(failed)
    }

    /// The records that follow are of that keyspace.
    pub fn keyspace(&mut self, id: KeyspaceId) -> Result<()> {
        self.end_chunk()?;
        self.piece(KEYSPACE, &id.0.to_le_bytes())
    }

    pub fn push(&mut self, record: ChunkRecord<'_>) -> Result<()> {
        let size = record.key.len() + record.value.map_or(0, <[u8]>::len);
        if self.chunk.is_full_for(size) {
            self.end_chunk()?;
        }
        self.records += 1;
        if self.chunk.push(record) { self.end_chunk() } else { Ok(()) }
    }

    fn end_chunk(&mut self) -> Result<()> {
        let Some(chunk) = self.chunk.finish() else { return Ok(()) };
        self.chunks += 1;
        let bytes = chunk.encode(Coding::Plain, &self.buffers);
        let written = self.piece(CHUNK, &bytes);
        self.buffers.give(bytes);
        self.chunk.fill(self.buffers.take());
        written
    }

    /// Writes the last piece; how many records there were.
    pub fn finish(mut self) -> Result<u64> {
        self.end_chunk()?;
        let mut end = self.chunks.to_le_bytes().to_vec();
        end.extend_from_slice(&self.records.to_le_bytes());
        end.extend_from_slice(self.hash.clone().finalize().as_bytes());
        self.piece(END, &end)?;
        self.out.flush().map_err(failed)?;
        Ok(self.records)
    }
}

/// Reads a stream, record by record.
pub struct StreamReader<R> {
    input: R,
    pub body: Body,
    hash: blake3::Hasher,
    at: u64,
    keyspace: Option<KeyspaceId>,
    chunk: Vec<u8>,
    blocks: BlockCursor,
    block: Option<PlainBlock<'static>>,
    cursor: RecordCursor,
    key: Vec<u8>,
    before: Vec<u8>,
    chunks: u64,
    records: u64,
    ended: bool,
}

fn damaged(what: &str, at: u64) -> Error {
    Error::corruption(format!("the stream {what}"))
        .offset(at)
        .remedy("nothing of it can be believed: export it anew, or copy it again")
}

impl<R: Read> StreamReader<R> {
    pub fn new(mut input: R) -> Result<StreamReader<R>> {
        let (mut hash, mut at) = (blake3::Hasher::new(), 0);
        let (kind, head) = piece(&mut input, &mut hash, &mut at)?;
        if kind != HEAD || !head.starts_with(MAGIC) {
            return Err(damaged("is none of Annulus: its first piece is another", 0));
        }
        let version = super::chunk::get_u32(&head, 8).unwrap_or_default();
        if version != VERSION {
            return Err(unsupported("stream", version));
        }
        let body = head.get(12..).unwrap_or_default();
        let body: Body =
            serde_json::from_slice(body).map_err(|e| damaged("has a head that is none", 0).caused_by(e))?;
        body.check().map_err(|what| damaged(what, 0))?;
        Ok(StreamReader {
            input,
            body,
            hash,
            at,
            keyspace: None,
            chunk: Vec::new(),
            blocks: BlockCursor::default(),
            block: None,
            cursor: RecordCursor::default(),
            key: Vec::new(),
            before: Vec::new(),
            chunks: 0,
            records: 0,
            ended: false,
        })
    }

    fn advance(&mut self) -> Result<bool> {
        loop {
            if let Some(block) = &self.block {
                if self.cursor.advance(block)? {
                    self.records += 1;
                    return Ok(true);
                }
                self.block = None;
                continue;
            }
            if !self.chunk.is_empty() {
                let view = ChunkView::parse(&self.chunk)?;
                if let Some((_, block)) = view.next_block(&mut self.blocks) {
                    let block = block?.into_owned();
                    (self.cursor, self.block) = (block.start(), Some(block));
                    continue;
                }
                self.chunk.clear();
            }
            if !self.next_piece()? {
                return Ok(false);
            }
        }
    }

    fn next_piece(&mut self) -> Result<bool> {
        let (hash, at) = (self.hash.clone(), self.at);
        let (kind, body) = piece(&mut self.input, &mut self.hash, &mut self.at)?;
        match kind {
            KEYSPACE => {
                let id = super::chunk::get_u32(&body, 0).filter(|_| body.len() == 4).map(KeyspaceId);
                let id = id.filter(|id| self.body.keyspaces.iter().any(|k| k.id == *id));
                let Some(id) = id.filter(|id| self.keyspace.is_none_or(|before| before < *id)) else {
                    return Err(damaged("has a keyspace where none can be", at));
                };
                self.keyspace = Some(id);
                self.before.clear();
            }
            CHUNK if self.keyspace.is_some() => {
                self.blocks = ChunkView::parse(&body)?.start();
                self.chunk = body;
                self.chunks += 1;
            }
            END => {
                let mut expected = self.chunks.to_le_bytes().to_vec();
                expected.extend_from_slice(&self.records.to_le_bytes());
                expected.extend_from_slice(hash.finalize().as_bytes());
                return if body == expected {
                    Ok(false)
                } else {
                    Err(damaged("is not what its end says", at))
                };
            }
            _ => return Err(damaged("has a piece that cannot be there", at)),
        }
        Ok(true)
    }

    fn record(&mut self) -> Result<RunRecord<'_>> {
        let (Some(block), Some(keyspace)) = (&self.block, self.keyspace) else {
            return Err(damaged("has a record of no keyspace", self.at));
        };
        let record = self.cursor.record(block);
        if record.key <= self.before.as_slice() || record.seq > self.body.seq {
            return Err(damaged("has records that are out of order", self.at));
        }
        self.before.clear();
        self.before.extend_from_slice(record.key);
        self.key.clear();
        self.key.extend_from_slice(&keyspace.0.to_be_bytes());
        debug_assert_eq!(self.key.len(), KEYSPACE_BYTES);
        self.key.extend_from_slice(record.key);
        Ok(RunRecord { key: &self.key, seq: record.seq, value: record.value })
    }
}

/// Reads a piece: its kind and its body.
fn piece(input: &mut impl Read, hash: &mut blake3::Hasher, at: &mut u64) -> Result<(u8, Vec<u8>)> {
    let mut header = [0; HEADER];
    read(input, &mut header, *at)?;
    let [a, b, c, d, kind, e, f, g, h] = header;
    let length = u32::from_le_bytes([e, f, g, h]);
    if length > MOST {
        return Err(damaged("has a piece that is over its limit", *at));
    }
    let mut body = Vec::new();
    let got = input.by_ref().take(u64::from(length)).read_to_end(&mut body).map_err(|e| unread(e, *at))?;
    if got < length as usize {
        return Err(damaged("ends in the middle", *at + (HEADER + got) as u64));
    }
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[4..]);
    crc.update(&body);
    if crc.finalize() != u32::from_le_bytes([a, b, c, d]) {
        return Err(damaged("has a piece without its checksum", *at));
    }
    hash.update(&header);
    hash.update(&body);
    *at += (HEADER + body.len()) as u64;
    Ok((kind, body))
}

fn read(input: &mut impl Read, buffer: &mut [u8], at: u64) -> Result<()> {
    input.read_exact(buffer).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => damaged("ends in the middle", at),
        _ => unread(e, at),
    })
}

fn unread(error: io::Error, at: u64) -> Error {
    Error::new(crate::error::ErrorKind::Io, "the stream cannot be read")
        .offset(at)
        .remedy("begin the import anew")
        .caused_by(error)
}

impl<R: Read> Versions for StreamReader<R> {
    fn next(&mut self) -> Option<Result<RunRecord<'_>>> {
        if self.ended {
            return None;
        }
        match self.advance() {
            Ok(true) => {
                let record = self.record();
                Some(record)
            }
            Ok(false) => {
                self.ended = true;
                None
            }
            Err(error) => {
                self.ended = true;
                Some(Err(error))
            }
        }
    }
}
