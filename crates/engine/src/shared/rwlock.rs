//! Many who read, or one who writes: first come, first served, so that neither starves.
//!
//! Whoever reads already may read once more at once, or a writer that waits between the two would stop all three. The
//! rule's own word is 1 from the death of a writer until another releases it: what it wrote may be half done.

use super::Owner;
use super::seats::{MOST, Refusal, Role, Seat, Seats, State};

const WAITING: [Role; 2] = [Role::Waits, Role::WaitsToWrite];

/// Whoever wants in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The process.
    pub owner: Owner,
    /// Its thread.
    pub thread: u64,
}

impl Caller {
    fn seat(self, seats: Seats<'_>, role: Role) -> Option<Seat> {
        seats.all(role).find(|seat| seat.owner == self.owner && seat.thread == self.thread)
    }
}

/// Begins to read; `false` if the caller has to wait: he does so in a seat, if he `may_wait`.
///
/// # Errors
/// If the thread writes, or there is no seat.
pub fn read(
    seats: Seats<'_>,
    me: Caller,
    waiting: &mut Option<usize>,
    may_wait: bool,
) -> Result<bool, Refusal> {
    if me.seat(seats, Role::Writes).is_some() {
        return Err(Refusal::Writes);
    }
    if let Some(seat) = me.seat(seats, Role::Holds).filter(|seat| seat.state.count < MOST) {
        seats.change(seat.index, State { count: seat.state.count + 1, ..seat.state });
        return Ok(true);
    }
    let is_held_up = seats.all(Role::Writes).next().is_some();
    if is_held_up || seats.is_behind(*waiting, &[Role::WaitsToWrite]) {
        return wait(seats, Role::Waits, me, waiting, may_wait);
    }
    take(seats, Role::Holds, me, waiting)
}

/// Begins to write; `false` if the caller has to wait: he does so in a seat, if he `may_wait`.
///
/// # Errors
/// If the thread reads or writes already, or there is no seat.
pub fn write(
    seats: Seats<'_>,
    me: Caller,
    waiting: &mut Option<usize>,
    may_wait: bool,
) -> Result<bool, Refusal> {
    if me.seat(seats, Role::Writes).is_some() {
        return Err(Refusal::Writes);
    }
    if me.seat(seats, Role::Holds).is_some() {
        return Err(Refusal::Reads);
    }
    let is_held_up = seats.taken().any(|seat| matches!(seat.state.role, Role::Holds | Role::Writes));
    if is_held_up || seats.is_behind(*waiting, &WAITING) {
        return wait(seats, Role::WaitsToWrite, me, waiting, may_wait);
    }
    take(seats, Role::Writes, me, waiting)
}

fn wait(
    seats: Seats<'_>,
    role: Role,
    me: Caller,
    waiting: &mut Option<usize>,
    may_wait: bool,
) -> Result<bool, Refusal> {
    if may_wait && waiting.is_none() {
        *waiting = Some(seats.wait_as(role, me.owner, me.thread)?);
    }
    Ok(false)
}

fn take(seats: Seats<'_>, role: Role, me: Caller, waiting: &mut Option<usize>) -> Result<bool, Refusal> {
    let state = State { role, count: 1, tag: 0 };
    match waiting.take() {
        Some(index) => seats.change(index, state),
        None => drop(seats.claim(me.owner, me.thread, state)?),
    }
    Ok(true)
}

/// Ends a read.
///
/// # Errors
/// If the thread does not read.
pub fn end_read(seats: Seats<'_>, me: Caller) -> Result<(), Refusal> {
    let seat = me.seat(seats, Role::Holds).ok_or(Refusal::NotHeld)?;
    match seat.state.count {
        0 | 1 => seats.free(seat.index),
        count => seats.change(seat.index, State { count: count - 1, ..seat.state }),
    }
    Ok(())
}

/// Ends a write.
///
/// # Errors
/// If the thread does not write.
pub fn end_write(seats: Seats<'_>, me: Caller) -> Result<(), Refusal> {
    let seat = me.seat(seats, Role::Writes).ok_or(Refusal::NotHeld)?;
    seats.set_own(0);
    seats.free(seat.index);
    Ok(())
}

/// Whether the last writer has died while it wrote.
#[must_use]
pub fn is_abandoned(seats: Seats<'_>) -> bool {
    seats.own() != 0
}

/// Gives up the seats of the dead; whether there were any.
#[must_use]
pub fn bury(seats: Seats<'_>, dead: &[Owner]) -> bool {
    seats.bury(dead, |seat| {
        if seat.state.role == Role::Writes {
            seats.set_own(1);
        }
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::seats::tests::{ME, OTHER, THIRD, table};
    use super::*;

    const fn caller(owner: Owner) -> Caller {
        Caller { owner, thread: 1 }
    }

    #[test]
    fn many_read_or_one_writes() {
        let words = table(9, 0);
        let seats = Seats::new(&words).unwrap();
        assert_eq!(read(seats, caller(ME), &mut None, false), Ok(true));
        assert_eq!(read(seats, caller(OTHER), &mut None, false), Ok(true));
        assert_eq!(write(seats, caller(THIRD), &mut None, false), Ok(false));
        assert_eq!(write(seats, caller(ME), &mut None, true), Err(Refusal::Reads));
        assert_eq!(end_write(seats, caller(ME)), Err(Refusal::NotHeld));
        assert_eq!(end_read(seats, caller(ME)), Ok(()));
        assert_eq!(end_read(seats, caller(OTHER)), Ok(()));
        assert_eq!(write(seats, caller(THIRD), &mut None, false), Ok(true));
        assert_eq!(read(seats, caller(THIRD), &mut None, true), Err(Refusal::Writes));
        assert_eq!(read(seats, caller(ME), &mut None, false), Ok(false));
    }

    #[test]
    fn a_writer_that_waits_holds_up_those_who_come_to_read_and_not_those_who_do() {
        let words = table(9, 0);
        let seats = Seats::new(&words).unwrap();
        let (mut writer, mut reader) = (None, None);
        assert_eq!(read(seats, caller(ME), &mut None, true), Ok(true));
        assert_eq!(write(seats, caller(OTHER), &mut writer, true), Ok(false));
        assert_eq!(read(seats, caller(THIRD), &mut reader, true), Ok(false));
        assert_eq!(read(seats, caller(ME), &mut None, true), Ok(true));
        assert_eq!(end_read(seats, caller(ME)), Ok(()));
        assert_eq!(write(seats, caller(OTHER), &mut writer, true), Ok(false));
        assert_eq!(end_read(seats, caller(ME)), Ok(()));
        assert_eq!(write(seats, caller(OTHER), &mut writer, true), Ok(true));
        assert_eq!(write(seats, caller(ME), &mut None, true), Ok(false), "comes after the reader");
        assert_eq!(end_write(seats, caller(OTHER)), Ok(()));
        assert_eq!(read(seats, caller(THIRD), &mut reader, true), Ok(true));
    }

    #[test]
    fn the_death_of_a_writer_is_known_until_another_has_written() {
        let words = table(9, 0);
        let seats = Seats::new(&words).unwrap();
        assert_eq!(write(seats, caller(ME), &mut None, true), Ok(true));
        assert!(bury(seats, &[ME]) && is_abandoned(seats));
        assert_eq!(read(seats, caller(OTHER), &mut None, true), Ok(true));
        assert!(bury(seats, &[OTHER]) && is_abandoned(seats));
        assert_eq!(write(seats, caller(THIRD), &mut None, true), Ok(true));
        assert_eq!(end_write(seats, caller(THIRD)), Ok(()));
        assert!(!is_abandoned(seats));
    }
}
