//! From the inbox to those who run tasks, and back: one desk for each model, in a thread of its own.
//!
//! Small tasks go to worker processes by the hundred, as [bulks](crate::bulk): the parent does nothing for each of them
//! in Python. A task with a hard limit, or a large one, or one for another model, is submitted by itself.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use manyhands_engine::clock::Tick;
use manyhands_os::clock;
use manyhands_queue::inbox::{Effects, Handle, Outcome};
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyBytes, PyType};

use super::Core;
use super::frames::{self, Frame};
use super::room::{RING, now};
use crate::batched::{Bulks, Harvest, is_small};
use crate::bulk::{Items, Manner};
use crate::error;
use crate::executor::Executor;
use crate::future::Future;
use crate::parcel;
use crate::wait::next_number;
use crate::waiter::{Mailbox, Waiter};
use crate::wire::{Raw, Reader};

/// Letters from this number on are about tasks that were submitted by themselves.
const SINGLES: u64 = 1 << 62;

/// How often to look whether a task has begun that is to be ended.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A task that was submitted by itself.
struct Single {
    handle: Handle,
    future: Py<Future>,
    limit: Option<f64>,
    submitted: Tick,
}

/// A task that has ended, and how long it took.
type Ended = (Handle, Outcome, Duration);

/// See the module.
pub(super) struct Desk<'a, 'py> {
    core: &'a Core,
    model: usize,
    executor: Bound<'py, PyAny>,
    function: Bound<'py, PyAny>,
    capacity: usize,
    mailbox: Arc<Mailbox>,
    bulks: Option<Bulks>,
    /// The tasks of the bulks, by the position of their items; and the first one's position.
    handles: VecDeque<Option<Handle>>,
    first: u64,
    singles: HashMap<u64, Single>,
    next_single: u64,
    /// Views of the executor with time limits.
    views: HashMap<u64, Bound<'py, PyAny>>,
    outstanding: usize,
    /// Tasks that are to be ended as soon as they run.
    doomed: Vec<Handle>,
}

impl<'a, 'py> Desk<'a, 'py> {
    pub(super) fn new(
        core: &'a Core,
        model: usize,
        executor: &Bound<'py, Executor>,
        function: Bound<'py, PyAny>,
    ) -> PyResult<Self> {
        let mailbox = Arc::clone(&core.room.desks[model]);
        let manner = Manner { spreads: true, is_timed: true, is_measured: false };
        let mut bulks = Bulks::on(executor.get(), &function, manner)?;
        if let Some(bulks) = &mut bulks {
            bulks.use_mailbox(Arc::clone(&mailbox));
        }
        let executor = executor.as_any().clone();
        let capacity: usize = executor.getattr("capacity")?.extract()?;
        Ok(Self {
            core,
            model,
            executor,
            function,
            capacity,
            mailbox,
            bulks,
            handles: VecDeque::new(),
            first: 0,
            singles: HashMap::new(),
            next_single: SINGLES,
            views: HashMap::new(),
            outstanding: 0,
            doomed: Vec::new(),
        })
    }

    /// Works until the room closes and everything that was begun has ended.
    pub(super) fn run(&mut self, py: Python<'py>) -> PyResult<()> {
        let mut settled = Vec::new();
        loop {
            while let Some(number) = self.mailbox.take() {
                if number != RING && number >= SINGLES {
                    settled.push(number);
                }
            }
            let collected = self.collect(py, &mut settled);
            if let Err(failure) = collected {
                self.give_up(py);
                return if self.core.room.is_abandoned() { Ok(()) } else { Err(failure) };
            }
            if self.core.room.is_abandoned() {
                self.give_up(py);
                return Ok(());
            }
            let later = self.terminate(py)?;
            let next = self.hand_out(py)?;
            if self.outstanding == 0 && self.core.room.is_closing() {
                return Ok(());
            }
            if let Some(number) = next_number(py, &self.mailbox, next.into_iter().chain(later).min())?
                && number != RING
                && number >= SINGLES
            {
                settled.push(number);
            }
        }
    }

    /// Takes what has ended.
    fn collect(&mut self, py: Python<'py>, settled: &mut Vec<u64>) -> PyResult<()> {
        let mut ended = Vec::new();
        for number in settled.drain(..) {
            if let Some(single) = self.singles.remove(&number) {
                let run = clock::now() - single.submitted;
                ended.push((single.handle, outcome(py, &single), run));
            }
        }
        let mut harvests = Vec::new();
        let mut failure = Ok(());
        if let Some(bulks) = &mut self.bulks {
            loop {
                match bulks.take(py, false) {
                    Ok(Some(harvest)) => harvests.push(harvest),
                    Ok(None) => break,
                    Err(error) => {
                        failure = Err(error);
                        break;
                    }
                }
            }
        }
        for harvest in &harvests {
            self.read(py, harvest, &mut ended)?;
        }
        self.outstanding -= ended.len();
        self.finish(py, ended);
        failure
    }

    /// Reads the replies of consecutive items.
    fn read(&mut self, py: Python<'py>, harvest: &Harvest, ended: &mut Vec<Ended>) -> PyResult<()> {
        let mut reader = Reader::new(&harvest.bytes);
        for index in 0..harvest.count as u64 {
            let run = reader.times(false)?.wall;
            let outcome = match reader.raw()? {
                Raw::Nothing => Outcome::Returned(manyhands_queue::inbox::Answer::default()),
                Raw::Bytes(reply) => understood(reply),
                Raw::Failure(pickled) => failed(py, &parcel::read_failure(py, pickled), None),
            };
            let position = usize::try_from(harvest.first + index - self.first).unwrap_or(usize::MAX);
            if let Some(handle) = self.handles.get_mut(position).and_then(Option::take) {
                ended.push((handle, outcome, run));
            }
        }
        while let Some(None) = self.handles.front() {
            self.handles.pop_front();
            self.first += 1;
        }
        Ok(())
    }

    fn finish(&self, py: Python<'py>, ended: Vec<Ended>) {
        if ended.is_empty() {
            return;
        }
        let room = &self.core.room;
        py.detach(|| {
            let (mut effects, now, count) = (Effects::default(), now(), ended.len());
            {
                let mut hall = room.hall();
                for (handle, outcome, run) in ended {
                    hall.inbox.finish(handle, outcome, run, now, &mut effects);
                }
                hall.note(count, now.steady);
            }
            room.carry_out(effects);
            room.made_room();
        });
    }

    /// Begins what may begin; when to look again.
    fn hand_out(&mut self, py: Python<'py>) -> PyResult<Option<Tick>> {
        let (core, model) = (self.core, self.model);
        let (outstanding, capacity) = (self.outstanding, self.capacity);
        let (work, next) = py.detach(|| {
            let (mut effects, now, mut work) = (Effects::default(), now(), Vec::new());
            let mut next = None;
            {
                let mut hall = core.room.hall();
                let room = hall.ahead(capacity).saturating_sub(outstanding);
                while work.len() < room {
                    let taken = hall.inbox.take(model, now, &mut effects, |work| {
                        let frame = Frame::new(&work, core.needs_request[work.task], &core.name);
                        (work.handle, frame, work.limits[0])
                    });
                    match taken {
                        Ok(taken) => work.push(taken),
                        Err(at) => {
                            next = at;
                            break;
                        }
                    }
                }
            }
            core.room.carry_out(effects);
            (work, next)
        });
        self.outstanding += work.len();
        let mut items = Items::default();
        for (handle, frame, limit) in work {
            if self.bulks.is_some() && limit.is_none() && is_small(frame.len()) {
                items.push(|bytes| {
                    frame.encode(bytes);
                    Ok(())
                })?;
                self.handles.push_back(Some(handle));
            } else {
                self.submit(py, handle, &frame, limit)?;
            }
        }
        if let Some(bulks) = &mut self.bulks {
            bulks.submit(py, items, Vec::new())?;
        }
        Ok(next)
    }

    /// Submits a task by itself.
    fn submit(&mut self, py: Python<'py>, handle: Handle, frame: &Frame, limit: Option<f64>) -> PyResult<()> {
        let view = match limit {
            None => self.executor.clone(),
            Some(limit) => self.view(py, limit)?,
        };
        let body = PyBytes::new(py, &frame.body);
        let arguments = (&self.function, frame.number, &frame.id, body, &frame.extra);
        let future = view.call_method1("submit", arguments)?.cast_into::<Future>()?;
        let number = self.next_single;
        self.next_single += 1;
        if future.get().subscribe(Waiter::Mailbox(Arc::clone(&self.mailbox), number)).is_err() {
            self.mailbox.put(py, number, &mut crate::waiter::Wakes::default());
        }
        let submitted = clock::now();
        self.singles.insert(number, Single { handle, future: future.unbind(), limit, submitted });
        Ok(())
    }

    fn view(&mut self, py: Python<'py>, limit: f64) -> PyResult<Bound<'py, PyAny>> {
        if let Some(view) = self.views.get(&limit.to_bits()) {
            return Ok(view.clone());
        }
        let terms = [("timeout", limit)].into_py_dict(py)?;
        let view = self.executor.call_method("with_policy", (), Some(&terms))?;
        if self.views.len() >= 64 {
            self.views.clear();
        }
        self.views.insert(limit.to_bits(), view.clone());
        Ok(view)
    }

    /// Ends the tasks that were called off while they ran; when to look again, if one was handed out and has not begun.
    fn terminate(&mut self, py: Python<'py>) -> PyResult<Option<Tick>> {
        self.doomed.extend(self.core.room.doomed(self.model));
        for handle in std::mem::take(&mut self.doomed) {
            if let Some(single) = self.singles.values().find(|single| single.handle == handle) {
                Future::cancel_now(single.future.bind(py));
                continue;
            }
            let Some(position) = self.handles.iter().position(|known| *known == Some(handle)) else {
                continue;
            };
            let Some(bulks) = &self.bulks else { continue };
            if !bulks.end_item(py, self.first + position as u64)? {
                self.doomed.push(handle);
            }
        }
        Ok((!self.doomed.is_empty()).then(|| clock::now() + LOOK_AGAIN))
    }

    /// Gives back what was begun and has not ended.
    fn give_up(&mut self, py: Python<'py>) {
        let singles = std::mem::take(&mut self.singles).into_values();
        let mut ended: Vec<Ended> = Vec::new();
        for single in singles {
            single.future.get().observe();
            // One that has ended meanwhile is not run again.
            let outcome =
                if single.future.get().state().is_done() { outcome(py, &single) } else { Outcome::NotBegun };
            let outcome = if matches!(outcome, Outcome::Lost(_)) { Outcome::NotBegun } else { outcome };
            ended.push((single.handle, outcome, Duration::ZERO));
        }
        ended.extend(
            self.handles.drain(..).flatten().map(|handle| (handle, Outcome::NotBegun, Duration::ZERO)),
        );
        self.outstanding = 0;
        self.finish(py, ended);
    }
}

fn understood(reply: &[u8]) -> Outcome {
    frames::read_reply(reply).unwrap_or_else(|| Outcome::Lost("it answered what is no reply".into()))
}

/// How a task ended that was submitted by itself.
fn outcome(py: Python<'_>, single: &Single) -> Outcome {
    single.future.get().observe();
    match single.future.get().outcome(py) {
        Some(Ok(reply)) => match reply.bind(py).cast::<PyBytes>() {
            Ok(reply) => understood(reply.as_bytes()),
            Err(_) => Outcome::Returned(manyhands_queue::inbox::Answer::default()),
        },
        Some(Err(failure)) => failed(py, &failure, single.limit),
        None => Outcome::NotBegun,
    }
}

/// What an exception of an executor means: those of tasks come as replies.
fn failed(py: Python<'_>, failure: &PyErr, limit: Option<f64>) -> Outcome {
    let is = |kind: PyResult<&Bound<'_, PyType>>| {
        kind.is_ok_and(|kind| failure.matches(py, kind).unwrap_or(false))
    };
    if let Some(limit) = limit
        && is(error::task_timeout(py))
    {
        return Outcome::TimedOut(limit);
    }
    if is(error::cancelled_error(py)) {
        return Outcome::NotBegun;
    }
    // Without the hint, which is for whoever has the executor.
    let why = failure.value(py).to_string();
    Outcome::Lost(why.lines().next().unwrap_or_default().to_owned())
}
