//! What cannot be said without `unsafe`, each behind a safe face that needs no trust in its caller.

mod mapping;

pub use mapping::Writes;
pub(crate) use mapping::{Mapping, Pages, SEALS, View as ViewMapping};
