//! Where the deliveries of a consumer are settled.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicNackOptions, BasicQosOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel};

use super::book::Book;
use super::ledger::Ack;
use super::publish::{Letter, begin};
use super::{Post, dead};
use crate::broker::{Settle, Settlement, Tag};
use crate::error::Error;
use crate::message::Outgoing;
use crate::named::locked;

/// Settles what came over one channel.
pub(super) struct Desk {
    post: Arc<Post>,
    channel: Channel,
    queues: Vec<String>,
    consumers: Vec<ShortString>,
    prefetch: Prefetch,
    book: Mutex<Book>,
    is_stopped: AtomicBool,
}

/// How many messages may be here unsettled, and whether that counts for all queues together.
pub(super) struct Prefetch {
    pub(super) wanted: AtomicU32,
    pub(super) is_common: bool,
    pub(super) told: tokio::sync::Mutex<u16>,
}

/// The limit that the server is told for so many messages: it counts in 16 bits, and 0 is no limit.
pub(super) fn limit(messages: u32) -> u16 {
    u16::try_from(messages).unwrap_or(0)
}

impl Desk {
    pub(super) fn new(
        post: Arc<Post>,
        channel: Channel,
        queues: Vec<String>,
        consumers: Vec<ShortString>,
        prefetch: Prefetch,
    ) -> Self {
        let (book, is_stopped) = (Mutex::new(Book::new()), AtomicBool::new(false));
        Self { post, channel, queues, consumers, prefetch, book, is_stopped }
    }

    pub(super) fn queue(&self, at: usize) -> &str {
        &self.queues[at]
    }

    pub(super) fn channel(&self) -> &Channel {
        &self.channel
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }

    /// Keeps messages that are handed out.
    pub(super) fn keep(&self, messages: impl Iterator<Item = (u64, usize, Box<BasicProperties>, Bytes)>) {
        let mut book = locked(&self.book);
        for (tag, queue, properties, body) in messages {
            book.keep(tag, queue, properties, body);
        }
    }

    /// What is to be published before these can be acknowledged: elsewhere, and to the dead letters.
    fn sort(&self, settlements: Vec<(Tag, Settlement)>) -> Result<Sorted, Error> {
        let mut sorted = Sorted::default();
        let book = locked(&self.book);
        for (Tag(tag), settlement) in settlements {
            if !book.has(tag) {
                continue;
            }
            match settlement {
                Settlement::Done => sorted.done.push(tag),
                Settlement::Return => sorted.returned.push(tag),
                Settlement::Requeue { held } => match self.found(&book, tag, held)? {
                    Some(letter) => sorted.sent.push((tag, letter)),
                    None => sorted.returned.push(tag),
                },
                Settlement::Replace(outgoing) => {
                    sorted.sent.push((tag, self.post.letter(&outgoing.queue, &outgoing.message)?));
                }
                Settlement::Dead { reason, held } => match self.found(&book, tag, held)? {
                    Some(letter) => sorted.dead.push((tag, dead::bury(letter, &reason))),
                    None => sorted.returned.push(tag),
                },
            }
        }
        Ok(sorted)
    }

    /// A message as it came: as it was kept, or as whoever holds it has it.
    fn found(&self, book: &Book, tag: u64, held: Option<Box<Outgoing>>) -> Result<Option<Letter>, Error> {
        let Some(letter) = book.letter(tag, &self.queues) else {
            return held.map(|held| self.post.letter(&held.queue, &held.message)).transpose();
        };
        Ok(Some(letter))
    }

    /// Tells the server what is done with and what goes back.
    async fn tell(&self, done: Vec<u64>, returned: Vec<u64>) -> Result<(), Error> {
        if done.is_empty() && returned.is_empty() {
            return Ok(());
        }
        // Written under the lock: an acknowledgement that speaks for several must not overtake what came before it.
        let writes = {
            let mut book = locked(&self.book);
            let mut writes = Vec::new();
            for tag in book.strike(returned) {
                writes.push(begin(self.write(Say::Return(tag))));
            }
            for ack in book.acknowledge(done) {
                writes.push(begin(self.write(Say::Done(ack))));
            }
            writes
        };
        for write in writes {
            write.end().await.map_err(|_| self.taken_back())?;
        }
        Ok(())
    }

    async fn write(&self, say: Say) -> lapin::Result<()> {
        let channel = self.channel.clone();
        match say {
            Say::Return(tag) => {
                channel.basic_nack(tag, BasicNackOptions { multiple: false, requeue: true }).await
            }
            Say::Done(Ack::One(tag)) => channel.basic_ack(tag, BasicAckOptions { multiple: false }).await,
            Say::Done(Ack::UpTo(tag)) => channel.basic_ack(tag, BasicAckOptions { multiple: true }).await,
        }
    }

    /// Publishes, and acknowledges what it stands for: as far as it got, if it got no further.
    async fn send(&self, letters: Vec<(u64, Letter)>, are_dead: bool) -> Result<(), Error> {
        if letters.is_empty() {
            return Ok(());
        }
        let (mut tags, letters): (Vec<_>, Vec<_>) = letters.into_iter().unzip();
        let sent = if are_dead { self.post.send_dead(letters).await } else { self.post.send(letters).await };
        if let Err(failed) = &sent {
            tags.truncate(failed.confirmed);
        }
        self.tell(tags, Vec::new()).await?;
        sent.map_err(|failed| failed.error)
    }

    /// Tells the server how many messages may be here now.
    async fn adjust(&self) -> Result<(), Error> {
        let wanted = self.prefetch.wanted.load(Ordering::Relaxed);
        if !self.prefetch.is_common || wanted == 0 || self.is_stopped() {
            return Ok(());
        }
        let mut told = self.prefetch.told.lock().await;
        let limit = limit(wanted.saturating_add(locked(&self.book).held()));
        if *told != limit {
            let question = self.channel.basic_qos(limit, BasicQosOptions { global: true });
            self.post.server.answer("set the prefetch", question).await?;
            *told = limit;
        }
        Ok(())
    }

    fn is_lost(&self) -> bool {
        !self.channel.status().connected()
    }

    fn taken_back(&self) -> Error {
        let closed = self.post.server.check().err();
        closed.unwrap_or_else(|| Error::TakenBack { server: self.post.server.shown().into() })
    }
}

/// Deliveries by what becomes of them.
#[derive(Default)]
struct Sorted {
    done: Vec<u64>,
    returned: Vec<u64>,
    sent: Vec<(u64, Letter)>,
    dead: Vec<(u64, Letter)>,
}

enum Say {
    Return(u64),
    Done(Ack),
}

#[async_trait]
impl Settle for Desk {
    async fn settle(&self, settlements: Vec<(Tag, Settlement)>) -> Result<(), Error> {
        if self.is_lost() {
            return Err(self.taken_back());
        }
        let sorted = self.sort(settlements)?;
        self.tell(sorted.done, sorted.returned).await?;
        self.send(sorted.sent, false).await?;
        self.send(sorted.dead, true).await?;
        self.adjust().await
    }

    async fn hold(&self, tags: &[Tag]) -> Result<(), Error> {
        if self.is_lost() {
            return Err(self.taken_back());
        }
        {
            let mut book = locked(&self.book);
            for Tag(tag) in tags {
                book.hold(*tag);
            }
        }
        self.adjust().await
    }

    async fn prefetch(&self, most: u32) -> Result<(), Error> {
        if self.is_lost() {
            return Err(self.taken_back());
        }
        self.prefetch.wanted.store(most, Ordering::Relaxed);
        self.adjust().await
    }

    async fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
        for tag in &self.consumers {
            // If the connection is lost, deliveries have stopped just as well.
            let cancel = self.channel.basic_cancel(tag.clone(), BasicCancelOptions::default());
            let _ = self.post.server.answer("stop consuming", cancel).await;
        }
    }
}
