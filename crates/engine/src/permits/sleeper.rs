//! Somebody who sleeps, in loom's models.

use loom::sync::Notify;

use crate::park::Token;
use crate::prim::Arc;

/// A thread's place to sleep, with loom's `Notify` as its futex.
#[derive(Clone)]
pub(crate) struct Sleeper(Arc<(Token, Notify)>);

impl Sleeper {
    pub(crate) fn new() -> Self {
        Self(Arc::new((Token::default(), Notify::new())))
    }

    pub(crate) fn wake(&self) {
        if self.0.0.notify() {
            self.0.1.notify();
        }
    }

    pub(crate) fn sleep(&self) {
        let (token, futex) = &*self.0;
        if token.prepare() {
            while !token.is_notified() {
                futex.wait();
            }
            token.consume();
        }
    }
}
