//! Buffers for frames, used again and again: a cache that took a new one for each page and freed another's, thread by
//! thread, would leave the allocator with several times its size in pieces that nobody can use.
//!
//! Invariant: a buffer that is handed out has one owner.

use super::space::UNIT;
use parking_lot::Mutex;
use std::sync::Arc;

/// Frames of up to this many units share buffers of their size; larger ones are rare, and allocated.
const CLASSES: usize = 16;
/// Free buffers kept for each size: what the pages that are read or let go at one time may need.
const KEPT: usize = 64;

/// The bytes of a frame; the buffer may be a little longer.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    buffer: Arc<[u8]>,
    len: u32,
}

#[derive(Debug, Default)]
pub(super) struct Pool {
    free: [Mutex<Vec<Arc<[u8]>>>; CLASSES],
}

impl Pool {
    /// A frame of `len` bytes, as `fill` leaves them. They hold anything before.
    pub fn frame<E>(&self, len: usize, fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Frame, E> {
        let class = len.div_ceil(UNIT as usize);
        let size = if class <= CLASSES { class * UNIT as usize } else { len };
        let reused = self.class(class).and_then(|free| free.lock().pop());
        let mut buffer = reused.unwrap_or_else(|| std::iter::repeat_n(0, size).collect());
        if let Some(bytes) = Arc::get_mut(&mut buffer) {
            fill(&mut bytes[..len])?;
        }
        Ok(Frame { buffer, len: len as u32 })
    }

    /// Takes a frame's buffer back, if nobody else holds it.
    pub fn give_back(&self, mut frame: Frame) {
        let class = frame.buffer.len() / UNIT as usize;
        if let Some(free) = self.class(class)
            && Arc::get_mut(&mut frame.buffer).is_some()
        {
            let mut free = free.lock();
            if free.len() < KEPT {
                free.push(frame.buffer);
            }
        }
    }

    fn class(&self, class: usize) -> Option<&Mutex<Vec<Arc<[u8]>>>> {
        self.free.get(class.checked_sub(1)?)
    }
}

impl Frame {
    /// Bytes in memory.
    pub fn resident(&self) -> usize {
        self.buffer.len()
    }

    pub fn whole(&self) -> &Arc<[u8]> {
        &self.buffer
    }
}

impl std::ops::Deref for Frame {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.buffer[..self.len as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(pool: &Pool, len: usize, byte: u8) -> Frame {
        let fill = |bytes: &mut [u8]| {
            bytes.fill(byte);
            Ok::<(), ()>(())
        };
        pool.frame(len, fill).unwrap()
    }

    #[test]
    fn a_buffer_comes_back_only_from_its_last_owner() {
        let pool = Pool::default();
        let first = filled(&pool, 4000, 1);
        let place = first.whole().as_ptr();
        pool.give_back(first.clone());
        let second = filled(&pool, 4090, 2);
        assert_ne!(second.whole().as_ptr(), place);
        assert!(first.iter().all(|byte| *byte == 1));
        pool.give_back(first);
        let third = filled(&pool, 3700, 3);
        assert_eq!((third.whole().as_ptr(), third.len()), (place, 3700));
        let large = filled(&pool, 9000, 4);
        assert_eq!(large.resident(), 9000);
        pool.give_back(large);
    }

    #[test]
    fn a_frame_that_cannot_be_filled_is_none() {
        assert_eq!(Pool::default().frame(100, |_| Err(7)).unwrap_err(), 7);
    }
}
