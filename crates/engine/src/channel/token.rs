//! Whoever waits at one channel or several, and what is decided for him.

use crate::prim::{Mutex, MutexGuard, lock};

/// What became of a case: to receive from a channel, or to send into it.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// This came out.
    Received(T),
    /// The item was taken over.
    Sent,
    /// The channel was closed: there is nothing to be had, or to be sent.
    Closed,
}

#[derive(Debug)]
enum Fate<T> {
    Open,
    /// One of his cases, and what became of it; he has not looked yet.
    Decided(usize, Outcome<T>),
    Over,
}

/// One who waits for the first of his cases; at most one of them is decided, once.
#[derive(Debug)]
pub struct Token<T> {
    /// Two tokens are locked in the order of their numbers.
    number: u64,
    fate: Mutex<Fate<T>>,
}

/// How it went to decide two tokens together.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Settled {
    Both,
    MineIsOver,
    TheirsIsOver,
}

impl<T> Token<T> {
    /// A token with a number of its own.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self { number, fate: Mutex::new(Fate::Open) }
    }

    /// What was decided, for him who asks himself; then it is over.
    #[must_use]
    pub fn take(&self) -> Option<(usize, Outcome<T>)> {
        let mut fate = lock(&self.fate);
        match std::mem::replace(&mut *fate, Fate::Over) {
            Fate::Decided(case, outcome) => Some((case, outcome)),
            Fate::Over => None,
            Fate::Open => {
                *fate = Fate::Open;
                None
            }
        }
    }

    /// He gives up: nothing is decided from now on. What was decided already is his, or to be given back.
    #[must_use]
    pub fn give_up(&self) -> Option<(usize, Outcome<T>)> {
        match std::mem::replace(&mut *lock(&self.fate), Fate::Over) {
            Fate::Decided(case, outcome) => Some((case, outcome)),
            Fate::Open | Fate::Over => None,
        }
    }

    /// Looks at the item that he was given and has not taken yet. `look` must not call out.
    pub fn look(&self, look: impl FnOnce(&T)) {
        if let Fate::Decided(_, Outcome::Received(item)) = &*lock(&self.fate) {
            look(item);
        }
    }

    #[cfg(all(test, not(loom)))]
    pub(super) fn is_open(&self) -> bool {
        matches!(&*lock(&self.fate), Fate::Open)
    }

    /// What is decided, items left where they are.
    #[cfg(all(test, not(loom)))]
    pub(super) fn peek(&self) -> Option<(usize, Outcome<()>)> {
        match &*lock(&self.fate) {
            Fate::Decided(case, Outcome::Received(_)) => Some((*case, Outcome::Received(()))),
            Fate::Decided(case, Outcome::Sent) => Some((*case, Outcome::Sent)),
            Fate::Decided(case, Outcome::Closed) => Some((*case, Outcome::Closed)),
            Fate::Open | Fate::Over => None,
        }
    }

    /// He goes on himself, for a case needs nobody else; `false` if another one is decided.
    pub(super) fn proceed(mine: Option<&Self>) -> bool {
        mine.is_none_or(|mine| match &mut *lock(&mine.fate) {
            Fate::Decided(..) | Fate::Over => false,
            fate @ Fate::Open => {
                *fate = Fate::Over;
                true
            }
        })
    }

    /// Decides a case of `theirs`, and that `mine` goes on with it himself.
    pub(super) fn settle(
        mine: Option<&Self>,
        theirs: &Self,
        case: usize,
        outcome: impl FnOnce() -> Outcome<T>,
    ) -> Settled {
        let Some(mine) = mine else {
            return decide(None, &mut lock(&theirs.fate), case, outcome);
        };
        if mine.number == theirs.number {
            return Settled::TheirsIsOver;
        }
        let (mut own, mut others) = lock_both(mine, theirs);
        decide(Some(&mut own), &mut others, case, outcome)
    }
}

type Locked<'t, T> = MutexGuard<'t, Fate<T>>;

fn lock_both<'t, T>(mine: &'t Token<T>, theirs: &'t Token<T>) -> (Locked<'t, T>, Locked<'t, T>) {
    if mine.number < theirs.number {
        let own = lock(&mine.fate);
        (own, lock(&theirs.fate))
    } else {
        let others = lock(&theirs.fate);
        (lock(&mine.fate), others)
    }
}

fn decide<T>(
    mine: Option<&mut Fate<T>>,
    theirs: &mut Fate<T>,
    case: usize,
    outcome: impl FnOnce() -> Outcome<T>,
) -> Settled {
    match (&mine, &theirs) {
        (Some(Fate::Decided(..) | Fate::Over), _) => return Settled::MineIsOver,
        (_, Fate::Decided(..) | Fate::Over) => return Settled::TheirsIsOver,
        _ => {}
    }
    *theirs = Fate::Decided(case, outcome());
    if let Some(mine) = mine {
        *mine = Fate::Over;
    }
    Settled::Both
}
