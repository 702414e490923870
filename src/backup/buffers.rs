//! Buffers of chunks, to be used again: fresh memory of a megabyte costs more to get, page by page, than to fill.
//!
//! Invariant: what rests here is bounded, whatever comes.

use parking_lot::Mutex;

/// How many bytes rest at most.
const MOST: usize = 12 << 20;

/// Empty buffers.
#[derive(Debug, Default)]
pub struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    /// An empty buffer, one that was used if there is any.
    pub fn take(&self) -> Vec<u8> {
        self.0.lock().pop().unwrap_or_default()
    }

    /// Takes a buffer back, unless enough rest already.
    pub fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut rest = self.0.lock();
        let bytes: usize = rest.iter().map(Vec::capacity).sum();
        if buffer.capacity() > 0 && bytes + buffer.capacity() <= MOST {
            rest.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_is_taken_again_up_to_a_bound() {
        let buffers = Buffers::default();
        buffers.give(vec![1; 5 << 20]);
        buffers.give(vec![2; 6 << 20]);
        buffers.give(vec![3; 2 << 20]);
        buffers.give(Vec::new());
        let mut found: Vec<(usize, usize)> =
            (0..3).map(|_| buffers.take()).map(|b| (b.len(), b.capacity() >> 20)).collect();
        found.sort_unstable();
        assert_eq!(found, [(0, 0), (0, 5), (0, 6)]);
    }
}
