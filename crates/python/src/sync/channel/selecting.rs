//! `manyhands.sync.select` and `aselect`.

use pyo3::exceptions::{PyTimeoutError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::super::awaiting::Awaiting;
use super::super::patience::Patience;
use super::super::waiting::{Waitable, block};
use super::candidate::Item;
use super::choice::{Case, Cases, Choice, Wish, awaiting};
use super::classes::Channel;

/// Receive from, or send to, the first of several channels that is ready; if several are, one of them at random.
///
/// Exactly one thing happens: what was not chosen stays where it is. A channel that is closed, and empty if it is to be
/// received from, is ready, too.
///
/// Args:
///     cases: A `Channel` to receive from, or a tuple of a channel and an item to send, each.
///     timeout: Seconds to wait at most; None waits for ever.
///
/// Returns: The channel, and the item that came out of it, or was sent.
///
/// Raises:
///     ChannelClosed: Of a channel that is closed; it is the error's ``channel``.
///     TimeoutError: None was ready in time.
///     TypeError: A case is something else.
///     ValueError: There are none.
///
/// Thread safety: yes.
///
/// Example:
///     >>> from manyhands.sync import Channel, select
///     >>> orders, stop = Channel(8), Channel()
///     >>> orders.send("tea")
///     >>> channel, item = select(orders, stop)
///     >>> channel is orders, item
///     (True, 'tea')
///     >>> select(orders, (stop, "now"), timeout=0.001)
///     Traceback (most recent call last):
///     ...
///     TimeoutError
///
/// Source: the ``select`` statement of Go.
#[pyfunction]
#[pyo3(signature = (*cases, timeout=None))]
pub(crate) fn select(
    py: Python<'_>,
    cases: &Bound<'_, PyTuple>,
    timeout: Option<f64>,
) -> PyResult<(Py<Channel>, Item)> {
    let (choice, patience) = (Choice::new(read(cases)?), Patience::seconds(timeout)?);
    let chosen = match (choice.try_now(py)?, &patience) {
        (None, Patience::None) => None,
        (None, patience) => block(py, &choice, patience.deadline())?,
        (chosen, _) => chosen,
    };
    choice.selected(py, chosen.ok_or_else(|| PyTimeoutError::new_err(()))?)
}

/// As `select`, as a coroutine; awaiting it gives the channel and the item.
///
/// Args:
///     cases: A `Channel` to receive from, or a tuple of a channel and an item to send, each.
///
/// Raises:
///     ChannelClosed: Of a channel that is closed, when it is awaited; it is the error's ``channel``.
///     TypeError: A case is something else.
///     ValueError: There are none.
///
/// Thread safety: yes.
///
/// Example:
///     >>> import asyncio
///     >>> from manyhands.sync import Channel, aselect
///     >>> orders, stop = Channel(8), Channel()
///     >>> async def next_order():
///     ...     channel, item = await aselect(orders, stop)
///     ...     return item if channel is orders else None
///     >>> orders.send("tea")
///     >>> asyncio.run(next_order())
///     'tea'
#[pyfunction]
#[pyo3(signature = (*cases))]
pub(crate) fn aselect(cases: &Bound<'_, PyTuple>) -> PyResult<Awaiting> {
    Ok(awaiting(read(cases)?, Wish::Pair))
}

fn read(cases: &Bound<'_, PyTuple>) -> PyResult<Cases> {
    if cases.is_empty() {
        return Err(PyValueError::new_err("could not select: found no channels, expected one or more"));
    }
    Ok(Cases::Several(cases.iter().map(|case| read_case(&case)).collect::<PyResult<_>>()?))
}

fn read_case(case: &Bound<'_, PyAny>) -> PyResult<Case> {
    if let Ok(channel) = case.cast::<Channel>() {
        return Ok(Case::Receive(channel.clone().unbind()));
    }
    if let Ok((channel, item)) = case.extract::<(Bound<'_, PyAny>, Item)>()
        && let Ok(channel) = channel.cast::<Channel>()
    {
        return Ok(Case::Send(channel.clone().unbind(), item));
    }
    Err(PyTypeError::new_err(format!(
        "could not select: found `{}`, expected a channel to receive from, or a tuple of a channel and an item to send",
        case.get_type().name()?
    )))
}
