//! The half of a word of shared memory that a futex is about.

#![expect(unsafe_code, reason = "the kernel sleeps on 32 bits, our words have 64")]

use std::sync::atomic::{AtomicU32, AtomicU64};

/// The low half of a word, for the kernel alone to look at.
pub(crate) fn low_half(word: &AtomicU64) -> &AtomicU32 {
    let halves: *const AtomicU32 = std::ptr::from_ref(word).cast();
    let index = usize::from(cfg!(target_endian = "big"));
    // SAFETY: one of the two aligned halves of the word, borrowed as long as the word is; atomics may be shared.
    // Breaks if: the index is not 0 or 1. Exercised by: shared::wait::tests.
    let half = unsafe { halves.add(index) };
    // SAFETY: see above. Nothing loads or stores through the reference: it goes to the kernel as an address.
    // Breaks if: somebody does, which mixes the sizes of atomic accesses. Exercised by: shared::wait::tests.
    unsafe { &*half }
}
