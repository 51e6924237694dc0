//! What `redis://` does beyond the contract: kombu's layout, foreign and broken items, servers and consumers that die.

mod contract;
mod servers;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use contract::{consume, done, in_time, number, numbered, outgoing, plain, receive, subscription, unique};
use manyhands_queue::address::Address;
use manyhands_queue::backend::{State, Stored};
use manyhands_queue::broker::{Consumer, Settlement, Subscription};
use manyhands_queue::message::Outgoing;
use manyhands_queue::open::{Options, open_backend, open_broker};
use manyhands_queue::wire::{Limits, envelope};
use manyhands_queue::{Backend, Broker, Error};
use redis::Commands as _;
use serde_json::{Value, json};
use servers::redis::{Durability, Redis};

fn broker(server: &Redis, options: &Options) -> Arc<dyn Broker> {
    open_broker(&Address::parse(&server.url()).unwrap(), options).unwrap()
}

fn backend(server: &Redis, options: &Options) -> Arc<dyn Backend> {
    open_backend(&Address::parse(&server.url()).unwrap(), None, options).unwrap()
}

/// A connection of somebody else.
fn client(server: &Redis) -> redis::Connection {
    redis::Client::open(server.url()).unwrap().get_connection().unwrap()
}

/// What Celery was recorded to do.
fn recorded(case: &str) -> Value {
    let path = format!("{}/../../tests/vectors/celery/{case}.redis.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A text of JSON, without what is made up anew for each message.
fn comparable(text: &str) -> Value {
    let mut envelope: Value = serde_json::from_str(text).unwrap();
    envelope["properties"].as_object_mut().unwrap().remove("delivery_tag").expect("it has a tag");
    envelope
}

/// The arguments of each command that Celery sent, without those that only look.
fn effects(case: &Value) -> Vec<Vec<String>> {
    let commands = case["redis_commands"].as_array().unwrap().iter();
    let commands = commands.map(|command| {
        command.as_array().unwrap()[1..].iter().map(|word| word.as_str().unwrap().to_owned()).collect()
    });
    commands.filter(|command: &Vec<String>| ["SADD", "LPUSH", "RPUSH"].contains(&&*command[0])).collect()
}

/// The list and the message that a producer of Celery's pushed.
fn pushed(case: &Value) -> Vec<String> {
    if let Some(message) = case["messages"].get(0) {
        return ["key", "raw"].map(|part| message[part].as_str().unwrap().to_owned()).into();
    }
    effects(case).into_iter().find(|command| command[0] == "LPUSH").unwrap().split_off(1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_lies_as_kombu_lays_it() {
    let server = Redis::start(Durability::None);
    let mut client = client(&server);
    for (case, prefix) in [("simple", ""), ("priority_4", ""), ("global_keyprefix", "pfx:")] {
        let _: () = redis::cmd("FLUSHALL").query(&mut client).unwrap();
        let case = recorded(case);
        let [list, raw] = &*pushed(&case) else { panic!("the recording is another") };
        let message = envelope::decode(raw.as_bytes(), &Limits::default()).unwrap().message;
        let broker = broker(&server, &Options { key_prefix: prefix.into(), ..Options::default() });
        broker.publish(&[Outgoing { queue: "celery".into(), message }]).await.unwrap();
        let found: Vec<String> = client.lrange(list, 0, -1).unwrap();
        assert_eq!(found.iter().map(|text| comparable(text)).collect::<Vec<_>>(), [comparable(raw)]);
        for table in ["_kombu.binding.celery", "_kombu.binding_permanent.celery"] {
            let rows: Vec<String> = client.smembers(format!("{prefix}{table}")).unwrap();
            assert_eq!(rows, ["celery\x06\x16\x06\x16celery"]);
        }
        let keys: BTreeSet<String> = client.keys("*").unwrap();
        assert_eq!(keys.len(), 3, "{keys:?}");
        broker.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_taken_is_kept_as_kombu_keeps_it() {
    let server = Redis::start(Durability::None);
    let mut client = client(&server);
    let raw = recorded("unacked_running")["unacked_hash_decoded"]["6c8b7dcc-ef97-4ec1-b41c-23dbee723df7"][0]
        .to_string();
    let _: () = client.lpush("celery", &raw).unwrap();
    let broker = broker(&server, &Options::default());
    let mut consumer = consume(&broker, "celery", 10).await;
    let came = receive(&mut consumer, 1).await.remove(0);
    let kept: BTreeMap<String, String> = client.hgetall("unacked").unwrap();
    let (tag, kept) = kept.first_key_value().unwrap();
    let expected = json!([serde_json::from_str::<Value>(&raw).unwrap(), "", "celery"]);
    assert_eq!(serde_json::from_str::<Value>(kept).unwrap(), expected);
    let (since, _): (f64, u64) = redis::cmd("TIME").query(&mut client).unwrap();
    let taken: f64 = client.zscore("unacked_index", tag).unwrap();
    assert!((since - 60.0..=since + 1.0).contains(&taken), "taken at {taken}, now it is {since}");
    // What goes back is marked as kombu marks it.
    let settler = consumer.settler();
    settler.stop().await;
    settler.settle(vec![(came.tag, Settlement::Return)]).await.unwrap();
    let mut marked: Value = serde_json::from_str(&raw).unwrap();
    marked["headers"]["redelivered"] = true.into();
    marked["properties"]["delivery_info"]["redelivered"] = true.into();
    let back: String = client.lindex("celery", 0).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&back).unwrap(), marked);
    drop(consumer);
    broker.close().await;
    let keys: BTreeSet<String> = client.keys("*").unwrap();
    let expected = ["_kombu.binding.celery", "_kombu.binding_permanent.celery", "celery"];
    assert_eq!(keys, expected.map(String::from).into(), "nothing else is left");
}

/// Somebody who does not wait long for what others have left.
fn hasty(queue: &str, visibility: Duration) -> Subscription {
    Subscription { visibility, ..subscription(&[queue], 10) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_celery_worker_had_is_restored_as_kombu_does() {
    let server = Redis::start(Durability::None);
    let mut client = client(&server);
    let recording = recorded("visibility_restore");
    let (tag, kept) = recording["before"]["unacked"].as_object().unwrap().iter().next().unwrap();
    let restored = effects(&recording).into_iter().find(|command| command[0] == "RPUSH").unwrap();
    // One that came by an exchange, and one that cannot be understood, lie there, too.
    let topic = json!([kept[0], "events", "order.paid"]);
    let rows = "order.*\x06\x16^order\\.[^\\.]+$\x06\x16audit";
    let _: () = client.sadd("_kombu.binding.events", rows).unwrap();
    for (tag, kept) in [(&**tag, kept), ("by-topic", &topic), ("odd", &json!({"odd": 1}))] {
        let _: () = client.hset("unacked", tag, kept.to_string()).unwrap();
        let _: () = client.zadd("unacked_index", tag, 1_795_211_831.8).unwrap();
    }
    // As long as a worker of Celery's is at it, nobody else is.
    let _: () = client.set("unacked_mutex", "somebody").unwrap();
    let broker = broker(&server, &Options::default());
    let mut consumer = broker.consume(hasty("audit", Duration::from_millis(400))).await.unwrap();
    contract::nothing_comes(&mut consumer).await;
    let _: () = client.del("unacked_mutex").unwrap();
    let came = in_time(receive(&mut consumer, 1)).await;
    assert!(came[0].is_redelivered);
    done(&*consumer, &came).await;
    in_time(async {
        while client.llen::<_, u64>(&restored[1]).unwrap() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let found: String = client.lindex(&restored[1], -1).unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&found).unwrap(),
        serde_json::from_str::<Value>(&restored[2]).unwrap()
    );
    let left: Vec<String> = client.hkeys("unacked").unwrap();
    assert_eq!(left, ["odd"], "what cannot be understood is left alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_envelope_becomes_a_dead_letter() {
    let server = Redis::start(Durability::None);
    let mut client = client(&server);
    let broker = broker(&server, &Options::default());
    let queue = unique("garbage");
    let whole = recorded("simple")["messages"][0]["raw"].as_str().unwrap().to_owned();
    let garbage = [
        String::new(),
        "no json".into(),
        "{}".into(),
        "null".into(),
        whole[..whole.len() / 2].into(),
        "\u{0}\u{7f}\", \"\", \"".into(),
        "x".repeat(3 << 20),
    ];
    for item in &garbage {
        let _: () = client.lpush(&queue, item).unwrap();
    }
    let mut consumer = consume(&broker, &queue, 100).await;
    let came = receive(&mut consumer, garbage.len()).await;
    let settlements = came.iter().map(|delivery| {
        let reason = delivery.content.as_ref().unwrap_err().reason.clone();
        (delivery.tag, Settlement::Dead { reason, held: None })
    });
    consumer.settler().settle(settlements.collect()).await.unwrap();
    contract::nothing_comes(&mut consumer).await;
    assert!(
        !client.exists::<_, bool>("unacked").unwrap() && !client.exists::<_, bool>("unacked_index").unwrap()
    );
    let letters = broker.dead_letters(&queue, 100).await.unwrap();
    assert_eq!(letters.len(), garbage.len());
    assert!(letters.iter().all(|letter| letter.content.is_err() && letter.died > 1e9), "{letters:?}");
    assert!(letters[6].reason.contains(&(3 << 20).to_string()), "{}", letters[6].reason);
    // They come back as they were.
    consumer.settler().stop().await;
    assert_eq!(broker.revive(&queue, &[letters[1].key.clone()]).await.unwrap(), 1);
    assert_eq!(client.lpop::<_, String>(&queue, None).unwrap(), "no json");
    assert_eq!(broker.revive(&queue, &[]).await.unwrap(), 6);
    let back: BTreeSet<String> = client.lrange(&queue, 0, -1).unwrap();
    assert_eq!(back, garbage.into_iter().filter(|item| item != "no json").collect());
    assert_eq!(broker.dead_letters(&queue, 100).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_consumer_is_told_by_the_server() {
    let server = Redis::start(Durability::None);
    let mut client = client(&server);
    let broker = broker(&server, &Options::default());
    let mut consumer = consume(&broker, "celery", 10).await;
    for _ in 0..3 {
        // It has looked, found nothing, and the server has taken down whom to tell of what: there is nothing else to ask.
        in_time(async {
            let told = |statistics: &str| statistics.contains("tracking_total_keys:4\r\n");
            while !told(&redis::cmd("INFO").arg("stats").query::<String>(&mut client).unwrap()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
        let raw = recorded("priority_9")["messages"][0]["raw"].as_str().unwrap().to_owned();
        let _: () = client.lpush("celery\x06\x169", raw).unwrap();
        let came = in_time(receive(&mut consumer, 1)).await;
        done(&*consumer, &came).await;
    }
}

/// Publishes until all are confirmed, however often that fails.
async fn publish_all(broker: &Arc<dyn Broker>, messages: &[Outgoing]) {
    let mut rest = messages;
    while !rest.is_empty() {
        let batch = &rest[..rest.len().min(20)];
        match broker.publish(batch).await {
            Ok(()) => rest = &rest[batch.len()..],
            Err(failed) => {
                assert!(failed.error.is_transient(), "{failed}");
                rest = &rest[failed.confirmed..];
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// Consumes until every number has been done with; returns how many came more than once.
async fn work(consumer: &mut Box<dyn Consumer>, count: usize) -> usize {
    let (mut finished, mut came_in_all) = (BTreeSet::new(), 0);
    let settler = consumer.settler();
    while finished.len() < count {
        let came = consumer.next(50).await.unwrap();
        came_in_all += came.len();
        let settlements: Vec<_> = came.iter().map(|delivery| (delivery.tag, Settlement::Done)).collect();
        while let Err(error) = settler.settle(settlements.clone()).await {
            assert!(error.is_transient(), "{error}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        finished.extend(came.iter().map(number));
    }
    came_in_all - finished.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_under_load_loses_nothing() {
    const COUNT: usize = 3000;
    let mut server = Redis::start(Durability::Always);
    let (ours, theirs) = (broker(&server, &Options::default()), broker(&server, &Options::default()));
    let queue = unique("load");
    let mut consumer = consume(&ours, &queue, 100).await;
    let messages = numbered(&queue, 0..COUNT);
    let producer = tokio::spawn(async move { publish_all(&theirs, &messages).await });
    let worker = tokio::spawn(async move { (work(&mut consumer, COUNT).await, consumer) });
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(30)).await;
        server.kill();
        server.resume();
    }
    in_time(producer).await.unwrap();
    let (doubled, consumer) = in_time(worker).await.unwrap();
    // A batch whose confirmation was lost is published again; a consumer that stayed alive gets nothing twice.
    assert!(doubled <= 2 * 20, "{doubled} came twice");
    drop(consumer);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_take_whose_answer_was_lost_holds_nothing_back() {
    let server = Redis::start(Durability::None);
    let options = Options { timeout: Duration::from_millis(300), ..Options::default() };
    let broker = broker(&server, &options);
    let queue = unique("lost");
    let mut consumer = consume(&broker, &queue, 1).await;
    broker.publish(&numbered(&queue, 0..2)).await.unwrap();
    let first = receive(&mut consumer, 1).await;
    server.freeze();
    // There is room for one more now, so it is asked for: of a server that does it when nobody listens any more.
    consumer.settler().hold(&[first[0].tag]).await.unwrap();
    let asked = tokio::time::timeout(Duration::from_millis(700), consumer.next(1)).await;
    assert!(asked.is_err(), "{asked:?}");
    let failed = broker.publish(&[outgoing(&queue, 2)]).await.unwrap_err();
    assert!(matches!(failed.error, Error::Unreachable { .. }), "{failed}");
    server.thaw();
    let second = in_time(receive(&mut consumer, 1)).await;
    assert_eq!(number(&second[0]), 1);
    done(&*consumer, &first).await;
    done(&*consumer, &second).await;
    let third = in_time(receive(&mut consumer, 1)).await;
    assert_eq!(number(&third[0]), 2, "what was given up was done when the server went on");
    done(&*consumer, &third).await;
    assert!(!client(&server).exists::<_, bool>("unacked").unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_consumer_had_comes_back() {
    let server = Redis::start(Durability::None);
    let mut client = client(&server);
    let broker = broker(&server, &Options::default());
    broker.declare(&plain("killed")).await.unwrap();
    broker.publish(&numbered("killed", 0..10)).await.unwrap();
    // No restoring by kombu's rule: what comes back comes back because its consumer is known to be dead.
    let _: () = client.set("unacked_mutex", "somebody").unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "takes_ten_and_waits_for_its_death"])
        .env("REDIS", server.url())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let has_them = BufReader::new(child.stdout.as_mut().unwrap()).lines().map_while(Result::ok);
    assert!(has_them.into_iter().any(|line| line.contains("has ten")));
    let mut consumer = broker.consume(hasty("killed", Duration::from_secs(1))).await.unwrap();
    contract::nothing_comes(&mut consumer).await;
    child.kill().unwrap();
    child.wait().unwrap();
    let came = in_time(receive(&mut consumer, 10)).await;
    assert_eq!(came.iter().map(number).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    assert!(came.iter().all(|delivery| delivery.is_redelivered));
    done(&*consumer, &came).await;
    in_time(async {
        while client.zcard::<_, u64>("_manyhands.consumers").unwrap() > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(!client.exists::<_, bool>("_manyhands.fences").unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a part of what_a_killed_consumer_had_comes_back"]
async fn takes_ten_and_waits_for_its_death() {
    let address = Address::parse(&std::env::var("REDIS").unwrap()).unwrap();
    let broker = open_broker(&address, &Options::default()).unwrap();
    let mut consumer = broker.consume(hasty("killed", Duration::from_secs(1))).await.unwrap();
    assert_eq!(receive(&mut consumer, 10).await.len(), 10);
    writeln!(std::io::stdout(), "it has ten").unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_task_is_not_run_twice() {
    let server = Redis::start(Durability::None);
    let mut client = client(&server);
    let broker = broker(&server, &Options::default());
    let visibility = Duration::from_secs(3);
    let mut one = broker.consume(hasty("long", visibility)).await.unwrap();
    let mut other = broker.consume(hasty("long", visibility)).await.unwrap();
    broker.publish(&[outgoing("long", 1)]).await.unwrap();
    let came = tokio::select! {
        came = one.next(1) => came.unwrap(),
        came = other.next(1) => came.unwrap(),
    };
    assert_eq!(came.len(), 1);
    let tag: String = client.zrange::<_, Vec<String>>("unacked_index", 0, -1).unwrap().remove(0);
    let begin: f64 = client.zscore("unacked_index", &tag).unwrap();
    // Whoever sweeps by kombu's rule sees a message that was taken just now.
    in_time(async {
        while client.zscore::<_, _, f64>("unacked_index", &tag).unwrap() < begin + 1.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    contract::nothing_comes(&mut one).await;
    contract::nothing_comes(&mut other).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_given_up_for_dead_is_told() {
    let server = Redis::start(Durability::None);
    let mut client = client(&server);
    let broker = broker(&server, &Options::default());
    let mut consumer = broker.consume(hasty("gone", Duration::from_secs(1))).await.unwrap();
    broker.publish(&[outgoing("gone", 1)]).await.unwrap();
    let came = receive(&mut consumer, 1).await;
    let _: () = client.del("_manyhands.consumers").unwrap();
    let over = in_time(consumer.next(1)).await.unwrap_err();
    assert!(matches!(over, Error::Unreachable { .. }), "{over}");
    let refused = consumer.settler().settle(vec![(came[0].tag, Settlement::Done)]).await.unwrap_err();
    assert!(matches!(refused, Error::TakenBack { .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_refuses_is_said_without_the_password() {
    let server = Redis::with(Durability::None, &["--requirepass", "open sesame"]);
    let at = |user: &str| server.url().replace("redis://", &format!("redis://{user}@"));
    let open = |address: &str| open_broker(&Address::parse(address).unwrap(), &Options::default()).unwrap();
    for address in [server.url(), at(":hunter2"), at("nobody:hunter2")] {
        let error = open(&address).depth("celery").await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    let address = at(":open%20sesame");
    assert_eq!(open(&address).depth("celery").await.unwrap(), 0);
    assert!(!format!("{:?}", open(&address)).contains("sesame"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_reached_through_tls() {
    let files = format!("{}/tests/servers/tls", env!("CARGO_MANIFEST_DIR"));
    let file = |name: &str| format!("{files}/{name}");
    let port = servers::redis::free_port().to_string();
    let (certificate, key, authority) = (file("server.pem"), file("server.key"), file("ca.pem"));
    let options = [
        "--tls-port",
        &port,
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &authority,
    ];
    let _server = Redis::with(Durability::None, &options);
    let open = |query: &str| {
        let address = Address::parse(&format!("rediss://localhost:{port}/2?{query}")).unwrap();
        open_broker(&address, &Options::default())
    };
    let ours = format!("ssl_ca_certs={authority}&ssl_certfile={certificate}&ssl_keyfile={key}");
    let broker = open(&ours).unwrap();
    broker.publish(&numbered("secret", 0..3)).await.unwrap();
    let mut consumer = consume(&broker, "secret", 10).await;
    let came = in_time(receive(&mut consumer, 3)).await;
    done(&*consumer, &came).await;
    // Whoever trusts nobody in particular does not trust the server.
    let stranger = open(&format!("ssl_certfile={certificate}&ssl_keyfile={key}")).unwrap();
    assert!(stranger.depth("secret").await.is_err());
    let careless = open(&format!("ssl_cert_reqs=CERT_NONE&ssl_certfile={certificate}&ssl_keyfile={key}"));
    assert_eq!(careless.unwrap().depth("secret").await.unwrap(), 0);
    for wrong in ["ssl_ca_certs=/nowhere", "ssl_cert_reqs=perhaps", &format!("ssl_certfile={certificate}")] {
        let refused = open(wrong).unwrap_err();
        assert!(matches!(refused, Error::Address { .. }), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_memory_is_full() {
    let server = Redis::with(Durability::None, &["--maxmemory", "1", "--maxmemory-policy", "noeviction"]);
    let failed = broker(&server, &Options::default()).publish(&[outgoing("full", 1)]).await.unwrap_err();
    assert!(matches!(failed.error, Error::Full { .. }), "{failed}");
    assert_eq!(failed.confirmed, 0);
}

fn stored(id: &str, state: State, document: impl Into<Vec<u8>>) -> Stored {
    Stored {
        id: id.into(),
        state,
        document: document.into().into(),
        content_type: "application/json".into(),
        content_encoding: "utf-8".into(),
        reply_to: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_lies_as_celery_lays_it() {
    let server = Redis::start(Durability::None);
    let mut client = client(&server);
    let case = recorded("result_retry_then_success");
    let key = case["result"]["key"].as_str().unwrap();
    let id = key.strip_prefix("celery-task-meta-").unwrap();
    let documents: Vec<&str> = case["result"]["published_on_channel_of_same_name"]
        .as_array()
        .unwrap()
        .iter()
        .map(|document| document.as_str().unwrap())
        .collect();
    let mut listener = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    let mut channel = listener.as_pubsub();
    channel.subscribe(key).unwrap();
    let store = backend(&server, &Options::default());
    for (document, state) in documents.iter().zip([State::Retry, State::Success]) {
        store.store(&[stored(id, state.clone(), *document)]).await.unwrap();
        assert_eq!(channel.get_message().unwrap().get_payload::<String>().unwrap(), **document);
        assert_eq!(client.get::<_, String>(key).unwrap(), **document);
        assert_eq!(store.get(id).await.unwrap().unwrap().state, state);
    }
    let left: i64 = client.ttl(key).unwrap();
    assert!((86_300..=86_400).contains(&left), "it expires in {left} s");
    // Final, in whichever format it is written.
    for success in [
        &b"\x80\x04}\x94(\x8c\x06status\x94\x8c\x07SUCCESS\x94u."[..],
        b"\x81\xa6status\xa7SUCCESS",
        br#"{"a": 1, "status": "SUCCESS"}"#,
    ] {
        let id = unique("final");
        store
            .store(&[
                stored(&id, State::Success, success),
                stored(&id, State::Failure, r#"{"status": "FAILURE"}"#),
            ])
            .await
            .unwrap();
        assert_eq!(store.get(&id).await.unwrap().unwrap().document, success);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_result_is_not_read() {
    let server = Redis::start(Durability::None);
    let store = backend(&server, &Options { max_size: 1000, ..Options::default() });
    let large = format!(r#"{{"status": "SUCCESS", "result": "{}"}}"#, "x".repeat(5000));
    store.store(&[stored("large", State::Success, large)]).await.unwrap();
    let refused = store.get("large").await.unwrap_err();
    assert!(matches!(refused, Error::TooLarge { most: 1000, .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_outlives_the_server() {
    let mut server = Redis::start(Durability::Always);
    let store = backend(&server, &Options::default());
    let waits: Vec<_> = (0..20)
        .map(|at| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.wait(&format!("late-{at}"), contract::PATIENCE).await })
        })
        .collect();
    let mut client = client(&server);
    in_time(async {
        while redis::cmd("PUBSUB").arg("CHANNELS").query::<Vec<String>>(&mut client).unwrap().len() < 20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    server.kill();
    server.resume();
    let document = r#"{"status": "SUCCESS"}"#;
    let results: Vec<Stored> =
        (0..20).map(|at| stored(&format!("late-{at}"), State::Success, document)).collect();
    while store.store(&results).await.is_err() {}
    for wait in waits {
        assert_eq!(in_time(wait).await.unwrap().unwrap().document, document);
    }
    // And whoever has no patience is told that there is no server.
    server.kill();
    let told = store.wait("never", Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(told, Error::Unreachable { .. }), "{told}");
}

// On one thread, where nothing notices that a connection is lost before it is used again.
#[tokio::test]
async fn a_question_outlives_the_server() {
    let mut server = Redis::start(Durability::Always);
    let (broker, store) = (broker(&server, &Options::default()), backend(&server, &Options::default()));
    broker.publish(&[outgoing("asked", 1)]).await.unwrap();
    store.store(&[stored("asked", State::Success, r#"{"status": "SUCCESS"}"#)]).await.unwrap();
    assert_eq!(broker.depth("asked").await.unwrap(), 1);
    server.kill();
    server.resume();
    assert_eq!(broker.depth("asked").await.unwrap(), 1);
    assert_eq!(store.get("asked").await.unwrap().unwrap().state, State::Success);
}
