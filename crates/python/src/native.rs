//! The C API that pyo3 does not wrap: each function here is one call and the reasons why it is sound.
#![expect(unsafe_code, reason = "the one file of this crate that calls the C API directly")]

use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::exceptions::PyMemoryError;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple, PyType};

/// Makes an instance as `class.__new__(class)` does, without looking up and calling `__init__`.
pub(crate) fn new_without_init<'py>(class: &Bound<'py, PyType>) -> PyResult<Bound<'py, PyAny>> {
    let py = class.py();
    let pointer = class.as_type_ptr();
    let arguments = PyTuple::empty(py);
    // SAFETY: `class` is a live, ready type object, borrowed for this call.
    let new = unsafe { (*pointer).tp_new }.expect("the class can be instantiated");
    // SAFETY: `new` is the type's own slot, called with the type, an empty tuple and no keywords, as type.__call__
    // would; it returns a new reference or NULL with an exception set.
    let object = unsafe { new(pointer, arguments.as_ptr(), std::ptr::null_mut()) };
    // SAFETY: see above: a new reference, which the Bound takes over, or NULL with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, object) }
}

/// A byte string that is being filled from its beginning on.
pub(crate) struct Filling {
    next: *mut u8,
    room: usize,
}

// SAFETY: the memory is written through this alone, wherever it goes; it belongs to a byte string that nobody else has yet.
unsafe impl Send for Filling {}

impl Filling {
    /// Appends the first `len` bytes that lie in the words; `None` if there is no room for them, or not so many.
    pub(crate) fn append(&mut self, words: &[AtomicU64], len: usize) -> Option<()> {
        let (whole, rest) = (len / size_of::<u64>(), len % size_of::<u64>());
        let words = words.get(..len.div_ceil(size_of::<u64>()))?;
        self.room = self.room.checked_sub(len)?;
        for word in &words[..whole] {
            self.put(&word.load(Ordering::Relaxed).to_le_bytes());
        }
        if let Some(word) = words.get(whole) {
            self.put(&word.load(Ordering::Relaxed).to_le_bytes()[..rest]);
        }
        Some(())
    }

    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        // SAFETY: `append` has seen that there is room for all that it puts, in memory that nothing else refers to.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.next, bytes.len()) };
        // SAFETY: as above: at most the end of the memory.
        self.next = unsafe { self.next.add(bytes.len()) };
    }
}

/// A byte string of `len` bytes, filled by `fill`; `None` if that says so, or leaves some out. Its memory is not written
/// twice.
pub(crate) fn new_bytes(
    py: Python<'_>,
    len: usize,
    fill: impl FnOnce(&mut Filling) -> Option<()>,
) -> PyResult<Option<Bound<'_, PyBytes>>> {
    let size = ffi::Py_ssize_t::try_from(len)
        .map_err(|_| PyMemoryError::new_err("found no room for so many bytes"))?;
    // SAFETY: without bytes to copy, the function makes a string whose content is to be written before anybody sees it.
    let object = unsafe { ffi::PyBytes_FromStringAndSize(std::ptr::null(), size) };
    // SAFETY: a new reference, or NULL with an exception set.
    let object = unsafe { Bound::from_owned_ptr_or_err(py, object) }?;
    // SAFETY: a byte string, whose memory lies within it.
    let next = unsafe { ffi::PyBytes_AsString(object.as_ptr()) }.cast();
    let mut filling = Filling { next, room: len };
    // One that is not filled is dropped, which does not look at its content.
    let is_filled = fill(&mut filling).is_some() && filling.room == 0;
    is_filled.then(|| object.cast_into::<PyBytes>()).transpose().map_err(PyErr::from)
}

type Call = unsafe extern "C" fn(*mut PyObject, *mut PyObject, *mut PyObject) -> *mut PyObject;
type UnwindingCall =
    unsafe extern "C-unwind" fn(*mut PyObject, *mut PyObject, *mut PyObject) -> *mut PyObject;

/// `PyObject_Call` as what it is, a function that may unwind.
///
/// pyo3 declares it `extern "C"`, and a second declaration would not help: optimisation at link time merges the two
/// into one that may not unwind, and leaves out the guard of [`call`]. It must not see through the pointer.
fn unwinding_call() -> UnwindingCall {
    // SAFETY: the two types differ only in that a function of the second may unwind.
    std::hint::black_box(unsafe { std::mem::transmute::<Call, UnwindingCall>(ffi::PyObject_Call) })
}

/// Stops a thread that CPython is ending from unwinding any further.
///
/// Before 3.14, a thread that wants the interpreter back after its finalisation began is ended by `pthread_exit`,
/// which unwinds its stack; Rust's frames would turn that into an abort of the process. The process is about to
/// exit: sleeping until then is what CPython 3.14 does itself.
struct SleepIfUnwound;

impl Drop for SleepIfUnwound {
    fn drop(&mut self) {
        loop {
            std::thread::park();
        }
    }
}

/// Calls `callable(*args, **kwargs)`; safe for functions that run when the interpreter exits.
pub(crate) fn call<'py>(
    callable: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let kwargs = kwargs.map_or(std::ptr::null_mut(), Bound::as_ptr);
    let guard = SleepIfUnwound;
    // SAFETY: three live objects (or no keywords) of the types that the function asks for, borrowed for the call.
    let result = unsafe { unwinding_call()(callable.as_ptr(), args.as_ptr(), kwargs) };
    std::mem::forget(guard);
    // SAFETY: the function returns a new reference, or NULL with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(callable.py(), result) }
}

/// A copy of the calling thread's context.
pub(crate) fn copy_current_context(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: the interpreter is attached.
    let context = unsafe { ffi::PyContext_CopyCurrent() };
    // SAFETY: a new reference, or NULL with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, context) }
}

/// A copy of `context`.
pub(crate) fn copy_context<'py>(context: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the function checks that the object is a context and raises otherwise.
    let copy = unsafe { ffi::PyContext_Copy(context.as_ptr()) };
    // SAFETY: a new reference, or NULL with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(context.py(), copy) }
}

/// Runs `body` in `context`, which no thread may have entered.
pub(crate) fn in_context<R>(context: &Bound<'_, PyAny>, body: impl FnOnce() -> PyResult<R>) -> PyResult<R> {
    let py = context.py();
    // SAFETY: the function checks that the object is a context and raises otherwise.
    if unsafe { ffi::PyContext_Enter(context.as_ptr()) } < 0 {
        return Err(PyErr::fetch(py));
    }
    let result = body();
    // SAFETY: entered above by this thread; bodies enter and exit in pairs.
    if unsafe { ffi::PyContext_Exit(context.as_ptr()) } < 0 {
        return Err(PyErr::fetch(py));
    }
    result
}

/// The identity of the calling thread, as `threading.get_ident()` gives it.
pub(crate) fn thread_ident(_py: Python<'_>) -> std::ffi::c_ulong {
    // SAFETY: the function has no preconditions beyond an initialised interpreter.
    unsafe { ffi::PyThread_get_thread_ident() }
}

/// Has `exception` raised in that thread at its next bytecode; `None` takes back what has not been raised yet.
pub(crate) fn set_async_exception(ident: std::ffi::c_ulong, exception: Option<&Bound<'_, PyType>>) {
    let exception = exception.map_or(std::ptr::null_mut(), Bound::as_ptr);
    // SAFETY: an unknown identity is ignored; the exception is a live class, of which the thread takes a reference.
    unsafe { ffi::PyThreadState_SetAsyncExc(ident.cast_signed(), exception) };
}

/// Whether `object` is what calling an `async def` function gives.
pub(crate) fn is_coroutine(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: compares the type of a live object.
    unsafe { ffi::PyCoro_CheckExact(object.as_ptr()) != 0 }
}

/// What a coroutine did when it was given a value.
pub(crate) enum Sent<'py> {
    /// It waits for this.
    Yielded(Bound<'py, PyAny>),
    /// It returned this.
    Returned(Bound<'py, PyAny>),
}

/// Sends `value` into a coroutine, as `coroutine.send(value)` does, without making a StopIteration.
pub(crate) fn send<'py>(coroutine: &Bound<'py, PyAny>, value: &Bound<'py, PyAny>) -> PyResult<Sent<'py>> {
    let py = coroutine.py();
    let mut result = std::ptr::null_mut();
    // SAFETY: two live objects, and a place for the result.
    let sent = unsafe { ffi::PyIter_Send(coroutine.as_ptr(), value.as_ptr(), &raw mut result) };
    // SAFETY: the function leaves a new reference in `result`, or NULL with an exception set.
    let result = unsafe { Bound::from_owned_ptr_or_err(py, result) };
    match sent {
        ffi::PySendResult::PYGEN_NEXT => result.map(Sent::Yielded),
        ffi::PySendResult::PYGEN_RETURN => result.map(Sent::Returned),
        ffi::PySendResult::PYGEN_ERROR => Err(result.err().unwrap_or_else(|| PyErr::fetch(py))),
    }
}

/// Has an iterator that ends now, by returning nothing from its `__next__`, return `value` to who awaits it.
///
/// As an exception of pyo3's, which is put together first and raised later, this costs more than the rest of a step.
pub(crate) fn stop_with(value: &Bound<'_, PyAny>) {
    // SAFETY: a class of the interpreter's own, which lives as long as it does.
    let kind = unsafe { ffi::PyExc_StopIteration };
    // SAFETY: two live objects, of which the function takes references of its own.
    unsafe { ffi::PyErr_SetObject(kind, value.as_ptr()) };
}

/// Takes over a descriptor whose number was passed on by the process that opened it for this one.
pub(crate) fn own_descriptor(number: i32) -> PyResult<OwnedFd> {
    if number < 0 {
        return Err(pyo3::exceptions::PyValueError::new_err(format!("{number} is no descriptor")));
    }
    // SAFETY: the number was inherited for this object alone; Python code of ours passes it here once, and nobody else
    // closes or uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
