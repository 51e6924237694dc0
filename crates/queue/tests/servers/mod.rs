//! Servers that tests start for themselves.

// Each program of tests uses one of them.
#![allow(dead_code)]

pub(crate) mod rabbitmq;
pub(crate) mod recorder;
pub(crate) mod redis;
