//! Those who wait to be called, in the order in which they came.
//!
//! Who was called and dies before he has gone passes the call on: it was meant to have an effect.

use super::Owner;
use super::seats::{Refusal, Role, Seats, State};

/// Begins to wait, in the seat returned.
///
/// # Errors
/// If there is no seat.
pub fn wait(seats: Seats<'_>, me: Owner, thread: u64) -> Result<usize, Refusal> {
    seats.wait_as(Role::Waits, me, thread)
}

/// Calls so many of those who wait.
pub fn notify(seats: Seats<'_>, count: usize) {
    let mut waiting: Vec<_> = seats.all(Role::Waits).collect();
    let newest = waiting
        .iter()
        .map(|seat| seat.state.tag)
        .reduce(|one, other| if super::seats::is_before(one, other) { other } else { one });
    // How long ago each came: the numbers begin anew.
    let newest = newest.unwrap_or_default();
    waiting.sort_by_key(|seat| std::cmp::Reverse(newest.wrapping_sub(seat.state.tag)));
    for seat in waiting.into_iter().take(count) {
        seats.change(seat.index, State { role: Role::Called, ..seat.state });
    }
}

/// Whether whoever has that seat was called.
#[must_use]
pub fn is_called(seats: Seats<'_>, seat: usize) -> bool {
    seats.get(seat).is_none_or(|seat| seat.state.role == Role::Called)
}

/// Gives up the seats of the dead; whether there were any.
#[must_use]
pub fn bury(seats: Seats<'_>, dead: &[Owner]) -> bool {
    let mut calls = 0;
    let found = seats.bury(dead, |seat| calls += usize::from(seat.state.role == Role::Called));
    notify(seats, calls);
    found
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::seats::tests::{ME, OTHER, THIRD, table};
    use super::*;

    #[test]
    fn who_came_first_is_called_first() {
        let words = table(9, 0);
        // The tickets are about to begin anew.
        words[2].store(u64::from(u32::MAX) - 1, crate::prim::atomic::Ordering::Relaxed);
        let seats = Seats::new(&words).unwrap();
        let waiting: Vec<_> = (0..4).map(|thread| wait(seats, ME, thread).unwrap()).collect();
        let called = || waiting.iter().map(|&seat| is_called(seats, seat)).collect::<Vec<_>>();
        notify(seats, 1);
        assert_eq!(called(), [true, false, false, false]);
        notify(seats, 2);
        assert_eq!(called(), [true, true, true, false]);
        notify(seats, usize::MAX);
        assert_eq!(called(), [true; 4]);
    }

    #[test]
    fn the_call_of_a_dead_one_is_passed_on() {
        let words = table(9, 0);
        let seats = Seats::new(&words).unwrap();
        let [_, second, third] = [ME, OTHER, THIRD].map(|owner| wait(seats, owner, 0).unwrap());
        notify(seats, 1);
        assert!(bury(seats, &[ME]));
        assert!(is_called(seats, second) && !is_called(seats, third));
        assert!(bury(seats, &[THIRD]));
        assert!(!bury(seats, &[THIRD]));
    }
}
