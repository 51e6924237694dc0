//! The books of `manyhands map`: which rows are done, their results on disk, the output in order.
//!
//! One object does for a row, in one call each way, everything that would otherwise be several layers of
//! Python: hashing, counting, looking up, writing JSON, journaling, putting in order, writing out.

mod json;

use std::collections::HashMap;
use std::io::stdout;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use manyhands_os::journal::{
    Claim, Content, Journal, JournalError as Trouble, Key, Ledger, MAX_PAYLOAD, Ticket,
};
use manyhands_os::output::Output;
use manyhands_os::spool::Next;
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use pyo3::types::PyBytes;

use self::json::Style;

create_exception!(
    manyhands._core,
    JournalError,
    PyException,
    "A journal that cannot be used: message and hint."
);

/// A short name for bytes that no others have: 128 bits of their BLAKE3 hash, in hexadecimal.
#[pyfunction]
pub(crate) fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..32].to_owned()
}

/// The books of one run; see `manyhands.cli.run` for how they are kept. Safe to use from several threads.
#[pyclass(name = "Ledger", module = "manyhands._core", frozen)]
pub(crate) struct PyLedger {
    books: Mutex<Option<Books>>,
    is_keyed: bool,
    opening: Option<Vec<u8>>,
    torn_bytes: u64,
    past_rows: usize,
}

struct Books {
    ledger: Ledger,
    output: Option<Output>,
    emission: Emission,
    /// Rows that are being run, by their number among the rows that were given out to be run.
    running: HashMap<u64, Ticket>,
    given_out: u64,
}

/// Who turns outcomes into lines of the output.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Emission {
    /// Python takes them.
    Rows,
    /// The first line of each payload is a line of the output; those of failed rows perhaps.
    Lines { with_failures: bool },
}

/// Key, line, whether it failed, payload.
type Taken<'py> = (Bound<'py, PyBytes>, u64, bool, Bound<'py, PyBytes>);

/// What there is to do after the books are closed again.
enum Step {
    Done,
    Flush,
}

#[pymethods]
impl PyLedger {
    /// Begins the journal at `path`, which says first what run it belongs to.
    #[staticmethod]
    #[pyo3(signature = (path, opening, *, ordered, overwrite))]
    fn create(
        py: Python<'_>,
        path: PathBuf,
        opening: &[u8],
        ordered: bool,
        overwrite: bool,
    ) -> PyResult<Self> {
        let journal = py.detach(|| Journal::create(&path, opening, overwrite)).map_err(into_error)?;
        let mut ledger = Self::over(Ledger::new(Some(journal), ordered), true);
        ledger.opening = Some(opening.to_vec());
        Ok(ledger)
    }

    /// Opens the journal of an earlier run.
    #[staticmethod]
    #[pyo3(signature = (path, *, ordered, retry_failures))]
    fn resume(py: Python<'_>, path: PathBuf, ordered: bool, retry_failures: bool) -> PyResult<Self> {
        let resumed = py.detach(|| Ledger::resume(&path, ordered, retry_failures));
        let (ledger, recovered) = resumed.map_err(into_error)?;
        let past_rows = ledger.past_rows();
        let (opening, torn_bytes) = (Some(recovered.opening), recovered.torn_bytes);
        Ok(Self { opening, torn_bytes, past_rows, ..Self::over(ledger, true) })
    }

    /// Books for an output that cannot be resumed; `keyed` if rows are to have seeds all the same.
    #[staticmethod]
    #[pyo3(signature = (*, ordered, keyed))]
    fn unkept(ordered: bool, keyed: bool) -> Self {
        let ledger = Ledger::new(None, ordered);
        Self::over(if keyed { ledger.keyed() } else { ledger }, keyed)
    }

    /// What the journal says it belongs to.
    #[getter]
    fn opening<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.opening.as_ref().map(|opening| PyBytes::new(py, opening))
    }

    /// How many rows the journal knew when it was opened.
    #[getter]
    fn past_rows(&self) -> usize {
        self.past_rows
    }

    /// How many bytes a crash had left unfinished at the journal's end.
    #[getter]
    fn torn_bytes(&self) -> u64 {
        self.torn_bytes
    }

    /// Makes the journal belong to another run from here on.
    fn reopen(&self, py: Python<'_>, opening: &[u8]) -> PyResult<()> {
        self.with(py, |books| match books.ledger.journal() {
            Some(journal) => journal.open(opening).map_err(into_error),
            None => Ok(()),
        })
    }

    /// Says where the output goes: to the file at `path` or, without one, to the standard output.
    ///
    /// With `lines` the first line of every payload is written by itself, of failed rows if `failures`;
    /// otherwise `take` gives the payloads and `write` takes what is made of them.
    #[pyo3(signature = (path, *, resume, lines, failures))]
    fn write_to(
        &self,
        py: Python<'_>,
        path: Option<PathBuf>,
        resume: bool,
        lines: bool,
        failures: bool,
    ) -> PyResult<()> {
        let output = match &path {
            Some(path) if resume => Output::resume(path),
            Some(path) => Output::create(path),
            None => stdout().as_fd().try_clone_to_owned().and_then(|file| Output::stream(file.into())),
        };
        let output = output.map_err(|error| os_error(&error, path))?;
        self.with(py, |books| {
            books.output = Some(output);
            books.emission = if lines { Emission::Lines { with_failures: failures } } else { Emission::Rows };
            Ok(())
        })
    }

    /// Takes the next row of the input, which begins on `line`.
    ///
    /// `None` if it is to be run. Otherwise what the journal keeps of it: nothing (empty) if it succeeded, or how
    /// it failed.
    fn claim<'py>(
        &self,
        py: Python<'py>,
        row: &Bound<'py, PyAny>,
        line: u64,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let content = if self.is_keyed { content(row)? } else { [0; 16] };
        let kept = self.with(py, |books| {
            Ok(match books.ledger.claim(content, line).map_err(into_error)? {
                Claim::Run(ticket) => {
                    books.running.insert(books.given_out, ticket);
                    books.given_out += 1;
                    None
                }
                Claim::Done => Some(Vec::new()),
                Claim::Failed(payload) => Some(payload),
            })
        })?;
        let Some(kept) = kept else { return Ok(None) };
        self.emit(py)?;
        Ok(Some(PyBytes::new(py, &kept)))
    }

    /// The seed of the `number`th row that was to be run, in a run with `seed`: that of the row, not of its place.
    fn item_seed(&self, py: Python<'_>, number: u64, seed: &[u8]) -> PyResult<u64> {
        let key = self.with(py, |books| {
            books.running.get(&number).map(Ticket::key).ok_or_else(|| not_running(number))
        })?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&key.content).update(&key.occurrence.to_le_bytes()).update(seed);
        Ok(u64::from_le_bytes(first(hasher.finalize().as_bytes())))
    }

    /// The line of the input on which the `number`th row that was to be run begins, as long as it is open.
    fn line(&self, py: Python<'_>, number: u64) -> PyResult<u64> {
        self.with(py, |books| books.running.get(&number).map(Ticket::line).ok_or_else(|| not_running(number)))
    }

    /// Closes the books on the `number`th row that was to be run: it returned `value`.
    ///
    /// Raises `TypeError` or `ValueError`, and leaves the row open, if JSON cannot express `value` or it is huge.
    fn settle(&self, py: Python<'_>, number: u64, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let mut line = Vec::with_capacity(128);
        json::write(&mut line, "result", value, Style::Result)?;
        line.push(b'\n');
        if line.len() > MAX_PAYLOAD {
            return Err(into_error(Trouble::TooLarge(line.len())));
        }
        self.finish(py, number, false, line)
    }

    /// Closes the books on the `number`th row that was to be run: it failed, as `payload` says.
    fn fail(&self, py: Python<'_>, number: u64, payload: Vec<u8>) -> PyResult<()> {
        self.finish(py, number, true, payload)
    }

    /// The outcomes whose turn has come, as (key, line, has failed, payload).
    fn take<'py>(&self, py: Python<'py>) -> PyResult<Vec<Taken<'py>>> {
        /// So that a long row's end does not bring everything behind it into memory at once.
        const MANY: usize = 1024;
        let rows = self.with(py, |books| {
            let next = std::iter::from_fn(|| books.ledger.next_row().transpose());
            next.take(MANY).collect::<Result<Vec<_>, _>>().map_err(into_error)
        })?;
        let rows = rows.into_iter();
        let rows =
            rows.map(|row| (pack(py, row.key), row.line, row.is_failed, PyBytes::new(py, &row.payload)));
        Ok(rows.collect())
    }

    /// Appends whole lines to the output.
    fn write(&self, py: Python<'_>, lines: &[u8]) -> PyResult<()> {
        let next = self.with(py, |books| books.append(lines))?;
        self.follow(py, next)
    }

    /// Takes back that a row that `take` gave is done: it failed as `payload` says or, with `None`, is to be run.
    #[pyo3(signature = (key, payload))]
    fn revise(&self, py: Python<'_>, key: &[u8], payload: Option<&[u8]>) -> PyResult<()> {
        let key = unpack(key)?;
        self.with(py, |books| books.ledger.revise(key, payload).map_err(into_error))
    }

    /// Ends the output and the journal, and waits until the disk has both. Closing again does nothing.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let Some(books) = self.lock(py).take() else { return Ok(()) };
        let (output, journal) = py.detach(|| (books.output.map(Output::close), books.ledger.close()));
        journal.map_err(into_error)?;
        output.unwrap_or(Ok(())).map_err(|error| os_error(&error, None))
    }
}

impl PyLedger {
    fn over(ledger: Ledger, is_keyed: bool) -> Self {
        let books =
            Books { ledger, output: None, emission: Emission::Rows, running: HashMap::new(), given_out: 0 };
        Self { books: Mutex::new(Some(books)), is_keyed, opening: None, torn_bytes: 0, past_rows: 0 }
    }

    fn lock(&self, py: Python<'_>) -> MutexGuard<'_, Option<Books>> {
        self.books.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the books for a moment in which no Python code runs.
    fn with<T>(&self, py: Python<'_>, look: impl FnOnce(&mut Books) -> PyResult<T>) -> PyResult<T> {
        match self.lock(py).as_mut() {
            Some(books) => look(books),
            None => Err(PyRuntimeError::new_err("could not use the ledger: it is closed")),
        }
    }

    fn finish(&self, py: Python<'_>, number: u64, is_failed: bool, payload: Vec<u8>) -> PyResult<()> {
        self.with(py, |books| {
            let ticket = books.running.remove(&number).ok_or_else(|| not_running(number))?;
            books.ledger.finish(ticket, is_failed, payload).map_err(into_error)
        })?;
        self.emit(py)
    }

    /// Writes out what has its turn. A full output is waited for without the interpreter.
    fn emit(&self, py: Python<'_>) -> PyResult<()> {
        while let Step::Flush = self.with(py, Books::emit)? {
            self.flush(py)?;
            py.check_signals()?;
        }
        Ok(())
    }

    fn follow(&self, py: Python<'_>, next: Next) -> PyResult<()> {
        if next == Next::Flush { self.flush(py) } else { Ok(()) }
    }

    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| match self.books.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            Some(Books { output: Some(output), .. }) => output.flush(),
            _ => Ok(()),
        })
        .map_err(|error| os_error(&error, None))
    }
}

impl Books {
    fn append(&mut self, lines: &[u8]) -> PyResult<Next> {
        let Some(output) = &mut self.output else { return Ok(Next::Nothing) };
        output.append(lines).map_err(|error| os_error(&error, None))
    }

    fn emit(&mut self) -> PyResult<Step> {
        let Emission::Lines { with_failures } = self.emission else { return Ok(Step::Done) };
        while let Some(row) = self.ledger.next_row().map_err(into_error)? {
            if row.is_failed && !with_failures {
                continue;
            }
            let line = row.payload.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default();
            if self.append(line)? == Next::Flush {
                return Ok(Step::Flush);
            }
        }
        Ok(Step::Done)
    }
}

fn content(row: &Bound<'_, PyAny>) -> PyResult<Content> {
    let mut canonical = Vec::with_capacity(256);
    json::write(&mut canonical, "row", row, Style::Canonical)?;
    Ok(first(blake3::hash(&canonical).as_bytes()))
}

fn first<const N: usize>(hash: &[u8; 32]) -> [u8; N] {
    *hash.first_chunk().expect("nobody takes more than the 32 bytes of a BLAKE3 hash")
}

fn not_running(number: u64) -> PyErr {
    PyValueError::new_err(format!("could not close the books on row {number}: it is not being run"))
}

fn pack(py: Python<'_>, key: Key) -> Bound<'_, PyBytes> {
    let mut bytes = [0; 20];
    bytes[..16].copy_from_slice(&key.content);
    bytes[16..].copy_from_slice(&key.occurrence.to_le_bytes());
    PyBytes::new(py, &bytes)
}

fn unpack(bytes: &[u8]) -> PyResult<Key> {
    let key = bytes.split_first_chunk::<16>().and_then(|(content, rest)| {
        Some(Key { content: *content, occurrence: u32::from_le_bytes(rest.try_into().ok()?) })
    });
    key.ok_or_else(|| PyValueError::new_err("could not revise: found a key that `take` did not give"))
}

/// An exception of the class that the error's number stands for.
fn os_error(error: &std::io::Error, path: Option<PathBuf>) -> PyErr {
    match error.raw_os_error() {
        Some(number) => {
            let text = error.to_string();
            let text = text.split(" (os error").next().unwrap_or_default().to_owned();
            PyOSError::new_err((number, text, path))
        }
        None => PyOSError::new_err(error.to_string()),
    }
}

fn into_error(trouble: Trouble) -> PyErr {
    match trouble {
        Trouble::Io { path, source, .. } => os_error(&source, Some(path)),
        Trouble::Missing(path) => os_error(&std::io::Error::from_raw_os_error(2), Some(path)),
        Trouble::Exists(path) => os_error(&std::io::Error::from_raw_os_error(17), Some(path)),
        Trouble::TooLarge(_) => PyValueError::new_err(trouble.to_string()),
        _ => JournalError::new_err((trouble.to_string(), trouble.hint())),
    }
}
