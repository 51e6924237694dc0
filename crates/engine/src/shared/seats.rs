//! Who holds what and who waits: a table of seats, each with its process beside it, under a lock.
//!
//! ```text
//! word 0  the guard: whoever changes or reads the rest holds this lock (see `lock`)
//!      1  the bell: changes when those who wait shall look again
//!      2  the next ticket      3  the limit      4  a word of the rule's own      5  seats ever taken: look no further
//!      8… the seats, 4 words each: process · thread · state · unused
//! ```
//!
//! There is no count beside the seats that could come to disagree with them: how many permits are taken is the sum over
//! the seats. A seat is taken by the store of its process, which comes last, and is given up by taking that away; a
//! change of its state is one store. So whoever dies leaves seats of his own behind, and nothing else: they are
//! [buried](Seats::bury) by those who wait.
//!
//! The rules (`semaphore`, `rwlock`, `barrier`, `condition`) say what the states mean. Whoever waits has a ticket, and
//! nobody gets in before an earlier one that wants the same: first come, first served, also between processes.

use super::Owner;
use crate::prim::atomic::{AtomicU64, Ordering};

/// The word of the guard.
pub const GUARD: usize = 0;
/// The word of the bell.
pub const BELL: usize = 1;
const TICKET: usize = 2;
const LIMIT: usize = 3;
const OWN: usize = 4;
const HIGH: usize = 5;
const FIRST: usize = 8;
const WIDTH: usize = 4;

/// How many words a table of so many seats takes.
#[must_use]
pub const fn words(seats: usize) -> usize {
    FIRST + WIDTH * seats
}

/// Why somebody cannot have what he wants, however long he waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Too many hold or wait at once.
    #[error("found {0} who hold it or wait for it, expected fewer")]
    Full(usize),
    /// A thread that reads cannot write.
    #[error("found it held for reading by the same thread")]
    Reads,
    /// A thread that writes cannot have it once more.
    #[error("found it held for writing by the same thread")]
    Writes,
    /// It is not held by whoever wants to release it.
    #[error("found it not held")]
    NotHeld,
    /// The barrier is broken.
    #[error("found it broken")]
    Broken,
}

/// What somebody does there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Has permits, or reads.
    Holds = 1,
    /// Has it alone.
    Writes = 2,
    /// Wants what `Holds` has.
    Waits = 3,
    /// Wants what `Writes` has.
    WaitsToWrite = 4,
    /// Waited, and may go.
    Called = 5,
}

impl Role {
    const ALL: [Self; 5] = [Self::Holds, Self::Writes, Self::Waits, Self::WaitsToWrite, Self::Called];
}

/// What is in a seat: one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// What its owner does.
    pub role: Role,
    /// How often; 24 bits.
    pub count: u32,
    /// The ticket, or another number of the rule's.
    pub tag: u32,
}

/// The most that [`State::count`] can be.
pub const MOST: u32 = (1 << 24) - 1;

impl State {
    const fn word(self) -> u64 {
        (self.role as u64) << 56 | ((self.count & MOST) as u64) << 32 | self.tag as u64
    }

    #[expect(clippy::cast_possible_truncation, reason = "the fields, each of its bits")]
    fn of_word(word: u64) -> Option<Self> {
        let role = *Role::ALL.get((word >> 56).checked_sub(1)? as usize)?;
        Some(Self { role, count: (word >> 32) as u32 & MOST, tag: word as u32 })
    }
}

/// A seat that somebody has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// Its place in the table.
    pub index: usize,
    /// Whose it is.
    pub owner: Owner,
    /// Which of that process's threads, where that matters.
    pub thread: u64,
    /// What for.
    pub state: State,
}

/// The table, while its guard is held.
#[derive(Debug, Clone, Copy)]
pub struct Seats<'a>(&'a [AtomicU64]);

impl<'a> Seats<'a> {
    /// The table in these words; `None` if they are too few for one.
    #[must_use]
    pub fn new(words: &'a [AtomicU64]) -> Option<Self> {
        (words.len() >= FIRST + WIDTH).then_some(Self(words))
    }

    /// Makes it empty, with that limit.
    pub fn initialise(self, limit: u64) {
        self.0[LIMIT].store(limit, Ordering::Relaxed);
    }

    fn capacity(self) -> usize {
        (self.0.len() - FIRST) / WIDTH
    }

    fn high(self) -> usize {
        usize::try_from(self.0[HIGH].load(Ordering::Relaxed)).unwrap_or(usize::MAX).min(self.capacity())
    }

    /// The limit.
    #[must_use]
    pub fn limit(self) -> u64 {
        self.0[LIMIT].load(Ordering::Relaxed)
    }

    /// The rule's own word.
    #[must_use]
    pub fn own(self) -> u64 {
        self.0[OWN].load(Ordering::Relaxed)
    }

    /// Changes the rule's own word.
    pub fn set_own(self, word: u64) {
        self.0[OWN].store(word, Ordering::Release);
    }

    fn words_of(self, index: usize) -> &'a [AtomicU64] {
        let start = FIRST + WIDTH * index;
        &self.0[start..start + WIDTH]
    }

    /// What is in that seat.
    #[must_use]
    pub fn get(self, index: usize) -> Option<Seat> {
        if index >= self.capacity() {
            return None;
        }
        let words = self.words_of(index);
        let owner = Owner::of_word(words[0].load(Ordering::Relaxed))?;
        let thread = words[1].load(Ordering::Relaxed);
        let state = State::of_word(words[2].load(Ordering::Relaxed))?;
        Some(Seat { index, owner, thread, state })
    }

    /// All that are taken.
    pub fn taken(self) -> impl Iterator<Item = Seat> + use<'a> {
        (0..self.high()).filter_map(move |index| self.get(index))
    }

    /// Those in that role.
    pub fn all(self, role: Role) -> impl Iterator<Item = Seat> + use<'a> {
        self.taken().filter(move |seat| seat.state.role == role)
    }

    /// Takes a seat.
    ///
    /// # Errors
    /// If there is none.
    pub fn claim(self, owner: Owner, thread: u64, state: State) -> Result<usize, Refusal> {
        let index = (0..self.capacity()).find(|&index| self.get(index).is_none());
        let index = index.ok_or(Refusal::Full(self.capacity()))?;
        let words = self.words_of(index);
        if index >= self.high() {
            self.0[HIGH].store(index as u64 + 1, Ordering::Relaxed);
        }
        words[1].store(thread, Ordering::Relaxed);
        words[2].store(state.word(), Ordering::Relaxed);
        // Release keeps it behind the others, in this program's order.
        words[0].store(owner.word(), Ordering::Release);
        Ok(index)
    }

    /// Takes a seat to wait in, with the next ticket.
    ///
    /// # Errors
    /// If there is none.
    pub fn wait_as(self, role: Role, owner: Owner, thread: u64) -> Result<usize, Refusal> {
        let tag = self.0[TICKET].load(Ordering::Relaxed);
        self.0[TICKET].store(tag.wrapping_add(1), Ordering::Relaxed);
        let tag = u32::try_from(tag & u64::from(u32::MAX)).unwrap_or_default();
        self.claim(owner, thread, State { role, count: 1, tag })
    }

    /// Changes what is in a seat.
    pub fn change(self, index: usize, state: State) {
        if index < self.capacity() {
            self.words_of(index)[2].store(state.word(), Ordering::Release);
        }
    }

    /// Gives up a seat.
    pub fn free(self, index: usize) {
        if index < self.capacity() {
            self.words_of(index)[0].store(0, Ordering::Release);
        }
        let mut high = self.high();
        while high > 0 && self.get(high - 1).is_none() {
            high -= 1;
        }
        self.0[HIGH].store(high as u64, Ordering::Relaxed);
    }

    /// Whether somebody in one of the roles has an earlier ticket than that seat; no seat is later than all.
    #[must_use]
    pub fn is_behind(self, seat: Option<usize>, roles: &[Role]) -> bool {
        let mine = seat.and_then(|index| self.get(index)).map(|seat| seat.state.tag);
        self.taken().any(|other| {
            roles.contains(&other.state.role) && mine.is_none_or(|mine| is_before(other.state.tag, mine))
        })
    }

    /// Has those who wait look again; `false` if nobody does.
    #[must_use]
    pub fn ring(self) -> bool {
        let waits = |seat: Seat| !matches!(seat.state.role, Role::Holds | Role::Writes);
        let is_waited_for = self.taken().any(waits);
        if is_waited_for {
            self.0[BELL].fetch_add(1, Ordering::Release);
        }
        is_waited_for
    }

    /// Whose seats there are.
    #[must_use]
    pub fn owners(self) -> Vec<Owner> {
        let mut owners: Vec<Owner> = Vec::new();
        for seat in self.taken() {
            if !owners.contains(&seat.owner) {
                owners.push(seat.owner);
            }
        }
        owners
    }

    /// Gives up the seats of the dead, each after `last` has seen what it was; whether there were any.
    pub fn bury(self, dead: &[Owner], mut last: impl FnMut(Seat)) -> bool {
        let theirs: Vec<Seat> = self.taken().filter(|seat| dead.contains(&seat.owner)).collect();
        for seat in &theirs {
            last(*seat);
            self.free(seat.index);
        }
        !theirs.is_empty()
    }
}

/// Whether a ticket was given out before another; the numbers begin anew.
#[must_use]
pub const fn is_before(one: u32, other: u32) -> bool {
    one.wrapping_sub(other).cast_signed() < 0
}

#[cfg(all(test, not(loom)))]
pub(super) mod tests {
    use super::*;

    pub(in crate::shared) const ME: Owner = Owner::new(7, 1);
    pub(in crate::shared) const OTHER: Owner = Owner::new(8, 1);
    pub(in crate::shared) const THIRD: Owner = Owner::new(9, 1);

    pub(in crate::shared) fn table(seats: usize, limit: u64) -> Vec<AtomicU64> {
        let words: Vec<_> = (0..words(seats)).map(|_| AtomicU64::new(0)).collect();
        Seats::new(&words).unwrap().initialise(limit);
        words
    }

    fn state(role: Role) -> State {
        State { role, count: 3, tag: u32::MAX }
    }

    #[test]
    fn what_is_put_into_a_seat_is_found_there() {
        let words = table(3, 0);
        let seats = Seats::new(&words).unwrap();
        for role in Role::ALL {
            let index = seats.claim(ME, 5, state(role)).unwrap();
            assert_eq!(seats.get(index), Some(Seat { index, owner: ME, thread: 5, state: state(role) }));
            seats.free(index);
        }
        assert_eq!((seats.taken().count(), seats.high()), (0, 0));
    }

    #[test]
    fn there_are_only_so_many_seats_and_free_ones_are_taken_again() {
        let words = table(3, 0);
        let seats = Seats::new(&words).unwrap();
        let taken: Vec<_> = (0..3).map(|_| seats.claim(ME, 0, state(Role::Holds)).unwrap()).collect();
        assert_eq!(seats.claim(ME, 0, state(Role::Holds)), Err(Refusal::Full(3)));
        seats.free(taken[1]);
        assert_eq!(seats.high(), 3);
        assert_eq!(seats.claim(OTHER, 0, state(Role::Waits)), Ok(taken[1]));
        assert!(seats.bury(&[ME], |_| ()) && !seats.bury(&[ME], |_| ()));
        assert_eq!(seats.owners(), [OTHER]);
        assert!(seats.ring());
    }

    #[test]
    fn nonsense_is_nobody() {
        let words = table(3, 0);
        for (index, word) in words.iter().enumerate() {
            word.store(!0 - index as u64, Ordering::Relaxed);
        }
        let seats = Seats::new(&words).unwrap();
        assert_eq!((seats.taken().count(), seats.high()), (0, 3));
        seats.free(17);
        seats.change(17, state(Role::Holds));
        assert_eq!(seats.get(17), None);
        assert!(Seats::new(&words[..11]).is_none());
    }

    #[test]
    fn tickets_begin_anew() {
        assert!(is_before(1, 2) && !is_before(2, 2) && is_before(u32::MAX, 0) && !is_before(0, u32::MAX));
    }
}
