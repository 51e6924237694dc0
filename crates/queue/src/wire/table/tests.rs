use serde_json::json;

use super::*;

fn message() -> Message {
    let headers = Headers { task: "shop.charge".into(), id: "7".into(), ..Headers::default() };
    Message { headers, properties: Properties::default(), body: Bytes::from_static(b"[[], {}, {}]") }
}

fn read(fields: Vec<(&str, AMQPValue)>) -> Result<Message, Unreadable> {
    let fields: BTreeMap<ShortString, AMQPValue> =
        fields.into_iter().map(|(name, value)| (name.into(), value)).collect();
    decode(&BasicProperties::default().with_headers(fields.into()), Bytes::new(), &Limits::default())
}

#[test]
fn what_is_written_is_read() {
    let mut message = message();
    let Value::Object(other) = json!({
        "null": null, "large": 5_000_000_000_i64, "small": -5, "fraction": 1.5, "deep": {"a": [1, {"b": false}]}, "é": "é",
    }) else {
        unreachable!()
    };
    message.headers.other = other;
    message.headers.timelimit = [Some(30.0), Some(1.5)];
    message.headers.stamped_headers = Some(vec!["a".into()]);
    message.properties.correlation_id = Some("7".into());
    message.properties.expiration = Some(120_000);
    message.properties.is_persistent = false;
    let read = decode(&encode(&message, 0).unwrap(), message.body.clone(), &Limits::default());
    assert_eq!(read.unwrap(), message);
}

#[test]
fn types_are_those_of_py_amqp() {
    let mut message = message();
    message.headers.timelimit = [Some(30.0), None];
    for (name, value) in [
        ("whole", json!(i32::MAX)),
        ("large", json!(1_i64 << 31)),
        ("small", json!(-1_i64 << 40)),
        ("flag", json!(true)),
    ] {
        message.headers.other.insert(name.into(), value);
    }
    let properties = encode(&message, 0).unwrap();
    let table = properties.headers().as_ref().unwrap().inner();
    assert_eq!(table["task"], AMQPValue::LongString("shop.charge".into()));
    assert_eq!(table["eta"], AMQPValue::Void);
    assert_eq!(table["retries"], AMQPValue::LongInt(0));
    assert_eq!(
        table["timelimit"],
        AMQPValue::FieldArray(vec![AMQPValue::LongInt(30), AMQPValue::Void].into())
    );
    assert_eq!(table["stamps"], AMQPValue::FieldTable(FieldTable::default()));
    assert_eq!(table["whole"], AMQPValue::LongInt(i32::MAX));
    assert_eq!(table["large"], AMQPValue::LongLongInt(1 << 31));
    assert_eq!(table["small"], AMQPValue::Double(-1_099_511_627_776.0));
    assert_eq!(table["flag"], AMQPValue::Boolean(true));
}

#[test]
fn foreign_types_are_read() {
    let message = read(vec![
        ("task", AMQPValue::ShortString("t".into())),
        ("id", AMQPValue::ByteArray(b"7".to_vec().into())),
        ("eta", AMQPValue::Timestamp(1_936_787_415)),
        ("retries", AMQPValue::ShortShortUInt(3)),
        ("price", AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 5 })),
        ("debt", AMQPValue::DecimalValue(DecimalValue { scale: 2, value: (-110_i32).cast_unsigned() })),
        ("bytes", AMQPValue::LongString(vec![0xff].into())),
        ("nan", AMQPValue::Double(f64::NAN)),
    ]);
    let headers = message.unwrap().headers;
    assert_eq!((&*headers.task, &*headers.id, headers.retries), ("t", "7", 3));
    assert_eq!(headers.eta.as_deref(), Some("2031-05-17T12:30:15+00:00"));
    let other = json!({"price": "0.05", "debt": "-1.10", "bytes": "\u{fffd}", "nan": null});
    assert_eq!(Value::Object(headers.other), other);
}

#[test]
fn what_is_no_task_message_or_too_much_of_one_is_refused() {
    let deep = (0..=DEEPEST).fold(AMQPValue::Void, |inner, _| AMQPValue::FieldArray(vec![inner].into()));
    let long = AMQPValue::LongString("x".repeat(300 << 10).into());
    let task = || ("task", AMQPValue::LongString("t".into()));
    let id = || ("id", AMQPValue::LongString("7".into()));
    for (fields, reason) in [
        (vec![], "no header `task`"),
        (vec![task()], "no id"),
        (vec![task(), id(), ("x", deep)], "levels deep"),
        (vec![task(), id(), ("x", long)], "bytes of headers"),
    ] {
        let error = read(fields).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let limits = Limits { body: 3, ..Limits::default() };
    let properties = encode(&message(), 0).unwrap();
    assert!(
        decode(&properties, Bytes::from_static(b"1234"), &limits).unwrap_err().reason.contains("4 bytes")
    );
    assert!(decode(&properties, Bytes::from_static(b"123"), &limits).is_ok());
}

#[test]
fn what_amqp_has_no_place_for_is_refused() {
    let deep = (0..=DEEPEST).fold(Value::Null, |inner, _| json!([inner]));
    for (name, value, reason) in [
        (&*"x".repeat(256), json!(1), "256 bytes"),
        ("x", json!({"y".repeat(256): 1}), "256 bytes"),
        ("x", json!(u64::MAX), "the number"),
        ("x", json!(i64::MIN), "the number"),
        ("x", deep, "levels deep"),
        ("x", json!("y".repeat(200_000)), "bytes of headers"),
    ] {
        let mut message = message();
        message.headers.other.insert(name.into(), value);
        let error = encode(&message, 131_072).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let mut message = message();
    message.properties.correlation_id = Some("x".repeat(256));
    assert!(encode(&message, 0).is_err());
}
