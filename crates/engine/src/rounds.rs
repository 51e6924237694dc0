//! Rounds of so many who wait for each other: under a barrier.
//!
//! Each round has a line of its own, so that the next one may begin while the last one's members have not all woken yet. It
//! ends once: it passes, when the last one to come says so, or breaks. Who leaves a round that fills leaves it whole.
//!
//! **Locks.** Whoever holds both takes that of the rounds first, then that of a round.

use crate::line::{Left, Line, Ticket};
use crate::prim::{Arc, Mutex, lock};

/// What became of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Fills,
    /// All are there; the last one has not let them pass yet.
    Full,
    Passed,
    Broken,
}

#[derive(Debug)]
struct Inside<W> {
    line: Line<W>,
    /// Those who came and did not leave, in order.
    members: Vec<Ticket>,
    state: State,
}

/// One round.
#[derive(Debug)]
pub struct Round<W>(Mutex<Inside<W>>);

impl<W> Round<W> {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Inside { line: Line::default(), members: Vec::new(), state: State::Fills })))
    }

    /// Ends it, if it has not ended yet; whether it passed, and who is to be woken.
    fn end(&self, how: State) -> (bool, Vec<W>) {
        let mut inside = lock(&self.0);
        if matches!(inside.state, State::Fills | State::Full) {
            inside.state = how;
        }
        (inside.state == State::Passed, inside.line.serve_all())
    }

    /// Lets everybody pass; `false` if it was broken meanwhile. These are to be woken.
    #[must_use]
    pub fn pass(&self) -> (bool, Vec<W>) {
        self.end(State::Passed)
    }
}

/// Somebody's place in a round.
#[derive(Debug)]
pub struct Place<W> {
    round: Arc<Round<W>>,
    ticket: Ticket,
}

/// What somebody sees who waits in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Not all are there.
    Waits,
    /// All passed; so many had come before him.
    Passed(usize),
    /// Nobody passed.
    Broken,
}

impl<W> Place<W> {
    /// His ticket.
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// The round that he is in.
    #[must_use]
    pub fn round(&self) -> &Arc<Round<W>> {
        &self.round
    }

    /// How it stands.
    #[must_use]
    pub fn look(&self) -> Seen {
        let inside = lock(&self.round.0);
        match inside.state {
            State::Broken => Seen::Broken,
            State::Passed => inside.members.binary_search(&self.ticket).map_or(Seen::Broken, Seen::Passed),
            State::Fills | State::Full => Seen::Waits,
        }
    }

    /// Leaves it; `Some` if he had passed before.
    #[must_use]
    pub fn leave(&self) -> Option<usize> {
        let mut inside = lock(&self.round.0);
        let position = inside.members.binary_search(&self.ticket).ok();
        if inside.line.leave(self.ticket) == Left::Served {
            return position.filter(|_| inside.state == State::Passed);
        }
        if let Some(position) = position {
            inside.members.remove(position);
        }
        // All were there, and now one is not: so nobody passes, as the last one will see.
        if inside.state == State::Full {
            inside.state = State::Broken;
        }
        None
    }
}

/// How somebody arrives.
#[derive(Debug)]
pub enum Arrival<W> {
    /// He waits for the others.
    Waits(Place<W>),
    /// He is the last one: he lets the round [pass](Round::pass), or [breaks](Rounds::break_round) it.
    Last(Arc<Round<W>>),
    /// Nobody passes any more.
    Broken,
}

#[derive(Debug)]
struct Present<W> {
    round: Arc<Round<W>>,
    is_broken: bool,
}

/// One round after another.
#[derive(Debug)]
pub struct Rounds<W> {
    parties: usize,
    present: Mutex<Present<W>>,
}

impl<W> Rounds<W> {
    /// Rounds of so many.
    #[must_use]
    pub fn new(parties: usize) -> Self {
        Self { parties, present: Mutex::new(Present { round: Round::new(), is_broken: false }) }
    }

    /// How many make a round.
    #[must_use]
    pub fn parties(&self) -> usize {
        self.parties
    }

    /// How many wait in the present round.
    #[must_use]
    pub fn waiting(&self) -> usize {
        lock(&lock(&self.present).round.0).line.len()
    }

    /// Whether nobody passes any more.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        lock(&self.present).is_broken
    }

    /// Somebody comes.
    pub fn arrive(&self, waiter: W) -> Arrival<W> {
        let mut present = lock(&self.present);
        if present.is_broken {
            return Arrival::Broken;
        }
        let round = Arc::clone(&present.round);
        {
            let mut inside = lock(&round.0);
            if inside.line.len() + 1 < self.parties {
                let ticket = inside.line.join(waiter);
                inside.members.push(ticket);
                drop(inside);
                return Arrival::Waits(Place { round, ticket });
            }
            inside.state = State::Full;
        }
        present.round = Round::new();
        Arrival::Last(round)
    }

    /// Has nobody of this round pass, unless they have already, and nobody after them either. These are to be woken.
    #[must_use]
    pub fn break_round(&self, round: &Round<W>) -> Vec<W> {
        let (_, mut woken) = round.end(State::Broken);
        woken.append(&mut self.interrupt(true));
        woken
    }

    /// Ends the present round without passing; from now on all is broken, or whole again. These are to be woken.
    #[must_use]
    pub fn interrupt(&self, is_broken: bool) -> Vec<W> {
        let round = {
            let mut present = lock(&self.present);
            present.is_broken = is_broken;
            std::mem::replace(&mut present.round, Round::new())
        };
        round.end(State::Broken).1
    }

    /// Takes out those of the present round who are gone without having left.
    #[must_use]
    pub fn dismiss(&self, is_gone: impl Fn(&W) -> bool) -> Vec<W> {
        let present = lock(&self.present);
        let mut inside = lock(&present.round.0);
        let Inside { line, members, .. } = &mut *inside;
        let gone = line.dismiss(is_gone);
        members.retain(|ticket| line.contains(*ticket));
        gone
    }

    /// Looks at those who wait in the present round, in order, until `look` fails. It must not call out.
    ///
    /// # Errors
    /// What `look` gave.
    pub fn try_for_each_waiter<E>(&self, look: impl FnMut(&W) -> Result<(), E>) -> Result<(), E> {
        let present = lock(&self.present);
        let inside = lock(&present.round.0);
        inside.line.iter().try_for_each(look)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn waits<W>(arrival: Arrival<W>) -> Place<W> {
        if let Arrival::Waits(place) = arrival { place } else { panic!("he is not the last one") }
    }

    fn is_last<W>(arrival: Arrival<W>) -> Arc<Round<W>> {
        if let Arrival::Last(round) = arrival { round } else { panic!("he is the last one") }
    }

    #[test]
    fn the_last_one_lets_all_pass_and_the_next_round_has_begun() {
        let rounds = Rounds::new(3);
        let places = ["a", "b"].map(|name| waits(rounds.arrive(name)));
        let round = is_last(rounds.arrive("c"));
        let next = waits(rounds.arrive("d"));
        assert_eq!(places[0].look(), Seen::Waits);
        assert_eq!(round.pass(), (true, vec!["a", "b"]));
        assert_eq!(places.map(|place| place.look()), [Seen::Passed(0), Seen::Passed(1)]);
        assert_eq!(next.look(), Seen::Waits);
    }

    #[test]
    fn who_leaves_leaves_his_number_to_others() {
        let rounds = Rounds::new(3);
        let first = waits(rounds.arrive("a"));
        let second = waits(rounds.arrive("b"));
        assert_eq!(first.leave(), None);
        let third = waits(rounds.arrive("c"));
        assert!(is_last(rounds.arrive("d")).pass().0);
        assert_eq!((second.look(), third.look()), (Seen::Passed(0), Seen::Passed(1)));
        assert_eq!(third.leave(), Some(1), "he had passed");
    }

    #[test]
    fn who_leaves_a_full_round_breaks_it() {
        let rounds = Rounds::new(3);
        let places = ["a", "b"].map(|name| waits(rounds.arrive(name)));
        let round = is_last(rounds.arrive("c"));
        assert_eq!(places[0].leave(), None);
        assert_eq!(round.pass(), (false, vec!["b"]));
        assert_eq!(places[1].look(), Seen::Broken);
    }

    #[test]
    fn a_round_that_is_broken_does_not_pass() {
        let rounds = Rounds::new(2);
        let place = waits(rounds.arrive("a"));
        let round = is_last(rounds.arrive("b"));
        assert_eq!(rounds.break_round(&round), ["a"]);
        assert_eq!(round.pass(), (false, vec![]));
        assert_eq!(place.look(), Seen::Broken);
        assert!(matches!(rounds.arrive("c"), Arrival::Broken));
        assert!(rounds.interrupt(false).is_empty());
        assert_eq!(waits(rounds.arrive("d")).look(), Seen::Waits);
    }

    #[test]
    fn those_who_are_gone_count_no_more() {
        let rounds = Rounds::new(3);
        let _gone = waits(rounds.arrive("gone"));
        let here = waits(rounds.arrive("here"));
        assert_eq!(rounds.dismiss(|name| *name == "gone"), ["gone"]);
        assert_eq!(rounds.waiting(), 1);
        let other = waits(rounds.arrive("other"));
        assert!(is_last(rounds.arrive("last")).pass().0);
        assert_eq!((here.look(), other.look()), (Seen::Passed(0), Seen::Passed(1)));
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::thread;

    use super::*;
    use crate::permits::sleeper::Sleeper;

    fn wake(sleepers: Vec<Sleeper>) {
        sleepers.iter().for_each(Sleeper::wake);
    }

    /// Comes, and waits; the number he gets, or `None` if the round broke.
    fn meet(rounds: &Rounds<Sleeper>) -> Option<usize> {
        let sleeper = Sleeper::new();
        match rounds.arrive(sleeper.clone()) {
            Arrival::Broken => None,
            Arrival::Last(round) => {
                let (has_passed, sleepers) = round.pass();
                wake(sleepers);
                has_passed.then_some(rounds.parties() - 1)
            }
            Arrival::Waits(place) => loop {
                match place.look() {
                    Seen::Waits => sleeper.sleep(),
                    Seen::Passed(number) => return Some(number),
                    Seen::Broken => return None,
                }
            },
        }
    }

    /// Who sleeps for ever is a deadlock, which loom reports.
    #[test]
    fn loom_each_passes_with_a_number_of_his_own() {
        loom::model(|| {
            let rounds = Arc::new(Rounds::new(3));
            let others = [(); 2].map(|()| {
                let rounds = Arc::clone(&rounds);
                thread::spawn(move || meet(&rounds))
            });
            let mut numbers = vec![meet(&rounds)];
            numbers.extend(others.map(|other| other.join().unwrap()));
            numbers.sort_unstable();
            assert_eq!(numbers, [Some(0), Some(1), Some(2)]);
        });
    }

    /// Comes, and breaks the round if he would have to wait, as one does whose time is up.
    fn look_in(rounds: &Rounds<Sleeper>) -> Option<usize> {
        match rounds.arrive(Sleeper::new()) {
            Arrival::Broken => None,
            Arrival::Last(round) => {
                let (has_passed, sleepers) = round.pass();
                wake(sleepers);
                has_passed.then_some(rounds.parties() - 1)
            }
            Arrival::Waits(place) => place.leave().or_else(|| {
                wake(rounds.break_round(place.round()));
                None
            }),
        }
    }

    #[test]
    fn loom_all_of_a_round_pass_or_none() {
        let mut model = loom::model::Builder::new();
        // One waits, the other comes, and the first leaves before that one lets both pass.
        model.preemption_bound = Some(3);
        model.check(|| {
            let rounds = Arc::new(Rounds::new(2));
            let other = {
                let rounds = Arc::clone(&rounds);
                thread::spawn(move || look_in(&rounds))
            };
            let mine = meet(&rounds);
            assert_eq!(other.join().unwrap().is_some(), mine.is_some());
        });
    }
}
