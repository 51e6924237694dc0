//! A call to make: function, arguments, and the context variables that it shall see.

use manyhands_engine::clock::Tick;
use manyhands_os::clock;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::native;
use crate::parcel::Parcel;

/// One call of a function, as submitted.
pub(crate) struct Call {
    pub(crate) function: Py<PyAny>,
    pub(crate) args: Py<PyTuple>,
    pub(crate) kwargs: Option<Py<PyDict>>,
    /// The submitter's context, copied: its variables are seen, changes to them stay in the task.
    pub(crate) context: Py<PyAny>,
    pub(crate) submitted: Tick,
}

impl Call {
    /// A call in a copy of the caller's context, submitted now.
    pub(crate) fn new(
        function: &Bound<'_, PyAny>,
        args: Bound<'_, PyTuple>,
        kwargs: Option<Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let context = native::copy_current_context(function.py())?;
        Ok(Self {
            function: function.clone().unbind(),
            args: args.unbind(),
            kwargs: kwargs.map(Bound::unbind),
            context: context.unbind(),
            submitted: clock::now(),
        })
    }

    /// The same call for another attempt, with a fresh copy of the context.
    pub(crate) fn again(&self, py: Python<'_>) -> PyResult<Self> {
        Ok(Self {
            function: self.function.clone_ref(py),
            args: self.args.clone_ref(py),
            kwargs: self.kwargs.as_ref().map(|kwargs| kwargs.clone_ref(py)),
            context: native::copy_context(self.context.bind(py))?.unbind(),
            submitted: self.submitted,
        })
    }

    /// Makes the call.
    pub(crate) fn make<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        native::in_context(self.context.bind(py), || {
            let kwargs = self.kwargs.as_ref().map(|kwargs| kwargs.bind(py));
            native::call(self.function.bind(py), self.args.bind(py), kwargs)
        })
    }

    pub(crate) fn traverse(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.function)?;
        visit.call(&self.args)?;
        visit.call(&self.kwargs)?;
        visit.call(&self.context)
    }
}

/// What a task is to do, in the form that its model needs.
pub(crate) enum Work {
    /// A call within this process.
    Local(Call),
    /// A call in another one.
    Parcel(Parcel),
}

impl Work {
    /// The same work for another attempt.
    pub(crate) fn again(&self, py: Python<'_>) -> PyResult<Self> {
        Ok(match self {
            Self::Local(call) => Self::Local(call.again(py)?),
            Self::Parcel(parcel) => Self::Parcel(parcel.clone()),
        })
    }

    /// The name of the function, for messages.
    pub(crate) fn name(&self, py: Python<'_>) -> String {
        match self {
            Self::Local(call) => function_name(call.function.bind(py)),
            Self::Parcel(parcel) => parcel.function.name.clone(),
        }
    }

    pub(crate) fn submitted(&self) -> Tick {
        match self {
            Self::Local(call) => call.submitted,
            Self::Parcel(parcel) => parcel.submitted,
        }
    }

    pub(crate) fn traverse(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Local(call) => call.traverse(visit),
            Self::Parcel(_) => Ok(()),
        }
    }
}

/// The name to show for a function: its qualified name, or how it prints.
pub(crate) fn function_name(function: &Bound<'_, PyAny>) -> String {
    let name = function.getattr(pyo3::intern!(function.py(), "__qualname__"));
    match name.and_then(|name| name.extract::<String>()) {
        Ok(name) => name,
        Err(_) => function.repr().map_or_else(|_| "?".to_owned(), |text| text.to_string()),
    }
}
