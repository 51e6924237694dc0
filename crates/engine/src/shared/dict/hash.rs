//! Keys, with their hashes: the same in every process, and another in every dict, so that nobody can choose keys that
//! all come to lie in one place.

const ODD: u64 = 0x9E37_79B9_7F4A_7C15;

/// A key, and its hash.
#[derive(Debug)]
pub(super) struct Key<'k> {
    pub(super) bytes: &'k [u8],
    pub(super) hash: u64,
}

impl<'k> Key<'k> {
    pub(super) fn new(bytes: &'k [u8], seed: u64) -> Self {
        let start = fold(seed ^ bytes.len() as u64, ODD);
        let hash = words_of(bytes).fold(start, |hash, word| fold(hash ^ word, seed | 1));
        Self { bytes, hash: fold(hash, ODD) }
    }
}

/// Both halves of a product: each bit of it depends on all of both.
#[expect(clippy::cast_possible_truncation, reason = "the halves")]
fn fold(one: u64, other: u64) -> u64 {
    let product = u128::from(one ^ ODD.rotate_left(32)) * u128::from(other);
    (product >> 64) as u64 ^ product as u64
}

/// Bytes as words, the last one filled up with zeros.
pub(super) fn words_of(bytes: &[u8]) -> impl ExactSizeIterator<Item = u64> {
    bytes.chunks(8).map(|chunk| {
        let mut whole = [0; 8];
        match chunk.len() {
            8 => whole.copy_from_slice(chunk),
            len => whole[..len].copy_from_slice(chunk),
        }
        u64::from_le_bytes(whole)
    })
}
