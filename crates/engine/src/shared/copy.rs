//! Bytes in words, at the speed of memory: the last word is filled up with zeros.

use crate::prim::atomic::{AtomicU64, Ordering};

/// How many bytes a word has.
pub(super) const BYTES: usize = size_of::<u64>();

/// Writes bytes into words, as far as these reach.
#[inline]
pub(super) fn write(target: &[AtomicU64], bytes: &[u8]) {
    let (whole, rest) = bytes.as_chunks::<BYTES>();
    for (word, chunk) in target.iter().zip(whole) {
        word.store(u64::from_le_bytes(*chunk), Ordering::Relaxed);
    }
    if let Some(word) = target.get(whole.len()).filter(|_| !rest.is_empty()) {
        let mut last = [0; BYTES];
        last[..rest.len()].copy_from_slice(rest);
        word.store(u64::from_le_bytes(last), Ordering::Relaxed);
    }
}

/// Reads bytes out of words, as far as these reach.
#[inline]
pub(super) fn read(source: &[AtomicU64], bytes: &mut [u8]) {
    let (whole, rest) = bytes.as_chunks_mut::<BYTES>();
    for (word, chunk) in source.iter().zip(whole.iter_mut()) {
        *chunk = word.load(Ordering::Relaxed).to_le_bytes();
    }
    if let Some(word) = source.get(whole.len()) {
        let last = word.load(Ordering::Relaxed).to_le_bytes();
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let words: Vec<_> = (0..4).map(|_| AtomicU64::new(!0)).collect();
        for len in 0..=24 {
            let bytes: Vec<u8> = (1..=len).collect();
            let mut found = vec![0; bytes.len()];
            write(&words, &bytes);
            read(&words, &mut found);
            assert_eq!(found, bytes);
        }
        assert_eq!(words[3].load(Ordering::Relaxed), !0);
        write(&words[..1], &[7; 20]);
        let mut found = [0; 20];
        read(&words[..1], &mut found);
        assert_eq!((found[7], found[8]), (7, 0));
    }
}
