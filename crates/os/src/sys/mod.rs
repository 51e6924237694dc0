//! What cannot be said without `unsafe`, each behind a safe face that needs no trust in its caller.

mod mapping;

pub(crate) use mapping::{Mapping, Pages, SEALS};
