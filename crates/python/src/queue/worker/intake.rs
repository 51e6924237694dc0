//! From the broker into the inbox.

use std::sync::Arc;
use std::time::Duration;

use manyhands_queue::broker::{Consumer, Settlement, Subscription};
use manyhands_queue::inbox::{Effects, Line};
use manyhands_queue::{Broker, Error};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::log::Log;
use super::room::{Room, now};

/// How long to wait before the broker is tried again, at first and at most.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(100);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long to wait when nothing is due: a clock that is set forward is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// How often to ask what was revoked.
const REVOCATIONS: Duration = Duration::from_secs(1);
/// So many messages are given back at a time.
const PORTION: usize = 1024;

/// Consumes until the room closes; then waits for `is_over`, for a consumer that ends gives back what is not settled.
pub(super) async fn run(
    room: Arc<Room>,
    broker: Arc<dyn Broker>,
    subscription: Subscription,
    log: Arc<Log>,
    is_over: Arc<Notify>,
) {
    let mut line: Line = 0;
    let mut pause = FIRST_PAUSE;
    let mut since = ask_revocations(&room, &*broker, 0).await;
    while !room.is_closing() {
        match broker.consume(subscription.clone()).await {
            Ok(mut consumer) => {
                if std::mem::replace(&mut pause, FIRST_PAUSE) != FIRST_PAUSE {
                    log.say("warning", &format!("reached {} again", broker.address()));
                }
                room.add_line(line, consumer.settler());
                let ended = receive(&room, line, &mut *consumer, &*broker, &mut since).await;
                if let Err(error) = ended {
                    log.say("warning", &format!("{error}; trying again"));
                } else {
                    give_back(&room, line, &mut *consumer).await;
                    // What still runs may be called off.
                    tokio::select! {
                        () = is_over.notified() => {}
                        () = keep_asking(&room, &*broker, since) => {}
                    }
                    return;
                }
                drop(consumer);
                room.hall().inbox.lost(line);
                line += 1;
            }
            Err(error) if error.is_transient() => {
                if pause == FIRST_PAUSE {
                    log.say("warning", &format!("{error}; trying again"));
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(error) => {
                room.fail(error.to_string());
                break;
            }
        }
        let _ = timeout(pause, room.nudge.notified()).await;
    }
    room.hall().inbox.close();
    is_over.notified().await;
}

/// Takes deliveries until the room closes.
async fn receive(
    room: &Room,
    line: Line,
    consumer: &mut dyn Consumer,
    broker: &dyn Broker,
    since: &mut u64,
) -> Result<(), Error> {
    let mut asked = tokio::time::Instant::now();
    let settler = consumer.settler();
    let mut told = room.hall().prefetch();
    settler.prefetch(told).await?;
    loop {
        let (wanted, due) = look(room);
        let prefetch = room.hall().prefetch();
        if prefetch > told || prefetch <= told / 8 {
            settler.prefetch(prefetch).await?;
            told = prefetch;
        }
        if room.is_closing() {
            return Ok(());
        }
        if asked.elapsed() >= REVOCATIONS {
            asked = tokio::time::Instant::now();
            *since = ask_revocations(room, broker, *since).await;
        }
        let rest = due.min(REVOCATIONS.saturating_sub(asked.elapsed()));
        if wanted == 0 {
            room.is_full();
            // What was finished before that was said may have made room.
            if room.hall().wanted(now().steady) == 0 {
                let _ = timeout(rest, room.nudge.notified()).await;
            }
            continue;
        }
        let delivered = tokio::select! {
            biased;
            () = room.nudge.notified() => continue,
            delivered = consumer.next(wanted) => delivered?,
            () = sleep(rest) => continue,
        };
        if delivered.is_empty() {
            return Ok(());
        }
        let (mut effects, now) = (Effects::default(), now());
        {
            let mut hall = room.hall();
            for delivery in delivered {
                hall.inbox.deliver(line, delivery, now, &mut effects);
            }
        }
        room.carry_out(effects);
        room.ring();
    }
}

/// How many messages are wanted, and how long nothing is due.
fn look(room: &Room) -> (usize, Duration) {
    let (mut effects, now) = (Effects::default(), now());
    let mut hall = room.hall();
    let before = hall.inbox.load().ready;
    hall.inbox.advance(now, &mut effects);
    let has_more = hall.inbox.load().ready > before;
    let due = hall.inbox.next().map_or(LONGEST_SLEEP, |next| next - now.wall);
    let wanted = hall.wanted(now.steady);
    drop(hall);
    room.carry_out(effects);
    if has_more {
        room.ring();
    }
    // A wheel of milliseconds is not looked at more often.
    (wanted, due.clamp(Duration::from_millis(1), LONGEST_SLEEP))
}

/// Gives back everything that has not begun.
async fn give_back(room: &Room, line: Line, consumer: &mut dyn Consumer) {
    let settler = consumer.settler();
    settler.stop().await;
    let tickets = room.hall().inbox.close();
    for portion in tickets.chunks(PORTION) {
        let of_line = portion.iter().filter(|ticket| ticket.line == line);
        // If it fails, the broker takes them back when the consumer ends.
        let settled = settler.settle(of_line.map(|ticket| (ticket.tag, Settlement::Return)).collect()).await;
        room.gave_back(if settled.is_ok() { portion.len() } else { 0 });
    }
    while let Ok(late) = consumer.next(PORTION).await {
        if late.is_empty() {
            break;
        }
        let _ = settler.settle(late.into_iter().map(|late| (late.tag, Settlement::Return)).collect()).await;
    }
}

/// Asks what was called off, and never ends.
async fn keep_asking(room: &Room, broker: &dyn Broker, mut since: u64) {
    loop {
        sleep(REVOCATIONS).await;
        since = ask_revocations(room, broker, since).await;
    }
}

async fn ask_revocations(room: &Room, broker: &dyn Broker, since: u64) -> u64 {
    // One that cannot be asked now is asked again.
    let Ok((since, revoked)) = broker.revocations(since).await else { return since };
    room.revoke(&revoked);
    since
}
