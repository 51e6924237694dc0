//! What came over a channel and is not settled yet: as it came, or, if it is held for later, in few bytes.

use std::collections::HashMap;

use bytes::Bytes;
use lapin::BasicProperties;

use super::ledger::{Ack, Ledger};
use super::publish::Letter;
use crate::broker::Tag;
use crate::broker::roll::Roll;
use crate::inbox::Ticket;
use crate::packed::{Packed, Shapes};
use crate::wire::{Limits, table};

/// See the module.
pub(super) struct Book {
    kept: HashMap<u64, Kept>,
    /// What is held and can be written again as it came.
    packed: Roll<Packed>,
    shapes: Shapes,
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
        Self {
            kept: HashMap::new(),
            packed: Roll::default(),
            shapes: Shapes::default(),
            held: 0,
            ledger: Ledger::new(),
        }
    }

    /// How many are held.
    pub(super) fn held(&self) -> u32 {
        self.held
    }

    pub(super) fn keep(&mut self, tag: u64, queue: usize, properties: Box<BasicProperties>, body: Bytes) {
        self.kept.insert(tag, Kept { queue, properties, body, is_held: false });
    }

    pub(super) fn has(&self, tag: u64) -> bool {
        self.kept.contains_key(&tag) || self.packed.get(tag).is_some()
    }

    /// A message as it came, addressed to the queue that it came from.
    pub(super) fn letter(&self, tag: u64, queues: &[String]) -> Option<Letter> {
        if let Some(Kept { queue, properties, body, .. }) = self.kept.get(&tag) {
            let queue = queues[*queue].clone();
            return Some(Letter { queue, properties: (**properties).clone(), body: body.clone() });
        }
        let (_, queue, message) = self.shapes.read(self.packed.get(tag)?);
        let properties = table::encode(&message, 0).expect("it was written once before it was packed");
        Some(Letter { queue, properties, body: message.body })
    }

    /// A message is kept for later.
    pub(super) fn hold(&mut self, tag: u64, queues: &[String]) {
        let Some(kept) = self.kept.get_mut(&tag).filter(|kept| !kept.is_held) else { return };
        kept.is_held = true;
        self.held += 1;
        let limits = Limits { body: u64::MAX, ..Limits::default() };
        let Ok(message) = table::decode(&kept.properties, kept.body.clone(), &limits) else { return };
        // What others have written in other words stays as it came.
        let is_same = table::encode(&message, 0).is_ok_and(|again| again == *kept.properties);
        if is_same && message.body == kept.body {
            let ticket = Ticket { line: 0, tag: Tag(0), is_redelivered: false };
            let packed = self.shapes.pack(&ticket, &queues[kept.queue], &message);
            self.packed.insert(tag, packed);
            self.kept.remove(&tag);
        }
    }

    /// Takes note that messages go back; those of them that are not settled yet.
    pub(super) fn strike(&mut self, tags: Vec<u64>) -> Vec<u64> {
        let tags = self.take(tags);
        for tag in &tags {
            self.ledger.strike(*tag);
        }
        tags
    }

    /// Takes note that messages are done with; how to say so of those that are not settled yet.
    pub(super) fn acknowledge(&mut self, tags: Vec<u64>) -> Vec<Ack> {
        let tags = self.take(tags);
        self.ledger.acknowledge(&tags)
    }

    /// Those of the tags that are not settled yet; from now on they are.
    fn take(&mut self, mut tags: Vec<u64>) -> Vec<u64> {
        tags.retain(|tag| {
            let was_held = match (self.kept.remove(tag), self.packed.remove(*tag)) {
                (Some(kept), _) => kept.is_held,
                (None, Some(packed)) => {
                    self.shapes.forget(packed);
                    true
                }
                (None, None) => return false,
            };
            self.held -= u32::from(was_held);
            true
        });
        if self.kept.capacity() > 4 * (self.kept.len() + 1024) {
            self.kept.shrink_to(2 * self.kept.len());
        }
        tags
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
    fn what_is_held_takes_few_bytes_and_goes_on_as_it_came() {
        let (mut book, queues) = (Book::new(), queues());
        let count = 10_000;
        for tag in 1..=count {
            let message = delayed(tag);
            let properties = keep(&mut book, tag, &message);
            book.hold(tag, &queues);
            let Letter { queue, properties: again, body } = book.letter(tag, &queues).unwrap();
            assert_eq!((again, body), (properties, message.body));
            assert_eq!(queue, QUEUES[usize::from(tag.is_multiple_of(2))]);
        }
        assert_eq!((u64::from(book.held()), book.packed.len() as u64), (count, count));
        let values: usize = book.packed.iter().map(|(_, packed)| packed.bytes()).sum();
        let each = (values + book.packed.bytes()) as u64 / count;
        assert!(each <= 200, "{each} bytes for each");
        assert!(book.kept.capacity() < 1000);
        assert_eq!(book.acknowledge((1..=count).collect()), [Ack::UpTo(count)]);
        assert_eq!((book.held(), book.has(1), book.packed.bytes() < 10_000), (0, false, true));
    }

    #[test]
    fn what_others_wrote_in_other_words_stays_as_it_came() {
        let (mut book, queues) = (Book::new(), queues());
        let properties = keep(&mut book, 1, &delayed(1)).with_app_id("another".into());
        let body = Bytes::from_static(b"[[1], {}, {}]");
        book.keep(2, 0, Box::new(properties.clone()), body.clone());
        book.hold(2, &queues);
        book.hold(2, &queues);
        assert_eq!(book.held(), 1);
        let letter = book.letter(2, &queues).unwrap();
        assert_eq!((letter.properties, letter.body), (properties, body));
        assert_eq!(book.strike(vec![2, 2, 3]), [2]);
        assert_eq!((book.held(), book.has(2), book.has(1)), (0, false, true));
        assert_eq!(book.acknowledge(vec![1]), [Ack::UpTo(1)]);
    }
}
