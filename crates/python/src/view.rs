//! Large messages where they lie: in memory of the process that sent them, as this one sees it.
//!
//! Whoever sends keeps the memory as it is until it is given back, which happens when the last object that looks into it
//! is gone: an array, say, that was unpickled without a copy. Writing to it, where that is allowed, copies the page, so
//! it is as much the reader's own as any memory.
//!
//! After a `fork` a child looks into the same memory, and nobody knows for how long. So memory into which somebody
//! looked at that time is given back as spoilt, not to be used again; and a child gives back nothing.
#![expect(unsafe_code, reason = "lending mapped memory to Python objects, and copying the memory of theirs")]

use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use manyhands_engine::parts::Layout;
use manyhands_os::segment::{Segment, View, Writes};
use manyhands_os::stock::Loan;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyMemoryView};

use crate::message::Place;
use crate::pickle;
use crate::pool;
use crate::reading::Reading;

/// How often this process was about to fork, or had just done so.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// Takes note that every view may from now on have a twin in another process. Called before a fork, and after it again
/// for views that other threads made meanwhile.
pub(crate) fn around_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// The largest messages whose segments are remembered.
pub(crate) const MEMORABLE: usize = 2 << 20;
/// How many are remembered of one process.
const MOST_KNOWN: usize = 8;

/// Who is told that memory is not looked into any more.
pub(crate) trait Lender: Send + Sync {
    /// The memory of that slot, so many bytes, is free; if it `is_spoilt`, somebody may still look into it.
    fn give_back(&self, slot: u8, len: usize, is_spoilt: bool);

    /// The segments of the lender's that are remembered.
    fn known(&self) -> &Known;
}

/// Segments of another process that were read, and will be again: to map one and to touch its pages takes as long as to
/// copy what is in it.
#[derive(Default)]
pub(crate) struct Known(Mutex<Vec<(u64, Arc<View>)>>);

impl Known {
    /// Maps memory of process `pid`; what is remembered is never written to.
    fn view(&self, pid: i32, place: Place, writes: Writes) -> io::Result<Arc<View>> {
        let map = |writes| {
            let file = File::open(format!("/proc/{pid}/fd/{}", place.descriptor))?;
            View::from_fd(file.as_fd(), writes).map(Arc::new)
        };
        let Some(number) = place.number else { return map(writes) };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let view = match known.iter().position(|(known, _)| *known == number) {
            Some(position) => known.remove(position).1,
            None => map(Writes::Refused)?,
        };
        // The sender may have put little into a large one.
        if view.len() <= 2 * MEMORABLE {
            known.truncate(MOST_KNOWN - 1);
            known.insert(0, (number, Arc::clone(&view)));
        }
        Ok(view)
    }
}

/// Whose memory it is.
enum Owner {
    Other {
        lender: Weak<dyn Lender>,
        slot: Option<u8>,
    },
    /// This process's own, in which another has written.
    This(Loan),
}

/// Memory that is given back when it is dropped.
struct Borrowed {
    /// There until the drop.
    view: Option<Arc<View>>,
    owner: Owner,
    forks: u32,
    generation: u32,
}

impl Borrowed {
    fn new(owner: Owner) -> Self {
        let (forks, generation) = (FORKS.load(Ordering::Relaxed), pool::fork_generation());
        Self { view: None, owner, forks, generation }
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let len = self.view.take().map_or(0, |view| view.len());
        let is_child = self.generation != pool::fork_generation();
        let is_spoilt = self.forks != FORKS.load(Ordering::Relaxed);
        match &self.owner {
            Owner::Other { lender, slot: Some(slot) } if !is_child => {
                if let Some(lender) = lender.upgrade() {
                    lender.give_back(*slot, len, is_spoilt);
                }
            }
            Owner::This(loan) if is_child || is_spoilt => loan.spoil(),
            Owner::Other { .. } | Owner::This(_) => {}
        }
    }
}

/// A large pickle in memory of the process that made it.
pub(crate) struct Bundle {
    borrowed: Arc<Borrowed>,
    layout: Layout,
    writes: Writes,
}

impl Bundle {
    /// Opens what process `pid` has put there. Whatever comes of it, the place is given back once.
    pub(crate) fn open(pid: i32, place: Place, writes: Writes, lender: &Arc<dyn Lender>) -> io::Result<Self> {
        let writes = if place.number.is_some() { Writes::Refused } else { writes };
        let borrowed = Borrowed::new(Owner::Other { lender: Arc::downgrade(lender), slot: place.slot });
        let view = lender.known().view(pid, place, writes)?;
        Self::new(borrowed, view, writes)
    }

    /// Opens what another process has put into memory of this one.
    pub(crate) fn of_own(loan: Loan) -> io::Result<Self> {
        let view = View::from_fd(loan.segment().fd(), Writes::Private).map(Arc::new)?;
        Self::new(Borrowed::new(Owner::This(loan)), view, Writes::Private)
    }

    fn new(mut borrowed: Borrowed, view: Arc<View>, writes: Writes) -> io::Result<Self> {
        let layout = Layout::read(view.len(), |index| view.word(index))
            .filter(|layout| !layout.parts().is_empty())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "found no message in the segment"))?;
        borrowed.view = Some(view);
        Ok(Self { borrowed: Arc::new(borrowed), layout, writes })
    }

    /// How many bytes it takes.
    pub(crate) fn len(&self) -> usize {
        self.layout.end()
    }

    /// Unpickles it; what was left out of the pickle's stream stays where it is.
    pub(crate) fn load<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let lent = |place: &Range<usize>| {
            let (borrowed, place) = (Arc::clone(&self.borrowed), place.clone());
            Bound::new(py, Lent { borrowed, place, writes: self.writes })
        };
        let (stream, buffers) =
            self.layout.parts().split_first().expect("`open` has checked that there is one");
        let loads = pickle::loads(py)?;
        let _reading = Reading::begin();
        if buffers.is_empty() {
            return loads.call1((lent(stream)?,));
        }
        // Memory views, for they have a length and elements, as what they stand for.
        let view = |place| PyMemoryView::from(lent(place)?.as_any());
        let buffers: Vec<_> = buffers.iter().map(view).collect::<PyResult<_>>()?;
        let keywords = PyDict::new(py);
        keywords.set_item(pyo3::intern!(py, "buffers"), PyList::new(py, buffers)?)?;
        loads.call((lent(stream)?,), Some(&keywords))
    }
}

/// A part of such memory, as an object with a buffer.
#[pyclass(frozen, name = "SharedBuffer", module = "manyhands._core")]
pub(crate) struct Lent {
    borrowed: Arc<Borrowed>,
    /// Within the memory, as `Layout` sees to.
    place: Range<usize>,
    writes: Writes,
}

#[pymethods]
impl Lent {
    /// # Safety
    /// As the slot of the type: `view` is NULL or may be filled.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let lent = slf.get();
        let memory = lent.borrowed.view.as_ref().filter(|memory| lent.place.end <= memory.len());
        let (Some(memory), false) = (memory, view.is_null()) else {
            return Err(PyBufferError::new_err("could not lend memory: found none"));
        };
        // SAFETY: the place is within the mapping, as just checked.
        // Breaks if: the check goes. Exercised by: tests/contract/test_large_data.py.
        let start = unsafe { memory.as_ptr().add(lent.place.start) };
        let len = lent.place.len().cast_signed();
        let is_read_only = c_int::from(lent.writes == Writes::Refused);
        // SAFETY: the bytes stay mapped as long as `slf` lives, which never lets go of its share of `borrowed`, and the
        // function takes a reference to `slf` into `view`. They may be written if we say so: the mapping is private.
        // Breaks if: `Borrowed` unmaps before its drop. Exercised by: tests/contract/test_large_data.py.
        let filled =
            unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start.cast(), len, is_read_only, flags) };
        if filled < 0 { Err(PyErr::fetch(slf.py())) } else { Ok(()) }
    }
}

/// Copies a part of the memory of a Python object; `None` if there is not so much, or not in one piece.
pub(crate) fn copy(source: &PyBuffer<u8>, start: usize, target: &mut [u8]) -> Option<()> {
    let source = source.as_slice_ptr()?;
    if start.checked_add(target.len())? > source.len() {
        return None;
    }
    // SAFETY: so far within the memory, as was just looked up.
    // Breaks if: the comparison goes. Exercised by: tests/unit/test_shared_queue.py.
    let part = unsafe { source.as_ptr().cast::<u8>().add(start) };
    // SAFETY: the object that lent its memory keeps it where it is as long as `source` lives. Others may write there
    // meanwhile, so it is not spoken of as a slice; the target is this call's alone.
    // Breaks if: the buffer is released before. Exercised by: tests/unit/test_shared_queue.py.
    unsafe { std::ptr::copy_nonoverlapping(part, target.as_mut_ptr(), target.len()) };
    Some(())
}

/// Copies the memory of a Python object to `offset` of a segment.
pub(crate) fn fill(target: &mut Segment, offset: usize, source: &PyBuffer<u8>) -> io::Result<()> {
    let Some(source) = source.as_slice_ptr() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "found memory that is not contiguous"));
    };
    // SAFETY: the object that lent its memory keeps it where it is as long as `source` lives.
    // Breaks if: the buffer is released before. Exercised by: tests/contract/test_large_data.py.
    unsafe { target.fill_from(offset, source) }
}
