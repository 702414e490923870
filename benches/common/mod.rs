//! What several benches need.

/// The `n`th key: 20 bytes, spread like a hash, so that neighbours in time are strangers in order.
pub fn key(n: u64) -> [u8; 20] {
    let mixed = (n.wrapping_add(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(31);
    let mut key = [0; 20];
    key[..8].copy_from_slice(&mixed.wrapping_mul(0x94d0_49bb_1331_11eb).to_be_bytes());
    key[8..16].copy_from_slice(&n.to_be_bytes());
    key
}
