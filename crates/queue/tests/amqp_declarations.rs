//! What is declared is what Celery was recorded to declare, to the letter.

mod contract;
mod servers;

use std::fs;
use std::path::Path;

use amq_protocol::protocol::{AMQPClass, basic, exchange, queue};
use amq_protocol::types::{AMQPValue, FieldTable, ShortString};
use manyhands_queue::address::Address;
use manyhands_queue::broker::Declaration;
use manyhands_queue::open::{Options, open_backend, open_broker};
use serde_json::Value;

use self::contract::{outgoing, plain, subscription, unique};
use self::servers::rabbitmq::RabbitMq;
use self::servers::recorder::Recorder;

/// What Celery's clients have asked for in a recorded case.
fn recorded(case: &str) -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/celery");
    let text = fs::read_to_string(folder.join(format!("{case}.amqp.json"))).unwrap();
    let recorded: Value = serde_json::from_str(&text).unwrap();
    let methods = recorded.get("amqp_methods").or(recorded.get("client_methods")).unwrap();
    methods.as_array().unwrap().iter().filter(|method| method["from"] == "client").cloned().collect()
}

/// Of them the declarations of one queue, called otherwise.
fn declarations(recorded: &[Value], from: &str, to: &str) -> Vec<AMQPClass> {
    let is = |method: &Value, place: &str| method[place] == from;
    let text =
        |value: &Value| ShortString::from(if value == from { to } else { value.as_str().unwrap_or("") });
    let truth = |value: &Value| value.as_bool().unwrap_or(false);
    let declaration = |method: &Value| match method["method"].as_str().unwrap() {
        "Exchange.Declare" if is(method, "exchange") => {
            Some(AMQPClass::Exchange(exchange::AMQPMethod::Declare(exchange::Declare {
                exchange: text(&method["exchange"]),
                kind: text(&method["type"]),
                passive: truth(&method["passive"]),
                durable: truth(&method["durable"]),
                auto_delete: truth(&method["auto_delete"]),
                internal: truth(&method["internal"]),
                nowait: truth(&method["nowait"]),
                arguments: table(&method["arguments"]),
            })))
        }
        "Queue.Declare" if is(method, "queue") => {
            Some(AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
                queue: text(&method["queue"]),
                passive: truth(&method["passive"]),
                durable: truth(&method["durable"]),
                exclusive: truth(&method["exclusive"]),
                auto_delete: truth(&method["auto_delete"]),
                nowait: truth(&method["nowait"]),
                arguments: table(&method["arguments"]),
            })))
        }
        "Queue.Bind" if is(method, "queue") => Some(AMQPClass::Queue(queue::AMQPMethod::Bind(queue::Bind {
            queue: text(&method["queue"]),
            exchange: text(&method["exchange"]),
            routing_key: text(&method["routing_key"]),
            nowait: truth(&method["nowait"]),
            arguments: table(&method["arguments"]),
        }))),
        _ => None,
    };
    recorded.iter().filter_map(declaration).collect()
}

/// Arguments in the types that py-amqp writes.
fn table(arguments: &Value) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in arguments.as_object().into_iter().flatten() {
        let value = match value {
            Value::Number(number) => AMQPValue::LongInt(number.as_i64().unwrap().try_into().unwrap()),
            other => AMQPValue::LongString(other.as_str().unwrap().into()),
        };
        table.insert(name.as_str().into(), value);
    }
    table
}

/// A server with somebody who writes down what it is asked for.
async fn recorder() -> (Recorder, Address) {
    let url = tokio::task::spawn_blocking(RabbitMq::shared).await.unwrap();
    let port = url::Url::parse(url).unwrap().port().unwrap();
    let recorder = Recorder::before(port).await;
    let address = Address::parse(&url.replace(&port.to_string(), &recorder.port().to_string())).unwrap();
    (recorder, address)
}

fn declared(recorder: &Recorder) -> Vec<AMQPClass> {
    let is_passive = |method: &AMQPClass| matches!(method, AMQPClass::Queue(queue::AMQPMethod::Declare(declare)) if declare.passive);
    let is_declaration = |method: &AMQPClass| matches!(method, AMQPClass::Exchange(_) | AMQPClass::Queue(_));
    recorder.methods().into_iter().filter(|method| is_declaration(method) && !is_passive(method)).collect()
}

#[tokio::test]
async fn queues_are_declared_as_celery_declares_them() {
    for (case, max_priority) in [("simple", None), ("priority_max", Some(10))] {
        let (recorder, address) = recorder().await;
        let broker = open_broker(&address, &Options::default()).unwrap();
        let name = unique(case);
        broker.declare(&Declaration { max_priority, ..plain(&name) }).await.unwrap();
        broker.publish(&[outgoing(&name, 1)]).await.unwrap();
        let expected = declarations(&recorded(case), "celery", &name);
        assert_eq!(expected.len(), 3);
        assert_eq!(declared(&recorder), expected);
    }
}

#[tokio::test]
async fn a_queue_that_nobody_declared_is_declared_in_the_same_way() {
    let (recorder, address) = recorder().await;
    let name = unique("implicit");
    open_broker(&address, &Options::default()).unwrap().publish(&[outgoing(&name, 1)]).await.unwrap();
    assert_eq!(declared(&recorder), declarations(&recorded("simple"), "celery", &name));
}

#[tokio::test]
async fn a_worker_asks_for_as_much_as_celery_does() {
    let (recorder, address) = recorder().await;
    let name = unique("worker");
    let broker = open_broker(&address, &Options::default()).unwrap();
    let _consumer = broker.consume(subscription(&[&name], 4)).await.unwrap();
    let celerys = recorded("worker_startup");
    assert_eq!(declared(&recorder), declarations(&celerys, "celery", &name));
    let qos = celerys.iter().find(|method| method["method"] == "Basic.Qos").unwrap();
    let limit = qos["prefetch_count"].as_u64().unwrap().try_into().unwrap();
    let global = qos["global_qos"].as_bool().unwrap();
    let expected = AMQPClass::Basic(basic::AMQPMethod::Qos(basic::Qos { prefetch_count: limit, global }));
    assert!(recorder.methods().contains(&expected));
}

#[tokio::test]
async fn the_queue_of_results_is_declared_as_celery_declares_it() {
    let (recorder, address) = recorder().await;
    let rpc = Address::parse("rpc://").unwrap();
    let backend = open_backend(&rpc, Some(&address), &Options::default()).unwrap();
    backend.prepare().await.unwrap();
    let celerys = recorded("rpc_results");
    let name = celerys.iter().find(|method| method["method"] == "Queue.Declare").unwrap()["queue"].clone();
    let expected = declarations(&celerys, name.as_str().unwrap(), backend.reply_to().unwrap());
    assert_eq!(declared(&recorder), expected[..1]);
}
