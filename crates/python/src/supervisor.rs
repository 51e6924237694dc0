//! The one thread that looks after the worker processes of a pool.
//!
//! It reads what workers answer and settles futures, without the interpreter as long as nobody Python-side has to be
//! told; starts workers, ends those whose task has passed its limit, buries the dead and moves their tasks. It sleeps on
//! one event, which workers, submitters and the zygote's messages signal, and only while it sleeps.
//!
//! Who holds the papers on its desk acts as the supervisor. While it sleeps, a thread that looks for the only result there
//! is to come [stands in](StandIn) for it: one thread less to wake. No answer is missed, because of this: as long as nobody
//! holds the papers, each ring has been told that its reader sleeps, or the event is signalled.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use manyhands_engine::clock::Tick;
use manyhands_engine::scheduler::Scheduler;
use manyhands_engine::statistics::Statistics;
use manyhands_os::clock;
use manyhands_os::event::Event;
use manyhands_os::segment::Writes;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::attempt::{self, Ended as HowEnded, LastWords, Ran};
use crate::bulk::{Batch, Part, ReadAhead};
use crate::draft;
use crate::error;
use crate::future::{Future, Outcome, Rest};
use crate::message::{self, Answer, Content, Place};
use crate::parcel::{self, Received, Reply};
use crate::pool::{Crew, Pool, Shared};
use crate::process_crew::{Ended, Flight, Freight, ProcessCrew, ProcessHand, Queue, Worker};
use crate::view::{Bundle, Lender};
use crate::waiter::{Mailbox, Wakes};
use crate::wire;

/// How long a worker may take to end by itself after SIGTERM.
pub(crate) const GRACE: f64 = 0.5;
/// How long the outcome of a task that has passed its limit waits for its worker to say where it was: it usually takes
/// milliseconds.
const FAREWELL: Duration = Duration::from_millis(300);
/// After how many notes of one worker the others have their turn.
const MOST_NOTES: usize = 256;
/// The longest sleep: a year, in which something else will have happened.
const LONGEST: Duration = Duration::from_secs(31_536_000);

/// How a worker ended that nobody could be asked about any more.
const KILLED: Ended = Ended { exitcode: -9, peak_memory: 0 };

/// A mailbox, and what to put into it.
type Letter = (Arc<Mailbox>, u64);

/// An answer that somebody with the interpreter has to handle.
enum Errand {
    /// A future was settled, and Python waits for it.
    Rest(Py<Future>, Rest),
    /// A task under a policy has ended.
    Ended(Flight, Outcome, Tick),
    /// A task was found cancelled.
    Cancelled(Py<Future>),
    /// A task has passed its limit: end its worker.
    Overdue(Arc<ProcessHand>),
    /// It is known where that task was, or it takes its time: settle it.
    TimedOut(Farewell),
    /// A worker has ended while it ran this.
    Died(Arc<ProcessHand>, Flight, Ended),
    /// No worker gets ready: this is why.
    Broken(String),
    /// A worker has to be started.
    Start(Arc<ProcessHand>),
    /// A worker could not even be made.
    NoWorker(io::Error),
    /// A task can be sent to no worker.
    Unsendable(Flight, io::Error),
    /// An asyncio task waits for a part of a bulk.
    Letter(Letter),
    /// A worker says nonsense: end it.
    Mad(Arc<ProcessHand>, String),
}

/// What the supervisor works with; whoever holds its papers is the supervisor.
#[derive(Default)]
pub(crate) struct Desk {
    papers: Mutex<Papers>,
    /// The supervisor itself has to do something: whoever stands in for it makes way.
    is_wanted: AtomicBool,
}

#[derive(Default)]
struct Papers {
    errands: Vec<Errand>,
    wakes: Wakes,
    message: Vec<u8>,
    /// What workers said, and Python has not been told.
    notes: Vec<Note>,
    /// Tasks that have passed their limits, until it is known where they were.
    farewells: Vec<Farewell>,
    /// How many messages were read.
    read: u64,
    /// Until when the thread sleeps, if it does.
    sleeps_until: Option<Tick>,
}

/// Whoever holds the papers.
struct Supervisor<'a> {
    pool: &'a Arc<Pool>,
    event: Arc<Event>,
    papers: MutexGuard<'a, Papers>,
}

/// A task that is stopped, and until when to wait for its worker to say where it was.
struct Farewell {
    /// The worker that is ended for it; `None` for a coroutine, of which its worker says it and goes on.
    hand: Option<Arc<ProcessHand>>,
    flight: Flight,
    frame: Option<String>,
    until: Tick,
}

impl Farewell {
    fn is_over(&self, now: Tick) -> bool {
        self.until <= now || self.hand.as_ref().is_some_and(|hand| hand.process().ended.is_some())
    }
}

/// What a worker says besides its answers: a line, a log record, a warning.
struct Note {
    hand: Arc<ProcessHand>,
    kind: u8,
    bytes: Vec<u8>,
}

/// Starts the supervisor of `pool`, unless it has one.
pub(crate) fn ensure(pool: &Arc<Pool>) -> io::Result<()> {
    let event = {
        let mut shared = pool.shared();
        let Crew::Processes(crew) = &mut shared.crew else { return Ok(()) };
        if std::mem::replace(&mut crew.is_supervised, true) {
            return Ok(());
        }
        Arc::clone(&crew.event)
    };
    let pool = Arc::clone(pool);
    std::thread::Builder::new().name("manyhands-supervisor".to_owned()).spawn(move || {
        supervise(&pool, &event);
        pool.stock.clear();
        pool.over.open();
    })?;
    Ok(())
}

fn supervise(pool: &Arc<Pool>, event: &Arc<Event>) {
    while let Some(deadline) = Supervisor::at_desk(pool, event).work() {
        let patience = deadline.since(clock::now()).min(LONGEST);
        // A failure or a signal only means to look again.
        let _ = event.wait(Some(patience));
        event.drain();
    }
}

impl<'a> Supervisor<'a> {
    fn at_desk(pool: &'a Arc<Pool>, event: &Arc<Event>) -> Self {
        pool.desk.is_wanted.store(true, Ordering::Relaxed);
        let papers = pool.desk.papers.lock().unwrap_or_else(PoisonError::into_inner);
        pool.desk.is_wanted.store(false, Ordering::Relaxed);
        Self { pool, event: Arc::clone(event), papers }
    }

    /// Works until there is nothing to do; returns until when to sleep, `None` if there is nothing left to look after.
    fn work(mut self) -> Option<Tick> {
        self.papers.sleeps_until = None;
        self.end_sleep();
        loop {
            for hand in self.hands() {
                self.collect(&hand);
                self.bury(&hand);
            }
            self.say_farewells(clock::now());
            let deadline = self.look_after()?;
            self.papers.wakes.flush();
            if !self.papers.errands.is_empty() {
                if !self.run_errands() {
                    return None;
                }
            } else if self.may_sleep() {
                self.papers.sleeps_until = Some(deadline);
                return Some(deadline);
            } else {
                self.end_sleep();
            }
        }
    }

    fn with_crew<R>(&self, body: impl FnOnce(&mut ProcessCrew) -> R) -> Option<R> {
        match &mut self.pool.shared().crew {
            Crew::Processes(crew) => Some(body(crew)),
            _ => None,
        }
    }

    fn hands(&self) -> Vec<Arc<ProcessHand>> {
        let hands =
            |crew: &mut ProcessCrew| crew.workers.iter().map(|worker| Arc::clone(&worker.hand)).collect();
        self.with_crew(hands).unwrap_or_default()
    }

    /// Announces to every worker that this thread sleeps; `false` if one of them has answered meanwhile.
    fn may_sleep(&self) -> bool {
        self.hands().iter().filter(|hand| !hand.is_mad()).all(|hand| hand.results().prepare_sleep())
    }

    fn end_sleep(&self) {
        self.hands().iter().for_each(|hand| hand.results().end_sleep());
    }

    /// Reads what a worker has answered, and passes its notes on; `true` if it may have more to say.
    fn collect(&mut self, hand: &Arc<ProcessHand>) -> bool {
        let has_more = self.read(hand, MOST_NOTES);
        self.hear();
        has_more
    }

    fn read(&mut self, hand: &Arc<ProcessHand>, most_notes: usize) -> bool {
        while !hand.is_mad() {
            if self.papers.notes.len() >= most_notes {
                return true;
            }
            let popped = hand.results().try_pop(&mut self.papers.message);
            let nonsense = match popped {
                Ok(false) => return false,
                Ok(true) => {
                    self.papers.read += 1;
                    let message = std::mem::take(&mut self.papers.message);
                    let handled = self.handle(hand, &message, true);
                    self.papers.message = message;
                    handled.err()
                }
                Err(corrupt) => Some(corrupt.to_string()),
            };
            if let Some(nonsense) = nonsense {
                self.call_mad(hand, nonsense);
            }
        }
        false
    }

    /// Tells Python what workers have said.
    fn hear(&mut self) {
        if self.papers.notes.is_empty() {
            return;
        }
        // The interpreter may be busy: nobody shall wait for that whose result is there.
        self.papers.wakes.flush();
        let notes = std::mem::take(&mut self.papers.notes);
        Python::try_attach(|py| {
            for Note { hand, kind, bytes } in notes {
                let hear = hand.process().hear.as_ref().map(|hear| hear.clone_ref(py));
                let heard = hear.map(|hear| hear.call1(py, (kind, PyBytes::new(py, &bytes))));
                if let Some(Err(failure)) = heard {
                    failure.write_unraisable(py, None);
                }
            }
        });
    }

    /// Has a worker ended that says nonsense; one that has ended could not finish what it said.
    fn call_mad(&mut self, hand: &Arc<ProcessHand>, nonsense: String) {
        if hand.set_mad() && hand.process().ended.is_none() {
            self.papers.errands.push(Errand::Mad(Arc::clone(hand), nonsense));
        }
    }

    fn handle(&mut self, hand: &Arc<ProcessHand>, bytes: &[u8], may_be_outside: bool) -> Result<(), String> {
        let answer = message::read_answer(bytes);
        if !matches!(answer, Some(Answer::Note { .. })) {
            // Whoever sees a task's outcome has seen what it said before.
            self.hear();
        }
        match answer {
            Some(Answer::Note { kind, bytes }) => {
                self.papers.notes.push(Note { hand: Arc::clone(hand), kind, bytes: bytes.to_vec() });
                Ok(())
            }
            Some(Answer::Ready) => {
                self.with_crew(|crew| {
                    crew.stillborn = 0;
                    if let Some(worker) = crew.worker_of(hand) {
                        worker.is_ready = true;
                        worker.front_began(clock::now());
                    }
                });
                Ok(())
            }
            Some(Answer::NotReady(traceback)) => {
                self.papers.errands.push(Errand::Broken(String::from_utf8_lossy(traceback).into_owned()));
                Ok(())
            }
            Some(Answer::Done { serial, has_failed, run, cpu, content }) => {
                let reply = match content {
                    Content::Inline(bytes) => Reply { has_failed, content: Received::Inline(bytes.to_vec()) },
                    Content::Large(place) => open_reply(hand, has_failed, place)?,
                };
                self.done(hand, serial, Duration::from_nanos(run), Duration::from_nanos(cpu), reply)
            }
            Some(Answer::Part { serial, done, failed, run, bytes }) => {
                let results = Results { done, failed, run: Duration::from_nanos(run), bytes: bytes.to_vec() };
                self.part(hand, serial, results)
            }
            Some(Answer::Seen { serial, frame }) => {
                self.seen(serial, Some(String::from_utf8_lossy(frame).into_owned()));
                Ok(())
            }
            Some(Answer::Outside { descriptor, len }) if may_be_outside => {
                let pid = hand.process().pid.ok_or("it answered before it was started")?;
                let message =
                    message::read_outside(pid, descriptor, len).map_err(|error| error.to_string())?;
                hand.opened();
                hand.release();
                self.handle(hand, &message, false)
            }
            Some(Answer::Outside { .. }) | None => Err("it sent a message of no known kind".to_owned()),
        }
    }

    /// The first task of a worker was answered.
    fn done(
        &mut self,
        hand: &Arc<ProcessHand>,
        serial: u64,
        run: Duration,
        cpu: Duration,
        reply: Reply,
    ) -> Result<(), String> {
        let mut shared = self.pool.shared();
        // Not before, or what was submitted meanwhile would begin before that.
        let now = clock::now();
        let Shared { crew, scheduler, statistics, .. } = &mut *shared;
        let Crew::Processes(crew) = crew else { return Ok(()) };
        let Some(worker) = crew.worker_of(hand) else { return Ok(()) };
        if worker.condemned.take_if(|condemned| *condemned == serial).is_some()
            || worker.dying.remove(&serial)
        {
            drop(shared);
            self.seen(serial, None);
            return Ok(());
        }
        worker.expect_answer(serial)?;
        if !matches!(worker.flights.front(), Some(Flight { freight: Freight::Batch(_), .. })) {
            worker.learn(run);
        }
        worker.reclaim();
        let Some(flight) = worker.answered(now) else { return Ok(()) };
        if hand.has_retired() {
            crew.retire(hand, Queue { scheduler, statistics });
        }
        if let Freight::Batch(batch) = &flight.freight {
            Queue { scheduler, statistics }.take_rest(batch, flight.age);
            return Ok(());
        }
        let began = flight.began.unwrap_or(now);
        let weight = reply.content.len();
        let outcome = Outcome::Reply(Arc::new(reply));
        let Freight::Call { future, parcel } = &flight.freight else { return Ok(()) };
        let future = future.get();
        if let Some(detail) = future.detail() {
            attempt::measure(detail, run, cpu);
            attempt::weigh(detail, parcel.arguments.len(), weight);
            if detail.policy.is_some() {
                drop(shared);
                self.papers.errands.push(Errand::Ended(flight, outcome, began));
                return Ok(());
            }
        }
        // Counted before anybody is told, so that the figures include what a caller knows to be done.
        let ended = match outcome.has_failed() {
            _ if future.state().is_done() => HowEnded::Skipped,
            true => HowEnded::Failed,
            false => HowEnded::Succeeded,
        };
        shared.record(&Ran { ended, waited: began - parcel.submitted, began }, now);
        drop(shared);
        match (future.finish_detached(outcome, &mut self.papers.wakes), flight.freight) {
            (Rest::Nothing, _) | (_, Freight::Batch(_)) => {}
            (rest, Freight::Call { future, .. }) => self.papers.errands.push(Errand::Rest(future, rest)),
        }
        Ok(())
    }

    /// The next items of a worker's first batch were answered.
    fn part(&mut self, hand: &Arc<ProcessHand>, serial: u64, results: Results) -> Result<(), String> {
        let mut shared = self.pool.shared();
        let Shared { crew: Crew::Processes(crew), statistics, .. } = &mut *shared else { return Ok(()) };
        let Some(worker) = crew.worker_of(hand) else { return Ok(()) };
        if worker.condemned == Some(serial) {
            return Ok(());
        }
        worker.learn(results.run / results.done.max(1));
        let flight = worker.expect_answer(serial)?;
        let began = flight.began;
        let Freight::Batch(batch) = &mut flight.freight else {
            return Err("it answered a call as if it were a batch".to_owned());
        };
        let ahead = std::mem::take(&mut batch.read);
        let results = results.without(&ahead).ok_or("it sent less than it had written down")?;
        let letter = settle(batch, began, results, statistics)?;
        drop(shared);
        self.post(letter);
        Ok(())
    }

    /// Tells a consumer of a part.
    fn post(&mut self, (mailbox, number): Letter) {
        if !mailbox.put_detached(number, &mut self.papers.wakes) {
            self.papers.errands.push(Errand::Letter((mailbox, number)));
        }
    }

    /// Removes a worker that has ended, and decides about its tasks.
    fn bury(&mut self, hand: &Arc<ProcessHand>) {
        let Some(ended) = hand.process().ended else { return };
        // What it answered before it ended counts.
        while self.collect(hand) {}
        let mut shared = self.pool.shared();
        let Shared { crew, scheduler, statistics, .. } = &mut *shared;
        let Crew::Processes(crew) = crew else { return };
        let (victims, gives_up) = crew.bury(hand, Queue { scheduler, statistics }, clock::now());
        drop(shared);
        for flight in victims {
            self.papers.errands.push(Errand::Died(Arc::clone(hand), flight, ended));
        }
        if gives_up {
            self.papers.errands.push(Errand::Broken(format!(
                "worker processes end before they can run anything ({})",
                describe(ended)
            )));
        }
    }

    /// A coroutine that is stopped was there; its worker says no more of it.
    fn seen(&mut self, serial: u64, frame: Option<String>) {
        let is_its = |farewell: &&mut Farewell| farewell.hand.is_none() && farewell.flight.serial == serial;
        if let Some(farewell) = self.papers.farewells.iter_mut().find(is_its) {
            farewell.frame = farewell.frame.take().or(frame);
            farewell.until = Tick::ZERO;
        }
    }

    /// Settles tasks that have passed their limits, and whose workers have said where they were or had their time to.
    fn say_farewells(&mut self, now: Tick) {
        let Papers { errands, farewells, .. } = &mut *self.papers;
        let over = farewells.extract_if(.., |farewell| farewell.is_over(now));
        errands.extend(over.map(Errand::TimedOut));
    }

    /// Dispatches, levels, looks at limits; returns when to look again, `None` if there is nothing left to look after.
    fn look_after(&mut self) -> Option<Tick> {
        let mut shared = self.pool.shared();
        let now = clock::now();
        let (closed, broken) = (shared.closed, shared.broken);
        let Shared { crew, scheduler, statistics, .. } = &mut *shared;
        let Crew::Processes(crew) = crew else { return None };
        for (hand, flight) in crew.overdue(now, Queue { scheduler, statistics }) {
            self.papers.errands.extend(hand.clone().map(Errand::Overdue));
            self.papers.farewells.push(Farewell { hand, flight, frame: None, until: now + FAREWELL });
        }
        for hand in crew.deaf(now) {
            self.papers.errands.push(Errand::Mad(
                hand,
                "its event loop is blocked: it does not cancel what it is told to".to_owned(),
            ));
        }
        let letters = look_into_drafts(crew, statistics, now);
        let (wake, level_at) =
            if broken { (Vec::new(), None) } else { hand_out(crew, scheduler, statistics, now) };
        self.papers.errands.extend(crew.cancelled.drain(..).map(Errand::Cancelled));
        self.papers
            .errands
            .extend(crew.unsendable.drain(..).map(|(flight, why)| Errand::Unsendable(flight, why)));
        // What such a worker has answered can be read all the same.
        self.papers.errands.extend(crew.take_mad().into_iter().map(|(hand, why)| Errand::Mad(hand, why)));
        if broken && !scheduler.is_empty() {
            // Tasks of a worker that has ended came back: they fail like the others.
            self.papers.errands.push(Errand::Broken(String::new()));
        } else if crew.wants_worker(scheduler, now) {
            self.papers.errands.push(crew.add_worker().map_or_else(Errand::NoWorker, Errand::Start));
        }
        if closed && scheduler.is_empty() {
            crew.workers.iter_mut().filter(|worker| worker.flights.is_empty()).for_each(Worker::stop);
            if crew.workers.is_empty() && self.papers.errands.is_empty() && self.papers.farewells.is_empty() {
                crew.is_supervised = false;
                return None;
            }
        }
        let farewell = self.papers.farewells.iter().map(|farewell| farewell.until).min();
        let next = [crew.until, crew.earliest_deadline(), crew.starts_again(scheduler), level_at, farewell];
        let deadline = next.into_iter().flatten().min().unwrap_or(Tick::NEVER);
        crew.supervisor_wakes = deadline;
        drop(shared);
        for hand in wake {
            hand.event.signal();
        }
        for letter in letters {
            self.post(letter);
        }
        Some(deadline)
    }

    /// Does what needs the interpreter; `false` if there is none any more.
    fn run_errands(&mut self) -> bool {
        let errands = std::mem::take(&mut self.papers.errands);
        let mut wakes = std::mem::take(&mut self.papers.wakes);
        let ran = Python::try_attach(|py| {
            for errand in errands {
                if let Err(failure) = self.run_errand(py, errand, &mut wakes) {
                    failure.write_unraisable(py, None);
                }
            }
        });
        drop(wakes);
        ran.is_some()
    }

    fn run_errand(&self, py: Python<'_>, errand: Errand, wakes: &mut Wakes) -> PyResult<()> {
        match errand {
            Errand::Rest(future, rest) => Future::do_rest(future.bind(py), rest, wakes),
            Errand::Ended(flight, outcome, began) => self.ended(py, &flight, outcome, began, wakes),
            Errand::Cancelled(future) => {
                let future = future.bind(py);
                Future::start(future)?;
                match future.get().detail().and_then(crate::detail::Detail::leave_gate) {
                    Some(gate) => self.pool.release(py, gate),
                    None => Ok(()),
                }
            }
            Errand::Overdue(hand) => kill(py, &hand, GRACE),
            Errand::TimedOut(Farewell { hand, flight, frame, .. }) => {
                {
                    let mut shared = self.pool.shared();
                    shared.statistics.timed_out += 1;
                    shared.statistics.interrupted += 1;
                }
                flight.remember(py)?;
                // Batches have no limit.
                let Freight::Call { future, .. } = &flight.freight else { return Ok(()) };
                let frame = frame.or_else(|| last_frame(py, hand.as_ref()?));
                let ended = hand.and_then(|hand| hand.process().ended);
                let process = ended.map(|ended| (ended.exitcode, ended.peak_memory));
                let ended =
                    attempt::timed_out(future.bind(py), self.pool, LastWords { frame, process }, wakes)?;
                self.pool.shared().count(ended);
                Ok(())
            }
            Errand::Died(hand, flight, ended) => self.died(py, &hand, flight, ended, wakes),
            Errand::Letter((mailbox, number)) => {
                mailbox.put(py, number, wakes);
                Ok(())
            }
            Errand::Broken(why) => {
                if !self.pool.is_broken() {
                    error::log_message(py, &format!("Exception in initializer:\n{why}"));
                }
                self.pool.break_down(py);
                Ok(())
            }
            Errand::Start(hand) => self.start(py, &hand, wakes),
            Errand::NoWorker(error) => self.could_not_start(py, None, &error.into(), wakes),
            Errand::Unsendable(flight, why) => {
                let began = flight.began.unwrap_or_else(clock::now);
                let error = unsendable(py, &flight, why);
                if let Freight::Batch(batch) = flight.freight {
                    let count = batch.items.len();
                    return self.fail_items(py, batch, flight.age, &error, (count, Duration::ZERO), wakes);
                }
                self.ended(py, &flight, Outcome::of(py, Err(error)), began, wakes)
            }
            Errand::Mad(hand, _) if !hand.accuse() => Ok(()),
            Errand::Mad(hand, nonsense) => {
                error::log_message(py, &format!("a worker process was ended because {nonsense}"));
                self.with_crew(|crew| crew.worker_of(&hand).map(|worker| worker.is_leaving = true));
                kill(py, &hand, 0.0)
            }
        }
    }

    fn ended(
        &self,
        py: Python<'_>,
        flight: &Flight,
        outcome: Outcome,
        began: Tick,
        wakes: &mut Wakes,
    ) -> PyResult<()> {
        flight.remember(py)?;
        let Freight::Call { future, parcel } = &flight.freight else { return Ok(()) };
        let ended = attempt::ended(future.bind(py), self.pool, outcome, wakes)?;
        let waited = began - parcel.submitted;
        self.pool.shared().record(&Ran { ended, waited, began }, clock::now());
        Ok(())
    }

    fn died(
        &self,
        py: Python<'_>,
        hand: &ProcessHand,
        flight: Flight,
        ended: Ended,
        wakes: &mut Wakes,
    ) -> PyResult<()> {
        let error = worker_died(py, hand, &flight, ended)?;
        let now = clock::now();
        let wall = now - flight.item_began(&hand.segment, now);
        let Freight::Batch(mut batch) = flight.freight else {
            if let Some(detail) = flight.freight.detail() {
                attempt::measure_stopped(detail, wall);
            }
            return self.ended(py, &flight, Outcome::of(py, Err(error)), flight.began.unwrap_or(now), wakes);
        };
        if flight.is_in_doubt {
            // What was answered is lost, and what is in the draft may be garbage, too.
            let most = u32::try_from(batch.items.len()).unwrap_or(u32::MAX).saturating_add(batch.done);
            let begun = draft::claimed(&hand.segment, flight.serial, most);
            let lost = begun.and_then(|begun| begun.checked_sub(batch.done));
            let lost = lost.map_or(batch.items.len(), |lost| lost as usize);
            return self.fail_items(py, batch, flight.age, &error, (lost, wall), wakes);
        }
        let run = flight.began.map_or(Duration::ZERO, |began| clock::now() - began);
        if let Some(results) = read_ahead(hand, flight.serial, &mut batch, run) {
            let settled = settle(&mut batch, flight.began, results, &mut self.pool.shared().statistics);
            match settled {
                Ok((mailbox, number)) => mailbox.put(py, number, wakes),
                Err(nonsense) => error::log_message(py, &format!("a worker process ended after {nonsense}")),
            }
        }
        self.fail_items(py, batch, flight.age, &error, (1, wall), wakes)
    }

    /// Fails the next `count` items of a batch, each after so long, and gives back the others.
    fn fail_items(
        &self,
        py: Python<'_>,
        mut batch: Batch,
        age: u64,
        error: &PyErr,
        (count, wall): (usize, Duration),
        wakes: &mut Wakes,
    ) -> PyResult<()> {
        let count = u32::try_from(count.min(batch.items.len())).unwrap_or(u32::MAX);
        if count == 0 {
            let Shared { scheduler, statistics, .. } = &mut *self.pool.shared();
            Queue { scheduler, statistics }.take_rest(&batch, age);
            return Ok(());
        }
        let pickled = parcel::dump((error.value(py), py.None()).into_pyobject(py)?.as_any())?;
        let mut bytes = Vec::new();
        for _ in 0..count {
            wire::encode_failed_item(&pickled, batch.bulk.manner, wall, &mut bytes);
        }
        let wake = {
            let mut shared = self.pool.shared();
            let Shared { scheduler, statistics, .. } = &mut *shared;
            let results = Results { done: count, failed: count, run: wall, bytes };
            let settled = settle(&mut batch, None, results, statistics);
            Queue { scheduler, statistics }.take_rest(&batch, age);
            drop(shared);
            settled
        };
        if let Ok((mailbox, number)) = wake {
            mailbox.put(py, number, wakes);
        }
        Ok(())
    }

    fn start(&self, py: Python<'_>, hand: &Arc<ProcessHand>, wakes: &mut Wakes) -> PyResult<()> {
        let module = self.pool.functions.module();
        let face = Process { module, hand: Arc::clone(hand), event: Arc::clone(&self.event) };
        match Bound::new(py, face).and_then(|face| self.pool.spawn(py, face.as_any())) {
            Ok(()) => {
                self.with_crew(ProcessCrew::has_started);
                Ok(())
            }
            Err(failure) => self.could_not_start(py, Some(hand), &failure, wakes),
        }
    }

    /// Tries again later; without any worker, only a few times.
    fn could_not_start(
        &self,
        py: Python<'_>,
        hand: Option<&Arc<ProcessHand>>,
        failure: &PyErr,
        wakes: &mut Wakes,
    ) -> PyResult<()> {
        error::log_exception(py, "critical", "a worker process could not be started", failure);
        let (begun, gives_up) = {
            let mut shared = self.pool.shared();
            let Shared { crew, scheduler, statistics, .. } = &mut *shared;
            let Crew::Processes(crew) = crew else { return Ok(()) };
            crew.could_not_start(hand, Queue { scheduler, statistics }, clock::now())
        };
        if gives_up {
            self.pool.break_down(py);
        }
        let Some(hand) = hand else { return Ok(()) };
        // All of them have to be told, whatever becomes of one.
        begun.into_iter().map(|flight| self.died(py, hand, flight, KILLED, wakes)).fold(Ok(()), Result::and)
    }
}

/// A thread that reads answers in place of the supervisor, which sleeps. It does nothing that needs the interpreter:
/// for that, and whenever it ends in the middle of something, it wakes the supervisor.
pub(crate) struct StandIn<'a> {
    supervisor: Supervisor<'a>,
    hands: Vec<Arc<ProcessHand>>,
    sleeps_until: Tick,
    is_stuck: bool,
}

impl<'a> StandIn<'a> {
    /// Takes over, if the supervisor sleeps and there is one task to be answered: with more of them another thread might
    /// have to wait until this one has a processor.
    pub(crate) fn take_over(pool: &'a Arc<Pool>) -> Option<Self> {
        let papers = pool.desk.papers.try_lock().ok()?;
        let sleeps_until = papers.sleeps_until.filter(|_| !pool.desk.is_wanted.load(Ordering::Relaxed))?;
        let (event, hands) = {
            let shared = pool.shared();
            let Crew::Processes(crew) = &shared.crew else { return None };
            let flights: usize = crew.workers.iter().map(|worker| worker.flights.len()).sum();
            if flights != 1 || !shared.scheduler.is_empty() || shared.closed {
                return None;
            }
            let hands: Vec<_> = crew.workers.iter().map(|worker| Arc::clone(&worker.hand)).collect();
            (Arc::clone(&crew.event), hands)
        };
        for hand in &hands {
            hand.results().end_sleep();
        }
        Some(Self { supervisor: Supervisor { pool, event, papers }, hands, sleeps_until, is_stuck: false })
    }

    /// Reads what has come; `false` if only the supervisor can go on.
    pub(crate) fn read(&mut self) -> bool {
        let before = self.supervisor.papers.read;
        for hand in &self.hands {
            self.is_stuck |= self.supervisor.read(hand, 1);
        }
        if self.supervisor.papers.read != before && !self.is_stuck {
            self.is_stuck = self.supervisor.pool.shared().closed
                || self.supervisor.look_after().is_none_or(|until| until < self.sleeps_until);
            self.supervisor.papers.wakes.flush();
        }
        self.is_stuck |= !self.supervisor.papers.errands.is_empty();
        self.is_stuck |= self.supervisor.pool.desk.is_wanted.load(Ordering::Relaxed);
        !self.is_stuck
    }
}

impl Drop for StandIn<'_> {
    fn drop(&mut self) {
        if self.is_stuck || !self.supervisor.may_sleep() {
            self.supervisor.event.signal();
        }
    }
}

/// A large answer, where the worker has put it.
fn open_reply(hand: &Arc<ProcessHand>, has_failed: bool, place: Place) -> Result<Reply, String> {
    let opened = if place.is_yours {
        let loan = hand.offer.accepted(&hand.segment);
        Bundle::of_own(loan.ok_or("it answered in memory that it was not offered")?)
    } else {
        let pid = hand.process().pid.ok_or("it answered before it was started")?;
        let lender: Arc<dyn Lender> = Arc::<ProcessHand>::clone(hand);
        let opened = Bundle::open(pid, place, Writes::Private, &lender);
        hand.opened();
        if place.slot.is_none() {
            hand.release();
        }
        opened
    };
    Ok(match opened {
        Ok(bundle) => Reply { has_failed, content: Received::Large(bundle) },
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(error.to_string()),
        Err(error) => Reply { has_failed: true, content: Received::Lost(error) },
    })
}

/// Dispatches and levels. Returns the workers to wake, and when there may be something to level again.
fn hand_out(
    crew: &mut ProcessCrew,
    scheduler: &mut Scheduler<Py<Future>>,
    statistics: &mut Statistics,
    now: Tick,
) -> (Vec<Arc<ProcessHand>>, Option<Tick>) {
    let mut wake = Vec::new();
    loop {
        wake.extend(crew.dispatch(scheduler, statistics, now).wake);
        // Each round gives something to an idle worker, so there are at most as many as workers.
        if let Err(at) = crew.level(Queue { scheduler, statistics }, now) {
            return (wake, at);
        }
    }
}

/// Results of the next items of a batch.
struct Results {
    done: u32,
    failed: u32,
    run: Duration,
    bytes: Vec<u8>,
}

impl Results {
    /// Those of them that were not read ahead; `None` if they are not even those.
    fn without(mut self, ahead: &ReadAhead) -> Option<Self> {
        self.failed = self.failed.min(self.done);
        self.done = self.done.checked_sub(ahead.count)?;
        self.bytes.get(ahead.len..)?;
        self.bytes.drain(..ahead.len);
        Some(self)
    }
}

/// Takes from a worker's draft what it has done of its batch and not sent, if there is anything new.
fn read_ahead(hand: &ProcessHand, serial: u64, batch: &mut Batch, run: Duration) -> Option<Results> {
    let (count, bytes) = draft::read(&hand.segment, serial, batch.done.checked_sub(batch.read.count)?);
    let ahead = std::mem::replace(&mut batch.read, ReadAhead { count, len: bytes.len() });
    // How many of them failed is not written down; the consumer will see.
    let results = Results { done: count, failed: 0, run, bytes }.without(&ahead);
    let Some(results) = results.filter(|results| results.done > 0) else {
        batch.read = ahead;
        return None;
    };
    Some(results)
}

/// Looks into the drafts of workers that are long at an item: what they did before it need not wait for it.
fn look_into_drafts(crew: &mut ProcessCrew, statistics: &mut Statistics, now: Tick) -> Vec<Letter> {
    let mut letters = Vec::new();
    for worker in crew.workers.iter_mut().filter(|worker| !worker.hand.is_mad()) {
        let hand = Arc::clone(&worker.hand);
        let Some(flight) = worker.flights.front_mut() else { continue };
        let (Some(began), Some(look)) = (flight.began, flight.next_look()) else { continue };
        let Freight::Batch(batch) = &mut flight.freight else { continue };
        if now < look {
            continue;
        }
        // Ever less often.
        batch.next_look = Some(now + (now - began));
        let results = read_ahead(&hand, flight.serial, batch, now - began);
        // What is nonsense will be said once more when it is sent.
        letters.extend(results.and_then(|results| settle(batch, Some(began), results, statistics).ok()));
    }
    letters
}

/// Takes such results.
fn settle(
    batch: &mut Batch,
    began: Option<Tick>,
    results: Results,
    statistics: &mut Statistics,
) -> Result<Letter, String> {
    let Results { done, failed, run, bytes } = results;
    let left = batch.items.len();
    let items =
        batch.take(done).ok_or_else(|| format!("it answered {done} items, expected at most {left}"))?;
    // Those that were read ahead were taken for successes.
    statistics.succeeded = (statistics.succeeded + u64::from(done)).saturating_sub(failed.into());
    statistics.failed += u64::from(failed);
    statistics.record_runs(run / done.max(1), done.into());
    let waited = began.unwrap_or_else(clock::now) - batch.bulk.submitted;
    statistics.record_waits(waited, done.into());
    let part = Part { items, bytes, worker: batch.worker.clone(), waited };
    let (mailbox, number) = batch.bulk.settle(part, failed as usize);
    Ok((Arc::clone(mailbox), number))
}

/// What becomes of a task whose message there is no memory for.
fn unsendable(py: Python<'_>, flight: &Flight, why: io::Error) -> PyErr {
    let name = &flight.freight.function().name;
    let text = format!("could not send the arguments of `{name}` to a worker process: {why}");
    let explained = pyo3::exceptions::PyOSError::new_err(text);
    explained.set_cause(py, Some(why.into()));
    explained
}

/// Ends a worker: SIGTERM now, SIGKILL after `grace` seconds.
pub(crate) fn kill(py: Python<'_>, hand: &ProcessHand, grace: f64) -> PyResult<()> {
    let (pid, kill) = {
        let process = hand.process();
        (process.pid, process.kill.as_ref().map(|kill| kill.clone_ref(py)))
    };
    match (pid, kill) {
        (Some(pid), Some(kill)) => kill.bind(py).call1((pid, grace)).map(drop),
        _ => Ok(()),
    }
}

fn describe(ended: Ended) -> String {
    match ended.exitcode {
        code if code < 0 => format!("signal {}", -code),
        code => format!("exit code {code}"),
    }
}

fn worker_died(py: Python<'_>, hand: &ProcessHand, flight: &Flight, ended: Ended) -> PyResult<PyErr> {
    let arguments = (&flight.freight.function().name, hand.process().pid, ended.exitcode, ended.peak_memory);
    let kind = error::worker_died(py)?;
    let error =
        if flight.is_in_doubt { kind.call_method1("_in_doubt", arguments) } else { kind.call1(arguments) };
    let error = PyErr::from_value(error?);
    error::set_last_words(py, &error, LastWords { frame: last_frame(py, hand), process: None });
    Ok(error)
}

/// Where a worker's task was when it was ended; read once, however many tasks went with it.
fn last_frame(py: Python<'_>, hand: &ProcessHand) -> Option<String> {
    let known = hand.process().last_frame.get().cloned();
    known.unwrap_or_else(|| {
        let frame = read_last_frame(py, hand);
        let process = hand.process();
        if process.ended.is_some() {
            // Nobody else reads it: the supervisor is one thread.
            let _ = process.last_frame.set(frame.clone());
        }
        frame
    })
}

fn read_last_frame(py: Python<'_>, hand: &ProcessHand) -> Option<String> {
    let written = hand.slate.read(0, hand.slate.len()).ok()?;
    let written = written.split(|byte| *byte == 0).next().filter(|written| !written.is_empty())?;
    error::last_frame(py, "of_worker", (PyBytes::new(py, written),))
}

/// A worker process that is to be started, as Python sees it.
#[pyclass(frozen, module = "manyhands._core")]
pub(crate) struct Process {
    /// The module of the functions that it will call, as far as is known.
    #[pyo3(get)]
    module: Option<String>,
    hand: Arc<ProcessHand>,
    event: Arc<Event>,
}

#[pymethods]
impl Process {
    /// The descriptors that the worker needs, in the order of its arguments.
    fn descriptors<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        use std::os::fd::AsRawFd;
        let hand = &self.hand;
        PyList::new(
            py,
            [hand.segment.fd(), hand.event.fd(), self.event.fd(), hand.slate.fd()].map(|fd| fd.as_raw_fd()),
        )
    }

    /// The process runs; `kill(pid, grace)` ends it, `hear(kind, bytes)` is told what it says.
    fn started(&self, pid: i32, kill: Py<PyAny>, hear: Py<PyAny>) {
        let mut process = self.hand.process();
        process.pid = Some(pid);
        let previous = (process.kill.replace(kill), process.hear.replace(hear));
        drop(process);
        drop(previous);
    }

    /// The process has ended.
    fn ended(&self, exitcode: i32, peak_memory: u64) {
        self.hand.process().ended = Some(Ended { exitcode, peak_memory });
        self.event.signal();
    }
}

/// A pool of worker processes, for the interpreter's exit, which has to wait for it.
#[pyclass(frozen, module = "manyhands._core")]
pub(crate) struct ProcessPool {
    pub(crate) pool: Arc<Pool>,
}

#[pymethods]
impl ProcessPool {
    /// Take no more tasks into the pool.
    fn close(&self, py: Python<'_>) {
        self.pool.close(py, false);
    }

    /// Take no more tasks into the pool, and end what it runs.
    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        self.pool.stop(py)
    }

    /// Whether the pool has ended its workers.
    #[getter]
    fn is_over(&self) -> bool {
        self.pool.over.is_open()
    }

    /// Wait until the pool has ended its workers. In a forked child there are none to wait for.
    fn wait_until_over(&self, py: Python<'_>) -> PyResult<()> {
        if self.pool.is_forked() { Ok(()) } else { self.pool.over.wait(py) }
    }
}
