//! Random streams that belong to items, not to workers.
//!
//! Each item of a seeded map gets a 64-bit seed made of the map's seed and the item's position, in a context variable
//! of its call: the same for any number of workers, any order, and every attempt.
//!
//! Source of the mixing: SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::native;

/// The increment of SplitMix64: 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

const fn mix(state: u64) -> u64 {
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

/// The seed of item `index` of a map with `seed`.
pub(crate) const fn of_item(seed: u64, index: u64) -> u64 {
    mix(mix(seed.wrapping_add(GOLDEN)).wrapping_add(GOLDEN.wrapping_mul(index.wrapping_add(1))))
}

/// Sets an item's seed in the context of its call.
pub(crate) fn set(context: &Bound<'_, PyAny>, seed: u64) -> PyResult<()> {
    static VARIABLE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = context.py();
    let variable = VARIABLE.get_or_try_init(py, || {
        Ok::<_, PyErr>(py.import("manyhands.randomness")?.getattr("_seed")?.unbind())
    })?;
    native::in_context(context, || {
        variable.bind(py).call_method1(pyo3::intern!(py, "set"), (seed,)).map(drop)
    })
}
