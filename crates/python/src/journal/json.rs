//! Python values as JSON text: the results of rows, and rows themselves in the one form that names them.
//!
//! The same values as `json.dumps` with dataclasses besides: what it cannot write is refused by its path, like
//! `result["when"]`, because "not serialisable" alone does not help among a hundred fields.

use std::io::Write;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

/// Deeper than any sensible row, shallower than the stack; a value that contains itself ends here.
const DEEPEST: usize = 500;

/// What the text is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// To be read by others: keys in their order, nothing that JSON does not know.
    Result,
    /// To be compared: keys sorted, and the numbers that Python reads though JSON has no word for them.
    Canonical,
}

/// Appends `value` to `out`; `name` begins the path in a refusal.
pub(super) fn write(out: &mut Vec<u8>, name: &str, value: &Bound<'_, PyAny>, style: Style) -> PyResult<()> {
    Writer { out, style, depth: 0 }.value(value).map_err(|refusal| refusal.into_error(name))
}

/// Bytes of the shortest text of a number that may lie in the middle between two such texts: Python takes the even one
/// then, Rust the larger one. It has one digit less than the number itself; numbers of up to 15 digits are their own text.
const TIE: usize = 16;

/// Whether a number has so few places behind the point in binary, and so in decimal, that it may have one digit more than
/// its shortest text: at most 18, of which none to three, zeros, stand before the first that counts.
fn is_short_in_binary(value: f64) -> bool {
    (value * f64::from(1 << 21)).fract() == 0.0
}

/// What was found where, from the innermost step outwards.
struct Refusal {
    path: Vec<String>,
    found: Found,
}

enum Found {
    Type(String),
    Number(f64),
    Key(String),
    TooDeep,
    Error(PyErr),
}

impl From<PyErr> for Refusal {
    fn from(error: PyErr) -> Self {
        Self { path: Vec::new(), found: Found::Error(error) }
    }
}

impl Refusal {
    fn new(found: Found) -> Self {
        Self { path: Vec::new(), found }
    }

    fn inside(mut self, step: impl FnOnce() -> String) -> Self {
        self.path.push(step());
        self
    }

    fn into_error(self, name: &str) -> PyErr {
        // The way in to a value that contains itself is long and says little after its first steps.
        let steps: String = self.path.iter().rev().take(12).map(String::as_str).collect();
        let place = format!("could not write {name}{steps} as JSON");
        match self.found {
            Found::Type(found) => PyTypeError::new_err(format!(
                "{place}: found {found}, expected a dict, list, str, int, float, bool, None or dataclass"
            )),
            Found::Number(found) => {
                PyValueError::new_err(format!("{place}: found {found}, expected a finite number"))
            }
            Found::Key(found) => {
                PyTypeError::new_err(format!("{place}: found a key of type {found}, expected str"))
            }
            Found::TooDeep => {
                PyValueError::new_err(format!("{place}: found more than {DEEPEST} levels, or a cycle"))
            }
            Found::Error(error) => error,
        }
    }
}

struct Writer<'a> {
    out: &'a mut Vec<u8>,
    style: Style,
    depth: usize,
}

type Written = Result<(), Refusal>;

impl Writer<'_> {
    fn value(&mut self, value: &Bound<'_, PyAny>) -> Written {
        if let Ok(text) = value.cast::<PyString>() {
            self.string(text)
        } else if value.is_none() {
            self.raw("null");
            Ok(())
        } else if let Ok(flag) = value.cast::<PyBool>() {
            self.raw(if flag.is_true() { "true" } else { "false" });
            Ok(())
        } else if let Ok(number) = value.cast::<PyInt>() {
            self.integer(number)
        } else if let Ok(number) = value.cast::<PyFloat>() {
            self.float(number)
        } else {
            self.container(value)
        }
    }

    fn container(&mut self, value: &Bound<'_, PyAny>) -> Written {
        if self.depth == DEEPEST {
            return Err(Refusal::new(Found::TooDeep));
        }
        self.depth += 1;
        if let Ok(entries) = value.cast::<PyDict>() {
            self.dict(entries)?;
        } else if let Ok(items) = value.cast::<PyList>() {
            self.array(items.iter())?;
        } else if let Ok(items) = value.cast::<PyTuple>() {
            self.array(items.iter())?;
        } else {
            self.dataclass(value)?;
        }
        self.depth -= 1;
        Ok(())
    }

    fn raw(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    fn string(&mut self, text: &Bound<'_, PyString>) -> Written {
        self.out.push(b'"');
        match text.to_str() {
            Ok(text) => escape(self.out, text.as_bytes()),
            Err(_) => self.lone_surrogates(text)?,
        }
        self.out.push(b'"');
        Ok(())
    }

    /// Half a character, as broken data has it: UTF-8 cannot carry it, an escape can.
    fn lone_surrogates(&mut self, text: &Bound<'_, PyString>) -> Written {
        let units: Vec<u8> = text.call_method1("encode", ("utf-16-le", "surrogatepass"))?.extract()?;
        let units = units.as_chunks().0.iter().map(|unit| u16::from_le_bytes(*unit));
        for character in char::decode_utf16(units) {
            match character {
                Ok(character) => escape(self.out, character.encode_utf8(&mut [0; 4]).as_bytes()),
                Err(half) => self.format(format_args!("\\u{:04x}", half.unpaired_surrogate())),
            }
        }
        Ok(())
    }

    fn format(&mut self, arguments: std::fmt::Arguments<'_>) {
        self.out.write_fmt(arguments).expect("a Vec takes everything");
    }

    fn integer(&mut self, number: &Bound<'_, PyInt>) -> Written {
        if let Ok(small) = number.extract::<i64>() {
            self.format(format_args!("{small}"));
            return Ok(());
        }
        let digits =
            number.py().get_type::<PyInt>().call_method1(intern!(number.py(), "__repr__"), (number,))?;
        self.raw(digits.cast::<PyString>().map_err(PyErr::from)?.to_str()?);
        Ok(())
    }

    fn float(&mut self, number: &Bound<'_, PyFloat>) -> Written {
        let value = number.value();
        // In this range Rust and Python write the same shortest digits; outside they differ in the exponent.
        if value == 0.0 || (1e-4..1e16).contains(&value.abs()) {
            let begin = self.out.len();
            self.format(format_args!("{value:?}"));
            if self.out.len() - begin < TIE || !is_short_in_binary(value) {
                return Ok(());
            }
            self.out.truncate(begin);
        }
        if !value.is_finite() && self.style == Style::Result {
            return Err(Refusal::new(Found::Number(value)));
        }
        // A subclass may write itself in its own way.
        self.raw(PyFloat::new(number.py(), value).repr()?.to_str()?);
        Ok(())
    }

    fn array<'py>(&mut self, items: impl Iterator<Item = Bound<'py, PyAny>>) -> Written {
        self.out.push(b'[');
        for (index, item) in items.enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            self.value(&item).map_err(|refusal| refusal.inside(|| format!("[{index}]")))?;
        }
        self.out.push(b']');
        Ok(())
    }

    fn dict(&mut self, entries: &Bound<'_, PyDict>) -> Written {
        if self.style == Style::Canonical {
            return self.sorted(entries);
        }
        self.out.push(b'{');
        // A copy, because a dataclass inside may run code that changes the dict while it is walked over.
        for (index, (key, value)) in entries.copy()?.iter().enumerate() {
            self.entry(index, &key, &value)?;
        }
        self.out.push(b'}');
        Ok(())
    }

    fn sorted(&mut self, entries: &Bound<'_, PyDict>) -> Written {
        let mut entries: Vec<_> = entries.iter().collect();
        if !entries.is_sorted_by(|(a, _), (b, _)| is_before(a, b)) {
            entries.sort_by_cached_key(|(key, _)| text(key));
        }
        self.out.push(b'{');
        for (index, (key, value)) in entries.iter().enumerate() {
            self.entry(index, key, value)?;
        }
        self.out.push(b'}');
        Ok(())
    }

    fn entry(&mut self, index: usize, key: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> Written {
        if index > 0 {
            self.out.push(b',');
        }
        self.key(key)?;
        self.out.push(b':');
        self.value(value).map_err(|refusal| refusal.inside(|| step(key)))
    }

    /// Keys that are not strings become strings, as `json.dumps` does it.
    fn key(&mut self, key: &Bound<'_, PyAny>) -> Written {
        if let Ok(text) = key.cast::<PyString>() {
            return self.string(text);
        }
        let plain = key.is_none() || key.is_instance_of::<PyInt>() || key.is_instance_of::<PyFloat>();
        if !plain {
            return Err(Refusal::new(Found::Key(type_name(key))));
        }
        self.out.push(b'"');
        self.value(key)?;
        self.out.push(b'"');
        Ok(())
    }

    fn dataclass(&mut self, value: &Bound<'_, PyAny>) -> Written {
        static FIELDS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let py = value.py();
        if !value.get_type().hasattr(intern!(py, "__dataclass_fields__"))? {
            return Err(Refusal::new(Found::Type(type_name(value))));
        }
        let fields = FIELDS.import(py, "dataclasses", "fields")?.call1((value,))?;
        self.out.push(b'{');
        for (index, field) in fields.try_iter()?.enumerate() {
            let name = field?.getattr(intern!(py, "name"))?;
            let name = name.cast::<PyString>().map_err(PyErr::from)?;
            if index > 0 {
                self.out.push(b',');
            }
            self.string(name)?;
            self.out.push(b':');
            let value = value.getattr(name)?;
            self.value(&value).map_err(|refusal| refusal.inside(|| format!(".{name}")))?;
        }
        self.out.push(b'}');
        Ok(())
    }
}

/// Whether two keys stand in order; without copying them, for most rows name their columns alike.
fn is_before(a: &Bound<'_, PyAny>, b: &Bound<'_, PyAny>) -> bool {
    let (Ok(a), Ok(b)) = (a.cast::<PyString>(), b.cast::<PyString>()) else { return false };
    matches!((a.to_str(), b.to_str()), (Ok(a), Ok(b)) if a <= b)
}

fn text(key: &Bound<'_, PyAny>) -> Option<String> {
    Some(key.cast::<PyString>().ok()?.to_string_lossy().into_owned())
}

fn step(key: &Bound<'_, PyAny>) -> String {
    key.repr().map_or_else(|_| "[?]".into(), |key| format!("[{key}]"))
}

fn type_name(value: &Bound<'_, PyAny>) -> String {
    let kind = value.get_type();
    kind.fully_qualified_name().map_or_else(|_| "an unnamed type".into(), |name| name.to_string())
}

/// Appends `text` with what JSON wants escaped; whole runs are copied, for hardly anything is.
fn escape(out: &mut Vec<u8>, text: &[u8]) {
    let mut copied = 0;
    for (index, &byte) in text.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&text[copied..index]);
        copied = index + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            8 => out.extend_from_slice(b"\\b"),
            12 => out.extend_from_slice(b"\\f"),
            _ => write!(out, "\\u{byte:04x}").expect("a Vec takes everything"),
        }
    }
    out.extend_from_slice(&text[copied..]);
}
