//! What cannot be said without `unsafe`, each behind a safe face that needs no trust in its caller.

mod half;
mod mapping;

pub(crate) use half::low_half;
pub use mapping::Writes;
pub(crate) use mapping::{GrowingMapping, Mapping, Pages, SEALS, View as ViewMapping};
