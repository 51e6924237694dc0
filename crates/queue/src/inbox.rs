//! What becomes of a delivered message: the worker's rules, without the worker.
//!
//! ```text
//! deliver ──▶ dead letter? known already? revoked? expired? ──▶ due later: held, packed
//!                                    │                              │ advance
//!                                    ▼                              ▼
//!                     take ◀── scheduler of its model (priority, age, rate) ──▶ finish: what is stored, then settled
//! ```
//!
//! Time comes in as a value, what is to be done goes out as one: [`Effects`], in which a result always stands before the
//! settlement of its message.
//!
//! **Guarantees.** Every ticket that was delivered is settled exactly once, unless its line was lost, which settles it.
//! A message that nobody can do anything with becomes a dead letter with the reason; one that was revoked or has expired
//! is never begun. In no window of time do more tasks of one name begin than its rate allows. A message that has taken
//! [`Settings::most_losses`] workers with it is not given to another.
//!
//! **Cost.** A delivery that is due later takes about a hundred bytes ([`packed`](crate::packed)): what is alike in many is kept once.
//!
//! **Not here.** No clock, no thread, no I/O, no broker: the owner serialises the calls and carries out the effects.
//! When the wall clock is set back, what comes in meanwhile may be due too early by as much.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use manyhands_engine::clock::Tick;
use manyhands_engine::gate::{GateId, Limits};
use manyhands_engine::scheduler::{Order, Pop, Scheduler};
use manyhands_engine::timer::TimerWheel;
use serde_json::json;

use crate::backend::{State, Stored};
use crate::broker::{Delivery, Settlement};
use crate::message::Message;
use crate::packed::{Packed, Shapes};

mod document;
mod revoked;
mod running;
#[cfg(test)]
mod tests;
pub(crate) mod times;
mod verdict;
mod words;

pub use document::Answer;
use running::{Entry, Running};
pub use verdict::LOSSES;
pub use words::{
    Effects, Event, Handle, Line, Load, Moment, Note, Outcome, Settings, Step, Terms, Ticket, Work,
};

/// How many tasks before one rate are kept without counting as prefetched.
const MOST_BEHIND_RATE: usize = 1000;
/// What is due comes out of its few bytes only when fewer are ready.
const MOST_READY: usize = 4096;
/// The room of so few that were held is not worth giving back.
const FEW: usize = 4096;
/// How many ids of each kind are remembered.
const MOST_REMEMBERED: usize = 50_000;

struct Registered {
    terms: Terms,
    gate: Option<GateId>,
    behind_rate: usize,
}

/// Ids that are remembered, the latest ones.
#[derive(Debug, Default)]
struct Remembered {
    ids: HashSet<String>,
    order: VecDeque<String>,
}

impl Remembered {
    fn add(&mut self, id: &str) {
        if self.ids.insert(id.to_owned()) {
            self.order.push_back(id.to_owned());
            if self.order.len() > MOST_REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.ids.remove(&oldest);
            }
        }
    }

    fn has(&self, id: &str) -> bool {
        !self.ids.is_empty() && self.ids.contains(id)
    }
}

/// See the module.
pub struct Inbox {
    settings: Settings,
    tasks: Vec<Registered>,
    numbers: HashMap<Arc<str>, usize>,
    ready: Vec<Scheduler<u64>>,
    entries: Running,
    running: usize,
    held: TimerWheel<Packed>,
    /// The most that there were at once in this wheel, which keeps their room.
    most_held: usize,
    held_bytes: usize,
    /// What is due, but has no room among what is ready.
    due: VecDeque<Packed>,
    shapes: Shapes,
    revoked: Remembered,
    /// Tasks that have ended well, but whose messages will come again.
    ended: Remembered,
    is_closed: bool,
}

impl Inbox {
    /// An empty one, of a worker with so many models.
    #[must_use]
    pub fn new(settings: Settings, models: usize, tasks: Vec<Terms>) -> Self {
        let mut ready: Vec<Scheduler<u64>> = (0..models).map(|_| Scheduler::new()).collect();
        let tasks: Vec<Registered> = tasks
            .into_iter()
            .map(|terms| {
                let limits = Limits { rate: terms.rate, concurrency: None };
                let gate = terms.rate.map(|_| ready[terms.model].add_gate(limits));
                Registered { terms, gate, behind_rate: 0 }
            })
            .collect();
        let numbers =
            tasks.iter().enumerate().map(|(number, task)| (Arc::clone(&task.terms.name), number)).collect();
        Self {
            settings,
            tasks,
            numbers,
            ready,
            entries: Running::default(),
            running: 0,
            held: TimerWheel::default(),
            most_held: 0,
            held_bytes: 0,
            due: VecDeque::new(),
            shapes: Shapes::default(),
            revoked: Remembered::default(),
            ended: Remembered::default(),
            is_closed: false,
        }
    }

    /// The terms of a task, by its position.
    #[must_use]
    pub fn terms(&self, task: usize) -> &Terms {
        &self.tasks[task].terms
    }

    /// What there is.
    #[must_use]
    pub fn load(&self) -> Load {
        Load {
            ready: self.entries.len() - self.running,
            running: self.running,
            held: self.held.len() + self.due.len(),
            behind_rates: self.tasks.iter().map(|task| task.behind_rate.min(MOST_BEHIND_RATE)).sum(),
            held_bytes: self.held_bytes,
        }
    }

    /// Takes a delivery.
    pub fn deliver(&mut self, line: Line, delivery: Delivery, now: Moment, out: &mut Effects) {
        let Delivery { tag, queue, is_redelivered, content } = delivery;
        let ticket = Ticket { line, tag, is_redelivered };
        if self.is_closed {
            out.steps.push(Step::new(String::new(), None, Some((ticket, Settlement::Return))));
            return;
        }
        let message = match content {
            Ok(message) => message,
            Err(unreadable) => {
                let note = Note {
                    task: "?".into(),
                    id: String::new(),
                    event: Event::Dead(unreadable.reason.clone()),
                };
                out.notes.push(note);
                let dead = Settlement::Dead { reason: unreadable.reason, held: None };
                out.steps.push(Step::new(String::new(), None, Some((ticket, dead))));
                return;
            }
        };
        if let Some(reason) = self.objection(&message) {
            out.notes.push(note(&message, Event::Dead(reason.clone())));
            let result = self.not_registered(&message, now);
            out.steps.push(Step::new(
                message.headers.id,
                result,
                Some((ticket, Settlement::Dead { reason, held: None })),
            ));
            return;
        }
        if is_redelivered && self.is_known(&ticket, &message, out) {
            return;
        }
        out.notes.push(note(&message, Event::Received));
        if let Some(why) = self.lapsed(&message, now) {
            self.revoke_message(ticket, &message, why, now, out);
            return;
        }
        let eta = message.headers.eta.as_deref().and_then(|eta| times::parse(eta, &self.settings.zone));
        if eta.is_some_and(|eta| eta > now.wall) {
            self.hold(&ticket, &queue, &message);
            out.hold.push(ticket);
        } else {
            self.enqueue(ticket, queue, message, false, out);
        }
    }

    /// Lets what is due pass on; to be called when [`next`](Self::next) has come, and when something was taken.
    pub fn advance(&mut self, now: Moment, out: &mut Effects) {
        let mut fired = Vec::new();
        self.held.expire(now.wall, &mut fired);
        self.due.extend(fired);
        if self.held.is_empty() && self.most_held > FEW {
            (self.held, self.most_held) = (TimerWheel::default(), 0);
        }
        while self.entries.len() < MOST_READY
            && let Some(packed) = self.due.pop_front()
        {
            self.held_bytes -= held_size(&packed);
            let (ticket, queue, message) = self.shapes.unpack(packed);
            match self.lapsed(&message, now) {
                Some(why) => self.revoke_message(ticket, &message, why, now, out),
                None => self.enqueue(ticket, queue, message, true, out),
            }
        }
        if self.due.is_empty() && self.due.capacity() > FEW {
            self.due = VecDeque::new();
        }
    }

    /// The wall clock's time at which something held is due.
    #[must_use]
    pub fn next(&self) -> Option<Tick> {
        self.held.next()
    }

    /// Hands out a task of a model. `Err` for none: with the steady clock's time at which a rate allows one.
    ///
    /// # Errors
    /// If there is nothing to begin now.
    pub fn take<T>(
        &mut self,
        model: usize,
        now: Moment,
        out: &mut Effects,
        begin: impl FnOnce(Work<'_>) -> T,
    ) -> Result<T, Option<Tick>> {
        loop {
            let key = match self.ready[model].pop(now.steady) {
                Pop::Ready { task, .. } => task,
                Pop::Wait(at) => return Err(Some(at)),
                Pop::Empty | Pop::Blocked => return Err(None),
            };
            // What was called off, or given back to a line that was lost, is in its scheduler still.
            let Some(entry) = self.entries.get(key) else { continue };
            let task = entry.task;
            self.tasks[task].behind_rate -= usize::from(self.tasks[task].gate.is_some());
            let why = {
                let message = &entry.message;
                self.lapsed(message, now)
            };
            if let Some(why) = why {
                if let Some(entry) = self.entries.remove(key) {
                    self.revoke_message(entry.ticket, &entry.message, why, now, out);
                }
                continue;
            }
            return Ok(self.begin(key, task, out, begin));
        }
    }

    fn begin<T>(&mut self, key: u64, task: usize, out: &mut Effects, begin: impl FnOnce(Work<'_>) -> T) -> T {
        let terms = &self.tasks[task].terms;
        let (is_early, is_tracked, ignores) = (!terms.acks_late, terms.track_started, terms.ignore_result);
        let [hard, soft] = terms.limits;
        self.running += 1;
        let entry = self.entries.get_mut(key).expect("it was found by whoever begins it");
        entry.is_running = true;
        let headers = &entry.message.headers;
        let is_result_wanted = !headers.ignore_result.unwrap_or(ignores);
        let limits = [headers.timelimit[0].or(hard), headers.timelimit[1].or(soft)];
        let answer = begin(Work {
            handle: Handle(key),
            task,
            message: &entry.message,
            queue: &entry.queue,
            is_redelivered: entry.ticket.is_redelivered,
            limits,
            is_result_wanted,
            is_tracked: is_tracked && is_result_wanted,
        });
        entry.is_result_wanted = is_result_wanted;
        if is_early {
            entry.is_settled = true;
            let settle = Some((entry.ticket, Settlement::Done));
            out.steps.push(Step::new(entry.message.headers.id.clone(), None, settle));
        }
        answer
    }

    /// Takes note of how a task ended.
    pub fn finish(
        &mut self,
        handle: Handle,
        outcome: Outcome,
        run: Duration,
        now: Moment,
        out: &mut Effects,
    ) {
        let Some(entry) = self.entries.remove_running(handle.0) else { return };
        self.running -= 1;
        let ((result, settlement), event) = self.verdict(&entry, outcome, run, now);
        let Entry { message, ticket, is_settled, .. } = entry;
        let (settle, publish) = match settlement {
            Some(Settlement::Replace(outgoing)) if is_settled => (None, Some(outgoing)),
            Some(settlement) if !is_settled => (Some((ticket, settlement)), None),
            _ => (None, None),
        };
        if result.is_some() || settle.is_some() || publish.is_some() {
            out.steps.push(Step { id: message.headers.id.clone(), result, settle, publish });
        }
        if let Some(event) = event {
            let Message { headers, .. } = *message;
            let task = Arc::clone(&self.tasks[entry.task].terms.name);
            out.notes.push(Note { task, id: headers.id, event });
        }
    }

    /// Takes out what is ready. Its scheduler finds nothing under its key.
    fn drop_ready(&mut self, key: u64) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.tasks[entry.task].behind_rate -= usize::from(self.tasks[entry.task].gate.is_some());
        Some(entry)
    }

    /// Takes note that a consumer is over: what it delivered and nobody has begun may come again, to anybody.
    pub fn lost(&mut self, line: Line) {
        for key in self.entries.not_begun() {
            if self.entries.get(key).is_some_and(|entry| entry.ticket.line == line) {
                drop(self.drop_ready(key));
            }
        }
        for packed in self.take_held() {
            if packed.ticket().line == line {
                self.shapes.forget(packed);
            } else {
                self.due.push_back(packed);
            }
        }
        // Those of another line are few, if any: they are looked at anew.
        for packed in std::mem::take(&mut self.due) {
            let (ticket, queue, message) = self.shapes.unpack(packed);
            self.hold(&ticket, &queue, &message);
        }
    }

    /// Keeps a delivery until it is due.
    fn hold(&mut self, ticket: &Ticket, queue: &str, message: &Message) {
        let eta = message.headers.eta.as_deref().and_then(|eta| times::parse(eta, &self.settings.zone));
        let packed = self.shapes.pack(ticket, queue, message);
        self.held_bytes += held_size(&packed);
        self.held.insert(eta.unwrap_or(Tick::ZERO), packed);
        self.most_held = self.most_held.max(self.held.len());
    }

    fn take_held(&mut self) -> Vec<Packed> {
        let mut held: Vec<Packed> = std::mem::take(&mut self.due).into();
        std::mem::take(&mut self.held).expire(Tick::NEVER, &mut held);
        (self.held_bytes, self.most_held) = (0, 0);
        held
    }

    /// Takes note that the message of a task that has ended will come again.
    pub fn will_come_again(&mut self, id: &str) {
        self.ended.add(id);
    }

    /// Takes no more, and returns the tickets of everything that was not begun: they are to be given back.
    pub fn close(&mut self) -> Vec<Ticket> {
        self.is_closed = true;
        let mut tickets = Vec::new();
        for scheduler in &mut self.ready {
            drop(scheduler.drain());
        }
        for key in self.entries.not_begun() {
            tickets.extend(self.entries.remove(key).map(|entry| entry.ticket));
        }
        for task in &mut self.tasks {
            task.behind_rate = 0;
        }
        tickets.extend(self.take_held().into_iter().map(|packed| packed.ticket()));
        self.shapes = Shapes::default();
        tickets
    }

    /// What is running, by name and id.
    #[must_use]
    pub fn at_work(&self) -> Vec<(Arc<str>, String)> {
        let running = self.entries.iter().filter(|entry| entry.is_running);
        running
            .map(|entry| (Arc::clone(&self.tasks[entry.task].terms.name), entry.message.headers.id.clone()))
            .collect()
    }

    /// Why nobody can do anything with a message.
    fn objection(&self, message: &Message) -> Option<String> {
        let headers = &message.headers;
        if !self.numbers.contains_key(headers.task.as_str()) {
            return Some(format!("no task is called {:?} here", headers.task));
        }
        let content_type = &message.properties.content_type;
        if !self.settings.accepts.contains(content_type) {
            return Some(format!("found content type {content_type:?}, which is not accepted"));
        }
        let is_none = |time: &&Option<String>| {
            time.as_deref().is_some_and(|time| times::parse(time, &self.settings.zone).is_none())
        };
        let wrong = [&headers.eta, &headers.expires].into_iter().find(is_none)?;
        Some(format!("found {:?}, expected a time in ISO 8601", wrong.as_deref().unwrap_or_default()))
    }

    /// What whoever waits for a task gets that is not known here.
    fn not_registered(&self, message: &Message, now: Moment) -> Option<Stored> {
        let headers = &message.headers;
        if self.numbers.contains_key(headers.task.as_str()) || headers.ignore_result == Some(true) {
            return None;
        }
        let answer = document::exception("NotRegistered", "celery.exceptions", &json!([headers.task]));
        Some(self.stored(message, State::Failure, &answer, now))
    }

    /// Whether a message that came again needs not be run again: it is running here, or has ended here.
    fn is_known(&mut self, ticket: &Ticket, message: &Message, out: &mut Effects) -> bool {
        let headers = &message.headers;
        if self.ended.has(&headers.id) {
            out.steps.push(Step::new(headers.id.clone(), None, Some((*ticket, Settlement::Done))));
            return true;
        }
        let is_it = |entry: &Entry| {
            let its = &entry.message.headers;
            its.id == headers.id && its.retries == headers.retries && entry.ticket.tag != ticket.tag
        };
        let Some(entry) = self.entries.iter_mut().find(|entry| is_it(entry)) else { return false };
        // Its old ticket is of no use any more.
        if entry.is_settled {
            out.steps.push(Step::new(headers.id.clone(), None, Some((*ticket, Settlement::Done))));
        } else {
            entry.ticket = *ticket;
        }
        true
    }

    fn enqueue(
        &mut self,
        ticket: Ticket,
        queue: String,
        message: Message,
        was_held: bool,
        out: &mut Effects,
    ) {
        let Some(number) = self.numbers.get(message.headers.task.as_str()).copied() else { return };
        let priority = i32::from(message.properties.priority);
        let priority = if self.settings.small_goes_first { -priority } else { priority };
        let task = &mut self.tasks[number];
        let mut is_held = was_held;
        if task.gate.is_some() {
            task.behind_rate += 1;
            if !was_held && task.behind_rate <= MOST_BEHIND_RATE {
                out.hold.push(ticket);
                is_held = true;
            }
        }
        let (gate, model) = (task.gate, task.terms.model);
        let key = self.entries.insert(Entry { is_held, ..Entry::new(ticket, queue, number, message) });
        self.ready[model].push(key, Order { priority, gate, ..Order::default() });
    }

    fn stored(&self, message: &Message, state: State, answer: &Answer, now: Moment) -> Stored {
        let document = document::write(&state, answer, &message.headers, now.wall);
        let (content_type, content_encoding) = if answer.is_whole {
            (self.settings.content_type.clone(), self.settings.content_encoding.clone())
        } else {
            ("application/json".into(), "utf-8".into())
        };
        Stored {
            id: message.headers.id.clone(),
            state,
            document,
            content_type,
            content_encoding,
            reply_to: message.properties.reply_to.clone(),
        }
    }
}

fn note(message: &Message, event: Event) -> Note {
    Note { task: message.headers.task.as_str().into(), id: message.headers.id.clone(), event }
}

fn held_size(packed: &Packed) -> usize {
    // Beside the value a timer has its time, two neighbours and a generation.
    packed.bytes() + 24
}
