//! What a consumer has: how it is settled, and how it goes back.

use std::sync::Arc;

use async_trait::async_trait;
use redis::{Cmd, pipe};
use serde_json::value::RawValue;

use super::consumer::{Core, End, Held};
use super::keys::{bound, step_of};
use super::{Shared, scripts};
use crate::broker::{Settle, Settlement, Tag};
use crate::error::Error;
use crate::wire::envelope;

/// How many messages are moved in one step, at most.
const MOVED_AT_ONCE: usize = 500;

/// About how many bytes are moved in one step.
const BYTES_AT_ONCE: usize = 2 << 20;

/// How many messages are sent elsewhere in one step.
const SENT_AT_ONCE: usize = 32;

/// How many are deleted in one step.
const DONE_AT_ONCE: usize = 1000;

/// What moves messages, in one step of the server.
struct Moves<'a> {
    shared: &'a Shared,
    command: Cmd,
    count: usize,
}

impl<'a> Moves<'a> {
    fn new(shared: &'a Shared) -> Self {
        let mut command = scripts::SETTLE.begin(2);
        command.arg(&shared.keys.unacked).arg(&shared.keys.index);
        Self { shared, command, count: 0 }
    }

    fn push(&mut self, tag: &str, verb: &str, list: &str, message: &[u8]) {
        self.command.arg(tag).arg(verb).arg(list).arg(message);
        self.count += 1;
    }

    fn bury(&mut self, tag: &str, queue: &str, reason: &str, list: &str, tail: &str) {
        self.command
            .arg(tag)
            .arg("dead")
            .arg(self.shared.keys.dead(queue))
            .arg(reason)
            .arg(list)
            .arg(tail.len());
        self.count += 1;
    }

    /// How many messages were there.
    async fn make(self) -> Result<u64, Error> {
        if self.count == 0 {
            return Ok(0);
        }
        self.shared.link.call("settle messages", &scripts::SETTLE, &self.command).await
    }
}

impl Shared {
    /// What is kept of the first of these messages, as many as are moved in one step; nothing of those that somebody has
    /// settled.
    async fn kept(&self, tags: &[String]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let tags = &tags[..tags.len().min(MOVED_AT_ONCE)];
        let mut read = scripts::KEPT.begin(1);
        read.arg(&self.keys.unacked).arg(BYTES_AT_ONCE).arg(tags);
        let kept: Vec<_> = self.link.call("read unsettled messages", &scripts::KEPT, &read).await?;
        if (1..=tags.len()).contains(&kept.len()) {
            return Ok(kept);
        }
        let reason = format!("found {} messages, expected some of {}", kept.len(), tags.len());
        let server = self.link.server().shown().into();
        Err(Error::Refused { action: "read unsettled messages".into(), server, reason })
    }

    /// Gives messages back to where they came from, the last one first; returns how many there were.
    pub(super) async fn give_back(&self, tags: &[String]) -> Result<u64, Error> {
        let (mut there, mut rest) = (0, tags);
        while !rest.is_empty() {
            let mut moves = Moves::new(self);
            let kept = self.kept(rest).await?;
            let (tags, others) = rest.split_at(kept.len());
            rest = others;
            for (tag, kept) in tags.iter().zip(kept) {
                let Some((envelope, queues)) = (match &kept {
                    Some(kept) => self.origin(kept).await?,
                    None => None,
                }) else {
                    continue;
                };
                let list = |queue: &str| self.keys.list(queue, step(envelope));
                let marked = marked(envelope);
                for (at, queue) in queues.iter().enumerate() {
                    moves.push(tag, if at == 0 { "front" } else { "also" }, &list(queue), &marked);
                }
            }
            there += moves.make().await?;
        }
        Ok(there)
    }

    /// The envelope that is kept, and the queues that it came from; `None` if that cannot be told.
    async fn origin<'a>(&self, kept: &'a [u8]) -> Result<Option<(&'a [u8], Vec<String>)>, Error> {
        let Ok((envelope, exchange, routing_key)) =
            serde_json::from_slice::<(&RawValue, String, String)>(kept)
        else {
            return Ok(foreign(kept).map(|(envelope, queue)| (envelope, vec![queue])));
        };
        let envelope = envelope.get().as_bytes();
        if exchange.is_empty() {
            return Ok(Some((envelope, vec![routing_key])));
        }
        let mut look = redis::cmd("SMEMBERS");
        look.arg(&self.keys.bindings(&exchange)[0]);
        let rows: Vec<String> = self.link.run("read the bindings of an exchange", &look).await?;
        let queues: Vec<String> = bound(&rows, &routing_key).into_iter().map(String::from).collect();
        Ok((!queues.is_empty()).then_some((envelope, queues)))
    }
}

/// What was taken by one of ours, although it is no JSON, and the queue that it came from.
fn foreign(kept: &[u8]) -> Option<(&[u8], String)> {
    const BETWEEN: &[u8] = b", \"\", ";
    let at = kept.windows(BETWEEN.len()).rposition(|window| window == BETWEEN)?;
    let queue = serde_json::from_slice(kept.get(at + BETWEEN.len()..kept.len() - 1)?).ok()?;
    Some((kept.get(1..at)?, queue))
}

/// The envelope, marked as one that somebody has had; what is none stays as it is.
fn marked(envelope: &[u8]) -> Vec<u8> {
    envelope::mark_redelivered(envelope).unwrap_or_else(|_| envelope.into())
}

/// The step of the list that an envelope came from.
fn step(envelope: &[u8]) -> u8 {
    #[derive(serde::Deserialize)]
    struct Envelope {
        properties: Properties,
    }
    #[derive(serde::Deserialize)]
    struct Properties {
        priority: u64,
    }
    let priority =
        serde_json::from_slice(envelope).map_or(0, |envelope: Envelope| envelope.properties.priority);
    step_of(u8::try_from(priority).unwrap_or(u8::MAX))
}

/// The door by which a consumer's messages are settled.
#[derive(Debug)]
pub(super) struct Keeper {
    core: Arc<Core>,
}

impl Keeper {
    pub(super) fn new(core: &Arc<Core>) -> Self {
        Self { core: Arc::clone(core) }
    }

    /// Gives back all that is left, in the order in which it came, and says that there is no such consumer any more.
    pub(super) async fn give_all_back(&self) -> Result<(), Error> {
        let core = &self.core;
        let numbers: Vec<u64> = core.lock().held.iter().rev().map(|(number, _)| number).collect();
        for numbers in numbers.chunks(MOVED_AT_ONCE) {
            let tags: Vec<String> = numbers.iter().map(|number| core.tag(*number)).collect();
            core.shared.give_back(&tags).await?;
            self.release(numbers);
        }
        core.shared.strike(&core.id).await
    }

    fn release(&self, numbers: &[u64]) {
        let mut state = self.core.lock();
        for number in numbers {
            if let Some(held) = state.held.remove(*number) {
                state.kept -= usize::from(held.is_kept);
            }
        }
        drop(state);
        self.core.make_room();
    }

    fn taken_back(&self) -> Error {
        Error::TakenBack { server: self.core.shared.link.server().shown().into() }
    }

    /// # Errors
    /// If nothing is this consumer's any more.
    fn enter(&self) -> Result<std::sync::MutexGuard<'_, super::consumer::State>, Error> {
        self.core.shared.open()?;
        let state = self.core.lock();
        match state.end {
            End::Over | End::Lost => Err(self.taken_back()),
            _ => Ok(state),
        }
    }

    async fn delete(&self, numbers: &[u64]) -> Result<(), Error> {
        let keys = &self.core.shared.keys;
        for numbers in numbers.chunks(DONE_AT_ONCE) {
            let tags: Vec<String> = numbers.iter().map(|number| self.core.tag(*number)).collect();
            let mut delete = pipe();
            delete.atomic();
            delete.cmd("ZREM").arg(&keys.index).arg(&tags).ignore();
            delete.cmd("HDEL").arg(&keys.unacked).arg(&tags).ignore();
            self.core.shared.link.run_all::<()>("settle messages", &delete).await?;
            self.release(numbers);
        }
        Ok(())
    }

    /// Puts messages into their queues again, as ones that somebody has had.
    async fn put_back(&self, verb: &str, messages: &[(u64, Held)]) -> Result<(), Error> {
        let mut rest = messages;
        while !rest.is_empty() {
            let ahead = &rest[..rest.len().min(MOVED_AT_ONCE)];
            let tags: Vec<String> = ahead.iter().map(|(number, _)| self.core.tag(*number)).collect();
            let mut moves = Moves::new(&self.core.shared);
            let kept = self.core.shared.kept(&tags).await?;
            let (messages, others) = rest.split_at(kept.len());
            rest = others;
            for ((tag, (_, held)), kept) in tags.iter().zip(messages).zip(kept) {
                let list = &self.core.lists[usize::from(held.list)];
                if let Some(kept) = kept
                    && let Some(envelope) = kept.get(1..kept.len().saturating_sub(list.tail.len()))
                {
                    moves.push(tag, verb, &list.key, &marked(envelope));
                }
            }
            moves.make().await?;
            self.release(&messages.iter().map(|(number, _)| *number).collect::<Vec<_>>());
        }
        Ok(())
    }

    /// Puts messages among the dead letters, and others in their place.
    async fn send_away(&self, messages: &[(u64, Held, Settlement)]) -> Result<(), Error> {
        let shared = &self.core.shared;
        for messages in messages.chunks(SENT_AT_ONCE) {
            let mut moves = Moves::new(shared);
            for (number, held, settlement) in messages {
                let tag = self.core.tag(*number);
                match settlement {
                    Settlement::Dead { reason, .. } => {
                        let list = &self.core.lists[usize::from(held.list)];
                        moves.bury(&tag, &self.core.queues[list.queue], reason, &list.key, &list.tail);
                    }
                    Settlement::Replace(outgoing) => {
                        shared.declare_once(&outgoing.queue).await?;
                        let (list, message) = shared.written(outgoing)?;
                        moves.push(&tag, "back", &list, &message);
                    }
                    _ => {}
                }
            }
            moves.make().await?;
            self.release(&messages.iter().map(|(number, ..)| *number).collect::<Vec<_>>());
        }
        Ok(())
    }
}

#[async_trait]
impl Settle for Keeper {
    async fn settle(&self, settlements: Vec<(Tag, Settlement)>) -> Result<(), Error> {
        let (mut done, mut front, mut back, mut away) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut all_were_mine = true;
        {
            let state = self.enter()?;
            for (Tag(number), settlement) in settlements {
                let Some(held) = state.held.get(number).copied() else {
                    all_were_mine = false;
                    continue;
                };
                match settlement {
                    Settlement::Done => done.push(number),
                    Settlement::Return => front.push((number, held)),
                    Settlement::Requeue { .. } => back.push((number, held)),
                    settlement => away.push((number, held, settlement)),
                }
            }
        }
        // Of several that go back to the front the last goes first, so that they lie as they came.
        front.sort_unstable_by_key(|(number, _)| std::cmp::Reverse(*number));
        self.send_away(&away).await?;
        self.delete(&done).await?;
        self.put_back("back", &back).await?;
        self.put_back("front", &front).await?;
        if all_were_mine { Ok(()) } else { Err(self.taken_back()) }
    }

    async fn hold(&self, tags: &[Tag]) -> Result<(), Error> {
        let mut state = self.enter()?;
        let mut kept = 0;
        for Tag(number) in tags {
            if let Some(held) = state.held.get_mut(*number).filter(|held| !held.is_kept) {
                held.is_kept = true;
                kept += 1;
            }
        }
        state.kept += kept;
        drop(state);
        self.core.make_room();
        Ok(())
    }

    async fn stop(&self) {
        self.core.end(End::Stopped);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_envelope_is_found_again_where_it_is_kept() {
        let kept = br#"[{"half": "an, "", envelope, "", "k\u00e4se \"q\""]"#;
        assert_eq!(foreign(kept), Some((&br#"{"half": "an, "", envelope"#[..], "käse \"q\"".into())));
        assert_eq!(foreign(b"[]"), None);
        assert_eq!(foreign(b""), None);
    }

    #[test]
    fn the_step_is_read_from_the_envelope() {
        assert_eq!(step(br#"{"properties": {"priority": 7}}"#), 6);
        assert_eq!(step(br#"{"properties": {"priority": 700}}"#), 9);
        assert_eq!(step(br#"{"properties": {}}"#), 0);
        assert_eq!(step(b"{"), 0);
    }
}
