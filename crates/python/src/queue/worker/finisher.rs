//! Carries out what the inbox decided: results are stored, and then messages settled.
//!
//! A message whose result could not be stored when there is no more time for it goes back.
//!
//! While a batch is under way the next one gathers, so that batches are as large as the servers are slow.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use manyhands_queue::backend::Stored;
use manyhands_queue::broker::{Settlement, Tag};
use manyhands_queue::inbox::{Effects, Line, Step, Ticket};
use manyhands_queue::message::Outgoing;
use manyhands_queue::{Backend, Broker, Error};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::sleep;

use super::intake::{FIRST_PAUSE, LONGEST_PAUSE};
use super::log::Log;
use super::room::Room;

/// So many effects are carried out together.
const MOST: usize = 256;

/// Rewrites a document of JSON in the form of the store's results.
pub(super) type Rewrite = Box<dyn Fn(&[u8]) -> Option<Vec<u8>> + Send + Sync>;

/// See the module.
pub(super) struct Finisher {
    pub(super) room: Arc<Room>,
    pub(super) broker: Arc<dyn Broker>,
    pub(super) store: Option<Arc<dyn Backend>>,
    pub(super) log: Arc<Log>,
    pub(super) rewrite: Option<Rewrite>,
    /// How results are written, if not as JSON.
    pub(super) content: (String, String),
}

/// What is to be settled.
struct Settling {
    id: String,
    ticket: Ticket,
    settlement: Settlement,
    /// A result was to be stored before.
    hangs_on_result: bool,
}

impl Settling {
    /// Gives a message back that would be gone without its result. Its next attempt brings another.
    fn give_back_if(&mut self, unstored: &HashSet<String>) {
        let ends = matches!(self.settlement, Settlement::Done | Settlement::Dead { .. });
        if ends && self.hangs_on_result && unstored.contains(&self.id) {
            self.settlement = Settlement::Return;
        }
    }
}

impl Finisher {
    /// Works until there is nothing left and will be nothing.
    pub(super) async fn run(self, mut effects: UnboundedReceiver<Effects>) {
        let mut batch = Vec::new();
        while effects.recv_many(&mut batch, MOST).await > 0 {
            let (mut results, mut settlements, mut outgoing) = (Vec::new(), Vec::new(), Vec::new());
            let mut held: HashMap<Line, Vec<Tag>> = HashMap::new();
            for Effects { steps, hold, notes } in batch.drain(..) {
                self.log.write(&notes);
                for Step { id, result, settle, publish } in steps {
                    let hangs_on_result = result.is_some();
                    results.extend(result.filter(|_| self.store.is_some()));
                    settlements.extend(settle.map(|(ticket, settlement)| Settling {
                        id,
                        ticket,
                        settlement,
                        hangs_on_result,
                    }));
                    outgoing.extend(publish.map(|outgoing| *outgoing));
                }
                for ticket in hold {
                    held.entry(ticket.line).or_default().push(ticket.tag);
                }
            }
            self.hold(held).await;
            let unstored = self.store(results).await;
            self.publish(outgoing).await;
            for settling in &mut settlements {
                settling.give_back_if(&unstored);
            }
            self.settle(settlements).await;
        }
        self.log.flush();
    }

    async fn hold(&self, held: HashMap<Line, Vec<Tag>>) {
        for (line, tags) in held {
            if let Some(settler) = self.room.settler(line)
                && let Err(error) = settler.hold(&tags).await
            {
                self.log.say("warning", &error.to_string());
            }
        }
    }

    /// Stores results. Returns the ids of those that there was no more time for.
    async fn store(&self, mut results: Vec<Stored>) -> HashSet<String> {
        let mut unstored = HashSet::new();
        let Some(store) = self.store.as_deref().filter(|_| !results.is_empty()) else { return unstored };
        if let Some(rewrite) = &self.rewrite {
            for result in results.iter_mut().filter(|result| result.content_type == "application/json") {
                if let Some(document) = rewrite(&result.document) {
                    result.document = Bytes::from(document);
                    (result.content_type, result.content_encoding) = self.content.clone();
                }
            }
        }
        if results.len() > 1 {
            match self.try_to_store(store, &results).await {
                Ok(()) => return unstored,
                Err(error) if error.is_transient() => {
                    let (count, ids) = (results.len(), results.into_iter().map(|result| result.id));
                    self.log.say("error", &format!("could not store {count} results: {error}"));
                    unstored.extend(ids);
                    return unstored;
                }
                // One of them is at fault: the others shall not be lost with it.
                Err(_) => {}
            }
        }
        for result in results {
            let Err(error) = self.try_to_store(store, std::slice::from_ref(&result)).await else { continue };
            let id = result.id;
            if error.is_transient() {
                self.log.say("error", &format!("could not store the result of {id}: {error}"));
                unstored.insert(id);
            } else {
                self.log.say("error", &format!("lost the result of {id}: {error}"));
            }
        }
        unstored
    }

    /// Stores results, however long the store is away; but for one attempt only when nobody waits any more.
    async fn try_to_store(&self, store: &dyn Backend, results: &[Stored]) -> Result<(), Error> {
        let mut pause = FIRST_PAUSE;
        loop {
            match store.store(results).await {
                Err(error) if error.is_transient() && !self.room.is_abandoned() => {
                    self.complain(&error, pause);
                    pause = self.rest(pause).await;
                }
                done => return done,
            }
        }
    }

    async fn publish(&self, mut messages: Vec<Outgoing>) {
        let mut pause = FIRST_PAUSE;
        while !messages.is_empty() {
            let Err(failure) = self.broker.publish(&messages).await else { return };
            messages.drain(..failure.confirmed.min(messages.len()));
            if failure.error.is_transient() && !self.room.is_abandoned() {
                self.complain(&failure.error, pause);
                pause = self.rest(pause).await;
            } else if !messages.is_empty() {
                let lost = messages.remove(0).message.headers.id;
                self.log.say("error", &format!("lost the next attempt of {lost}: {}", failure.error));
            }
        }
    }

    async fn settle(&self, settlements: Vec<Settling>) {
        let mut lines: HashMap<Line, Vec<Settling>> = HashMap::new();
        for settling in settlements {
            lines.entry(settling.ticket.line).or_default().push(settling);
        }
        for (line, settlements) in lines {
            self.settle_line(line, settlements).await;
        }
    }

    async fn settle_line(&self, line: Line, settlements: Vec<Settling>) {
        let Some(settler) = self.room.settler(line) else { return self.come_again(settlements) };
        let mut pause = FIRST_PAUSE;
        loop {
            let those = settlements.iter().map(|settling| (settling.ticket.tag, settling.settlement.clone()));
            match settler.settle(those.collect()).await {
                Ok(()) => return,
                Err(error) if error.is_transient() && !self.room.is_abandoned() => {
                    self.complain(&error, pause);
                    pause = self.rest(pause).await;
                }
                Err(Error::TakenBack { .. }) => return self.come_again(settlements),
                Err(error) => {
                    self.log.say("error", &error.to_string());
                    return self.come_again(settlements);
                }
            }
        }
    }

    /// The broker will deliver again what it could not be told of.
    fn come_again(&self, settlements: Vec<Settling>) {
        let mut hall = self.room.hall();
        for Settling { id, settlement, .. } in settlements {
            if settlement == Settlement::Done {
                hall.inbox.will_come_again(&id);
            }
        }
    }

    fn complain(&self, error: &Error, pause: Duration) {
        if pause == FIRST_PAUSE {
            self.log.say("warning", &format!("{error}; trying again"));
        }
    }

    async fn rest(&self, pause: Duration) -> Duration {
        sleep(pause).await;
        (pause * 2).min(LONGEST_PAUSE)
    }
}
