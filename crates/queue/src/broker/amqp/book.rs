//! What came over a channel and is not settled yet.

use std::collections::HashMap;

use bytes::Bytes;
use lapin::BasicProperties;

use super::FRAME;
use super::ledger::{Ack, Ledger};
use super::publish::Letter;
use crate::wire::{Limits, table};

/// See the module.
pub(super) struct Book {
    kept: HashMap<u64, Kept>,
    held: u32,
    ledger: Ledger,
}

/// A message as it came: it may have to be sent elsewhere, and the server gives it to nobody twice.
struct Kept {
    queue: usize,
    properties: Box<BasicProperties>,
    body: Bytes,
    is_held: bool,
}

impl Book {
    pub(super) fn new() -> Self {
        Self { kept: HashMap::new(), held: 0, ledger: Ledger::new() }
    }

    /// How many are held.
    pub(super) fn held(&self) -> u32 {
        self.held
    }

    pub(super) fn keep(&mut self, tag: u64, queue: usize, properties: Box<BasicProperties>, body: Bytes) {
        self.ledger.deliver(tag);
        self.kept.insert(tag, Kept { queue, properties, body, is_held: false });
    }

    pub(super) fn has(&self, tag: u64) -> bool {
        self.ledger.has(tag)
    }

    /// A message as it came, addressed to the queue that it came from; `None` for one that whoever holds it has.
    pub(super) fn letter(&self, tag: u64, queues: &[String]) -> Option<Letter> {
        let Kept { queue, properties, body, .. } = self.kept.get(&tag)?;
        let queue = queues[*queue].clone();
        Some(Letter { queue, properties: (**properties).clone(), body: body.clone() })
    }

    /// A message is kept for later, by whoever says so: here only if his would not be the same again.
    pub(super) fn hold(&mut self, tag: u64) {
        let Some(kept) = self.kept.get_mut(&tag).filter(|kept| !kept.is_held) else { return };
        kept.is_held = true;
        self.held += 1;
        let limits = Limits { body: u64::MAX, ..Limits::default() };
        let Ok(message) = table::decode(&kept.properties, kept.body.clone(), &limits) else { return };
        let is_same = table::encode(&message, FRAME).is_ok_and(|again| again == *kept.properties);
        if is_same && message.body == kept.body {
            self.kept.remove(&tag);
        }
    }

    /// Takes note that messages go back; those of them that were not settled yet.
    pub(super) fn strike(&mut self, mut tags: Vec<u64>) -> Vec<u64> {
        tags.retain(|&tag| self.ledger.strike(tag));
        self.forget(&tags);
        tags
    }

    /// Takes note that messages are done with; how to say so of those that were not settled yet.
    pub(super) fn acknowledge(&mut self, mut tags: Vec<u64>) -> Vec<Ack> {
        let acks = self.ledger.acknowledge(&mut tags);
        self.forget(&tags);
        acks
    }

    /// These are settled.
    fn forget(&mut self, tags: &[u64]) {
        for tag in tags {
            // One that is not kept is held by somebody else.
            let was_held = self.kept.remove(tag).is_none_or(|kept| kept.is_held);
            self.held -= u32::from(was_held);
        }
        if self.kept.capacity() > 4 * (self.kept.len() + 1024) {
            self.kept.shrink_to(2 * self.kept.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Headers, Message, Properties};

    const QUEUES: [&str; 2] = ["celery", "later"];

    fn queues() -> Vec<String> {
        QUEUES.map(String::from).into()
    }

    fn delayed(number: u64) -> Message {
        let id = uuid::Uuid::from_u128(u128::from(number) << 64 | 0x4000_8000_0000_0000_0001).to_string();
        let headers = Headers {
            lang: Some("py".into()),
            task: "shop.charge".into(),
            eta: Some(format!("2030-01-01T00:00:00.{number:06}+00:00")),
            root_id: Some(id.clone()),
            argsrepr: Some(format!("({number},)")),
            kwargsrepr: Some("{}".into()),
            origin: Some("gen14656@vm".into()),
            id: id.clone(),
            ..Headers::default()
        };
        let reply_to = Some("5e239fe7-1ad0-3058-8a0a-3a6b5a0b0c0d".into());
        let properties = Properties { correlation_id: Some(id), reply_to, ..Properties::default() };
        let embed = r#"{"callbacks": null, "errbacks": null, "chain": null, "chord": null}"#;
        Message { headers, properties, body: format!("[[{number}], {{}}, {embed}]").into() }
    }

    fn keep(book: &mut Book, tag: u64, message: &Message) -> BasicProperties {
        let properties = table::encode(message, 0).unwrap();
        book.keep(
            tag,
            usize::from(tag.is_multiple_of(2)),
            Box::new(properties.clone()),
            message.body.clone(),
        );
        properties
    }

    #[test]
    fn what_is_held_is_with_whoever_holds_it() {
        let mut book = Book::new();
        let count = 10_000;
        for tag in 1..=count {
            keep(&mut book, tag, &delayed(tag));
            assert_eq!(book.letter(tag, &queues()).unwrap().queue, QUEUES[usize::from(tag % 2 == 0)]);
            book.hold(tag);
            assert!(book.has(tag) && book.letter(tag, &queues()).is_none());
        }
        assert_eq!((u64::from(book.held()), book.kept.len()), (count, 0));
        assert!(book.kept.capacity() < 1000);
        assert_eq!(book.strike(vec![7, 7]), [7]);
        assert_eq!(book.acknowledge((1..=count).collect()), [Ack::UpTo(count)]);
        assert_eq!((book.held(), book.has(1), book.has(count + 1)), (0, false, false));
        assert!(book.acknowledge(vec![1, count, count + 1]).is_empty());
    }

    #[test]
    fn what_others_wrote_in_other_words_stays_as_it_came() {
        let (mut book, queues) = (Book::new(), queues());
        let properties = keep(&mut book, 1, &delayed(1)).with_app_id("another".into());
        let body = Bytes::from_static(b"[[1], {}, {}]");
        book.keep(2, 0, Box::new(properties.clone()), body.clone());
        book.hold(2);
        book.hold(2);
        assert_eq!(book.held(), 1);
        let letter = book.letter(2, &queues).unwrap();
        assert_eq!((letter.properties, letter.body), (properties, body));
        assert_eq!(book.strike(vec![2, 2, 3]), [2]);
        assert_eq!((book.held(), book.has(2), book.has(1)), (0, false, true));
        assert_eq!(book.acknowledge(vec![1]), [Ack::UpTo(1)]);
    }

    #[test]
    fn what_is_too_large_to_be_written_again_stays_as_it_came() {
        let (mut book, mut message) = (Book::new(), delayed(1));
        message.headers.other.insert("x-baggage".into(), "b".repeat(FRAME - 1000).into());
        let properties = keep(&mut book, 1, &message);
        book.hold(1);
        assert_eq!(book.letter(1, &queues()).unwrap().properties, properties);
    }
}
