//! `manyhands.shared`: what processes share. One file per subject; here is what all have in common.
//!
//! Each object is a segment that is found by its pickle or by its name ([`manyhands_os::shared`]), and steps of `engine`
//! over the words in it. No step calls Python, so none waits for the interpreter while others wait for it.

mod array;
mod barrier;
mod condition;
mod counter;
mod deadlock;
mod dict;
mod event;
mod keys;
mod lock;
mod queue;
mod rwlock;
mod semaphore;
mod value;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use manyhands_engine::clock::Tick;
use manyhands_engine::shared::Owner;
use manyhands_engine::shared::seats::{self, BELL, GUARD, Refusal, Seats};
use manyhands_os::shared::wait::{self, Held, Nap, Slept};
use manyhands_os::shared::{Handle, Shared, Token};
use pyo3::BoundObject;
use pyo3::exceptions::{PyFileExistsError, PyFileNotFoundError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyType};

// Under the names that Python sees, for there are others of their like.
pub(crate) use array::Array as SharedArray;
pub(crate) use barrier::Barrier as SharedBarrier;
pub(crate) use condition::Condition as SharedCondition;
pub(crate) use counter::Counter as SharedCounter;
pub(crate) use dict::Dict as SharedDict;
pub(crate) use event::Event as SharedEvent;
pub(crate) use lock::{Lock as SharedLock, RLock as SharedRLock};
pub(crate) use queue::Queue as SharedQueue;
pub(crate) use rwlock::{RWLock as SharedRWLock, RWLockGuard as SharedRWLockGuard};
pub(crate) use semaphore::Semaphore as SharedSemaphore;
pub(crate) use value::Value as SharedValue;

use crate::{enter, error, native};

/// How many may hold or wait for one thing at a time.
const SEATS: usize = 1000;

/// What is in a segment: the number that others check, and the words for messages.
#[derive(Debug, Clone, Copy)]
struct Kind(u64, &'static str);

/// Where an object that exists is to be found: what its pickle says, or its name.
#[derive(FromPyObject)]
pub(crate) enum Place {
    Handle((u32, i32, u64, u64)),
    Name(String),
}

impl Place {
    fn of(shared: &Shared) -> (u32, i32, u64, u64) {
        let Handle { pid, descriptor, token: Token([high, low]) } = shared.handle();
        (pid, descriptor, high, low)
    }
}

/// Makes an object of `words` words, or opens one.
fn create(kind: Kind, words: usize, name: Option<&str>, fill: impl FnOnce(&[AtomicU64])) -> PyResult<Shared> {
    let bytes =
        words.checked_mul(size_of::<u64>()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
    Shared::create(kind.0, bytes, name, fill).map_err(|error| unmade(kind, name, error))
}

/// Why an object could not be made.
fn unmade(Kind(_, what): Kind, name: Option<&str>, error: io::Error) -> PyErr {
    match error.kind() {
        io::ErrorKind::AlreadyExists => PyFileExistsError::new_err(format!(
            "could not make a shared {what}: found one of the name {:?}",
            name.unwrap_or_default()
        )),
        io::ErrorKind::InvalidInput => PyValueError::new_err(format!("could not use `name`: {error}")),
        _ => error.into(),
    }
}

/// Opens an object of one of these kinds that has at least so many words.
fn open(place: Place, kinds: &[Kind], words: usize) -> PyResult<Shared> {
    let what = kinds.first().map_or("object", |kind| kind.1);
    let found = match &place {
        Place::Handle((pid, descriptor, high, low)) => {
            Shared::open(Handle { pid: *pid, descriptor: *descriptor, token: Token([*high, *low]) })
        }
        Place::Name(name) => Shared::open_name(name),
    };
    let shared = found.map_err(|error| match (error.kind(), place) {
        (io::ErrorKind::NotFound, Place::Handle(_)) => PyFileNotFoundError::new_err(format!(
            "could not open a shared {what}: found nobody who has it any more, expected its sender to keep it until then"
        )),
        (io::ErrorKind::NotFound, Place::Name(name)) => PyFileNotFoundError::new_err(format!(
            "could not open a shared {what}: found none of the name {name:?}, expected a process of this user to have it"
        )),
        (io::ErrorKind::InvalidInput, Place::Name(_)) => {
            PyValueError::new_err(format!("could not use `name`: {error}"))
        }
        _ => PyErr::from(error),
    })?;
    if !kinds.iter().any(|kind| kind.0 == shared.kind()) || shared.words().len() < words {
        return Err(PyTypeError::new_err(format!(
            "could not open a shared {what}: found something else of that name"
        )));
    }
    Ok(shared)
}

/// What is wrong with what another process has left in the memory.
fn corrupt() -> PyErr {
    PyRuntimeError::new_err("could not read shared memory: found numbers that make no sense")
}

/// Opens the object that a pickle is about, as one of the class.
#[pyfunction]
pub(crate) fn open_shared<'py>(
    cls: &Bound<'py, PyType>,
    place: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let keywords = PyDict::new(cls.py());
    keywords.set_item(pyo3::intern!(cls.py(), "place"), place)?;
    cls.call((), Some(&keywords))
}

type Reduced<'py> = (Bound<'py, PyAny>, (Bound<'py, PyType>, Bound<'py, PyAny>));

/// What a pickle of the object is: how to open it.
fn reduce<'py>(object: &Bound<'py, PyAny>, place: impl IntoPyObject<'py>) -> PyResult<Reduced<'py>> {
    let py = object.py();
    let open = py.import("manyhands._core")?.getattr(pyo3::intern!(py, "open_shared"))?;
    let place = place.into_pyobject(py).map_err(Into::into)?.into_any().into_bound();
    Ok((open, (object.get_type(), place)))
}

/// This thread among those of all processes. Threads of a process and of its fork bear the same number, so it has the
/// process in it: what a dead one left behind is never taken for this one's.
fn thread(py: Python<'_>) -> u64 {
    native::thread_ident(py) ^ wait::me().word().rotate_left(17)
}

/// How long to wait.
#[derive(Clone, Copy)]
enum Patience {
    /// Not at all.
    None,
    /// Until then; `None` is never.
    Until(Option<Tick>),
}

impl Patience {
    const FOREVER: Self = Self::Until(None);
}

/// How long to wait: as `threading` has it, where -1 is for ever.
///
/// # Errors
/// For a timeout without waiting, and one that is no number.
fn patience(blocking: bool, timeout: Option<f64>) -> PyResult<Patience> {
    #[expect(clippy::float_cmp, reason = "exactly that number has the meaning")]
    let timeout = timeout.filter(|seconds| *seconds != -1.0);
    match (blocking, timeout) {
        (false, Some(_)) => Err(PyValueError::new_err(
            "could not acquire: found a timeout with blocking=False, expected one of them",
        )),
        (false, None) => Ok(Patience::None),
        (true, timeout) => enter::deadline(timeout).map(Patience::Until),
    }
}

fn refused(what: &str, verb: &str, refusal: Refusal) -> PyErr {
    PyRuntimeError::new_err(format!("could not {verb} the {what}: {refusal}"))
}

/// Words for a table of seats with that limit.
fn create_seats(kind: Kind, name: Option<&str>, limit: u64) -> PyResult<Shared> {
    create(kind, seats::words(SEATS), name, |words| {
        if let Some(seats) = Seats::new(words) {
            seats.initialise(limit);
        }
    })
}

/// Does something with the seats while nobody else does.
fn guarded<R: Send>(
    py: Python<'_>,
    shared: &Shared,
    body: impl FnOnce(Seats<'_>) -> R + Send,
) -> PyResult<R> {
    let guard = &shared.words()[GUARD];
    let table = Seats::new(shared.words()).ok_or_else(corrupt)?;
    match Held::soon(guard) {
        Some(_held) => Ok(body(table)),
        None => Ok(py.detach(|| {
            let _held = Held::now(guard);
            body(table)
        })),
    }
}

/// Changes the seats, and has those who wait look again.
fn change<R: Send>(py: Python<'_>, shared: &Shared, body: impl FnOnce(Seats<'_>) -> R + Send) -> PyResult<R> {
    let (result, is_waited_for) = guarded(py, shared, |seats| (body(seats), seats.ring()))?;
    if is_waited_for {
        wait::wake(&shared.words()[BELL], i32::MAX.unsigned_abs());
    }
    Ok(result)
}

/// Gives up the seats of those who have died.
fn bury_dead(py: Python<'_>, shared: &Shared, bury: fn(Seats<'_>, &[Owner]) -> bool) -> PyResult<()> {
    #[expect(
        clippy::redundant_closure_for_method_calls,
        reason = "the method is of one lifetime, not of all"
    )]
    let owners = guarded(py, shared, |seats| seats.owners())?;
    let dead: Vec<Owner> = py.detach(|| owners.into_iter().filter(|owner| !wait::is_alive(*owner)).collect());
    if dead.is_empty() { Ok(()) } else { change(py, shared, |seats| bury(seats, &dead)).map(drop) }
}

/// What is to be done with seats that somebody leaves without what he waited for.
#[derive(Clone, Copy)]
struct Manners {
    /// By their death; whether there were any.
    bury: fn(Seats<'_>, &[Owner]) -> bool,
    /// Because he gives up.
    leave: fn(Seats<'_>, usize),
}

/// Waits until `attempt` comes to something, which may take a seat to wait in; `None` if the deadline came first.
///
/// # Errors
/// What a signal handler raised.
fn wait_for<T: Send>(
    py: Python<'_>,
    shared: &Shared,
    deadline: Option<Tick>,
    manners: Manners,
    mut attempt: impl FnMut(Seats<'_>, &mut Option<usize>) -> Option<T> + Send,
) -> PyResult<Option<T>> {
    let bell = &shared.words()[BELL];
    let mut nap = Nap::default();
    let mut seat = None;
    let mut is_late = false;
    let leave = |seat: Option<usize>| match seat {
        Some(seat) => change(py, shared, |seats| (manners.leave)(seats, seat)),
        None => Ok(()),
    };
    loop {
        let look = |seats: Seats<'_>| (attempt(seats, &mut seat), bell.load(Ordering::Relaxed));
        let (result, seen) = guarded(py, shared, look)?;
        if result.is_some() {
            return Ok(result);
        }
        if is_late {
            return leave(seat).map(|()| None);
        }
        #[expect(clippy::cast_possible_truncation, reason = "the half to sleep on")]
        match py.detach(|| nap.sleep(bell, seen as u32, deadline)) {
            Slept::Woken => continue,
            Slept::Interrupted => {}
            Slept::Enough => bury_dead(py, shared, manners.bury)?,
            Slept::TimedOut => {
                bury_dead(py, shared, manners.bury)?;
                is_late = true;
            }
        }
        // After every nap, for a signal that came between two has interrupted neither.
        if let Err(failure) = py.check_signals() {
            leave(seat)?;
            return Err(failure);
        }
    }
}

/// The exception of the standard library for a barrier that is broken.
fn broken_barrier(py: Python<'_>) -> PyErr {
    match error::broken_barrier_error(py) {
        Ok(kind) => PyErr::from_type(kind.clone(), ()),
        Err(failure) => failure,
    }
}
