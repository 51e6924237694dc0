//! What the end of a task means for its message, for whoever waits for its result, and for the log.

use std::time::Duration;

use bytes::Bytes;
use manyhands_engine::clock::Tick;
use serde_json::{Value, json};

use super::running::Entry;
use super::{Answer, Event, Inbox, Moment, Outcome, document, times};
use crate::backend::{State, Stored};
use crate::broker::Settlement;
use crate::message::{Message, Outgoing};

/// The header that says how many workers a message has taken with it.
pub const LOSSES: &str = "x-manyhands-losses";
/// Why a task is not run to its end that was called off.
const TERMINATED: &str = "terminated";
/// What is stored, what becomes of the message, and what to say of it.
type Verdict = ((Option<Stored>, Option<Settlement>), Option<Event>);

impl Inbox {
    /// What is to be stored, what becomes of the message, and what to say of it.
    pub(super) fn verdict(&self, entry: &Entry, outcome: Outcome, run: Duration, now: Moment) -> Verdict {
        let message = &*entry.message;
        let stored =
            |state, answer: &Answer| entry.is_result_wanted.then(|| self.stored(message, state, answer, now));
        let done = Some(Settlement::Done);
        let dead = |reason| Some(Settlement::Dead { reason, held: held(entry) });
        match outcome {
            Outcome::Raised(..) | Outcome::Lost(_) | Outcome::NotBegun if entry.is_terminated => {
                let answer = document::revoked(TERMINATED);
                ((stored(State::Revoked, &answer), done), Some(Event::Revoked(TERMINATED)))
            }
            Outcome::Returned(answer) => {
                ((stored(State::Success, &answer), done), Some(Event::Succeeded(run)))
            }
            Outcome::Raised(answer, summary) => {
                let event = Event::Failed(run, summary, answer.traceback.clone());
                ((stored(State::Failure, &answer), done), Some(event))
            }
            Outcome::Again { mut answer, summary, at, body } => {
                if !answer.is_whole && answer.children.is_empty() {
                    answer.children = json!([[[message.headers.id, null], null]]).to_string().into();
                }
                let again = Settlement::Replace(Box::new(Self::again(entry, at, body)));
                ((stored(State::Retry, &answer), Some(again)), Some(Event::Retried(run, summary)))
            }
            Outcome::Rejected { requeue: true, summary } => {
                ((None, Some(Settlement::Requeue { held: held(entry) })), Some(Event::Rejected(summary)))
            }
            Outcome::Rejected { requeue: false, summary } => {
                let answer = document::exception("Reject", "celery.exceptions", &json!([summary, false]));
                let dead = dead(format!("rejected by the task: {summary}"));
                ((stored(State::Failure, &answer), dead), Some(Event::Rejected(summary)))
            }
            Outcome::Ignored => ((None, done), Some(Event::Rejected("ignored".into()))),
            Outcome::TimedOut(seconds) => {
                let arguments = json!([whole(seconds)]);
                let answer = document::exception("TimeLimitExceeded", "billiard.exceptions", &arguments);
                let summary = format!("TimeLimitExceeded({})", whole(seconds));
                ((stored(State::Failure, &answer), done), Some(Event::Failed(run, summary, Bytes::new())))
            }
            Outcome::Lost(how) => self.lost_worker(entry, how, now),
            Outcome::NotBegun => ((None, Some(Settlement::Return)), None),
            Outcome::Unreadable(reason) => {
                let answer = document::exception("DecodeError", "kombu.exceptions", &json!([reason]));
                ((stored(State::Failure, &answer), dead(reason.clone())), Some(Event::Dead(reason)))
            }
        }
    }

    fn lost_worker(&self, entry: &Entry, how: String, now: Moment) -> Verdict {
        let (message, terms) = (&*entry.message, &self.tasks[entry.task].terms);
        let losses = losses(message) + 1;
        let is_poison = losses >= self.settings.most_losses;
        let goes_back = terms.acks_late && terms.reject_on_worker_lost;
        if goes_back && !is_poison {
            let mut message = message.clone();
            message.headers.other.insert(LOSSES.into(), losses.into());
            let outgoing = Outgoing { queue: entry.queue.clone(), message };
            let event = Event::Lost(how, "it goes back to its queue");
            return ((None, Some(Settlement::Replace(Box::new(outgoing)))), Some(event));
        }
        let answer = document::exception("WorkerLostError", "billiard.exceptions", &json!([how]));
        let result = entry.is_result_wanted.then(|| self.stored(message, State::Failure, &answer, now));
        if goes_back {
            let reason = format!("it has taken {losses} workers with it, the last one thus: {how}");
            return (
                (result, Some(Settlement::Dead { reason, held: held(entry) })),
                Some(Event::Lost(how, "it becomes a dead letter")),
            );
        }
        ((result, Some(Settlement::Done)), Some(Event::Lost(how, "it is not tried again")))
    }

    /// The message of the next attempt.
    fn again(entry: &Entry, at: Tick, body: Option<Bytes>) -> Outgoing {
        let mut message = (*entry.message).clone();
        let headers = &mut message.headers;
        headers.retries += 1;
        headers.eta = Some(times::show(at));
        headers.root_id = headers.root_id.take().or_else(|| Some(headers.id.clone()));
        headers.parent_id = Some(headers.id.clone());
        headers.other.remove(LOSSES);
        if let Some(body) = body {
            message.body = body;
        }
        Outgoing { queue: entry.queue.clone(), message }
    }
}

/// The message, if its broker needs it to send it elsewhere.
fn held(entry: &Entry) -> Option<Box<Outgoing>> {
    let outgoing = || Outgoing { queue: entry.queue.clone(), message: (*entry.message).clone() };
    entry.is_held.then(|| Box::new(outgoing()))
}

fn losses(message: &Message) -> u32 {
    let losses = message.headers.other.get(LOSSES).and_then(Value::as_u64).unwrap_or(0);
    u32::try_from(losses).unwrap_or(u32::MAX - 1)
}

/// A number of seconds as its user has written it: 1, not 1.0.
fn whole(seconds: f64) -> Value {
    let text = seconds.to_string();
    text.parse::<i64>().map_or_else(|_| json!(seconds), |number| json!(number))
}
