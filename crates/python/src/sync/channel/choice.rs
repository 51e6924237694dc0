//! Waiting for the first of several cases, as a thread and as a task.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use manyhands_engine::channel::{Outcome, Received, Sent, Token};
use manyhands_engine::line::Ticket;
use manyhands_engine::prim::Arc;
use pyo3::exceptions::PyStopAsyncIteration;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::super::awaiting::{Awaiting, Operation};
use super::super::waiting::{Entered, Waitable, Waiter};
use super::candidate::{Candidate, Item, Person};
use super::classes::Channel;
use crate::error;

/// Something that can be done at a channel.
pub(crate) enum Case {
    Receive(Py<Channel>),
    Send(Py<Channel>, Item),
}

/// One case, as a rule, for which nothing is allocated.
pub(crate) enum Cases {
    One(Case),
    Several(Vec<Case>),
}

impl Deref for Cases {
    type Target = [Case];

    fn deref(&self) -> &[Case] {
        match self {
            Self::One(case) => std::slice::from_ref(case),
            Self::Several(cases) => cases,
        }
    }
}

/// Which case it was, and what became of it.
pub(crate) type Chosen = (usize, Outcome<Item>);

/// The lines that somebody stands in.
struct Lines {
    token: Arc<Token<Item>>,
    tickets: Vec<(usize, Ticket)>,
    candidate: Option<Py<Candidate>>,
}

/// The cases, of which one will be done.
pub(crate) struct Choice {
    cases: Cases,
    lines: Mutex<Option<Lines>>,
}

impl Choice {
    pub(crate) fn new(cases: Cases) -> Self {
        Self { cases, lines: Mutex::new(None) }
    }

    fn lines(&self) -> MutexGuard<'_, Option<Lines>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn channel(&self, case: usize) -> &Py<Channel> {
        let (Case::Receive(channel) | Case::Send(channel, _)) = &self.cases[case];
        channel
    }

    /// The cases in random order, so that none is preferred.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<_> = (0..self.cases.len()).collect();
        fastrand::shuffle(&mut order);
        order
    }

    fn try_case(&self, py: Python<'_>, case: usize) -> Option<Outcome<Item>> {
        match &self.cases[case] {
            Case::Receive(channel) => channel.get().try_receive(py),
            Case::Send(channel, item) => channel.get().try_send(py, item.clone_ref(py)),
        }
    }

    /// Does a case, or stands in its line.
    fn enter_case(
        &self,
        py: Python<'_>,
        case: usize,
        token: &Arc<Token<Item>>,
        person: Person,
    ) -> Result<Ticket, Option<Outcome<Item>>> {
        match &self.cases[case] {
            Case::Receive(channel) => {
                let channel = channel.get();
                channel.core().enter_receiver(token, case, person).map_err(|(received, _)| match received {
                    Received::Item(..) | Received::Closed => channel.received(py, received),
                    Received::Empty | Received::Over => None,
                })
            }
            Case::Send(channel, item) => {
                let channel = channel.get();
                let item = item.clone_ref(py);
                channel.core().enter_sender(token, case, item, person).map_err(|(sent, _)| match sent {
                    Sent::Done(_) | Sent::Closed(_) => channel.sent(py, sent),
                    Sent::Full(_) | Sent::Over(_) => None,
                })
            }
        }
    }

    fn leave_lines(&self, lines: &Lines) {
        for (case, ticket) in &lines.tickets {
            drop(match &self.cases[*case] {
                Case::Receive(channel) => channel.get().core().leave_receiver(*ticket),
                Case::Send(channel, _) => channel.get().core().leave_sender(*ticket),
            });
        }
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        for case in &*self.cases {
            match case {
                Case::Receive(channel) => visit.call(channel)?,
                Case::Send(channel, item) => {
                    visit.call(channel)?;
                    visit.call(item)?;
                }
            }
        }
        let lines = self.lines();
        lines.as_ref().and_then(|lines| lines.candidate.as_ref()).map_or(Ok(()), |it| visit.call(it))
    }

    /// # Errors
    /// The channel is closed.
    pub(crate) fn received(&self, py: Python<'_>, (case, outcome): Chosen) -> PyResult<Item> {
        match (outcome, &self.cases[case]) {
            (Outcome::Received(item), _) => Ok(item),
            (Outcome::Sent, Case::Send(_, item)) => Ok(item.clone_ref(py)),
            (Outcome::Sent, Case::Receive(_)) => Ok(py.None()),
            (Outcome::Closed, Case::Send(channel, _)) => Err(closed_to_senders(py, channel)),
            (Outcome::Closed, Case::Receive(channel)) => Err(closed_to_receivers(py, channel)),
        }
    }

    /// The channel and the item.
    ///
    /// # Errors
    /// The channel is closed.
    pub(crate) fn selected(&self, py: Python<'_>, chosen: Chosen) -> PyResult<(Py<Channel>, Item)> {
        let channel = self.channel(chosen.0).clone_ref(py);
        Ok((channel, self.received(py, chosen)?))
    }
}

pub(crate) fn closed_to_senders(py: Python<'_>, channel: &Py<Channel>) -> PyErr {
    closed(py, channel, "could not send: found the channel closed, expected an open one")
}

pub(crate) fn closed_to_receivers(py: Python<'_>, channel: &Py<Channel>) -> PyErr {
    closed(
        py,
        channel,
        "could not receive: found the channel closed, and nothing left in it, expected an item",
    )
}

fn closed(py: Python<'_>, channel: &Py<Channel>, message: &str) -> PyErr {
    let error = error::error(error::channel_closed(py), message);
    match error.value(py).setattr("channel", channel) {
        Ok(()) => error,
        Err(failure) => failure,
    }
}

fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Waitable for Choice {
    type Gain = Chosen;

    fn try_now(&self, py: Python<'_>) -> PyResult<Option<Chosen>> {
        if let Cases::One(_) = self.cases {
            return Ok(self.try_case(py, 0).map(|outcome| (0, outcome)));
        }
        let tried = |case| self.try_case(py, case).map(|outcome| (case, outcome));
        Ok(self.order().into_iter().find_map(tried))
    }

    fn enter(&self, py: Python<'_>, waiter: Waiter) -> PyResult<Entered<Chosen>> {
        let token = Arc::new(Token::new(next_number()));
        let candidate =
            waiter.is_task().then(|| Py::new(py, Candidate::new(waiter.clone(), &token))).transpose()?;
        let mut lines = Lines { token, tickets: Vec::with_capacity(self.cases.len()), candidate };
        for case in self.order() {
            let person = match &lines.candidate {
                Some(candidate) => Person::Task(candidate.clone_ref(py)),
                None => Person::Thread(waiter.clone()),
            };
            match self.enter_case(py, case, &lines.token, person) {
                Ok(ticket) => lines.tickets.push((case, ticket)),
                Err(Some(outcome)) => {
                    self.leave_lines(&lines);
                    return Ok(Entered::Through((case, outcome)));
                }
                // Decided in the line of an earlier case: he is on the point of being woken.
                Err(None) => break,
            }
        }
        let (_, first) = *lines.tickets.first().expect("no case is over before there was another");
        *self.lines() = Some(lines);
        Ok(Entered::Waits(first))
    }

    fn poll(&self, _py: Python<'_>, _ticket: Ticket) -> PyResult<Option<Chosen>> {
        let Some(lines) = self.lines().take() else { return Ok(None) };
        let chosen = lines.token.take();
        if chosen.is_some() {
            self.leave_lines(&lines);
        } else {
            *self.lines() = Some(lines);
        }
        Ok(chosen)
    }

    fn leave(&self, _py: Python<'_>, _ticket: Ticket) -> Option<Chosen> {
        let lines = self.lines().take()?;
        let chosen = lines.token.give_up();
        self.leave_lines(&lines);
        chosen
    }

    fn give_back(&self, py: Python<'_>, (case, outcome): Chosen) {
        if let Outcome::Received(item) = outcome {
            self.channel(case).get().give_back(py, item);
        }
    }
}

/// What a task gets of its choice.
#[derive(Clone, Copy)]
pub(crate) enum Wish {
    /// The item that came out.
    Item,
    /// The item that came out, or the end of an iteration.
    Next,
    /// Nothing.
    Nothing,
    /// The channel and the item.
    Pair,
}

struct AwaitChoice {
    choice: Choice,
    wish: Wish,
}

/// The awaitable for a choice.
pub(crate) fn awaiting(cases: Cases, wish: Wish) -> Awaiting {
    Awaiting::new(Box::new(AwaitChoice { choice: Choice::new(cases), wish }))
}

impl AwaitChoice {
    fn granted(&self, py: Python<'_>, chosen: Chosen) -> PyResult<Py<PyAny>> {
        match (self.wish, &chosen.1) {
            (Wish::Next, Outcome::Closed) => Err(PyStopAsyncIteration::new_err(())),
            (Wish::Item | Wish::Next, _) => self.choice.received(py, chosen),
            (Wish::Nothing, _) => self.choice.received(py, chosen).map(|_| py.None()),
            (Wish::Pair, _) => Ok(self.choice.selected(py, chosen)?.into_pyobject(py)?.into_any().unbind()),
        }
    }
}

impl Operation for AwaitChoice {
    fn try_now(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.choice.try_now(py)?.map(|chosen| self.granted(py, chosen)).transpose()
    }

    fn enter(&self, py: Python<'_>, waiter: Waiter) -> PyResult<Entered<Py<PyAny>>> {
        Ok(match self.choice.enter(py, waiter)? {
            Entered::Through(chosen) => Entered::Through(self.granted(py, chosen)?),
            Entered::Waits(ticket) => Entered::Waits(ticket),
        })
    }

    fn poll(&self, py: Python<'_>, ticket: Ticket, _waiter: Waiter) -> PyResult<Entered<Py<PyAny>>> {
        Ok(match self.choice.poll(py, ticket)? {
            Some(chosen) => Entered::Through(self.granted(py, chosen)?),
            None => Entered::Waits(ticket),
        })
    }

    fn leave(&self, py: Python<'_>, ticket: Ticket) {
        if let Some(chosen) = self.choice.leave(py, ticket) {
            self.choice.give_back(py, chosen);
        }
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.choice.traverse(visit)
    }
}
