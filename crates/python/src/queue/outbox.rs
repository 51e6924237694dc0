//! Getting messages to a broker that may be away: by trying again for a while, or by keeping them until it is back.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use manyhands_queue::message::Outgoing;
use manyhands_queue::{Broker, Error, PublishError};
use tokio::time::{Instant, sleep};

use super::log;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How many of the kept messages are sent together.
const PORTION: usize = 256;

/// Pauses between attempts, each about twice as long as the one before.
struct Pauses(Duration);

impl Pauses {
    fn next(&mut self) -> Duration {
        let pause = self.0.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.0 = (2 * self.0).min(LONGEST_PAUSE);
        pause
    }
}

/// Publishes; tries again for as long as `patience` lasts, if that may help, and says so.
pub(crate) async fn publish(
    broker: &dyn Broker,
    messages: &[Outgoing],
    patience: Duration,
) -> Result<(), PublishError> {
    let began = Instant::now();
    let mut pauses = Pauses(FIRST_PAUSE);
    let mut confirmed = 0;
    let mut has_waited = false;
    loop {
        let Err(failure) = broker.publish(&messages[confirmed..]).await else {
            if has_waited {
                log("warning", &format!("reached {} again", broker.address()));
            }
            return Ok(());
        };
        confirmed += failure.confirmed;
        let pause = pauses.next();
        if !failure.error.is_transient() || began.elapsed() + pause > patience {
            return Err(PublishError { confirmed, error: failure.error });
        }
        if !has_waited {
            has_waited = true;
            let waiting = if patience == Duration::MAX {
                "until it works".into()
            } else {
                format!("for up to {patience:?}")
            };
            log("warning", &format!("{}; trying again {waiting}", failure.error));
        }
        sleep(pause).await;
    }
}

#[derive(Default)]
struct Kept {
    messages: VecDeque<Outgoing>,
    is_sending: bool,
}

/// Messages that are kept here until the broker takes them. They are lost with the process.
pub(crate) struct Outbox {
    broker: Arc<dyn Broker>,
    kept: Mutex<Kept>,
    lost: AtomicUsize,
}

impl Outbox {
    pub(crate) fn new(broker: Arc<dyn Broker>) -> Arc<Self> {
        Arc::new(Self { broker, kept: Mutex::default(), lost: AtomicUsize::new(0) })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are kept.
    pub(crate) fn len(&self) -> usize {
        self.kept().messages.len()
    }

    /// How many the broker did not want.
    pub(crate) fn lost(&self) -> usize {
        self.lost.load(Ordering::Relaxed)
    }

    /// Publishes, or keeps what cannot be published now. What is kept goes first.
    pub(crate) async fn publish(
        self: Arc<Self>,
        messages: Vec<Outgoing>,
        most: usize,
    ) -> Result<(), PublishError> {
        if self.len() > 0 {
            return self.keep(messages, 0, most, None);
        }
        let Err(failure) = self.broker.publish(&messages).await else { return Ok(()) };
        if !failure.error.is_transient() {
            return Err(failure);
        }
        self.keep(messages, failure.confirmed, most, Some(failure.error))
    }

    fn keep(
        self: Arc<Self>,
        mut messages: Vec<Outgoing>,
        confirmed: usize,
        most: usize,
        error: Option<Error>,
    ) -> Result<(), PublishError> {
        let mut kept = self.kept();
        messages.drain(..confirmed);
        if kept.messages.len() + messages.len() > most {
            let server = self.broker.address().into();
            let reason = format!("it is away, and {} messages are kept for it already", kept.messages.len());
            return Err(PublishError { confirmed, error: Error::Unreachable { server, reason } });
        }
        kept.messages.extend(messages);
        if std::mem::replace(&mut kept.is_sending, true) {
            return Ok(());
        }
        drop(kept);
        if let Some(error) = error {
            log("warning", &format!("{error}; keeping up to {most} messages until it is back"));
        }
        tokio::spawn(self.send());
        Ok(())
    }

    async fn send(self: Arc<Self>) {
        let mut pauses = Pauses(FIRST_PAUSE);
        let mut sent = 0;
        loop {
            let portion: Vec<Outgoing> = {
                let mut kept = self.kept();
                if kept.messages.is_empty() {
                    kept.is_sending = false;
                    break;
                }
                kept.messages.iter().take(PORTION).cloned().collect()
            };
            let published = self.broker.publish(&portion).await;
            let confirmed = published.as_ref().map_or_else(|failure| failure.confirmed, |()| portion.len());
            self.kept().messages.drain(..confirmed);
            sent += confirmed;
            let Err(failure) = published else { continue };
            if failure.error.is_transient() {
                sleep(pauses.next()).await;
                continue;
            }
            // The first one that was not taken will never be: the others shall not wait behind it.
            let refused = self.kept().messages.pop_front();
            let task = refused.map_or_else(String::new, |refused| refused.message.headers.id);
            self.lost.fetch_add(1, Ordering::Relaxed);
            log("error", &format!("lost the task {task}, which was kept: {}", failure.error));
        }
        log(
            "warning",
            &format!("reached {} again: sent {sent} messages that were kept", self.broker.address()),
        );
    }
}
