//! What every broker does.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use manyhands_queue::broker::{Consumer, Declaration, Revocation, Settlement, Tag};
use manyhands_queue::message::{Headers, Message, Outgoing, Properties};
use manyhands_queue::open::Options;
use manyhands_queue::{Broker, Error};
use serde_json::{Value, json};

use super::{
    Fixture, QUIET, consume, done, message, nothing_comes, number, numbered, outgoing, plain, receive,
    subscription, unique,
};

fn open(fixture: &impl Fixture) -> Arc<dyn Broker> {
    fixture.broker(&Options::default())
}

pub(crate) async fn messages_come_in_order<F: Fixture>() {
    let (fixture, queue) = (F::new().await, unique("order"));
    let broker = open(&fixture);
    broker.declare(&plain(&queue)).await.unwrap();
    broker.publish(&numbered(&queue, 0..50)).await.unwrap();
    for at in 50..100 {
        broker.publish(&[outgoing(&queue, at)]).await.unwrap();
    }
    let mut consumer = consume(&broker, &queue, 100).await;
    let came = receive(&mut consumer, 100).await;
    assert_eq!(came.iter().map(number).collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
    assert!(came.iter().all(|delivery| !delivery.is_redelivered && delivery.queue == queue));
    assert_eq!(came.iter().map(|delivery| delivery.tag).collect::<BTreeSet<_>>().len(), 100);
    done(&*consumer, &came).await;
}

/// A message with something in every place.
fn full(priority: u8) -> Message {
    let map = |value: Value| value.as_object().unwrap().clone();
    Message {
        headers: Headers {
            lang: Some("py".into()),
            task: "shop.tasks.charge".into(),
            id: "d3b0c7a2-0000-4000-8000-000000000001".into(),
            shadow: Some("charge".into()),
            eta: Some("2031-01-02T03:04:05.678901+00:00".into()),
            expires: Some("2031-01-03T03:04:05+00:00".into()),
            group: Some("g".into()),
            group_index: Some(3),
            retries: 2,
            timelimit: [Some(30.5), Some(20.0)],
            root_id: Some("root".into()),
            parent_id: Some("parent".into()),
            argsrepr: Some("(1, 'ä')".into()),
            kwargsrepr: Some("{}".into()),
            origin: Some("gen1@host".into()),
            ignore_result: Some(true),
            replaced_task_nesting: 1,
            stamped_headers: Some(vec!["tenant".into()]),
            stamps: map(json!({"tenant": "acme"})),
            compression: Some("application/x-gzip".into()),
            other: map(json!({"x-tenant": "acme", "x-number": 7})),
        },
        properties: Properties {
            content_type: "application/x-python-serialize".into(),
            content_encoding: "binary".into(),
            correlation_id: Some("d3b0c7a2-0000-4000-8000-000000000001".into()),
            reply_to: Some("5e239fe7-1ad0-3058-0000-000000000000".into()),
            priority,
            is_persistent: true,
            expiration: Some(86_400_000),
        },
        body: Bytes::from((0..=255).collect::<Vec<u8>>()),
    }
}

pub(crate) async fn a_message_arrives_as_it_was<F: Fixture>() {
    let (fixture, queue) = (F::new().await, unique("whole"));
    let broker = open(&fixture);
    let sent = full(F::PRIORITIES[1]);
    broker.publish(&[Outgoing { queue: queue.clone(), message: sent.clone() }]).await.unwrap();
    let mut consumer = consume(&broker, &queue, 1).await;
    let came = receive(&mut consumer, 1).await.remove(0);
    assert_eq!(came.content.as_ref().unwrap(), &sent);
    done(&*consumer, &[came]).await;
}

pub(crate) async fn every_name_and_body_travels<F: Fixture>() {
    let fixture = F::new().await;
    let broker = open(&fixture);
    for word in
        ["käse", "订单", "with space", "q.dots-and_more:colons", "'; drop table message; --", "%s*?[a]"]
    {
        let queue = unique(word);
        let bodies = [Bytes::new(), Bytes::from_static(b"\0\xff\xfe\n\r"), Bytes::from("日本".repeat(1000))];
        let sent: Vec<Outgoing> = bodies
            .iter()
            .map(|body| {
                let mut message = Message { body: body.clone(), ..message(0) };
                message.headers.id = format!("{word}\u{0007}\"\\");
                message.headers.task = format!("{word}.täsk");
                Outgoing { queue: queue.clone(), message }
            })
            .collect();
        broker.publish(&sent).await.unwrap();
        let mut consumer = consume(&broker, &queue, 10).await;
        for (came, sent) in receive(&mut consumer, 3).await.iter().zip(&sent) {
            assert_eq!(came.queue, queue);
            assert_eq!(came.content.as_ref().unwrap(), &sent.message);
            done(&*consumer, std::slice::from_ref(came)).await;
        }
    }
}

pub(crate) async fn the_better_priority_comes_first<F: Fixture>() {
    let (fixture, queue) = (F::new().await, unique("priority"));
    let broker = open(&fixture);
    let declaration = Declaration { max_priority: Some(9), ..plain(&queue) };
    broker.declare(&declaration).await.unwrap();
    let [first, second, third] = F::PRIORITIES;
    let priorities = [third, second, first, third, first, second];
    let mut messages = numbered(&queue, 0..priorities.len());
    for (outgoing, priority) in messages.iter_mut().zip(priorities) {
        outgoing.message.properties.priority = priority;
    }
    broker.publish(&messages).await.unwrap();
    let mut wanted = subscription(&[&queue], 10);
    wanted.queues = vec![declaration];
    let mut consumer = broker.consume(wanted).await.unwrap();
    let came = receive(&mut consumer, 6).await;
    assert_eq!(came.iter().map(number).collect::<Vec<_>>(), [2, 4, 1, 5, 0, 3]);
    done(&*consumer, &came).await;
}

pub(crate) async fn what_was_published_is_there_for_others<F: Fixture>() {
    let (fixture, queue) = (F::new().await, unique("confirmed"));
    let (one, other) = (open(&fixture), open(&fixture));
    one.publish(&numbered(&queue, 0..3)).await.unwrap();
    assert_eq!(other.depth(&queue).await.unwrap(), 3);
    one.close().await;
    let mut consumer = consume(&other, &queue, 3).await;
    let came = receive(&mut consumer, 3).await;
    done(&*consumer, &came).await;
}

pub(crate) async fn one_batch_fills_several_queues<F: Fixture>() {
    let (fixture, one, other) = (F::new().await, unique("one"), unique("other"));
    let broker = open(&fixture);
    let batch: Vec<Outgoing> =
        (0..20).map(|at| outgoing(if at % 2 == 0 { &one } else { &other }, at)).collect();
    broker.publish(&batch).await.unwrap();
    let mut consumer = broker.consume(subscription(&[&one, &other], 20)).await.unwrap();
    let came = receive(&mut consumer, 20).await;
    for (queue, rest) in [(&one, 0), (&other, 1)] {
        let of_queue: Vec<usize> =
            came.iter().filter(|delivery| delivery.queue == *queue).map(number).collect();
        assert_eq!(of_queue, (0..20).filter(|at| at % 2 == rest).collect::<Vec<_>>());
    }
    done(&*consumer, &came).await;
}

pub(crate) async fn who_waits_is_woken<F: Fixture>() {
    let (fixture, queue) = (F::new().await, unique("woken"));
    let (producer, broker) = (open(&fixture), open(&fixture));
    let mut consumer = consume(&broker, &queue, 1).await;
    for at in 0..10 {
        let (came, ()) = tokio::join!(receive(&mut consumer, 1), async {
            tokio::task::yield_now().await;
            producer.publish(&[outgoing(&queue, at)]).await.unwrap();
        });
        assert_eq!(number(&came[0]), at);
        done(&*consumer, &came).await;
    }
}

pub(crate) async fn what_is_done_is_gone<F: Fixture>() {
    let (fixture, queue) = (F::new().await, unique("done"));
    let broker = open(&fixture);
    broker.publish(&numbered(&queue, 0..4)).await.unwrap();
    let mut consumer = consume(&broker, &queue, 4).await;
    let came = receive(&mut consumer, 4).await;
    assert_eq!(broker.depth(&queue).await.unwrap(), 0);
    done(&*consumer, &came[..3]).await;
    drop(consumer);
    let mut again = consume(&broker, &queue, 4).await;
    let came = receive(&mut again, 1).await;
    assert_eq!(number(&came[0]), 3);
    done(&*again, &came).await;
    nothing_comes(&mut again).await;
}

pub(crate) async fn what_is_returned_comes_next<F: Fixture>() {
    let (fixture, queue) = (F::new().await, unique("return"));
    let broker = open(&fixture);
    broker.publish(&numbered(&queue, 0..3)).await.unwrap();
    let mut consumer = consume(&broker, &queue, 1).await;
    let came = receive(&mut consumer, 1).await;
    consumer.settler().settle(vec![(came[0].tag, Settlement::Return)]).await.unwrap();
    let mut order = Vec::new();
    for _ in 0..3 {
        let came = receive(&mut consumer, 1).await;
        assert_eq!(came[0].is_redelivered, number(&came[0]) == 0);
        order.push(number(&came[0]));
        done(&*consumer, &came).await;
    }
    let is_near = !F::RETURNS_AT_ONCE && order == [1, 0, 2];
    assert!(is_near || order == [0, 1, 2], "{order:?}");
}

pub(crate) async fn what_is_requeued_comes_last<F: Fixture>() {
    let (fixture, queue) = (F::new().await, unique("requeue"));
    let broker = open(&fixture);
    broker.publish(&numbered(&queue, 0..3)).await.unwrap();
    let mut consumer = consume(&broker, &queue, 1).await;
    let came = receive(&mut consumer, 1).await;
    consumer.settler().settle(vec![(came[0].tag, Settlement::Requeue { held: None })]).await.unwrap();
    for expected in [1, 2, 0] {
        let came = receive(&mut consumer, 1).await;
        assert_eq!(number(&came[0]), expected);
        done(&*consumer, &came).await;
    }
}

/// Three messages that died, oldest first.
async fn three_dead(broker: &Arc<dyn Broker>, queue: &str) {
    broker.publish(&numbered(queue, 0..3)).await.unwrap();
    let mut consumer = consume(broker, queue, 3).await;
    for delivery in receive(&mut consumer, 3).await {
        let reason = format!("could not run task {}: ünknown", number(&delivery));
        consumer
            .settler()
            .settle(vec![(delivery.tag, Settlement::Dead { reason, held: None })])
            .await
            .unwrap();
    }
}

pub(crate) async fn the_dead_are_listed_and_come_back<F: Fixture>() {
    let (fixture, queue) = (F::new().await, unique("dead"));
    let broker = open(&fixture);
    three_dead(&broker, &queue).await;
    assert_eq!(broker.depth(&queue).await.unwrap(), 0);
    let dead = broker.dead_letters(&queue, 10).await.unwrap();
    assert_eq!(dead.len(), 3);
    for (at, letter) in dead.iter().enumerate() {
        assert_eq!(letter.queue, queue);
        assert_eq!(letter.reason, format!("could not run task {at}: ünknown"));
        assert_eq!(letter.content.as_ref().unwrap().body, at.to_string());
        assert!(letter.died > 1.6e9, "{}", letter.died);
    }
    assert_eq!(broker.dead_letters(&queue, 2).await.unwrap(), dead[..2]);
    assert_eq!(broker.dead_letters(&unique("other"), 10).await.unwrap(), []);

    assert_eq!(broker.revive(&queue, &[dead[1].key.clone()]).await.unwrap(), 1);
    assert_eq!(broker.revive(&queue, &[dead[1].key.clone()]).await.unwrap(), 0);
    assert_eq!(broker.depth(&queue).await.unwrap(), 1);
    assert_eq!(broker.revive(&queue, &[]).await.unwrap(), 2);
    assert_eq!(broker.dead_letters(&queue, 10).await.unwrap(), []);
    let mut consumer = consume(&broker, &queue, 3).await;
    let came = receive(&mut consumer, 3).await;
    assert_eq!(came.iter().map(number).collect::<Vec<_>>(), [1, 0, 2]);
    done(&*consumer, &came).await;
}

pub(crate) async fn the_dead_are_buried<F: Fixture>() {
    let (fixture, queue) = (F::new().await, unique("buried"));
    let broker = open(&fixture);
    three_dead(&broker, &queue).await;
    assert_eq!(broker.bury(&queue).await.unwrap(), 3);
    assert_eq!(broker.bury(&queue).await.unwrap(), 0);
    assert_eq!(broker.dead_letters(&queue, 10).await.unwrap(), []);
    assert_eq!(broker.revive(&queue, &[]).await.unwrap(), 0);
}

pub(crate) async fn a_replacement_takes_the_place<F: Fixture>() {
    let (fixture, queue, elsewhere) = (F::new().await, unique("replace"), unique("elsewhere"));
    let broker = open(&fixture);
    broker.publish(&numbered(&queue, 0..2)).await.unwrap();
    let mut consumer = consume(&broker, &queue, 2).await;
    let came = receive(&mut consumer, 2).await;
    let mut retry = outgoing(&queue, 10);
    retry.message.headers.retries = 1;
    let moved = outgoing(&elsewhere, 11);
    let settlements = vec![
        (came[0].tag, Settlement::Replace(Box::new(retry.clone()))),
        (came[1].tag, Settlement::Replace(Box::new(moved))),
    ];
    consumer.settler().settle(settlements).await.unwrap();
    // Whoever dies now has nothing left to give back.
    drop(consumer);
    let mut consumer = consume(&broker, &queue, 10).await;
    let came = receive(&mut consumer, 1).await;
    assert_eq!(came[0].content.as_ref().unwrap(), &retry.message);
    done(&*consumer, &came).await;
    nothing_comes(&mut consumer).await;
    let mut consumer = consume(&broker, &elsewhere, 10).await;
    let came = receive(&mut consumer, 1).await;
    assert_eq!(number(&came[0]), 11);
    done(&*consumer, &came).await;
}

pub(crate) async fn nothing_is_lost_when_next_is_given_up<F: Fixture>() {
    let (fixture, queue) = (F::new().await, unique("given-up"));
    let (producer, broker) = (open(&fixture), open(&fixture));
    let publishing = tokio::spawn({
        let queue = queue.clone();
        async move {
            for at in 0..300 {
                producer.publish(&[outgoing(&queue, at)]).await.unwrap();
            }
        }
    });
    let mut consumer = consume(&broker, &queue, 1000).await;
    let mut seen = Vec::new();
    let mut hasty = 0;
    while seen.len() < 300 {
        // Of every four calls three are given up at some point of their way, if they have not finished by then.
        hasty += 1;
        let patience =
            if hasty % 4 == 0 { super::PATIENCE } else { Duration::from_micros(50 * (hasty % 40)) };
        if let Ok(came) = tokio::time::timeout(patience, consumer.next(10)).await {
            let came = came.unwrap();
            seen.extend(came.iter().map(number));
            done(&*consumer, &came).await;
        }
    }
    publishing.await.unwrap();
    assert_eq!(seen, (0..300).collect::<Vec<_>>());
    assert_eq!(broker.depth(&queue).await.unwrap(), 0);
}

pub(crate) async fn a_consumer_has_no_more_than_it_asked_for<F: Fixture>() {
    let (fixture, queue) = (F::new().await, unique("prefetch"));
    let broker = open(&fixture);
    broker.publish(&numbered(&queue, 0..10)).await.unwrap();
    let mut consumer = consume(&broker, &queue, 3).await;
    let mut came = receive(&mut consumer, 3).await;
    nothing_comes(&mut consumer).await;
    assert_eq!(broker.depth(&queue).await.unwrap(), 7);
    done(&*consumer, &[came.remove(1)]).await;
    came.extend(receive(&mut consumer, 1).await);
    nothing_comes(&mut consumer).await;
    assert_eq!(came.iter().map(number).collect::<Vec<_>>(), [0, 2, 3]);
    done(&*consumer, &came).await;
}

pub(crate) async fn what_is_held_does_not_count<F: Fixture>() {
    let (fixture, queue) = (F::new().await, unique("hold"));
    let broker = open(&fixture);
    broker.publish(&numbered(&queue, 0..4)).await.unwrap();
    let mut consumer = consume(&broker, &queue, 2).await;
    let held = receive(&mut consumer, 2).await;
    let settler = consumer.settler();
    settler.hold(&held.iter().map(|delivery| delivery.tag).collect::<Vec<_>>()).await.unwrap();
    let came = receive(&mut consumer, 2).await;
    assert_eq!(came.iter().map(number).collect::<Vec<_>>(), [2, 3]);
    done(&*consumer, &came).await;
    let mut other = consume(&broker, &queue, 10).await;
    nothing_comes(&mut other).await;
    done(&*consumer, &held[..1]).await;
    drop(consumer);
    let came = receive(&mut other, 1).await;
    assert_eq!((number(&came[0]), came[0].is_redelivered), (1, true));
    done(&*other, &came).await;
}

pub(crate) async fn what_is_held_is_settled_in_every_way<F: Fixture>() {
    let (fixture, queue) = (F::new().await, unique("held"));
    let broker = open(&fixture);
    let message = |number: usize| Message { body: number.to_string().into(), ..full(0) };
    let outgoing = |number| Outgoing { queue: queue.clone(), message: message(number) };
    broker.publish(&(0..5).map(outgoing).collect::<Vec<_>>()).await.unwrap();
    let mut consumer = consume(&broker, &queue, 5).await;
    let held = receive(&mut consumer, 5).await;
    let tags: Vec<Tag> = held.iter().map(|delivery| delivery.tag).collect();
    let settler = consumer.settler();
    settler.hold(&tags).await.unwrap();
    // Twice is once.
    settler.hold(&tags[..2]).await.unwrap();
    let ways = [
        Settlement::Done,
        Settlement::Return,
        Settlement::Requeue { held: Some(Box::new(outgoing(2))) },
        Settlement::Dead { reason: "held for too long".into(), held: Some(Box::new(outgoing(3))) },
        Settlement::Replace(Box::new(outgoing(9))),
    ];
    settler.settle(tags.into_iter().zip(ways).collect()).await.unwrap();
    let mut came = receive(&mut consumer, 3).await;
    came.sort_unstable_by_key(number);
    assert_eq!(came.iter().map(number).collect::<Vec<_>>(), [1, 2, 9]);
    for delivery in &came {
        assert_eq!(delivery.content.as_ref().unwrap(), &message(number(delivery)));
    }
    done(&*consumer, &came).await;
    nothing_comes(&mut consumer).await;
    let dead = broker.dead_letters(&queue, 10).await.unwrap();
    let [letter] = &dead[..] else { panic!("{dead:?}") };
    let died = letter.content.as_ref().unwrap();
    assert_eq!(
        (&letter.reason[..], &died.headers, &died.body),
        ("held for too long", &full(0).headers, &message(3).body)
    );
}

pub(crate) async fn two_consumers_share_and_double_nothing<F: Fixture>() {
    let (fixture, queue) = (F::new().await, unique("share"));
    let producer = open(&fixture);
    let mut tasks = Vec::new();
    let mut stops = Vec::new();
    let (seen, mut all) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..2 {
        let mut consumer = consume(&open(&fixture), &queue, 10).await;
        stops.push(consumer.settler());
        let seen = seen.clone();
        tasks.push(tokio::spawn(async move {
            loop {
                let came = consumer.next(10).await.unwrap();
                if came.is_empty() {
                    break;
                }
                done(&*consumer, &came).await;
                for delivery in &came {
                    seen.send(number(delivery)).unwrap();
                }
                // One thread's tasks take turns only where they wait.
                tokio::task::yield_now().await;
            }
        }));
    }
    producer.publish(&numbered(&queue, 0..1000)).await.unwrap();
    let mut numbers = Vec::new();
    for _ in 0..1000 {
        numbers.push(all.recv().await.unwrap());
    }
    for settler in stops {
        settler.stop().await;
    }
    for task in tasks {
        task.await.unwrap();
    }
    numbers.extend(std::iter::from_fn(|| all.try_recv().ok()));
    numbers.sort_unstable();
    assert_eq!(numbers, (0..1000).collect::<Vec<_>>());
}

pub(crate) async fn a_dropped_consumer_gives_back<F: Fixture>() {
    let (fixture, queue) = (F::new().await, unique("dropped"));
    let broker = open(&fixture);
    broker.publish(&numbered(&queue, 0..5)).await.unwrap();
    let mut consumer = consume(&broker, &queue, 3).await;
    let came = receive(&mut consumer, 3).await;
    let mut other = consume(&broker, &queue, 10).await;
    let mut rest = receive(&mut other, 2).await;
    done(&*consumer, &came[..1]).await; // not earlier: a broker may deliver the next one at once
    drop(consumer);
    let back = receive(&mut other, 2).await;
    assert!(back.iter().all(|delivery| delivery.is_redelivered), "{back:?}");
    assert!(rest.iter().all(|delivery| !delivery.is_redelivered), "{rest:?}");
    rest.extend(back);
    assert_eq!(rest.iter().map(number).collect::<BTreeSet<_>>(), (1..5).collect());
    done(&*other, &rest).await;
    nothing_comes(&mut other).await;
}

pub(crate) async fn a_large_body_is_not_read<F: Fixture>() {
    let (fixture, queue) = (F::new().await, unique("large"));
    let broker = open(&fixture);
    let mut large = outgoing(&queue, 0);
    large.message.body = Bytes::from(vec![b'x'; 5000]);
    broker.publish(&[large, outgoing(&queue, 1)]).await.unwrap();
    let mut wanted = subscription(&[&queue], 10);
    wanted.max_body = 4999;
    let mut consumer = broker.consume(wanted).await.unwrap();
    // The broker may see to it by itself, or have its consumer say of it that it is dead.
    loop {
        let came = receive(&mut consumer, 1).await.remove(0);
        let Err(unreadable) = &came.content else {
            assert_eq!(number(&came), 1);
            done(&*consumer, &[came]).await;
            break;
        };
        let reason = unreadable.reason.clone();
        consumer.settler().settle(vec![(came.tag, Settlement::Dead { reason, held: None })]).await.unwrap();
    }
    let dead = broker.dead_letters(&queue, 10).await.unwrap();
    assert_eq!(dead.len(), 1);
    assert!(dead[0].reason.contains("4999"), "{}", dead[0].reason);
    assert_eq!(broker.bury(&queue).await.unwrap(), 1);
}

pub(crate) async fn a_purge_deletes_what_waits<F: Fixture>() {
    let (fixture, queue) = (F::new().await, unique("purge"));
    let broker = open(&fixture);
    assert_eq!(broker.depth(&queue).await.unwrap(), 0);
    assert_eq!(broker.purge(&queue).await.unwrap(), 0);
    broker.publish(&numbered(&queue, 0..10)).await.unwrap();
    let mut consumer = consume(&broker, &queue, 1).await;
    let came = receive(&mut consumer, 1).await;
    assert_eq!(broker.depth(&queue).await.unwrap(), 9);
    assert_eq!(broker.purge(&queue).await.unwrap(), 9);
    assert_eq!(broker.depth(&queue).await.unwrap(), 0);
    // What somebody has been given does not wait.
    consumer.settler().settle(vec![(came[0].tag, Settlement::Return)]).await.unwrap();
    let came = receive(&mut consumer, 1).await;
    assert_eq!(number(&came[0]), 0);
    done(&*consumer, &came).await;
}

pub(crate) async fn a_stopped_consumer_drains<F: Fixture>() {
    let (fixture, queue) = (F::new().await, unique("stop"));
    let broker = open(&fixture);
    broker.publish(&numbered(&queue, 0..10)).await.unwrap();
    let mut consumer = consume(&broker, &queue, 4).await;
    let mut mine = receive(&mut consumer, 1).await;
    let settler = consumer.settler();
    settler.stop().await;
    loop {
        let came = consumer.next(10).await.unwrap();
        if came.is_empty() {
            break;
        }
        mine.extend(came);
    }
    assert!(mine.len() <= 4, "{mine:?}");
    assert!(consumer.next(10).await.unwrap().is_empty());
    // What it has is its own until it is gone.
    done(&*consumer, &mine).await;
    drop(consumer);
    let mut other = consume(&broker, &queue, 10).await;
    let rest = receive(&mut other, 10 - mine.len()).await;
    done(&*other, &rest).await;
    let all: BTreeSet<usize> = mine.iter().chain(&rest).map(number).collect();
    assert_eq!(all, (0..10).collect());

    let mut last = consume(&broker, &queue, 1).await;
    let settler = last.settler();
    let (came, ()) = tokio::join!(last.next(1), async {
        tokio::time::sleep(QUIET).await;
        settler.stop().await;
    });
    assert!(came.unwrap().is_empty(), "a stop ends a wait");
}

pub(crate) async fn after_close_nothing_works<F: Fixture>() {
    let (fixture, queue) = (F::new().await, unique("close"));
    let (broker, other) = (open(&fixture), open(&fixture));
    broker.publish(&numbered(&queue, 0..2)).await.unwrap();
    let mut consumer = consume(&broker, &queue, 2).await;
    let came = receive(&mut consumer, 2).await;
    done(&*consumer, &came[..1]).await;
    let waits = tokio::spawn(async move { consumer.next(1).await });
    broker.close().await;
    assert!(matches!(broker.depth(&queue).await, Err(Error::Closed { .. })));
    let refused = broker.publish(&[outgoing(&queue, 2)]).await.unwrap_err();
    assert!(matches!(refused.error, Error::Closed { .. }));
    assert_eq!(refused.confirmed, 0);
    assert!(matches!(broker.consume(subscription(&[&queue], 1)).await.err(), Some(Error::Closed { .. })));
    assert!(waits.await.unwrap().is_err(), "who waits is told");
    // What it had not settled is for others.
    let mut consumer = consume(&other, &queue, 2).await;
    let came = receive(&mut consumer, 1).await;
    assert_eq!(number(&came[0]), 1);
    done(&*consumer, &came).await;
}

pub(crate) async fn thousands_travel_in_batches<F: Fixture>() {
    const COUNT: usize = 5000;
    let (fixture, queue) = (F::new().await, unique("thousands"));
    let broker = open(&fixture);
    broker.publish(&numbered(&queue, 0..COUNT)).await.unwrap();
    assert_eq!(broker.depth(&queue).await.unwrap(), COUNT as u64);
    let mut consumer: Box<dyn Consumer> = consume(&broker, &queue, 1000).await;
    let mut seen = Vec::new();
    while seen.len() < COUNT {
        let came = consumer.next(400).await.unwrap();
        assert!(came.len() <= 400);
        seen.extend(came.iter().map(number));
        done(&*consumer, &came).await;
    }
    assert_eq!(seen, (0..COUNT).collect::<Vec<_>>());
    nothing_comes(&mut consumer).await;
}

pub(crate) async fn queues_are_served_in_order<F: Fixture>() {
    let (fixture, first, second) = (F::new().await, unique("first"), unique("second"));
    let broker = open(&fixture);
    let mut urgent = outgoing(&second, 0);
    urgent.message.properties.priority = F::PRIORITIES[0];
    let mut messages = numbered(&second, 3..5);
    messages.extend(numbered(&first, 1..3));
    messages.push(urgent);
    for outgoing in &mut messages[..4] {
        outgoing.message.properties.priority = F::PRIORITIES[2];
    }
    broker.publish(&messages).await.unwrap();
    let mut consumer = broker.consume(subscription(&[&first, &second], 10)).await.unwrap();
    let came = receive(&mut consumer, 5).await;
    assert_eq!(came.iter().map(number).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    done(&*consumer, &came).await;
}

pub(crate) async fn what_is_given_back_keeps_its_order<F: Fixture>() {
    let (fixture, queue) = (F::new().await, unique("given-back"));
    let broker = open(&fixture);
    broker.publish(&numbered(&queue, 0..6)).await.unwrap();
    let mut consumer = consume(&broker, &queue, 4).await;
    let came = receive(&mut consumer, 4).await;
    consumer.settler().hold(&[came[2].tag]).await.unwrap();
    done(&*consumer, &came[..1]).await;
    drop(consumer);
    let mut consumer = consume(&broker, &queue, 10).await;
    let came = receive(&mut consumer, 5).await;
    let found: Vec<(usize, bool)> = came.iter().map(|came| (number(came), came.is_redelivered)).collect();
    assert_eq!(found, [(1, true), (2, true), (3, true), (4, false), (5, false)]);
    done(&*consumer, &came).await;
}

pub(crate) async fn what_is_returned_together_keeps_its_order<F: Fixture>() {
    let (fixture, queue) = (F::new().await, unique("returned"));
    let broker = open(&fixture);
    broker.publish(&numbered(&queue, 0..4)).await.unwrap();
    let mut consumer = consume(&broker, &queue, 3).await;
    let came = receive(&mut consumer, 3).await;
    let back = came.iter().map(|delivery| (delivery.tag, Settlement::Return)).collect();
    consumer.settler().settle(back).await.unwrap();
    let mut again = receive(&mut consumer, 3).await;
    assert_eq!(again.iter().map(number).collect::<Vec<_>>(), [0, 1, 2]);
    done(&*consumer, &again).await;
    again = receive(&mut consumer, 1).await;
    done(&*consumer, &again).await;
}

pub(crate) async fn a_message_is_settled_once<F: Fixture>() {
    let (fixture, queue) = (F::new().await, unique("once"));
    let broker = open(&fixture);
    broker.publish(&numbered(&queue, 0..3)).await.unwrap();
    let mut consumer = consume(&broker, &queue, 3).await;
    let came = receive(&mut consumer, 3).await;
    let settler = consumer.settler();
    done(&*consumer, &came[..1]).await;
    // What was settled before is no one's any more; what stands beside it is settled nevertheless.
    let twice = came[..2].iter().map(|delivery| (delivery.tag, Settlement::Requeue { held: None })).collect();
    assert!(matches!(settler.settle(twice).await, Err(Error::TakenBack { .. })));
    drop(consumer);
    let late = vec![(came[2].tag, Settlement::Done)];
    assert!(matches!(settler.settle(late).await, Err(Error::TakenBack { .. })));
    let mut consumer = consume(&broker, &queue, 3).await;
    let came = receive(&mut consumer, 2).await;
    assert_eq!(came.iter().map(number).collect::<Vec<_>>(), [2, 1]);
    done(&*consumer, &came).await;
    nothing_comes(&mut consumer).await;
}

pub(crate) async fn what_is_requeued_was_delivered_before<F: Fixture>() {
    let (fixture, queue) = (F::new().await, unique("marked"));
    let broker = open(&fixture);
    broker.publish(&numbered(&queue, 0..2)).await.unwrap();
    let mut consumer = consume(&broker, &queue, 1).await;
    let came = receive(&mut consumer, 1).await;
    consumer.settler().settle(vec![(came[0].tag, Settlement::Requeue { held: None })]).await.unwrap();
    for expected in [(1, false), (0, true)] {
        let came = receive(&mut consumer, 1).await;
        assert_eq!((number(&came[0]), came[0].is_redelivered), expected);
        done(&*consumer, &came).await;
    }
}

pub(crate) async fn workers_learn_of_revocations<F: Fixture>() {
    let fixture = F::new().await;
    let (producer, worker, other) = (open(&fixture), open(&fixture), open(&fixture));
    let ids = [unique("one"), unique("two"), unique("three")];
    let told = |revoked: Vec<Revocation>| {
        // Others may revoke tasks of theirs at the same server.
        revoked
            .into_iter()
            .filter(|it| ids.contains(&it.id))
            .map(|it| (it.id, it.terminate))
            .collect::<Vec<_>>()
    };
    let (mark, _) = worker.revocations(0).await.unwrap();
    other.revocations(0).await.unwrap();
    producer.revoke(&ids[..2], false).await.unwrap();
    let (mark, revoked) = heard(&worker, mark, &ids[1]).await;
    let expected = [(ids[0].clone(), false), (ids[1].clone(), false)];
    assert_eq!(told(revoked).into_iter().collect::<BTreeSet<_>>(), expected.into_iter().collect());
    producer.revoke(&ids[2..], true).await.unwrap();
    let (mark, revoked) = heard(&worker, mark, &ids[2]).await;
    assert_eq!(told(revoked), [(ids[2].clone(), true)]);
    assert_eq!(told(worker.revocations(mark).await.unwrap().1), []);
    let (_, revoked) = heard(&other, 0, &ids[2]).await;
    assert_eq!(told(revoked).len(), 3);
}

/// Asks until the task is among those revoked since the mark. A server may tell of one only after it has taken it.
async fn heard(worker: &Arc<dyn Broker>, mark: u64, id: &str) -> (u64, Vec<Revocation>) {
    loop {
        let (last, revoked) = worker.revocations(mark).await.unwrap();
        if revoked.iter().any(|it| it.id == id) {
            return (last, revoked);
        }
        tokio::task::yield_now().await;
    }
}
