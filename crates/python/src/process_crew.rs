//! Tasks on worker processes: who has what, and what to do when one of them ends.
//!
//! ```text
//! submit ──▶ scheduler ──dispatch──▶ task ring ──▶ worker ──▶ result ring ──▶ supervisor ──▶ future
//!                 ▲                      │ take back, or the worker's death           │ retry
//!                 └──────────────────────┴────────────────────────────────────────────┘
//! ```
//!
//! A worker runs its tasks in the order in which they were pushed, and answers in that order: the first of its flights
//! is the one that it runs, or is about to. What a worker has claimed is its own; the rest can be taken back.
//!
//! When a worker has ended, what it [may have begun](manyhands_engine::begun) ends with it, and what it certainly has not
//! begun moves to others. If it has left its memory as it should be, what it may have begun is what it ran, for everything
//! else was answered. If not, a task that was run to its end, whose answer cannot be read any more, looks like one that was
//! just begun: none of them may be run once more, so all of them fail with `WorkerDied`, or are repeated if their policies
//! say so. Of a batch the same goes for each item. All that is known for certain then is the worker's note of what it has
//! begun, and, where that is lost, too, what it has claimed from its ring; if neither can be read, it may have begun all.
//!
//! Everything here happens under the pool's lock and without the interpreter. Tasks are pushed by whoever holds the lock
//! when there is room: a submitting thread, or the [supervisor](crate::supervisor), which alone reads results.

use std::cell::OnceCell;
use std::collections::{HashSet, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use manyhands_engine::begun;
use manyhands_engine::clock::Tick;
use manyhands_engine::scheduler::{Order, Pop, Scheduler};
use manyhands_engine::statistics::Statistics;
use manyhands_os::clock;
use manyhands_os::event::Event;
use manyhands_os::ring::{self, Consumer, Producer, PushError};
use manyhands_os::segment::Segment;
use manyhands_os::slots::{Freed, Slots};
use manyhands_os::stock::Stock;
use pyo3::prelude::*;

use crate::bulk::{self, Batch, Bulk, Manner};
use crate::call::Work;
use crate::cancellations;
use crate::detail::Detail;
use crate::draft;
use crate::future::Future;
use crate::message::{self, Place, Task};
use crate::offer::Offer;
use crate::parcel::{Arguments, Function, Parcel};
use crate::view::{Known, Lender, MEMORABLE};

/// Bytes of each ring. A worker has two, and all of their memory even while it is idle.
pub(crate) const RING: usize = 1 << 19;
/// The largest message that goes through a ring; a larger one travels in a segment of its own, which takes several times
/// as long. A ring whose consumer has claimed everything always has room for one of these: such a consumer may be reading
/// one message yet, and there is room for two, each with a word before it.
pub(crate) const INLINE: usize = (RING - ring::OVERHEAD) / 2 - size_of::<u64>();
const _: () = assert!(2 * (1 + INLINE.div_ceil(8)) <= (RING - ring::OVERHEAD) / 8);
/// The words after the rings: how many answers outside the ring the pool has read, and whether the worker shall end.
/// They are no messages, so that every message in the task ring is a task.
pub(crate) const RELEASED: usize = 2 * RING / 8;
pub(crate) const STOPPED: usize = RELEASED + 1;
/// Set by a worker that claims no more tasks, before it answers its last: it has run its share, or grown too large.
pub(crate) const RETIRED: usize = STOPPED + 1;
/// A bit for each slot in which a large message lies: of the pool's, those that the worker does not look into any more;
/// of the worker's, those that the pool does not look into; and of each those that must not be used again.
pub(crate) const ARGUMENTS: Freed = Freed { free: RETIRED + 1, spoilt: RETIRED + 2 };
pub(crate) const RESULTS: Freed = Freed { free: RETIRED + 3, spoilt: RETIRED + 4 };
/// The descriptor of what the pool [offers](crate::offer), and one more; 0 for nothing.
pub(crate) const OFFER: usize = RETIRED + 5;
/// How many answers in the worker's memory the pool has opened.
pub(crate) const OPENED: usize = OFFER + 1;
/// Where a worker writes down [how far it is](crate::draft) in a batch.
pub(crate) const DRAFT: usize = OPENED + 1;
pub(crate) const SEGMENT: usize = DRAFT * 8 + draft::BYTES;
/// Enough for the innermost frames, which come first.
const SLATE: usize = 4096;
/// How much work is put ahead of a worker: enough to bridge the time until the next look, no more.
const AHEAD: Duration = Duration::from_millis(1);
const MOST_AHEAD: u32 = 256;
/// How long a worker shall be busy with one batch of items: long enough for the way there and back not to count.
const BATCH: Duration = Duration::from_millis(4);
/// The last batches of a bulk are shorter, so that workers end at the same time, but no shorter than this.
const SHORT_BATCH: Duration = Duration::from_millis(1);
/// How many batches a worker has at once: one to work on, and one to go on with.
const BATCHES: usize = 2;
/// A batch that takes longer has items that are not like the others: an idle worker gets those that are not begun.
pub(crate) const STUCK: Duration = Duration::from_millis(8);
/// Work put ahead of a busy worker is taken back for an idle one if it would take longer than this.
const WORTH_TAKING: Duration = Duration::from_micros(200);
/// How long a worker's event loop may be blocked after it was told to cancel something.
const DEAF: Duration = Duration::from_secs(5);
/// How many workers may end before they are ready, one after the other, before the pool gives up.
const MOST_STILLBORN: u32 = 3;
/// How long to wait after a worker could not be started; twice as long after each further one.
const NEXT_START: Duration = Duration::from_millis(20);

/// What is known of a worker's process.
#[derive(Default)]
pub(crate) struct Process {
    pub(crate) pid: Option<i32>,
    /// Ends it: `kill(pid, grace)`.
    pub(crate) kill: Option<Py<PyAny>>,
    /// Is told what the worker says besides its answers: `hear(kind, bytes)`.
    pub(crate) hear: Option<Py<PyAny>>,
    pub(crate) ended: Option<Ended>,
    /// Where its task was, once somebody has looked.
    pub(crate) last_frame: OnceCell<Option<String>>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    /// Negative for a signal.
    pub(crate) exitcode: i32,
    pub(crate) peak_memory: u64,
}

/// One worker, as others see it.
pub(crate) struct ProcessHand {
    pub(crate) segment: Arc<Segment>,
    /// Where the worker writes the frame in which it ends.
    pub(crate) slate: Segment,
    /// Wakes the worker.
    pub(crate) event: Event,
    pub(crate) results: Mutex<Consumer>,
    process: Mutex<Process>,
    /// Segments of the worker's.
    known: Known,
    pub(crate) offer: Offer,
    /// It answers what nobody can have answered: nothing is read from it any more.
    is_mad: AtomicBool,
    /// It is known to be of no use, and why has been told.
    is_accused: AtomicBool,
}

impl ProcessHand {
    fn new(stock: Arc<Stock>) -> io::Result<(Arc<Self>, Producer)> {
        let segment = Arc::new(Segment::create(SEGMENT)?);
        for offset in [0, RING] {
            ring::initialise(&segment, offset, RING).map_err(io::Error::other)?;
        }
        draft::initialise(&segment);
        let tasks = ring::producer(Arc::clone(&segment), 0, RING).map_err(io::Error::other)?;
        let results = ring::consumer(Arc::clone(&segment), RING, RING).map_err(io::Error::other)?;
        let hand = Self {
            segment,
            slate: Segment::create(SLATE)?,
            event: Event::new()?,
            results: Mutex::new(results),
            process: Mutex::default(),
            known: Known::default(),
            offer: Offer::new(stock),
            is_mad: AtomicBool::new(false),
            is_accused: AtomicBool::new(false),
        };
        Ok((Arc::new(hand), tasks))
    }

    /// Tells the worker that one more answer in its memory was opened, or cannot be: it may go.
    pub(crate) fn opened(&self) {
        // Release: the opening comes before.
        self.segment.words()[OPENED].fetch_add(1, Ordering::Release);
    }

    /// Tells the worker that one more answer outside the ring was read.
    pub(crate) fn release(&self) {
        // Release: the reading comes before.
        self.segment.words()[RELEASED].fetch_add(1, Ordering::Release);
        self.event.signal();
    }

    /// Tells the worker to end when it has nothing to do.
    fn stop(&self) {
        self.segment.words()[STOPPED].store(1, Ordering::Release);
        self.event.signal();
    }

    /// Whether the worker claims no more tasks.
    pub(crate) fn has_retired(&self) -> bool {
        self.segment.words()[RETIRED].load(Ordering::Acquire) != 0
    }

    pub(crate) fn is_mad(&self) -> bool {
        self.is_mad.load(Ordering::Relaxed)
    }

    /// Marks it as mad; `false` if it was already.
    pub(crate) fn set_mad(&self) -> bool {
        !self.is_mad.swap(true, Ordering::Relaxed)
    }

    /// Takes note that it is to be ended for what it has done; `false` if that was known.
    pub(crate) fn accuse(&self) -> bool {
        !self.is_accused.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn results(&self) -> MutexGuard<'_, Consumer> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lender for ProcessHand {
    fn give_back(&self, slot: u8, len: usize, is_spoilt: bool) {
        RESULTS.mark(&self.segment, slot, is_spoilt);
        // A worker that sleeps shall not keep more than it needs. To wake it for little is not worth it: all the slots
        // together have no more than it keeps for later.
        if len > MEMORABLE {
            self.event.signal();
        }
    }

    fn known(&self) -> &Known {
        &self.known
    }
}

/// What a worker has to do.
pub(crate) enum Freight {
    Call { future: Py<Future>, parcel: Parcel },
    Batch(Batch),
}

impl Freight {
    pub(crate) fn function(&self) -> &Arc<Function> {
        match self {
            Self::Call { parcel, .. } => &parcel.function,
            Self::Batch(batch) => &batch.bulk.function,
        }
    }

    /// What the function is to be called with, unless that lies elsewhere; of a batch the context and the items.
    fn arguments(&self) -> [&[u8]; 2] {
        match self {
            Self::Call { parcel, .. } => match &*parcel.arguments {
                Arguments::Inline(bytes) | Arguments::Waiting(bytes, _) => [bytes, &[]],
                Arguments::Lent { .. } => [&[], &[]],
            },
            Self::Batch(batch) => [&batch.bulk.context, batch.bulk.bytes(&batch.items)],
        }
    }

    pub(crate) fn detail(&self) -> Option<&Detail> {
        match self {
            Self::Call { future, .. } => future.get().detail(),
            Self::Batch(_) => None,
        }
    }

    fn is(&self, other: &Bound<'_, Future>) -> bool {
        matches!(self, Self::Call { future, .. } if future.is(other))
    }

    /// How many calls of the function are to be made.
    fn calls(&self) -> u64 {
        match self {
            Self::Call { .. } => 1,
            Self::Batch(batch) => batch.items.len() as u64,
        }
    }
}

/// A task that was pushed to a worker.
pub(crate) struct Flight {
    pub(crate) freight: Freight,
    pub(crate) age: u64,
    pub(crate) serial: u64,
    /// When the worker can have begun it: when it was pushed, or when the one before it was answered.
    pub(crate) began: Option<Tick>,
    pub(crate) deadline: Option<Tick>,
    /// Its worker has ended and left garbage: it may have run this to its end, or not have begun it.
    pub(crate) is_in_doubt: bool,
    /// The message has the function in it, too.
    brings_function: bool,
    /// The message, if it did not fit the ring, until it is answered.
    outside: Option<Segment>,
    /// Where its arguments are in the worker's `lent`.
    slot: Option<u8>,
}

impl Flight {
    /// Keeps the call for another attempt and for messages, before its future is settled.
    pub(crate) fn remember(&self, py: Python<'_>) -> PyResult<()> {
        match &self.freight {
            Freight::Call { future, parcel } => match future.get().detail() {
                Some(detail) => detail.keep_origin(py, &Work::Parcel(parcel.clone())),
                None => Ok(()),
            },
            Freight::Batch(_) => Ok(()),
        }
    }

    /// When its worker, which has ended by `now`, began the call or the item that it was at.
    pub(crate) fn item_began(&self, segment: &Segment, now: Tick) -> Tick {
        let (is_timed, submitted) = match &self.freight {
            Freight::Call { parcel, .. } => (true, parcel.submitted),
            Freight::Batch(batch) => (batch.bulk.manner.is_timed, batch.bulk.submitted),
        };
        match draft::item_began(segment).filter(|_| is_timed) {
            // Another process wrote that: it may be anything.
            Some(began) => began.max(submitted).min(now),
            None => self.began.unwrap_or(now),
        }
    }

    /// When to look into its draft, if it is a batch that was begun.
    pub(crate) fn next_look(&self) -> Option<Tick> {
        match &self.freight {
            Freight::Batch(batch) => batch.next_look.or(self.began.map(|began| began + STUCK)),
            Freight::Call { .. } => None,
        }
    }

    fn begin(&mut self, now: Tick, name: &Arc<str>) {
        self.began = Some(now);
        if let Freight::Batch(batch) = &mut self.freight {
            batch.worker = Some(Arc::clone(name));
        }
        if let Some(detail) = self.freight.detail() {
            self.deadline = detail.begin_detached(self.age, now, name);
        }
    }
}

/// One worker, and what it has to do.
pub(crate) struct Worker {
    pub(crate) hand: Arc<ProcessHand>,
    name: Arc<str>,
    tasks: Producer,
    pub(crate) flights: VecDeque<Flight>,
    /// Numbers of the functions that it was sent.
    known: HashSet<u32>,
    /// Arguments that the worker may look into.
    lent: Slots<Arc<Arguments>>,
    /// How long its tasks take, by experience.
    mean: Option<Duration>,
    pub(crate) is_ready: bool,
    /// It was told to stop, or is being ended: it gets no more tasks.
    pub(crate) is_leaving: bool,
    /// Its ring has no room until it answers.
    is_full: bool,
    /// The task because of which it is being ended: settled already, whatever the worker may still say of it.
    pub(crate) condemned: Option<u64>,
    /// How many coroutines it has in flight at most; `None` if it runs functions, one after the other.
    concurrency: Option<usize>,
    /// Coroutines that it was told to cancel: settled already, but perhaps still cleaning up.
    pub(crate) dying: HashSet<u64>,
    /// Since when it has not looked at what it was told to cancel.
    deaf_since: Option<Tick>,
}

/// Why a worker did not take a task.
enum Refusal {
    Full,
    /// The worker's ring is unusable.
    Mad(String),
    /// The task can be sent to nobody now.
    Unsendable(io::Error),
}

impl Worker {
    fn room(&self) -> usize {
        if self.is_leaving || self.is_full {
            return 0;
        }
        if let Some(most) = self.concurrency {
            return most.saturating_sub(self.flights.len() + self.dying.len());
        }
        let most = match self.mean {
            None => 1,
            Some(mean) => {
                let fitting = AHEAD.as_nanos() / mean.as_nanos().max(1);
                1 + u32::try_from(fitting).unwrap_or(MOST_AHEAD).min(MOST_AHEAD)
            }
        };
        (most as usize).saturating_sub(self.flights.len())
    }

    /// How many items of a bulk it shall do in one go; 0 if it has enough to do.
    fn batch_len(&self, span: Duration) -> usize {
        if self.flights.len() < BATCHES { bulk::batch_len(self.mean, span) } else { 0 }
    }

    /// Takes note of an answer: how long a call took, and that the ring has room.
    pub(crate) fn learn(&mut self, run: Duration) {
        self.is_full = false;
        self.mean = Some(match self.mean {
            // The first call may have had to import; what is much faster than expected is the rule from now on.
            Some(mean) if run < mean / 4 => (mean / 4 + run) / 2,
            Some(mean) => (mean * 7 + run) / 8,
            None => run,
        });
    }

    /// Pushes a task, with its function if the worker does not know it.
    fn push(&mut self, mut flight: Flight, must_wake: &mut bool) -> Result<(), (Box<Flight>, Refusal)> {
        let place = match self.lend(&mut flight) {
            Ok(place) => place,
            // Others that are under way will make room; if there are none, there is no room.
            Err(_) if !self.flights.is_empty() => return Err((Box::new(flight), Refusal::Full)),
            Err(error) => return Err((Box::new(flight), Refusal::Unsendable(error))),
        };
        flight.slot = place.and_then(|place| place.slot);
        let is_call = matches!(flight.freight, Freight::Call { .. }) && self.concurrency.is_none();
        if is_call && place.is_none() && self.flights.is_empty() {
            self.hand.offer.make(&self.hand.segment);
        }
        let encoded = place.map(Place::encode);
        let function = flight.freight.function();
        let number = function.number;
        let pickled: &[u8] = if self.known.contains(&number) { &[] } else { &function.bytes };
        let (seed, items, manner) = match &flight.freight {
            Freight::Call { parcel, .. } => (parcel.seed, 0, Manner::default()),
            Freight::Batch(batch) => (None, batch.items.len(), batch.bulk.manner),
        };
        let [context, arguments] = flight.freight.arguments();
        let arguments = encoded.as_ref().map_or(arguments, |place| place);
        let context_len = if items > 0 { context.len() } else { 0 };
        let task = Task {
            serial: flight.serial,
            function: number,
            function_len: u32::try_from(pickled.len()).unwrap_or(u32::MAX),
            seed,
            items: u32::try_from(items).unwrap_or(u32::MAX),
            manner,
            context_len: u32::try_from(context_len).unwrap_or(u32::MAX),
            is_large: place.is_some(),
        };
        match send(&mut self.tasks, flight.serial, &[&task.encode(), pickled, context, arguments]) {
            Ok((wake, outside)) => {
                *must_wake |= wake;
                flight.brings_function = self.known.insert(number);
                flight.outside = outside;
                self.flights.push_back(flight);
                Ok(())
            }
            Err(refusal) => {
                self.take_arguments(&mut flight);
                Err((Box::new(flight), refusal))
            }
        }
    }

    /// Lends large arguments to the worker, until it gives them back.
    fn lend(&mut self, flight: &mut Flight) -> io::Result<Option<Place>> {
        let Freight::Call { parcel, .. } = &mut flight.freight else { return Ok(None) };
        parcel.settle(self.flights.is_empty())?;
        let Arguments::Lent { loan, is_memorable, .. } = &*parcel.arguments else { return Ok(None) };
        let slot = self.lent.lend(Arc::clone(&parcel.arguments)).ok();
        if slot.is_none() {
            // The worker cannot say when it is done with them.
            loan.spoil();
        }
        Ok(Some(Place::new(loan.segment(), slot, *is_memorable)))
    }

    /// Takes back arguments that the worker has not seen.
    fn take_arguments(&mut self, flight: &mut Flight) {
        flight.slot.take().and_then(|slot| self.lent.take(slot));
    }

    /// Takes back arguments that the worker does not look into any more.
    pub(crate) fn reclaim(&mut self) {
        for (arguments, is_spoilt) in self.lent.take_freed(&self.hand.segment) {
            if let (Arguments::Lent { loan, .. }, true) = (&*arguments, is_spoilt) {
                loan.spoil();
            }
        }
    }

    /// Takes back up to `most` tasks that it has not claimed, the newest first.
    fn take_back(&mut self, most: usize) -> Vec<Flight> {
        let count = self.tasks.take_back(most).min(self.flights.len());
        self.is_full &= count == 0;
        let mut taken: Vec<Flight> = self.flights.drain(self.flights.len() - count..).rev().collect();
        for flight in &mut taken {
            self.take_arguments(flight);
        }
        for flight in taken.iter().filter(|flight| flight.brings_function) {
            self.known.remove(&flight.freight.function().number);
        }
        taken
    }

    /// Has the worker end, which has nothing to do.
    pub(crate) fn stop(&mut self) {
        if !std::mem::replace(&mut self.is_leaving, true) {
            self.hand.stop();
        }
    }

    /// The time of the first task runs from now, if the worker is there to run it.
    pub(crate) fn front_began(&mut self, now: Tick) {
        if !self.is_ready {
            return;
        }
        let name = &self.name;
        let at_once = if self.concurrency.is_some() { usize::MAX } else { 1 };
        for flight in self.flights.iter_mut().take(at_once).filter(|flight| flight.began.is_none()) {
            flight.begin(now, name);
        }
    }

    /// Takes the first `count` tasks, which went with their worker.
    fn take_victims(&mut self, count: usize, is_in_doubt: bool, now: Tick) -> Vec<Flight> {
        let mut victims: Vec<Flight> = self.flights.drain(..count).collect();
        for flight in &mut victims {
            flight.is_in_doubt = is_in_doubt;
            if flight.began.is_none() {
                flight.begin(now, &self.name);
            }
        }
        victims
    }

    /// Tells apart the tasks of a worker that has ended: those that went with it, and those that it has not begun.
    fn part(mut self, now: Tick) -> (Vec<Flight>, VecDeque<Flight>) {
        let serials = self.flights.iter().map(|flight| flight.serial);
        let (note, unclaimed) = (draft::begun(&self.hand.segment), self.tasks.known_unclaimed());
        let count = begun::count(serials, note, unclaimed);
        let is_in_doubt = self.hand.is_mad() || (note.is_none() && unclaimed.is_none());
        (self.take_victims(count, is_in_doubt, now), self.flights)
    }

    /// The first task, if it is the one that an answer is about.
    pub(crate) fn expect_answer(&mut self, serial: u64) -> Result<&mut Flight, String> {
        if self.concurrency.is_some()
            && let Some(position) = self.flights.iter().position(|flight| flight.serial == serial)
            && let Some(flight) = self.flights.remove(position)
        {
            // Coroutines end in any order.
            self.flights.push_front(flight);
        }
        match self.flights.front_mut() {
            None => Err("it answered what nobody asked".to_owned()),
            Some(front) if front.serial == serial => Ok(front),
            Some(front) => Err(format!("it answered task {serial}, expected {}", front.serial)),
        }
    }

    /// Takes the first task, which was answered or has failed with its worker.
    pub(crate) fn answered(&mut self, now: Tick) -> Option<Flight> {
        let flight = self.flights.pop_front();
        if self.flights.is_empty() {
            self.hand.offer.withdraw(&self.hand.segment);
        }
        self.front_began(now);
        flight
    }

    /// Settles that the worker is to be ended because of its last flight, which is the one that it runs.
    fn condemn(&mut self) -> Option<Flight> {
        let flight = self.flights.pop_back()?;
        self.is_leaving = true;
        self.condemned = Some(flight.serial);
        Some(flight)
    }

    /// Has the worker cancel a coroutine, which is taken from its flights.
    fn cancel(&mut self, position: usize, now: Tick) -> Option<Flight> {
        let flight = self.flights.remove(position)?;
        // One that takes no more cancellations is deaf already, and will be ended for it.
        cancellations::write(&self.hand.segment, flight.serial);
        self.dying.insert(flight.serial);
        self.deaf_since.get_or_insert(now);
        self.hand.event.signal();
        Some(flight)
    }
}

/// Sends a message, in a segment of its own if it is too large for the ring.
fn send(ring: &mut Producer, serial: u64, parts: &[&[u8]]) -> Result<(bool, Option<Segment>), Refusal> {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let (pushed, outside) = if len <= INLINE {
        (ring.try_push(parts), None)
    } else {
        let (header, outside) = message::outside(serial, parts).map_err(Refusal::Unsendable)?;
        (ring.try_push(&[&header]), Some(outside))
    };
    match pushed {
        Ok(pushed) => Ok((pushed.must_wake, outside)),
        Err(PushError::Full) => Err(Refusal::Full),
        Err(broken) => Err(Refusal::Mad(broken.to_string())),
    }
}

/// What dispatching came to.
#[derive(Default)]
pub(crate) struct Dispatched {
    /// Workers that sleep and have something to do.
    pub(crate) wake: Vec<Arc<ProcessHand>>,
    /// The supervisor has something to do: a worker to start, a cancelled task to tell of, an earlier time to keep.
    pub(crate) call_supervisor: bool,
}

/// The worker processes of a pool: the part of its state that concerns them.
pub(crate) struct ProcessCrew {
    max: usize,
    /// How many coroutines each worker has in flight, if that is what they run.
    pub(crate) concurrency: Option<usize>,
    /// Memory for large arguments.
    pub(crate) stock: Arc<Stock>,
    pub(crate) workers: Vec<Worker>,
    /// Wakes the supervisor; workers signal it, too.
    pub(crate) event: Arc<Event>,
    pub(crate) is_supervised: bool,
    /// When the supervisor will look by itself.
    pub(crate) supervisor_wakes: Tick,
    /// Tasks that were found cancelled; somebody with the interpreter has to say so.
    pub(crate) cancelled: Vec<Py<Future>>,
    /// Tasks that no worker can be sent, and why.
    pub(crate) unsendable: Vec<(Flight, io::Error)>,
    /// Workers whose rings were found unusable, and why.
    mad: Vec<(Arc<ProcessHand>, String)>,
    /// The bulks that somebody still wants.
    bulks: Vec<Weak<Bulk>>,
    /// Before when the tasks in the queue must not begin, as far as was looked.
    pub(crate) until: Option<Tick>,
    next_serial: u64,
    next_name: u64,
    /// Workers that ended before they were ready, in a row.
    pub(crate) stillborn: u32,
    /// Workers that could not be started, in a row; and when to try the next.
    failed_starts: u32,
    next_start: Tick,
}

impl ProcessCrew {
    pub(crate) fn new(max: usize, concurrency: Option<usize>) -> io::Result<Self> {
        Ok(Self {
            max,
            concurrency,
            stock: Arc::default(),
            workers: Vec::new(),
            event: Arc::new(Event::new()?),
            is_supervised: false,
            supervisor_wakes: Tick::ZERO,
            cancelled: Vec::new(),
            unsendable: Vec::new(),
            mad: Vec::new(),
            bulks: Vec::new(),
            until: None,
            next_serial: 0,
            next_name: 0,
            stillborn: 0,
            failed_starts: 0,
            next_start: Tick::ZERO,
        })
    }

    /// Pushes tasks to workers that have room.
    pub(crate) fn dispatch(
        &mut self,
        scheduler: &mut Scheduler<Py<Future>>,
        statistics: &mut Statistics,
        now: Tick,
    ) -> Dispatched {
        let mut dispatched = Dispatched::default();
        self.until = None;
        while let Some(index) = self.least_busy() {
            match scheduler.pop(now) {
                Pop::Ready { task, age } => {
                    let mut queue = Queue { scheduler, statistics };
                    let bulk = task.get().detail().and_then(|detail| detail.bulk.clone());
                    let Some(bulk) = bulk else {
                        task.get().pass_gate();
                        self.push_call(index, task, age, now, queue, &mut dispatched);
                        continue;
                    };
                    let worker = &self.workers[index];
                    let (least, most) = (worker.batch_len(SHORT_BATCH), worker.batch_len(BATCH));
                    if most > 0
                        && let Some(items) = bulk.carve(least, most, self.max)
                    {
                        let freight = Freight::Batch(Batch::new(&bulk, items));
                        self.push(index, freight, age, now, &mut queue, &mut dispatched);
                    }
                    queue.put_back(&bulk, task, age);
                    if most == 0 {
                        break;
                    }
                }
                Pop::Wait(at) => {
                    self.until = Some(at);
                    dispatched.call_supervisor |= at < self.supervisor_wakes;
                    break;
                }
                Pop::Empty | Pop::Blocked => break,
            }
        }
        let earliest = self.earliest_deadline();
        dispatched.call_supervisor |= self.wants_worker(scheduler, now)
            || !self.cancelled.is_empty()
            || !self.unsendable.is_empty()
            || !self.mad.is_empty()
            || earliest.is_some_and(|at| at < self.supervisor_wakes);
        dispatched
    }

    fn push_call(
        &mut self,
        index: usize,
        future: Py<Future>,
        age: u64,
        now: Tick,
        mut queue: Queue<'_>,
        dispatched: &mut Dispatched,
    ) {
        match future.get().start_detached() {
            Some(Work::Parcel(parcel)) => {
                self.push(index, Freight::Call { future, parcel }, age, now, &mut queue, dispatched);
            }
            _ => self.cancelled.push(future),
        }
    }

    fn push(
        &mut self,
        index: usize,
        freight: Freight,
        age: u64,
        now: Tick,
        queue: &mut Queue<'_>,
        dispatched: &mut Dispatched,
    ) {
        queue.statistics.started += freight.calls();
        let serial = self.next_serial;
        self.next_serial += 1;
        let flight = Flight {
            freight,
            age,
            serial,
            began: None,
            deadline: None,
            is_in_doubt: false,
            brings_function: false,
            outside: None,
            slot: None,
        };
        let worker = &mut self.workers[index];
        let mut must_wake = false;
        match worker.push(flight, &mut must_wake) {
            Ok(()) => {}
            Err((mut flight, Refusal::Unsendable(error))) => {
                // An attempt like any other, or it would be repeated for ever.
                flight.begin(now, &worker.name);
                self.unsendable.push((*flight, error));
            }
            // A worker that has answered everything has room: else its ring is not what it should be.
            Err((flight, Refusal::Full)) if !worker.flights.is_empty() => {
                worker.is_full = true;
                queue.give_back(*flight);
            }
            Err((flight, refusal)) => {
                let why = if let Refusal::Mad(why) = refusal { why } else { "its ring is full".to_owned() };
                worker.is_leaving = true;
                self.mad.push((Arc::clone(&worker.hand), why));
                queue.give_back(*flight);
            }
        }
        worker.front_began(now);
        if must_wake {
            dispatched.wake.push(Arc::clone(&worker.hand));
        }
    }

    fn least_busy(&self) -> Option<usize> {
        let with_room = self.workers.iter().enumerate().filter(|(_, worker)| worker.room() > 0);
        with_room.min_by_key(|(_, worker)| (worker.flights.len(), !worker.is_ready)).map(|(index, _)| index)
    }

    /// Whether there is more to do than there are workers, and another may be started.
    pub(crate) fn wants_worker(&self, scheduler: &Scheduler<Py<Future>>, now: Tick) -> bool {
        self.next_start <= now && self.lacks_worker(scheduler)
    }

    /// When to try again to start a worker that is wanted.
    pub(crate) fn starts_again(&self, scheduler: &Scheduler<Py<Future>>) -> Option<Tick> {
        (self.failed_starts > 0 && self.lacks_worker(scheduler)).then_some(self.next_start)
    }

    fn lacks_worker(&self, scheduler: &Scheduler<Py<Future>>) -> bool {
        let in_flight: usize = self.workers.iter().map(|worker| worker.flights.len()).sum();
        // One that has retired takes nobody's place while its process ends.
        let workers =
            self.workers.iter().filter(|worker| !(worker.is_leaving && worker.hand.has_retired())).count();
        // Delayed tasks count: a worker with room is what the times at which they are due are kept for.
        workers < self.max && scheduler.len() + in_flight > workers
    }

    /// Makes a worker, whose process is still to be started.
    pub(crate) fn add_worker(&mut self) -> io::Result<Arc<ProcessHand>> {
        let (hand, tasks) = ProcessHand::new(Arc::clone(&self.stock))?;
        self.next_name += 1;
        self.workers.push(Worker {
            hand: Arc::clone(&hand),
            name: format!("process {}", self.next_name).into(),
            tasks,
            flights: VecDeque::new(),
            known: HashSet::new(),
            lent: Slots::new(ARGUMENTS),
            mean: None,
            is_ready: false,
            is_leaving: false,
            is_full: false,
            condemned: None,
            concurrency: self.concurrency,
            dying: HashSet::new(),
            deaf_since: None,
        });
        Ok(hand)
    }

    /// Takes note of a bulk whose token was queued.
    pub(crate) fn add_bulk(&mut self, bulk: &Arc<Bulk>) {
        if self.bulks.len() == self.bulks.capacity() {
            self.bulks.retain(|known| known.strong_count() > 0);
        }
        self.bulks.push(Arc::downgrade(bulk));
    }

    /// How many items wait for a worker, besides the tokens in the queue that stand for them.
    pub(crate) fn waiting_items(&self) -> usize {
        let waiting = self.bulks.iter().filter_map(Weak::upgrade).map(|bulk| bulk.waiting());
        waiting.map(|items| items.saturating_sub(1)).sum()
    }

    /// Takes note that the worker runs.
    pub(crate) fn has_started(&mut self) {
        self.failed_starts = 0;
    }

    /// Takes note that no worker could be started, and removes it. Returns the tasks that it had begun all the same,
    /// if its zygote died just then; and whether it is time to give up.
    pub(crate) fn could_not_start(
        &mut self,
        hand: Option<&Arc<ProcessHand>>,
        mut queue: Queue<'_>,
        now: Tick,
    ) -> (Vec<Flight>, bool) {
        let is_it = |worker: &Worker| hand.is_some_and(|hand| Arc::ptr_eq(&worker.hand, hand));
        let mut begun = Vec::new();
        if let Some(index) = self.workers.iter().position(is_it) {
            let mut worker = self.workers.swap_remove(index);
            // It may live yet: what it has not claimed by now it never gets.
            worker.take_back(usize::MAX).into_iter().for_each(|flight| queue.give_back(flight));
            begun = worker.take_victims(worker.flights.len(), worker.tasks.broken().is_some(), now);
        }
        self.next_start = now + NEXT_START * 2_u32.saturating_pow(self.failed_starts.min(8));
        self.failed_starts += 1;
        (begun, self.workers.is_empty() && self.failed_starts >= MOST_STILLBORN)
    }

    pub(crate) fn worker_of(&mut self, hand: &Arc<ProcessHand>) -> Option<&mut Worker> {
        self.workers.iter_mut().find(|worker| Arc::ptr_eq(&worker.hand, hand))
    }

    /// Takes `future`, which was cancelled, from the worker that has it. If that runs it, it is to be ended.
    ///
    /// What the worker has not claimed it is not given any more. A worker answers one task before it claims the next,
    /// so the last of the claimed ones is the only one that can be running: nobody else's task is hit.
    pub(crate) fn give_up(&mut self, future: &Bound<'_, Future>, mut queue: Queue<'_>) -> GivenUp {
        let has_it = |worker: &&mut Worker| worker.flights.iter().any(|flight| flight.freight.is(future));
        let Some(worker) = self.workers.iter_mut().find(has_it) else { return GivenUp::default() };
        let mut given_up = GivenUp::default();
        for flight in worker.take_back(usize::MAX) {
            if flight.freight.is(future) {
                queue.statistics.started = queue.statistics.started.saturating_sub(1);
                given_up.flight = Some(flight);
            } else {
                queue.give_back(flight);
            }
        }
        if worker.concurrency.is_some() {
            let position = worker.flights.iter().position(|flight| flight.freight.is(future));
            if let Some(flight) = position.and_then(|position| worker.cancel(position, clock::now())) {
                queue.statistics.interrupted += 1;
                given_up.flight = Some(flight);
            }
        } else if worker.flights.back().is_some_and(|last| last.freight.is(future)) && !worker.is_leaving {
            given_up.flight = worker.condemn();
            given_up.runner = Some(Arc::clone(&worker.hand));
        }
        given_up
    }

    /// What the workers have: calls, and bulks of which they have items.
    pub(crate) fn at_work(&self, py: Python<'_>) -> (Vec<Py<Future>>, Vec<Arc<Bulk>>) {
        let (mut calls, mut bulks) = (Vec::new(), Vec::new());
        for flight in self.workers.iter().flat_map(|worker| &worker.flights) {
            match &flight.freight {
                Freight::Call { future, .. } => calls.push(future.clone_ref(py)),
                Freight::Batch(batch) => bulks.push(Arc::clone(&batch.bulk)),
            }
        }
        (calls, bulks)
    }

    /// Takes the items of `bulk` from the workers that have them; those that work on some are to be ended.
    pub(crate) fn give_up_bulk(&mut self, bulk: &Arc<Bulk>, mut queue: Queue<'_>) -> Vec<Arc<ProcessHand>> {
        let is_its = |flight: &Flight| matches!(&flight.freight, Freight::Batch(batch) if Arc::ptr_eq(&batch.bulk, bulk));
        bulk.give_up();
        let mut runners = Vec::new();
        for worker in self.workers.iter_mut().filter(|worker| worker.flights.iter().any(is_its)) {
            worker.take_back(usize::MAX).into_iter().for_each(|flight| queue.give_back(flight));
            if worker.flights.back().is_some_and(is_its) && !worker.is_leaving && worker.condemn().is_some() {
                queue.statistics.interrupted += 1;
                runners.push(Arc::clone(&worker.hand));
            }
        }
        runners
    }

    /// The worker that is at that item of a bulk, which is to be ended for it; what it has not begun goes back.
    ///
    /// It claims nothing more, and the item is the last that it has claimed: nobody else's is hit.
    pub(crate) fn runner_of_item(
        &mut self,
        bulk: &Arc<Bulk>,
        item: usize,
        mut queue: Queue<'_>,
    ) -> Option<Arc<ProcessHand>> {
        let has_it = |flight: &Flight| matches!(&flight.freight, Freight::Batch(batch) if Arc::ptr_eq(&batch.bulk, bulk) && batch.items.contains(&item));
        let worker = self.workers.iter_mut().find(|worker| worker.flights.iter().any(has_it))?;
        worker.take_back(usize::MAX).into_iter().for_each(|flight| queue.give_back(flight));
        let flight = worker.flights.back_mut().filter(|flight| has_it(flight))?;
        let Freight::Batch(batch) = &mut flight.freight else { return None };
        let first = draft::take_rest(&worker.hand.segment, flight.serial)?;
        if let Some(items) = batch.cut(first) {
            queue.take_items(bulk, items, flight.age);
        }
        let is_at_it = batch.items.end == item + 1 && !worker.is_leaving;
        worker.is_leaving |= is_at_it;
        is_at_it.then(|| {
            queue.statistics.interrupted += 1;
            Arc::clone(&worker.hand)
        })
    }

    /// Takes the tasks that have passed their limits; their workers are to be ended. See [`give_up`](Self::give_up).
    pub(crate) fn overdue(
        &mut self,
        now: Tick,
        mut queue: Queue<'_>,
    ) -> Vec<(Option<Arc<ProcessHand>>, Flight)> {
        let is_late = |flight: &Flight| flight.deadline.is_some_and(|deadline| deadline <= now);
        let mut overdue = Vec::new();
        for worker in self.workers.iter_mut().filter(|worker| !worker.is_leaving) {
            if worker.concurrency.is_some() {
                if worker.flights.iter().any(is_late) {
                    // What is left has begun: what waits in the ring is late only because the loop is.
                    worker.take_back(usize::MAX).into_iter().for_each(|flight| queue.give_back(flight));
                }
                while let Some(position) = worker.flights.iter().position(is_late) {
                    overdue.extend(worker.cancel(position, now).map(|flight| (None, flight)));
                }
                continue;
            }
            if worker.flights.front().is_none_or(|front| !is_late(front)) {
                continue;
            }
            worker.take_back(usize::MAX).into_iter().for_each(|flight| queue.give_back(flight));
            // With more than one claimed, the first was answered in time: the answer is on its way.
            if worker.flights.len() == 1
                && let Some(flight) = worker.condemn()
            {
                overdue.push((Some(Arc::clone(&worker.hand)), flight));
            }
        }
        overdue
    }

    /// Has a worker end that has retired: what it was given goes back, and another takes its place.
    pub(crate) fn retire(&mut self, hand: &Arc<ProcessHand>, mut queue: Queue<'_>) {
        if let Some(worker) = self.worker_of(hand) {
            worker.take_back(usize::MAX).into_iter().for_each(|flight| queue.give_back(flight));
            // One that is at its last task has its answer read first: a large one lies in its memory.
            if worker.flights.is_empty() {
                worker.stop();
            }
        }
    }

    /// The workers whose event loop is blocked: they do not even look at what they are to cancel.
    pub(crate) fn deaf(&mut self, now: Tick) -> Vec<Arc<ProcessHand>> {
        let mut deaf = Vec::new();
        for worker in self.workers.iter_mut().filter(|worker| worker.deaf_since.is_some()) {
            if cancellations::are_read(&worker.hand.segment) {
                worker.deaf_since = None;
            } else if !worker.is_leaving && worker.deaf_since.is_some_and(|since| now - since >= DEAF) {
                worker.is_leaving = true;
                deaf.push(Arc::clone(&worker.hand));
            }
        }
        deaf
    }

    /// Takes the workers whose rings turned out unusable, and why: they are to be ended, or what was put ahead of them
    /// would never come back.
    pub(crate) fn take_mad(&mut self) -> Vec<(Arc<ProcessHand>, String)> {
        let mut mad = std::mem::take(&mut self.mad);
        for worker in self.workers.iter_mut().filter(|worker| !worker.is_leaving) {
            if let Some(broken) = worker.tasks.broken() {
                worker.is_leaving = true;
                mad.push((Arc::clone(&worker.hand), broken.to_string()));
            }
        }
        mad
    }

    pub(crate) fn earliest_deadline(&self) -> Option<Tick> {
        let running = self.workers.iter().filter(|worker| !worker.is_leaving);
        let of_worker = |worker: &Worker| {
            let at_once = if worker.concurrency.is_some() { usize::MAX } else { 1 };
            let deadlines = worker.flights.iter().take(at_once).filter_map(|flight| flight.deadline);
            let look = worker.flights.front().and_then(Flight::next_look);
            deadlines.chain(worker.deaf_since.map(|since| since + DEAF)).chain(look).min()
        };
        running.filter_map(of_worker).min()
    }

    /// Takes back everything that no worker has begun.
    pub(crate) fn take_back(&mut self, mut queue: Queue<'_>) {
        for worker in &mut self.workers {
            worker.take_back(usize::MAX).into_iter().for_each(|flight| queue.give_back(flight));
        }
    }

    /// Takes back what was put ahead of a busy worker, for an idle one. Returns whether something was, and if not, when
    /// it would be: as long as a worker gets on with its tasks, moving them is not worth it.
    pub(crate) fn level(&mut self, mut queue: Queue<'_>, now: Tick) -> Result<(), Option<Tick>> {
        let is_idle = |worker: &Worker| worker.is_ready && worker.flights.is_empty() && worker.room() > 0;
        if !self.workers.iter().any(is_idle) {
            return Err(None);
        }
        let longest = self.workers.iter_mut().max_by_key(|worker| worker.tasks.unclaimed());
        let Some(longest) = longest else { return Err(None) };
        let ahead = longest.tasks.unclaimed();
        // A worker that is there keeps its first task, or two idle ones would pass it to each other for ever.
        let spare = longest.flights.len().saturating_sub(usize::from(longest.is_ready));
        if ahead.min(spare) == 0 {
            return self.cut_batch(queue, now);
        }
        let length = longest.mean.unwrap_or(AHEAD) * u32::try_from(ahead).unwrap_or(u32::MAX);
        let began = longest.flights.front().and_then(|front| front.began).unwrap_or(now);
        if length < WORTH_TAKING && now - began < WORTH_TAKING {
            return Err(Some(began + WORTH_TAKING));
        }
        for flight in longest.take_back(ahead.div_ceil(2).min(spare)) {
            queue.give_back(flight);
        }
        Ok(())
    }

    /// Takes for an idle worker what another has not begun of a batch that takes long; see [`level`](Self::level).
    fn cut_batch(&mut self, mut queue: Queue<'_>, now: Tick) -> Result<(), Option<Tick>> {
        let mut next: Option<Tick> = None;
        for worker in self.workers.iter_mut().filter(|worker| worker.is_ready) {
            let Some(flight) = worker.flights.front_mut() else { continue };
            let (Freight::Batch(batch), Some(began)) = (&mut flight.freight, flight.began) else { continue };
            if batch.items.len() < 2 {
                continue;
            }
            if now < began + STUCK {
                next = Some(next.map_or(began + STUCK, |at| at.min(began + STUCK)));
                continue;
            }
            let first = draft::take_rest(&worker.hand.segment, flight.serial);
            if let Some(items) = first.and_then(|first| batch.cut(first)) {
                let bulk = Arc::clone(&batch.bulk);
                queue.take_items(&bulk, items, flight.age);
                return Ok(());
            }
        }
        Err(next)
    }

    /// Removes a worker that has ended. Returns the tasks that went with it; those that it had not begun go back. And
    /// whether it is time to give up.
    pub(crate) fn bury(
        &mut self,
        hand: &Arc<ProcessHand>,
        mut queue: Queue<'_>,
        now: Tick,
    ) -> (Vec<Flight>, bool) {
        let Some(index) = self.workers.iter().position(|worker| Arc::ptr_eq(&worker.hand, hand)) else {
            return (Vec::new(), false);
        };
        let worker = self.workers.swap_remove(index);
        let is_stillborn = !worker.is_ready && !worker.is_leaving;
        self.stillborn += u32::from(is_stillborn);
        let (victims, others) = worker.part(now);
        for flight in others {
            queue.give_back(flight);
        }
        (victims, is_stillborn && self.stillborn >= MOST_STILLBORN)
    }
}

/// A task that was taken from its worker, and the worker, if it has to be ended for it.
#[derive(Default)]
pub(crate) struct GivenUp {
    pub(crate) flight: Option<Flight>,
    pub(crate) runner: Option<Arc<ProcessHand>>,
}

/// Where tasks go that a worker has not begun.
pub(crate) struct Queue<'a> {
    pub(crate) scheduler: &'a mut Scheduler<Py<Future>>,
    pub(crate) statistics: &'a mut Statistics,
}

impl Queue<'_> {
    /// Queues a task again, as if it had not been handed out. Its gate has let it pass already.
    fn give_back(&mut self, flight: Flight) {
        self.statistics.started = self.statistics.started.saturating_sub(flight.freight.calls());
        let (token, parcel) = match flight.freight {
            Freight::Call { future, parcel } => (future, parcel),
            Freight::Batch(batch) => return self.return_items(&batch.bulk, batch.items, flight.age),
        };
        let future = token.get();
        if let Some(detail) = future.detail().filter(|_| flight.began.is_some()) {
            let mut history = detail.history();
            history.attempts = history.attempts.saturating_sub(1);
        }
        if future.requeue(Work::Parcel(parcel)).is_err() {
            // It is just being cancelled: whoever does that gives back its place behind its gate.
            return;
        }
        let order = future.detail().map_or_else(Order::default, Detail::order);
        let order = Order { gate: None, not_before: None, age: Some(flight.age), ..order };
        self.scheduler.push(token, order);
    }

    /// Takes back what is left of a batch that its worker has ended.
    pub(crate) fn take_rest(&mut self, batch: &Batch, age: u64) {
        self.take_items(&batch.bulk, batch.items.clone(), age);
    }

    /// Takes back items that were handed out.
    fn take_items(&mut self, bulk: &Bulk, items: Range<usize>, age: u64) {
        self.statistics.started = self.statistics.started.saturating_sub(items.len() as u64);
        self.return_items(bulk, items, age);
    }

    /// Takes items back that nobody has worked on.
    fn return_items(&mut self, bulk: &Bulk, items: Range<usize>, age: u64) {
        if let Some(token) = bulk.give_back(items) {
            self.scheduler.push(token, Order { age: Some(age), ..Order::default() });
        }
    }

    /// Queues a bulk's token again while there is something to hand out.
    fn put_back(&mut self, bulk: &Bulk, token: Py<Future>, age: u64) {
        if let Some(token) = bulk.keep(token) {
            self.scheduler.push(token, Order { age: Some(age), ..Order::default() });
        }
    }
}
