//! One connection on which all who wait for results are told, however many they are.
//!
//! A task subscribes and unsubscribes for all, so that these take effect in the order in which they were asked for: a
//! subscription cannot be undone by somebody who left before. What was asked for meanwhile goes out at once.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use redis::{PushInfo, PushKind, Value, pipe};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::broker::redis::connection::{Link, Server};
use crate::error::Error;

/// How often a connection that says nothing is asked whether it is still there.
const SILENCE: Duration = Duration::from_secs(5);

/// The places of those who wait.
#[derive(Debug)]
struct Places {
    of_channel: Mutex<HashMap<String, (usize, watch::Sender<Bytes>)>>,
    /// How often the connection was lost: what was told then, nobody has heard.
    losses: watch::Sender<u64>,
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, (usize, watch::Sender<Bytes>)>> {
        self.of_channel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, push: PushInfo) {
        match (push.kind, <[Value; 2]>::try_from(push.data)) {
            (PushKind::Message, Ok([Value::BulkString(channel), Value::BulkString(document)])) => {
                let Ok(channel) = std::str::from_utf8(&channel) else { return };
                if let Some((_, place)) = self.lock().get(channel) {
                    place.send_replace(document.into());
                }
            }
            (PushKind::Disconnection, _) => self.lose(),
            _ => {}
        }
    }

    fn lose(&self) {
        self.losses.send_modify(|losses| *losses += 1);
    }
}

enum Wish {
    Enter(String, oneshot::Sender<Result<(), String>>),
    Leave(String),
}

/// Who waits for what is said on channels.
#[derive(Debug)]
pub(super) struct Listener {
    link: Link,
    places: Arc<Places>,
    wishes: Mutex<Option<mpsc::UnboundedSender<Wish>>>,
}

impl Listener {
    pub(super) fn new(server: &Server) -> Arc<Self> {
        let places = Arc::new(Places { of_channel: Mutex::default(), losses: watch::Sender::new(0) });
        let told = Arc::clone(&places);
        let link = server.link(pipe()).told(move |push| told.tell(push));
        Arc::new(Self { link, places, wishes: Mutex::default() })
    }

    /// Begins to wait for what is said on a channel. It is heard from [`Place::listen`] on.
    pub(super) fn enter(self: &Arc<Self>, channel: &str) -> Place {
        let mut places = self.places.lock();
        let (count, place) =
            places.entry(channel.into()).or_insert_with(|| (0, watch::Sender::new(Bytes::new())));
        *count += 1;
        let heard = place.subscribe();
        drop(places);
        Place {
            listener: Arc::clone(self),
            channel: channel.into(),
            heard,
            losses: self.places.losses.subscribe(),
        }
    }

    /// Ends all waiting.
    pub(super) fn close(&self) {
        self.link.close();
        self.places.lose();
    }

    fn wish(self: &Arc<Self>, wish: Wish) {
        let mut wishes = self.wishes.lock().unwrap_or_else(PoisonError::into_inner);
        let wish = match &*wishes {
            Some(open) => match open.send(wish) {
                Ok(()) => return,
                Err(error) => error.0,
            },
            None => wish,
        };
        // The task ends with the runtime that it was begun on; there may be another one now.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (sender, receiver) = mpsc::unbounded_channel();
            let _ = sender.send(wish);
            *wishes = Some(sender);
            runtime.spawn(serve(Arc::downgrade(self), receiver));
        }
    }

    /// Subscribes to these channels and unsubscribes from those.
    async fn tune(&self, known: &mut Known, enter: &[String], leave: &[String]) -> Result<(), Error> {
        let losses = *self.places.losses.borrow();
        if known.losses != losses {
            known.losses = losses;
            // A connection that was lost is not noticed as long as nothing is asked of it.
            self.link.run::<()>("listen for results", &redis::cmd("PING")).await?;
        }
        let number = self.link.connect().await?;
        if let Some(before) = known.number.replace(number)
            && before != number
        {
            known.channels.clear();
            // Who relied on the one before is to come again.
            self.places.lose();
            known.losses += 1;
        }
        let new: Vec<&String> = enter.iter().filter(|channel| !known.channels.contains(*channel)).collect();
        if !new.is_empty() {
            self.link.subscribe(&new).await?;
            known.channels.extend(new.into_iter().cloned());
        }
        let old: Vec<&String> = {
            let places = self.places.lock();
            let is_old =
                |channel: &&String| !places.contains_key(*channel) && known.channels.contains(*channel);
            leave.iter().filter(is_old).collect()
        };
        if !old.is_empty() {
            self.link.unsubscribe(&old).await?;
            known.channels.retain(|channel| !old.contains(&channel));
        }
        Ok(())
    }
}

/// What the connection of that number is subscribed to, and how many losses it has been asked about.
#[derive(Debug, Default)]
struct Known {
    number: Option<u64>,
    channels: HashSet<String>,
    losses: u64,
}

/// Fulfils wishes until nobody can have any.
async fn serve(listener: Weak<Listener>, mut wishes: mpsc::UnboundedReceiver<Wish>) {
    let mut known = Known::default();
    let mut batch = Vec::new();
    loop {
        let came = timeout(SILENCE, wishes.recv_many(&mut batch, 1000)).await;
        let Some(listener) = listener.upgrade() else { return };
        if came.is_err() {
            if !listener.places.lock().is_empty()
                && listener.link.run::<()>("listen for results", &redis::cmd("PING")).await.is_err()
            {
                listener.places.lose();
            }
            continue;
        }
        if batch.is_empty() {
            return;
        }
        let (mut enter, mut leave, mut answers) = (Vec::new(), Vec::new(), Vec::new());
        for wish in batch.drain(..) {
            match wish {
                Wish::Enter(channel, answer) => {
                    enter.push(channel);
                    answers.push(answer);
                }
                Wish::Leave(channel) => leave.push(channel),
            }
        }
        // To have left is of no interest to a connection that is lost.
        let tuned = if enter.is_empty() && listener.link.since().is_none() {
            Ok(())
        } else {
            listener.tune(&mut known, &enter, &leave).await
        };
        let tuned = tuned.map_err(|error| error.to_string());
        for answer in answers {
            let _ = answer.send(tuned.clone());
        }
    }
}

/// A place among those who wait. Dropped, it is left.
#[derive(Debug)]
pub(super) struct Place {
    listener: Arc<Listener>,
    channel: String,
    heard: watch::Receiver<Bytes>,
    losses: watch::Receiver<u64>,
}

impl Place {
    /// From now on, everything is heard; as long as the connection lasts.
    ///
    /// # Errors
    /// If there is no connection.
    pub(super) async fn listen(&mut self) -> Result<(), Error> {
        // What gets lost from here on is noticed by whoever listens.
        self.losses.mark_unchanged();
        self.heard.mark_unchanged();
        let link = &self.listener.link;
        let (answer, answered) = oneshot::channel();
        self.listener.wish(Wish::Enter(self.channel.clone(), answer));
        let unreachable = |reason| Error::Unreachable { server: link.server().shown().into(), reason };
        match answered.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(reason)) => {
                link.connect().await?;
                Err(unreachable(reason))
            }
            Err(_) => Err(unreachable("the runtime that listened has ended".into())),
        }
    }

    /// The next thing that is said. `None`: the connection was lost, and something may have been missed.
    pub(super) async fn heard(&mut self) -> Option<Bytes> {
        tokio::select! {
            biased;
            _ = self.heard.changed() => Some(self.heard.borrow_and_update().clone()),
            _ = self.losses.changed() => None,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.listener.places.lock();
        let Some((count, _)) = places.get_mut(&self.channel) else { return };
        *count -= 1;
        if *count == 0 {
            places.remove(&self.channel);
            drop(places);
            self.listener.wish(Wish::Leave(std::mem::take(&mut self.channel)));
        }
    }
}
