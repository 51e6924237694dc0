//! One consumer: takes messages ahead of its need, as far as it may, and is woken by the server when there are new ones.
//!
//! ```text
//! list ──take.lua──▶ unacked ══▶ ready ──next──▶ whoever consumes ──settle──▶ gone
//!      ◀──────────── what a lost answer held, after the connection was made anew
//! ```
//!
//! **Waiting.** Whoever finds nothing asks whether the lists are empty in such a way (`CLIENT TRACKING`) that the server
//! tells when they change: once, whoever changes them, and without a producer's help.
//!
//! **A lost answer.** The messages of a take whose answer did not arrive may be among the unacknowledged ones under our
//! name, and nobody knows of them. Takes are numbered by the consumer; before it takes again, a fence is set up that no
//! take with an older number passes any more, should it still be on its way, and what has got through goes back.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use redis::{PushKind, Value, pipe};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use super::connection::{Link, Script};
use super::held::Keeper;
use super::keys::STEPS;
use super::{Shared, scripts};
use crate::broker::roll::Roll;
use crate::broker::{Consumer, Delivery, Settle, Subscription, Tag, Unreadable, limit_of};
use crate::error::Error;
use crate::wire::{Limits, envelope};

/// How many messages are taken in one step, at most: as long as that takes, the server does nothing else.
const MOST_AT_ONCE: usize = 500;

/// How many messages lie ready before no more are taken.
const AHEAD: usize = 256;

/// About how many bytes are taken in one step.
const BYTES_AT_ONCE: usize = 16 << 20;

/// After how long an idle consumer looks for itself: if a wake-up was lost with a connection, this finds it.
const LOOK: Duration = Duration::from_secs(1);

/// Where a message came from.
#[derive(Debug)]
pub(super) struct List {
    pub(super) key: String,
    pub(super) queue: usize,
    /// What follows the envelope where it is kept: `, "", "queue"]`.
    pub(super) tail: String,
}

/// Why no more messages come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// They do.
    None,
    /// Nobody wants more.
    Stopped,
    /// It was closed or dropped: what it has goes back.
    Over,
    /// It was given up for dead, and others have what it had.
    Lost,
    /// The server does not let us.
    Refused(String),
}

/// A message that is neither settled nor given back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    /// Which of the consumer's lists it came from.
    pub(super) list: u16,
    /// Whether it does not count as prefetched.
    pub(super) is_kept: bool,
    /// Seconds of the consumer's life at which the server was last told that it has it.
    pub(super) told: u32,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) held: Roll<Held>,
    /// How many of them are kept.
    pub(super) kept: usize,
    ready: VecDeque<Delivery>,
    /// The number of the next message.
    next: u64,
    is_wanted: bool,
    is_taking: bool,
    pub(super) end: End,
}

/// What a consumer, its settler and its tasks share.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) shared: Arc<Shared>,
    link: Link,
    /// Under which its messages are known in the server.
    pub(super) id: String,
    pub(super) lists: Vec<List>,
    pub(super) queues: Vec<String>,
    pub(super) visibility: Duration,
    limit: usize,
    limits: Limits,
    name: String,
    pub(super) began: Instant,
    state: Mutex<State>,
    /// For whoever waits in `next`.
    arrived: Notify,
    /// For the task that takes: there is room, or an end.
    room: Notify,
    /// For the same: a list has changed, or there is an end.
    bell: Arc<Notify>,
    /// Whether all is given back.
    finished: watch::Sender<bool>,
}

impl Core {
    pub(super) fn new(shared: Arc<Shared>, subscription: &Subscription) -> Arc<Self> {
        let bell = Arc::new(Notify::new());
        let ring = Arc::clone(&bell);
        let mut greeting = pipe();
        greeting.cmd("CLIENT").arg("TRACKING").arg("ON").arg("OPTIN").arg("NOLOOP").ignore();
        let name: String = subscription.name.chars().filter(char::is_ascii_graphic).take(200).collect();
        if !name.is_empty() {
            greeting.cmd("CLIENT").arg("SETNAME").arg(&name).ignore();
        }
        let link = shared.link.server().link(greeting).told(move |push| {
            if matches!(push.kind, PushKind::Invalidate | PushKind::Disconnection) {
                ring.notify_one();
            }
        });
        let queues: Vec<String> = subscription.queues.iter().map(|queue| queue.name.clone()).collect();
        let list = |step| {
            queues
                .iter()
                .enumerate()
                .map(move |(queue, name)| (queue, name.clone(), step))
                .collect::<Vec<_>>()
        };
        let lists = STEPS.into_iter().flat_map(list).map(|(queue, name, step)| List {
            key: shared.keys.list(&name, step),
            queue,
            tail: format!(", \"\", {}]", serde_json::Value::from(name)),
        });
        Arc::new(Self {
            link,
            id: uuid::Uuid::new_v4().simple().to_string(),
            lists: lists.collect(),
            queues,
            visibility: subscription.visibility,
            limit: limit_of(subscription.prefetch),
            limits: Limits { body: subscription.max_body, ..Limits::default() },
            name,
            began: Instant::now(),
            state: Mutex::new(State {
                held: Roll::default(),
                kept: 0,
                ready: VecDeque::new(),
                next: 0,
                is_wanted: false,
                is_taking: false,
                end: End::None,
            }),
            arrived: Notify::new(),
            room: Notify::new(),
            bell,
            finished: watch::Sender::new(false),
            shared,
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tag(&self, number: u64) -> String {
        format!("{}:{number}", self.id)
    }

    /// Ends it, unless it has come to a harder end already.
    pub(super) fn end(&self, end: End) {
        let mut state = self.lock();
        if matches!(state.end, End::None | End::Stopped) {
            state.end = end;
        }
        drop(state);
        self.arrived.notify_one();
        self.room.notify_one();
        self.bell.notify_one();
    }

    /// There may be room for more.
    pub(super) fn make_room(&self) {
        self.room.notify_one();
    }

    /// Ends it, and waits until what it had is given back, or cannot be.
    pub(super) async fn finish(&self) {
        self.end(End::Over);
        let mut finished = self.finished.subscribe();
        let _ = finished.wait_for(|finished| *finished).await;
    }

    /// Takes messages until the end, and then gives back what is left.
    pub(super) async fn serve(self: Arc<Self>) {
        let mut unanswered = None;
        let mut pause = Duration::ZERO;
        while let Some(count) = self.due().await {
            match self.fill(count, &mut unanswered).await {
                Ok(true) => pause = Duration::ZERO,
                Ok(false) => {
                    pause = Duration::ZERO;
                    let _ = timeout(LOOK, self.bell.notified()).await;
                }
                Err(error) if error.is_transient() => {
                    pause = (pause * 2).clamp(Duration::from_millis(20), Duration::from_secs(1));
                    // At a restart of the server not all should come at once.
                    let _ = timeout(pause.mul_f64(0.5 + fastrand::f64() / 2.0), self.bell.notified()).await;
                }
                Err(error) => self.end(End::Refused(error.to_string())),
            }
        }
        let is_mine = self.lock().end != End::Lost;
        if is_mine {
            if let Some((first, count)) = unanswered {
                let _ = self.reclaim(first, count).await;
            }
            let _ = Keeper::new(&self).give_all_back().await;
        }
        self.link.close();
        self.finished.send_replace(true);
    }

    /// Waits until messages are to be taken; how many. `None` at the end.
    async fn due(&self) -> Option<usize> {
        loop {
            match self.claim() {
                ControlFlow::Continue(0) => self.room.notified().await,
                ControlFlow::Continue(count) => return Some(count),
                ControlFlow::Break(()) => return None,
            }
        }
    }

    /// How many messages are to be taken now.
    fn claim(&self) -> ControlFlow<(), usize> {
        let mut state = self.lock();
        match state.end {
            End::None => {}
            // Whoever still settles what it has needs its name to be known.
            End::Stopped => return ControlFlow::Continue(0),
            _ => return ControlFlow::Break(()),
        }
        let counted = state.held.len() - state.kept;
        let room = self.limit.saturating_sub(counted).min(MOST_AT_ONCE);
        let is_worthwhile = state.is_wanted || room >= MOST_AT_ONCE.min(self.limit.div_ceil(2));
        if room == 0 || state.ready.len() >= AHEAD || !is_worthwhile {
            return ControlFlow::Continue(0);
        }
        state.is_taking = true;
        ControlFlow::Continue(room)
    }

    /// Takes messages and lays them ready; returns whether there may be more. If not, the bell rings when there are.
    async fn fill(&self, count: usize, unanswered: &mut Option<(u64, usize)>) -> Result<bool, Error> {
        let taken = self.take_anew(count, unanswered).await;
        let (first, taken) = match taken {
            Ok((first, Some(taken))) => (first, taken),
            Ok((_, None)) => {
                self.end(End::Lost);
                return Ok(true);
            }
            Err(error) => {
                self.lock().is_taking = false;
                self.arrived.notify_one();
                return Err(error);
            }
        };
        let pairs = || taken.chunks_exact(2).zip(first..);
        let deliveries: Vec<Delivery> =
            pairs().map(|(pair, number)| self.delivery(&pair[0], &pair[1], number)).collect();
        let (count, told) = (deliveries.len(), self.age());
        {
            let mut state = self.lock();
            state.is_taking = false;
            state.is_wanted &= count == 0;
            for (pair, number) in pairs() {
                state.held.insert(number, Held { list: index(&pair[0]), is_kept: false, told });
            }
            state.ready.extend(deliveries);
        }
        self.arrived.notify_one();
        if count > 0 { Ok(true) } else { self.watch().await }
    }

    /// Whether there is a message in any list. If not, the server tells when one of them changes.
    async fn watch(&self) -> Result<bool, Error> {
        let mut watch = pipe();
        watch.cmd("CLIENT").arg("CACHING").arg("YES").ignore();
        let exist = watch.cmd("EXISTS");
        for list in &self.lists {
            exist.arg(&list.key);
        }
        let (count,): (u64,) = self.link.run_all("look for messages", &watch).await?;
        Ok(count > 0)
    }

    /// Takes messages by numbers that no other take has had; the first of them, and what `take` says.
    async fn take_anew(
        &self,
        count: usize,
        unanswered: &mut Option<(u64, usize)>,
    ) -> Result<(u64, Option<Vec<Value>>), Error> {
        if let Some((first, count)) = *unanswered {
            self.reclaim(first, count).await?;
        }
        let first = {
            let mut state = self.lock();
            let first = state.next;
            state.next += count as u64;
            first
        };
        *unanswered = Some((first, count));
        let taken = self.take(first, count).await?;
        *unanswered = None;
        Ok((first, taken))
    }

    pub(super) fn age(&self) -> u32 {
        u32::try_from(self.began.elapsed().as_secs()).unwrap_or(u32::MAX)
    }

    /// `None`: others have been told that this consumer is dead.
    async fn take(&self, first: u64, count: usize) -> Result<Option<Vec<Value>>, Error> {
        let keys = &self.shared.keys;
        let script: &Script = &scripts::TAKE;
        let mut command = script.begin(4 + self.lists.len());
        command.arg(&keys.unacked).arg(&keys.index).arg(&keys.consumers).arg(&keys.fences);
        for list in &self.lists {
            command.arg(&list.key);
        }
        let largest = self.largest();
        command.arg(&self.id).arg(first).arg(count).arg(largest).arg(BYTES_AT_ONCE);
        for list in &self.lists {
            command.arg(&list.tail);
        }
        self.link.call("take messages", script, &command).await
    }

    /// The largest envelope that can hold a body that may be read.
    fn largest(&self) -> u64 {
        (self.limits.body / 3 + 1).saturating_mul(4).saturating_add(self.limits.headers as u64)
    }

    fn delivery(&self, list: &Value, message: &Value, number: u64) -> Delivery {
        let queue = self.queues[self.lists[usize::from(index(list))].queue].clone();
        let mut is_redelivered = false;
        let content = match message {
            Value::BulkString(message) => envelope::decode(message, &self.limits).map(|envelope| {
                is_redelivered = envelope.is_redelivered;
                envelope.message
            }),
            Value::Int(size) => Err(Unreadable {
                reason: format!(
                    "could not take the message: found {size} bytes, expected at most {}",
                    self.largest()
                ),
            }),
            other => Err(Unreadable { reason: format!("could not take the message: found {other:?}") }),
        };
        Delivery { tag: Tag(number), queue, is_redelivered, content }
    }

    /// Makes sure that the take of these messages has no effect any more, or had none.
    async fn reclaim(&self, first: u64, count: usize) -> Result<(), Error> {
        let keys = &self.shared.keys;
        let mut fence = pipe();
        fence.hset(&keys.fences, &self.id, first + count as u64);
        self.link.run_all::<()>("go on taking messages", &fence).await?;
        let tags: Vec<String> = (first..first + count as u64).rev().map(|number| self.tag(number)).collect();
        self.shared.give_back(&tags).await.map(drop)
    }
}

/// Which of its lists, in the words of the script.
fn index(list: &Value) -> u16 {
    match list {
        Value::Int(list) => u16::try_from(*list).unwrap_or_default(),
        _ => 0,
    }
}

/// Whoever consumes.
#[derive(Debug)]
pub(super) struct RedisConsumer {
    pub(super) core: Arc<Core>,
}

#[async_trait]
impl Consumer for RedisConsumer {
    async fn next(&mut self, most: usize) -> Result<Vec<Delivery>, Error> {
        let core = &self.core;
        loop {
            {
                let mut state = core.lock();
                let is_over = !matches!(state.end, End::None | End::Stopped);
                if !state.ready.is_empty() && !is_over {
                    let count = most.max(1).min(state.ready.len());
                    let deliveries = state.ready.drain(..count).collect();
                    drop(state);
                    core.make_room();
                    return Ok(deliveries);
                }
                match &state.end {
                    End::None => state.is_wanted = true,
                    End::Stopped if state.is_taking => {}
                    End::Stopped => return Ok(Vec::new()),
                    End::Over => return Err(core.shared.link.server().closed()),
                    End::Lost => return Err(core.shared.lost()),
                    End::Refused(reason) => {
                        return Err(Error::Refused {
                            action: format!("consume as {:?}", core.name),
                            server: core.shared.link.server().shown().into(),
                            reason: reason.clone(),
                        });
                    }
                }
            }
            core.make_room();
            core.arrived.notified().await;
        }
    }

    fn settler(&self) -> Arc<dyn Settle> {
        Arc::new(Keeper::new(&self.core))
    }
}

impl Drop for RedisConsumer {
    fn drop(&mut self) {
        self.core.end(End::Over);
    }
}
