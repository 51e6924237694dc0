//! So many who wait for each other, round after round.
//!
//! ```text
//! the rule's own word: number of the round │ is it broken (1 bit)
//! ```
//!
//! The last to arrive ends the round with one store, and with it all waits of that round. A round in which somebody dies
//! while he waits is broken: those who wait cannot be complete any more.

use super::Owner;
use super::seats::{Refusal, Role, Seat, Seats, State};

/// What has become of somebody who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Somebody is still missing.
    Goes,
    /// All have come.
    Over,
    /// They will not come.
    Broken,
}

#[expect(clippy::cast_possible_truncation, reason = "as seats have it: it begins anew")]
fn round(seats: Seats<'_>) -> u32 {
    (seats.own() >> 1) as u32
}

fn here(seats: Seats<'_>) -> impl Iterator<Item = Seat> {
    seats.all(Role::Waits).filter(move |seat| seat.state.tag == round(seats))
}

/// Arrives: how many were there before, and the seat to wait in, `None` for the last.
///
/// # Errors
/// If it is broken, or there is no seat.
pub fn arrive(seats: Seats<'_>, me: Owner, thread: u64) -> Result<(u64, Option<usize>), Refusal> {
    if is_broken(seats) {
        return Err(Refusal::Broken);
    }
    let before = waiting(seats);
    if before + 1 >= seats.limit() {
        seats.set_own(u64::from(round(seats).wrapping_add(1)) << 1);
        return Ok((before, None));
    }
    let seat = seats.claim(me, thread, State { role: Role::Waits, count: 1, tag: round(seats) })?;
    Ok((before, Some(seat)))
}

/// What has become of the wait in that seat, which is given up once it is at an end.
#[must_use]
pub fn look(seats: Seats<'_>, seat: usize) -> Wait {
    let wait = match seats.get(seat).map(|seat| seat.state) {
        Some(State { role: Role::Waits, tag, .. }) if tag != round(seats) => Wait::Over,
        Some(State { role: Role::Waits, .. }) if !is_broken(seats) => return Wait::Goes,
        _ => Wait::Broken,
    };
    seats.free(seat);
    wait
}

/// How many must come.
#[must_use]
pub fn parties(seats: Seats<'_>) -> u64 {
    seats.limit()
}

/// How many wait.
#[must_use]
pub fn waiting(seats: Seats<'_>) -> u64 {
    here(seats).count() as u64
}

/// Whether it is broken.
#[must_use]
pub fn is_broken(seats: Seats<'_>) -> bool {
    seats.own() & 1 != 0
}

/// Breaks it.
pub fn abort(seats: Seats<'_>) {
    seats.set_own(seats.own() | 1);
}

/// Begins anew; to those who wait it is broken.
pub fn reset(seats: Seats<'_>) {
    let waiting: Vec<Seat> = here(seats).collect();
    for seat in waiting {
        seats.change(seat.index, State { role: Role::Called, ..seat.state });
    }
    seats.set_own(u64::from(round(seats)) << 1);
}

/// Gives up the seats of the dead; whether there were any.
#[must_use]
pub fn bury(seats: Seats<'_>, dead: &[Owner]) -> bool {
    seats.bury(dead, |seat| {
        if seat.state.role == Role::Waits && seat.state.tag == round(seats) {
            abort(seats);
        }
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::seats::tests::{ME, OTHER, THIRD, table};
    use super::*;

    #[test]
    fn the_last_ends_the_round_for_all_and_a_new_one_begins() {
        let words = table(9, 3);
        let seats = Seats::new(&words).unwrap();
        for _ in 0..3 {
            let (0, Some(first)) = arrive(seats, ME, 0).unwrap() else { panic!() };
            let (1, Some(second)) = arrive(seats, OTHER, 0).unwrap() else { panic!() };
            assert_eq!((look(seats, first), look(seats, second)), (Wait::Goes, Wait::Goes));
            assert_eq!(arrive(seats, THIRD, 0), Ok((2, None)));
            assert_eq!(look(seats, first), Wait::Over);
            // Somebody is in the next round before the other has looked.
            let (0, Some(third)) = arrive(seats, THIRD, 0).unwrap() else { panic!() };
            assert_eq!(look(seats, second), Wait::Over);
            seats.free(third);
        }
        assert_eq!(seats.taken().count(), 0);
    }

    #[test]
    fn who_dies_while_he_waits_breaks_it_and_who_has_gone_on_does_not() {
        let words = table(9, 2);
        let seats = Seats::new(&words).unwrap();
        let (_, Some(_)) = arrive(seats, ME, 0).unwrap() else { panic!() };
        assert_eq!(arrive(seats, OTHER, 0), Ok((1, None)));
        assert!(bury(seats, &[ME]) && !is_broken(seats));
        let (_, Some(seat)) = arrive(seats, ME, 0).unwrap() else { panic!() };
        assert!(bury(seats, &[ME]) && is_broken(seats));
        assert_eq!(look(seats, seat), Wait::Broken);
        assert_eq!(arrive(seats, OTHER, 0), Err(Refusal::Broken));
        reset(seats);
        assert!(arrive(seats, OTHER, 0).is_ok());
    }

    #[test]
    fn a_reset_is_a_break_for_those_who_wait_alone() {
        let words = table(9, 2);
        let seats = Seats::new(&words).unwrap();
        let (_, Some(seat)) = arrive(seats, ME, 0).unwrap() else { panic!() };
        reset(seats);
        assert_eq!(waiting(seats), 0);
        let (0, Some(other)) = arrive(seats, OTHER, 0).unwrap() else { panic!() };
        assert_eq!((look(seats, seat), look(seats, other)), (Wait::Broken, Wait::Goes));
    }
}
