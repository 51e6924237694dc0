//! What the server does in one step.

use std::sync::LazyLock;

use super::connection::Script;

macro_rules! scripts {
    ($($name:ident = $file:literal;)+) => {
        $(pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(include_str!(concat!("scripts/", $file))));)+
    };
}

scripts! {
    TAKE = "take.lua";
    KEPT = "kept.lua";
    SETTLE = "settle.lua";
    BEAT = "beat.lua";
    REFRESH = "refresh.lua";
    OVERDUE = "overdue.lua";
    DEAD = "dead.lua";
    REVIVE = "revive.lua";
    REVOKE = "revoke.lua";
}
