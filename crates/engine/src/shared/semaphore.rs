//! So many permits, each held by a process, and back when it dies.

use super::Owner;
use super::seats::{MOST, Refusal, Role, Seat, Seats, State};

/// How many permits nobody has.
#[must_use]
pub fn free(seats: Seats<'_>) -> u64 {
    let taken: u64 = seats.all(Role::Holds).map(|seat| u64::from(seat.state.count)).sum();
    seats.limit().saturating_sub(taken)
}

/// Takes a permit; `false` if there is none for whoever has that seat: then he waits in one, if he `may_wait`.
///
/// # Errors
/// If there is no seat for him.
pub fn acquire(
    seats: Seats<'_>,
    me: Owner,
    waiting: &mut Option<usize>,
    may_wait: bool,
) -> Result<bool, Refusal> {
    if free(seats) == 0 || seats.is_behind(*waiting, &[Role::Waits]) {
        if may_wait && waiting.is_none() {
            *waiting = Some(seats.wait_as(Role::Waits, me, 0)?);
        }
        return Ok(false);
    }
    let held = seats.all(Role::Holds).find(|seat| seat.owner == me && seat.state.count < MOST);
    match (held, waiting.take()) {
        (Some(Seat { index, state, .. }), waited) => {
            seats.change(index, State { count: state.count + 1, ..state });
            if let Some(waited) = waited {
                seats.free(waited);
            }
        }
        (None, Some(index)) => seats.change(index, HELD),
        (None, None) => drop(seats.claim(me, 0, HELD)?),
    }
    Ok(true)
}

const HELD: State = State { role: Role::Holds, count: 1, tag: 0 };

/// Gives back so many permits.
///
/// # Errors
/// If the process does not have so many: then none.
pub fn release(seats: Seats<'_>, me: Owner, count: u32) -> Result<(), Refusal> {
    let mine = |seat: &Seat| seat.owner == me;
    if held(seats, me) < u64::from(count) {
        return Err(Refusal::NotHeld);
    }
    let mut left = count;
    for seat in seats.all(Role::Holds).filter(mine) {
        let part = left.min(seat.state.count);
        left -= part;
        match seat.state.count - part {
            0 => seats.free(seat.index),
            count => seats.change(seat.index, State { count, ..seat.state }),
        }
    }
    Ok(())
}

/// How many permits the process has.
#[must_use]
pub fn held(seats: Seats<'_>, me: Owner) -> u64 {
    let mine = seats.all(Role::Holds).filter(|seat| seat.owner == me);
    mine.map(|seat| u64::from(seat.state.count)).sum()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::seats::tests::{ME, OTHER, THIRD, table};
    use super::*;

    #[test]
    fn there_are_so_many_permits_and_those_of_the_dead_come_back() {
        let words = table(9, 3);
        let seats = Seats::new(&words).unwrap();
        assert_eq!(acquire(seats, ME, &mut None, false), Ok(true));
        assert_eq!(acquire(seats, OTHER, &mut None, false), Ok(true));
        assert_eq!(acquire(seats, OTHER, &mut None, false), Ok(true));
        assert_eq!((free(seats), held(seats, OTHER)), (0, 2));
        assert_eq!(acquire(seats, ME, &mut None, false), Ok(false));
        assert!(seats.bury(&[OTHER], |_| ()));
        assert_eq!((free(seats), held(seats, ME)), (2, 1));
        assert_eq!(release(seats, ME, 2), Err(Refusal::NotHeld));
        assert_eq!(release(seats, ME, 1), Ok(()));
        assert_eq!(free(seats), 3);
    }

    #[test]
    fn whoever_waits_longest_is_the_next() {
        let words = table(9, 1);
        let seats = Seats::new(&words).unwrap();
        let (mut first, mut second) = (None, None);
        assert_eq!(acquire(seats, ME, &mut None, true), Ok(true));
        assert_eq!(acquire(seats, OTHER, &mut first, true), Ok(false));
        assert_eq!(acquire(seats, THIRD, &mut second, true), Ok(false));
        assert_eq!(release(seats, ME, 1), Ok(()));
        assert_eq!(acquire(seats, ME, &mut None, false), Ok(false), "others wait");
        assert_eq!(acquire(seats, THIRD, &mut second, true), Ok(false));
        assert_eq!(acquire(seats, OTHER, &mut first, true), Ok(true));
        assert_eq!((first, seats.ring()), (None, true));
        assert!(seats.bury(&[OTHER], |_| ()));
        assert_eq!(acquire(seats, THIRD, &mut second, true), Ok(true));
        assert!(!seats.ring());
    }

    #[test]
    fn who_waits_and_dies_stands_in_nobodys_way() {
        let words = table(9, 1);
        let seats = Seats::new(&words).unwrap();
        assert_eq!(acquire(seats, ME, &mut None, true), Ok(true));
        assert_eq!(acquire(seats, OTHER, &mut None, true), Ok(false));
        assert_eq!(release(seats, ME, 1), Ok(()));
        assert!(seats.bury(&[OTHER], |_| ()));
        assert_eq!(acquire(seats, ME, &mut None, true), Ok(true));
    }
}
