//! Tests of the engine as a whole: [`crash`], [`damage`], [`growth`], [`patience`], [`repair`], [`rest`], [`stall`]; here is what they share.

mod crash;
mod damage;
mod growth;
mod patience;
mod repair;
mod rest;
mod stall;

use super::SledEngine;
use super::core::Core;
use super::frame::Page;
use super::node::Listed;
use super::root::{Search, Which};
use crate::engine::tests::{Model, Run, apply, check, scan, scratch, spec};
use crate::engine::{Engine, EngineSpec, Figures, Recounted};
use crate::error::ErrorKind;
use crate::ids::Seq;
use crate::record::KeyRange;
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const ALL: KeyRange = KeyRange { lo: Vec::new(), hi: None };

fn try_open(spec: &EngineSpec) -> crate::Result<SledEngine> {
    SledEngine::open(spec, &Arc::default())
}

fn open(spec: &EngineSpec) -> SledEngine {
    try_open(spec).unwrap()
}

fn core(engine: &SledEngine) -> Arc<Core> {
    Arc::clone(engine.core.read().as_ref().unwrap())
}

fn created(dir: &Path, page_bytes: usize) -> (EngineSpec, SledEngine) {
    let mut spec = spec(dir, page_bytes);
    spec.create = true;
    let engine = open(&spec);
    spec.create = false;
    (spec, engine)
}

fn key(n: u64) -> Vec<u8> {
    format!("key-{n:08}").into_bytes()
}

fn numbers(range: std::ops::Range<u64>, seq: u64, len: usize) -> Run {
    range.map(|n| (key(n), Seq(seq), Some(vec![n as u8; len]))).collect()
}

/// The pages of a shard, as the index has them.
fn pages(core: &Core) -> Vec<Listed> {
    let mut listed: Vec<Listed> = Vec::new();
    let mut end = Some(Vec::new());
    while let Some(next) = end {
        let node = core.node(Which::Holds(&next)).unwrap().unwrap();
        assert_eq!(node.lower(0), next);
        listed.extend(node.listed());
        end = node.end().map(<[u8]>::to_vec);
    }
    listed
}

fn recount(engine: &dyn Engine) -> crate::Result<Figures> {
    loop {
        match engine.recount(4)? {
            Recounted::Further => {}
            Recounted::Whole => return Ok(engine.figures().unwrap()),
            Recounted::Differs(error) => return Err(error),
        }
    }
}

/// What a full count of the pages in the file gives, by other means than the engine's.
fn counted(core: &Core) -> Figures {
    let (sum, astride) = tally(core);
    assert_eq!(astride, 0, "pages meet");
    sum
}

/// The same where a node was split by a commit that was cut off: then a page may reach over the one after it, which counts.
fn tally(core: &Core) -> (Figures, usize) {
    core.drain(&mut core.writer.lock()).unwrap();
    let (mut sum, mut astride) = (Figures::default(), 0);
    let all = pages(core);
    for (index, listed) in all.iter().enumerate() {
        let page = Page::verify(&listed.page, core.read_frame(&listed.page).unwrap()).unwrap();
        let view = page.view().unwrap();
        assert_eq!(page.lower(), &listed.lower[..]);
        let next = all.get(index + 1).map(|next| &next.lower[..]);
        let reaches = view.upper().is_none_or(|upper| next.is_some_and(|next| upper >= next));
        assert!(reaches, "there is a hole behind {:02x?}", listed.lower);
        astride += usize::from(view.upper() != next);
        sum.pages += 1;
        sum.records += next.map_or(view.len(), |next| view.lower_bound(next).unwrap()) as u64;
        sum.set_hash = sum.set_hash.wrapping_add(crate::digest::page_digest(page.lower(), listed.page.crc));
    }
    (sum, astride)
}

fn used(core: &Core) -> u64 {
    pages(core).iter().map(|listed| u64::from(listed.page.bytes)).sum()
}

fn nodes(core: &Core) -> usize {
    core.index.len()
}
