//! A connection that comes into being when it is needed, and anew when it was lost.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lapin::options::ConfirmSelectOptions;
use lapin::{BasicProperties, Channel, Connection};
use tokio::time::{Instant, sleep};

use super::aside::Aside;
use super::server::Server;
use crate::error::Error;
use crate::named::locked;

/// One connection to a server at a time, and what belongs to it.
#[derive(Debug)]
pub(crate) struct Link {
    server: Arc<Server>,
    name: &'static str,
    has_small_frames: bool,
    live: tokio::sync::Mutex<Option<Arc<Live>>>,
}

/// A connection, and what is known as long as it lasts.
#[derive(Debug)]
pub(crate) struct Live {
    server: Arc<Server>,
    connection: Connection,
    /// What was too large for its frames.
    aside: Option<Aside>,
    /// The queues that were declared by it.
    declared: Mutex<HashSet<String>>,
    /// Channels that confirm what is published, and that nobody is publishing by just now.
    idle: Mutex<Vec<Channel>>,
}

impl Link {
    pub(crate) fn new(server: Arc<Server>, name: &'static str) -> Self {
        Self { server, name, has_small_frames: false, live: tokio::sync::Mutex::default() }
    }

    /// One that takes little memory however much comes in by it. What a message came with is to be asked for by
    /// [`Live::whole`].
    pub(crate) fn with_small_frames(server: Arc<Server>, name: &'static str) -> Self {
        Self { has_small_frames: true, ..Self::new(server, name) }
    }

    /// The connection: the one that there is, or a new one.
    pub(crate) async fn live(&self) -> Result<Arc<Live>, Error> {
        self.server.check()?;
        let mut slot = self.live.lock().await;
        if let Some(live) = slot.as_ref().filter(|live| live.is_up()) {
            return Ok(Arc::clone(live));
        }
        *slot = None;
        let aside = self.has_small_frames.then(Aside::default);
        let live = Arc::new(Live {
            server: Arc::clone(&self.server),
            connection: self.server.connect(self.name, aside.as_ref()).await?,
            aside,
            declared: Mutex::default(),
            idle: Mutex::default(),
        });
        *slot = Some(Arc::clone(&live));
        Ok(live)
    }

    /// Ends the connection, if there is one.
    pub(crate) async fn close(&self) {
        let live = self.live.lock().await.take();
        if let Some(live) = live.filter(|live| live.is_up()) {
            // Whoever closes is not interested in why the other side would rather not.
            let _ =
                tokio::time::timeout(self.server.timeout(), live.connection.close(200, "OK".into())).await;
        }
    }
}

impl Live {
    pub(crate) fn is_up(&self) -> bool {
        self.connection.status().connected()
    }

    /// Whether the server takes no more messages for now, for want of memory or disk.
    pub(crate) fn is_blocked(&self) -> bool {
        self.connection.status().blocked()
    }

    /// Waits until the server takes messages, as long as one waits for answers.
    pub(crate) async fn unblocked(&self) -> Result<(), Error> {
        // lapin tells of a change to one listener only, and there may be many of us: so each looks.
        const LOOK: Duration = Duration::from_millis(20);
        let deadline = Instant::now() + self.server.timeout();
        while self.is_blocked() {
            if Instant::now() >= deadline {
                return Err(self.full());
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// What is to be said of a server that is blocked.
    pub(crate) fn full(&self) -> Error {
        self.server.full("an alarm of its memory or disk keeps it from taking messages")
    }

    /// The properties that a message of this connection came with.
    pub(super) fn whole(&self, properties: BasicProperties) -> BasicProperties {
        match &self.aside {
            Some(aside) => aside.whole(properties),
            None => properties,
        }
    }

    /// A new channel.
    pub(crate) async fn channel(&self) -> Result<Channel, Error> {
        self.server.answer("open a channel", self.connection.create_channel()).await
    }

    /// A channel that confirms what is published, for one batch at a time: so each answer belongs to one of the batch.
    pub(crate) async fn confirming(&self) -> Result<Channel, Error> {
        while let Some(channel) = locked(&self.idle).pop() {
            if channel.status().connected() {
                return Ok(channel);
            }
        }
        let channel = self.channel().await?;
        let select = channel.confirm_select(ConfirmSelectOptions::default());
        self.server.answer("ask for confirmations", select).await?;
        Ok(channel)
    }

    /// Takes back a channel by which everything was confirmed.
    pub(crate) fn is_idle(&self, channel: Channel) {
        locked(&self.idle).push(channel);
    }

    pub(crate) fn has_declared(&self, queue: &str) -> bool {
        locked(&self.declared).contains(queue)
    }

    pub(crate) fn declared(&self, queue: &str) {
        locked(&self.declared).insert(queue.into());
    }

    /// The queue is not what was thought: it is to be declared again.
    pub(crate) fn forget(&self, queue: &str) {
        locked(&self.declared).remove(queue);
    }
}
