//! What is kept of a task beyond its future: only tasks under a policy, or measured ones, have any.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use manyhands_engine::clock::Tick;
use manyhands_engine::gate::{GateId, Limits};
use manyhands_engine::scheduler::Order;
use manyhands_os::clock;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::bulk::Bulk;
use crate::call::Work;
use crate::policy::Policy;
use crate::pool::Pool;

/// What has happened to a task so far.
#[derive(Debug, Default, Clone)]
pub(crate) struct History {
    /// Attempts begun.
    pub(crate) attempts: u32,
    /// The scheduler's age of the first submission, kept by retries.
    pub(crate) age: Option<u64>,
    /// Spent in queues, over all attempts.
    pub(crate) waited: Duration,
    /// Spent running, over all attempts.
    pub(crate) wall: Duration,
    /// Processor time of the thread while running, over all attempts.
    pub(crate) cpu: Duration,
    /// Sent to worker processes, and received from them, over all attempts that were answered.
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// When the present attempt began, if one has.
    pub(crate) began: Tick,
    /// When it was last put into a queue.
    pub(crate) queued: Tick,
    /// Before when its next attempt must not begin.
    pub(crate) due: Option<Tick>,
    /// The attempt whose time limit has passed.
    expired: Option<u32>,
    /// The name of the worker that ran it last.
    pub(crate) worker: Option<String>,
}

/// A policy's gate; removed when no task and no executor names it any more, so that it also holds back retries.
pub(crate) struct OwnedGate {
    pool: Arc<Pool>,
    id: GateId,
}

impl OwnedGate {
    pub(crate) fn new(pool: &Arc<Pool>, limits: Limits) -> Arc<Self> {
        Arc::new(Self { pool: Arc::clone(pool), id: pool.add_gate(limits) })
    }

    fn id(&self) -> GateId {
        self.id
    }
}

impl Drop for OwnedGate {
    fn drop(&mut self) {
        self.pool.remove_gate(self.id);
    }
}

/// A task's terms and history.
pub(crate) struct Detail {
    pub(crate) policy: Option<Py<Policy>>,
    gate: Option<Arc<OwnedGate>>,
    /// Whether the task has a place behind its gate, which somebody has to give back, once.
    is_inside: AtomicBool,
    /// Whether to take the processor time, which costs two system calls a task.
    pub(crate) measured: bool,
    pub(crate) submitted: Tick,
    history: Mutex<History>,
    /// The call as submitted, to be made again.
    origin: OnceLock<Work>,
    /// The items that the task stands for, if it is a bulk's token.
    pub(crate) bulk: Option<Arc<Bulk>>,
}

impl Detail {
    pub(crate) fn new(policy: Option<Py<Policy>>, gate: Option<Arc<OwnedGate>>, submitted: Tick) -> Self {
        Self {
            policy,
            gate,
            is_inside: AtomicBool::new(false),
            measured: false,
            submitted,
            history: Mutex::new(History { queued: submitted, ..History::default() }),
            origin: OnceLock::new(),
            bulk: None,
        }
    }

    /// The gate that the task has to pass.
    fn gate(&self) -> Option<GateId> {
        self.gate.as_ref().map(|gate| gate.id())
    }

    /// Takes note that the scheduler let the task through its gate: it has a place behind it now.
    pub(crate) fn pass_gate(&self) {
        self.is_inside.store(true, Ordering::Release);
    }

    /// The gate to which the task's place has to be given back; `None` if it has none, or somebody was faster.
    #[must_use]
    pub(crate) fn leave_gate(&self) -> Option<GateId> {
        let gate = self.gate()?;
        self.is_inside.swap(false, Ordering::AcqRel).then_some(gate)
    }

    pub(crate) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the task is to be queued.
    pub(crate) fn order(&self) -> Order {
        let history = self.history();
        Order {
            priority: self.policy.as_ref().map_or(0, |policy| policy.get().rules.priority),
            gate: self.gate().filter(|_| !self.is_inside.load(Ordering::Acquire)),
            not_before: history.due,
            age: history.age,
        }
    }

    /// When the attempt that starts now must be stopped.
    pub(crate) fn deadline(&self, now: Tick) -> Option<Tick> {
        self.policy.as_ref()?.get().rules.deadline(self.submitted, now)
    }

    /// Takes note of an attempt that begins in another process; says when it must be stopped.
    pub(crate) fn begin_detached(&self, age: u64, now: Tick, worker: &str) -> Option<Tick> {
        {
            let mut history = self.history();
            history.attempts += 1;
            history.began = now;
            history.age.get_or_insert(age);
            let waited = now - history.queued;
            history.waited += waited;
            history.worker = Some(worker.to_owned());
        }
        self.deadline(now)
    }

    /// Whether a failure may be followed by another attempt.
    pub(crate) fn may_retry(&self) -> bool {
        self.policy.as_ref().is_some_and(|policy| policy.get().rules.retries > 0)
    }

    /// The limit that an attempt ran into, for the message.
    pub(crate) fn limit(&self) -> Duration {
        let Some(policy) = &self.policy else { return Duration::ZERO };
        let rules = &policy.get().rules;
        let spent = clock::now() - self.submitted;
        match (rules.timeout, rules.total_timeout) {
            (_, Some(total)) if spent >= total => total,
            (Some(limit), _) | (None, Some(limit)) => limit,
            (None, None) => Duration::ZERO,
        }
    }

    /// Marks that attempt as over its limit; `false` if it is not the present one.
    pub(crate) fn expire(&self, attempt: u32) -> bool {
        let mut history = self.history();
        let is_present = history.attempts == attempt;
        if is_present {
            history.expired = Some(attempt);
        }
        is_present
    }

    /// The present attempt, if its limit has passed.
    pub(crate) fn expired(&self) -> Option<u32> {
        let history = self.history();
        history.expired.filter(|attempt| *attempt == history.attempts)
    }

    /// Keeps the first attempt's call, if there may be another or a message about it.
    pub(crate) fn keep_origin(&self, py: Python<'_>, work: &Work) -> PyResult<()> {
        if self.policy.is_some() && self.origin.get().is_none() {
            let _ = self.origin.set(work.again(py)?);
        }
        Ok(())
    }

    /// The call as submitted.
    pub(crate) fn origin(&self) -> Option<&Work> {
        self.origin.get()
    }

    pub(crate) fn traverse(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.policy)?;
        self.origin.get().map_or(Ok(()), |work| work.traverse(visit))
    }
}
