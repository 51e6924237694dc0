//! What the parts of a worker share: the inbox, how far ahead of its tasks it fetches, and the ways between them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use manyhands_engine::clock::Tick;
use manyhands_os::clock;
use manyhands_queue::broker::{Revocation, Settle};
use manyhands_queue::inbox::{Effects, Handle, Inbox, Line, Moment};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::sleep;

use crate::waiter::{Mailbox, Wakes};

/// What is put into a desk's mailbox when there may be something for it.
pub(super) const RING: u64 = u64::MAX;
/// Work for so long is fetched ahead.
const AHEAD: Duration = Duration::from_millis(100);
/// How often that is measured.
const MEASURE: Duration = Duration::from_millis(10);
/// After how long without a task that ended it means nothing any more.
const FORGET: Duration = Duration::from_secs(1);
/// The most that is fetched ahead.
pub(super) const MOST_AHEAD: usize = 8192;
/// Doors to so many lines are kept: to the last ones.
const MOST_LINES: usize = 16;

/// Now, by both clocks.
pub(super) fn now() -> Moment {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let wall = Tick::from_nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
    Moment { steady: clock::now(), wall }
}

/// How many messages are fetched ahead: as many as are done in a moment, but no fewer than keep everybody busy.
#[derive(Debug)]
pub(super) struct Pace {
    least: usize,
    is_fixed: bool,
    window: usize,
    /// How many tasks are done in a tenth of a second, lately.
    quick: usize,
    since: Tick,
    ended: u64,
}

impl Pace {
    pub(super) fn new(least: usize, is_fixed: bool) -> Self {
        Self { least, is_fixed, window: least, quick: 0, since: Tick::ZERO, ended: 0 }
    }

    /// Takes note of tasks that have ended.
    fn note(&mut self, ended: usize, now: Tick) {
        self.ended += ended as u64;
        let passed = now - self.since;
        if passed < MEASURE {
            return;
        }
        let in_time = u128::from(self.ended) * AHEAD.as_nanos() / passed.as_nanos();
        let in_time = usize::try_from(in_time).unwrap_or(usize::MAX);
        // A pause says little of the tasks after it.
        self.quick = in_time.max(self.quick * 3 / 4).min(MOST_AHEAD);
        if !self.is_fixed {
            self.window = self.quick.max(self.least);
        }
        (self.since, self.ended) = (now, 0);
    }

    /// Nothing has ended for long: what comes next may be quite different from what was.
    fn forget(&mut self, now: Tick) {
        if now - self.since >= FORGET && self.quick > 0 {
            (self.quick, self.ended, self.since) = (0, 0, now);
            if !self.is_fixed {
                self.window = self.least;
            }
        }
    }
}

/// What the room's lock guards.
pub(super) struct Hall {
    pub(super) inbox: Inbox,
    pace: Pace,
}

impl Hall {
    /// Takes note of tasks that have ended.
    pub(super) fn note(&mut self, ended: usize, now: Tick) {
        self.pace.note(ended, now);
    }

    /// How many messages are wanted now.
    pub(super) fn wanted(&mut self, now: Tick) -> usize {
        self.pace.forget(now);
        let load = self.inbox.load();
        let have = (load.ready + load.running).saturating_sub(load.behind_rates);
        let wanted = self.pace.window.saturating_sub(have);
        // To fetch a few at a time costs more than they are worth.
        if wanted < (self.pace.window / 4).max(1) { 0 } else { wanted }
    }

    /// How many messages the broker may deliver that are not settled: as many again are on their way back.
    pub(super) fn prefetch(&self) -> u32 {
        if self.pace.is_fixed {
            return u32::try_from(self.pace.window).unwrap_or(u32::MAX);
        }
        u32::try_from(if self.pace.window > self.pace.least { 4 * self.pace.window } else { self.pace.least })
            .unwrap_or(u32::MAX)
            .next_power_of_two()
    }

    /// How many tasks a model that can do `capacity` at once is given ahead.
    pub(super) fn ahead(&self, capacity: usize) -> usize {
        capacity.max(self.pace.quick / 2)
    }
}

/// See the module.
pub(super) struct Room {
    hall: Mutex<Hall>,
    /// Where those sleep who hand out the tasks of a model.
    pub(super) desks: Vec<Arc<Mailbox>>,
    effects: Mutex<Option<UnboundedSender<Effects>>>,
    settlers: Mutex<VecDeque<(Line, Arc<dyn Settle>)>>,
    /// Tasks that are to be ended, with their models.
    doomed: Mutex<Vec<(usize, Handle)>>,
    /// Has the intake look again.
    pub(super) nudge: Notify,
    /// The intake waits for room.
    is_full: AtomicBool,
    is_closing: AtomicBool,
    is_abandoned: AtomicBool,
    /// How many messages were given back.
    given_back: AtomicUsize,
    /// Why the worker cannot go on.
    failure: Mutex<Option<String>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Room {
    pub(super) fn new(inbox: Inbox, models: usize, pace: Pace, effects: UnboundedSender<Effects>) -> Self {
        Self {
            hall: Mutex::new(Hall { inbox, pace }),
            desks: (0..models).map(|_| Arc::default()).collect(),
            effects: Mutex::new(Some(effects)),
            settlers: Mutex::default(),
            doomed: Mutex::default(),
            nudge: Notify::new(),
            is_full: AtomicBool::new(false),
            is_closing: AtomicBool::new(false),
            is_abandoned: AtomicBool::new(false),
            given_back: AtomicUsize::new(0),
            failure: Mutex::default(),
        }
    }

    pub(super) fn hall(&self) -> MutexGuard<'_, Hall> {
        locked(&self.hall)
    }

    /// Has effects carried out.
    pub(super) fn carry_out(&self, effects: Effects) {
        if effects.steps.is_empty() && effects.hold.is_empty() && effects.notes.is_empty() {
            return;
        }
        if let Some(sender) = &*locked(&self.effects) {
            // Whoever carried them out has ended: so has the worker.
            let _ = sender.send(effects);
        }
    }

    /// Takes note that tasks were called off.
    pub(super) fn revoke(&self, revoked: &[Revocation]) {
        let mut effects = Effects::default();
        let doomed = self.hall().inbox.revoke(revoked, now(), &mut effects);
        self.carry_out(effects);
        self.made_room();
        if !doomed.is_empty() {
            locked(&self.doomed).extend(doomed);
            self.ring();
        }
    }

    /// The tasks of a model that are to be ended.
    pub(super) fn doomed(&self, model: usize) -> Vec<Handle> {
        let mut doomed = locked(&self.doomed);
        let (its, others) = doomed.drain(..).partition(|(of, _)| *of == model);
        *doomed = others;
        its.into_iter().map(|(_, handle): (usize, Handle)| handle).collect()
    }

    /// There will be no more effects.
    pub(super) fn end_effects(&self) {
        locked(&self.effects).take();
    }

    /// Has the desks look for work.
    pub(super) fn ring(&self) {
        let mut wakes = Wakes::default();
        for mailbox in &self.desks {
            mailbox.put_detached(RING, &mut wakes);
        }
    }

    /// Takes note that the intake waits for room; `false` if there is some after all.
    pub(super) fn is_full(&self) {
        self.is_full.store(true, Ordering::Release);
    }

    /// There is room, or may be.
    pub(super) fn made_room(&self) {
        if self.is_full.swap(false, Ordering::AcqRel) {
            self.nudge.notify_one();
        }
    }

    pub(super) fn add_line(&self, line: Line, settler: Arc<dyn Settle>) {
        let mut settlers = locked(&self.settlers);
        settlers.push_back((line, settler));
        if settlers.len() > MOST_LINES {
            settlers.pop_front();
        }
    }

    pub(super) fn settler(&self, line: Line) -> Option<Arc<dyn Settle>> {
        let settlers = locked(&self.settlers);
        settlers.iter().find(|(known, _)| *known == line).map(|(_, settler)| Arc::clone(settler))
    }

    /// Takes no more messages.
    pub(super) fn close(&self) {
        self.is_closing.store(true, Ordering::Release);
        self.nudge.notify_one();
        self.ring();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::Acquire)
    }

    /// Waits for no task any more.
    pub(super) fn abandon(&self) {
        self.is_abandoned.store(true, Ordering::Release);
        self.ring();
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.is_abandoned.load(Ordering::Acquire)
    }

    /// Takes note that messages were given back.
    pub(super) fn gave_back(&self, count: usize) {
        self.given_back.fetch_add(count, Ordering::Relaxed);
    }

    /// Waits until no message was given back for so long; with very many the others take their time.
    pub(super) async fn stalls(&self, patience: Duration) {
        loop {
            let before = self.given_back.load(Ordering::Relaxed);
            sleep(patience).await;
            if self.is_abandoned() || self.given_back.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }

    /// The worker cannot go on.
    pub(super) fn fail(&self, why: String) {
        locked(&self.failure).get_or_insert(why);
        self.close();
    }

    pub(super) fn failure(&self) -> Option<String> {
        locked(&self.failure).clone()
    }
}
