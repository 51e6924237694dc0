//! `_core.QueueWorker`: everything of a worker that is not Python.
//!
//! ```text
//! broker ──intake──▶ inbox ──desk──▶ executor ──desk──▶ inbox ──finisher──▶ result store, then broker
//! ```
//!
//! The intake and the finisher are tasks of the queue's runtime; each model has a desk, in a thread of its own, which
//! holds the interpreter only while it hands over many tasks at once. While a server is away, what runs goes on running.

mod desk;
mod finisher;
mod frames;
mod intake;
mod log;
mod room;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use manyhands_engine::rate::Rate;
use manyhands_queue::broker::{Declaration, Revocation, Subscription};
use manyhands_queue::inbox::{Inbox, Settings, Terms};
use manyhands_queue::wire::time;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use tokio::sync::Notify;
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::JoinHandle;

use super::broker::QueueBroker;
use super::results::ResultStore;
use super::runtime;
use crate::enter;
use crate::executor::Executor;
use desk::Desk;
use finisher::{Finisher, Rewrite};
use log::Log;
use room::{Pace, Room};

/// What the desks know.
struct Core {
    room: Arc<Room>,
    /// Which tasks are told of their request.
    needs_request: Vec<bool>,
    name: String,
}

/// What runs in the background.
struct Crew {
    intake: JoinHandle<()>,
    finisher: JoinHandle<()>,
}

/// A worker: takes messages from a broker, has executors run the tasks, stores results and settles the messages.
#[pyclass(module = "manyhands._core", frozen)]
pub(crate) struct QueueWorker {
    core: Core,
    is_over: Arc<Notify>,
    log: Arc<Log>,
    crew: Mutex<Option<Crew>>,
}

/// A task as Python tells of it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
#[expect(clippy::struct_excessive_bools, reason = "each is a choice of the user's, of its own")]
struct Told {
    name: String,
    model: usize,
    rate: Option<RateTold>,
    acks_late: bool,
    reject_on_worker_lost: bool,
    ignore_result: bool,
    track_started: bool,
    timeout: Option<f64>,
    soft_timeout: Option<f64>,
    needs_request: bool,
}

#[derive(FromPyObject)]
enum RateTold {
    Text(String),
    Number(f64),
}

impl RateTold {
    fn read(self) -> PyResult<Rate> {
        let read = match self {
            Self::Text(text) => text.parse(),
            Self::Number(number) => Rate::new(number, 1),
        };
        read.map_err(|refusal| PyValueError::new_err(refusal.to_string()))
    }
}

fn option<'py, T>(options: &Bound<'py, PyDict>, name: &str) -> PyResult<T>
where
    T: for<'a> FromPyObject<'a, 'py, Error: Into<PyErr>>,
{
    let found = options.get_item(name)?;
    let found =
        found.ok_or_else(|| PyValueError::new_err(format!("could not make a worker: found no {name}")))?;
    found.extract().map_err(Into::into)
}

#[pymethods]
impl QueueWorker {
    /// Begins to consume. `tasks` are dicts; `rewrite` brings a document of JSON into the form of the store's results.
    #[new]
    #[pyo3(signature = (broker, results, tasks, rewrite, **options))]
    fn new(
        broker: &Bound<'_, QueueBroker>,
        results: Option<&Bound<'_, ResultStore>>,
        tasks: Vec<Told>,
        rewrite: Option<Py<PyAny>>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let options =
            options.ok_or_else(|| PyValueError::new_err("could not make a worker: found no options"))?;
        let name: String = option(options, "name")?;
        let models: usize = option(options, "models")?;
        let prefetch: Option<usize> = option(options, "prefetch")?;
        let least: usize = option(options, "least")?;
        let zone: String = option(options, "zone")?;
        let content: (String, String) = option(options, "content")?;
        let log =
            Arc::new(Log::new(&option::<String>(options, "log")?, &option::<String>(options, "level")?)?);
        let needs_request = tasks.iter().map(|task| task.needs_request).collect();
        let terms = tasks.into_iter().map(terms).collect::<PyResult<_>>()?;
        let shown = broker.get().shown().to_owned();
        let settings = Settings {
            accepts: option::<HashSet<String>>(options, "accepts")?,
            most_losses: option(options, "most_losses")?,
            small_goes_first: shown.starts_with("redis"),
            zone: time::zone(&zone).map_err(|refusal| PyValueError::new_err(refusal.reason))?,
            content_type: content.0.clone(),
            content_encoding: content.1.clone(),
        };
        let inbox = Inbox::new(settings, models, terms);
        let pace = Pace::new(prefetch.unwrap_or(least).max(1), prefetch.is_some());
        let (sender, effects) = unbounded_channel();
        let room = Arc::new(Room::new(inbox, models, pace, sender));
        let queues: Vec<String> = option(options, "queues")?;
        // A broker that delivers by itself is told more when there is need.
        let most = if shown.starts_with("amqp") { least } else { room::MOST_AHEAD };
        let prefetch = prefetch.unwrap_or(most);
        let subscription = Subscription {
            queues: queues.into_iter().map(|name| Declaration { name, ..Declaration::default() }).collect(),
            prefetch: u32::try_from(prefetch).unwrap_or(u32::MAX),
            max_body: option(options, "max_size")?,
            visibility: enter::seconds("visibility", option(options, "visibility")?)?,
            name: name.clone(),
        };
        let opened = broker.get().broker().map_err(|failure| super::broker_error(&failure))?;
        let store = results.map(|results| results.get().store()).transpose();
        let store = store.map_err(|failure| super::broker_error(&failure))?;
        let is_over = Arc::new(Notify::new());
        let finisher = Finisher {
            room: Arc::clone(&room),
            broker: Arc::clone(&opened),
            store,
            log: Arc::clone(&log),
            rewrite: rewrite.map(rewriting),
            content,
        };
        let handle = runtime::handle()?;
        let intake =
            intake::run(Arc::clone(&room), opened, subscription, Arc::clone(&log), Arc::clone(&is_over));
        let crew = Crew { intake: handle.spawn(intake), finisher: handle.spawn(finisher.run(effects)) };
        let core = Core { room, needs_request, name };
        Ok(Self { core, is_over, log, crew: Mutex::new(Some(crew)) })
    }

    /// Have `executor` run the tasks of a model by `function`, until the worker is closed and they have ended.
    fn serve<'py>(
        &self,
        py: Python<'py>,
        model: usize,
        executor: &Bound<'py, Executor>,
        function: Bound<'py, PyAny>,
    ) -> PyResult<()> {
        let served = Desk::new(&self.core, model, executor, function).and_then(|mut desk| desk.run(py));
        if let Err(failure) = &served {
            self.core.room.fail(failure.value(py).to_string());
        }
        served
    }

    /// Take no more messages, and give back those that nobody has begun.
    fn close(&self) {
        self.core.room.close();
    }

    /// Wait for no task any more: what has not ended goes back.
    fn abandon(&self) {
        self.core.room.abandon();
    }

    /// When nothing runs any more: settle what is left, and let go of the broker. Whether that was done in time: as long
    /// as messages are being given back, there is more.
    fn finish(&self, py: Python<'_>, timeout: f64) -> PyResult<bool> {
        self.core.room.close();
        self.core.room.end_effects();
        let crew = self.crew.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(crew) = crew else { return Ok(true) };
        let patience = enter::seconds("timeout", timeout)?;
        let room = Arc::clone(&self.core.room);
        let is_over = Arc::clone(&self.is_over);
        let aborts = [crew.intake.abort_handle(), crew.finisher.abort_handle()];
        let ending = async move {
            let _ = crew.finisher.await;
            is_over.notify_one();
            let _ = crew.intake.await;
        };
        let ended = runtime::wait(py, None, async move {
            tokio::select! {
                biased;
                () = ending => Some(()),
                () = room.stalls(patience) => None,
            }
        })?
        .flatten();
        if ended.is_none() {
            for abort in aborts {
                abort.abort();
            }
        }
        self.log.flush();
        Ok(ended.is_some())
    }

    /// Why the worker could not go on; None if it could.
    #[getter]
    fn failure(&self) -> Option<String> {
        self.core.room.failure()
    }

    /// How many tasks are ready, running, held for later, and the memory of the last in bytes.
    fn load(&self) -> (usize, usize, usize, usize) {
        let load = self.core.room.hall().inbox.load();
        (load.ready, load.running, load.held, load.held_bytes)
    }

    /// What runs: names and ids.
    fn at_work(&self) -> Vec<(String, String)> {
        let running = self.core.room.hall().inbox.at_work();
        running.into_iter().map(|(task, id)| (task.as_ref().to_owned(), id)).collect()
    }

    /// Do not begin the task of that id; end it, if it runs and is to be terminated.
    #[pyo3(signature = (id, *, terminate=false))]
    fn revoke(&self, id: String, terminate: bool) {
        self.core.room.revoke(&[Revocation { id, terminate }]);
    }

    /// Say something in the worker's log.
    fn say(&self, level: &str, text: &str) {
        self.log.say(level, text);
    }
}

fn terms(told: Told) -> PyResult<Terms> {
    Ok(Terms {
        name: told.name.into(),
        model: told.model,
        rate: told.rate.map(RateTold::read).transpose()?,
        acks_late: told.acks_late,
        reject_on_worker_lost: told.reject_on_worker_lost,
        ignore_result: told.ignore_result,
        track_started: told.track_started,
        limits: [told.timeout, told.soft_timeout],
    })
}

fn rewriting(rewrite: Py<PyAny>) -> Rewrite {
    Box::new(move |document| {
        Python::try_attach(|py| {
            let written = rewrite.bind(py).call1((PyBytes::new(py, document),));
            match written.and_then(|written| written.extract::<Vec<u8>>()) {
                Ok(written) => Some(written),
                Err(failure) => {
                    failure.write_unraisable(py, None);
                    None
                }
            }
        })
        .flatten()
    })
}
