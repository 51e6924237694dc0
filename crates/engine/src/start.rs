//! Whether a thread that was asked for has begun, or will not be let.
//!
//! Who starts a thread may be interrupted at any point of that, and then does not know whether there is one. So the two
//! settle it between them: the first to say something is right.

use std::sync::OnceLock;

/// See the module.
#[derive(Debug, Default)]
pub struct Start(OnceLock<bool>);

impl Start {
    /// The thread begins; `false` if it must not.
    #[must_use]
    pub fn begin(&self) -> bool {
        self.0.set(true).is_ok()
    }

    /// Nobody waits for the thread any more; `false` if it has begun. It may be asked more than once.
    #[must_use]
    pub fn revoke(&self) -> bool {
        !*self.0.get_or_init(|| false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_counts() {
        let begun = Start::default();
        assert!(begun.begin());
        assert!(!begun.revoke());
        let revoked = Start::default();
        assert!(revoked.revoke() && revoked.revoke());
        assert!(!revoked.begin());
    }
}
