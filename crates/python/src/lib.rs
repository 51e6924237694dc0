//! `manyhands._core`: the one crate that knows Python.

use pyo3::prelude::*;

/// The Rust core of manyhands. Private: use the names of `manyhands` instead.
#[pymodule(gil_used = false)]
mod _core {}
