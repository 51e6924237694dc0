use std::collections::BTreeSet;
use std::io::IoSliceMut;

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, gen_frame, parse_frame};
use amq_protocol::protocol::{AMQPClass, basic, connection, parse_class, queue};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;
use crate::wire::table::{DEEPEST, UNREADABLE};

/// Has bytes come in pieces; what was given out, and why it ended if it has.
fn through(bytes: &[u8], sizes: &[usize]) -> (Vec<u8>, Option<String>) {
    through_guard(Guard::new(None), bytes, sizes)
}

fn through_guard(mut guard: Guard, bytes: &[u8], sizes: &[usize]) -> (Vec<u8>, Option<String>) {
    let (mut given, mut rest) = (Vec::new(), bytes);
    let mut sizes = sizes.iter().copied().cycle();
    loop {
        let (mut one, mut two) = ([0; 11], [0; 300]);
        let size = guard.give(&mut [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)]);
        if size > 0 {
            given.extend(one.iter().chain(&two).take(size));
            continue;
        }
        let room = match guard.room() {
            Ok(room) => room,
            Err(unfit) => return (given, Some(unfit.to_string())),
        };
        assert!(!room.is_empty(), "no frame is so large");
        let size = sizes.next().unwrap_or(usize::MAX).min(room.len()).min(rest.len());
        if size == 0 {
            return (given, None);
        }
        room[..size].copy_from_slice(&rest[..size]);
        rest = &rest[size..];
        guard.came(size);
    }
}

fn written(frame: &AMQPFrame) -> Vec<u8> {
    gen_frame(frame)(Vec::new().into()).unwrap().into_inner().0
}

fn read(mut bytes: &[u8]) -> Vec<AMQPFrame> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (rest, frame) = parse_frame(bytes).unwrap();
        frames.push(frame);
        bytes = rest;
    }
    frames
}

/// A frame around a payload.
fn framed(kind: u8, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[kind, 0, 1][..], &size, payload, &[END]].concat()
}

/// The payload of a header with these flags and what belongs to them.
fn header(flags: u16, properties: &[u8]) -> Vec<u8> {
    [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5][..], &flags.to_be_bytes(), properties].concat()
}

/// A table with one field whose value lies so deep in lists.
fn nested(levels: usize) -> Vec<u8> {
    let mut value = vec![b'V'];
    for _ in 0..levels {
        let size = u32::try_from(value.len()).unwrap().to_be_bytes();
        value.splice(0..0, [&b"A"[..], &size].concat());
    }
    let field = [&b"\x04deep"[..], &value].concat();
    [&u32::try_from(field.len()).unwrap().to_be_bytes()[..], &field].concat()
}

fn properties(bytes: &[u8]) -> BasicProperties {
    match read(bytes).remove(0) {
        AMQPFrame::Header(_, header) => header.properties,
        other => panic!("{other:?}"),
    }
}

fn reason(properties: &BasicProperties) -> String {
    match properties.headers().as_ref().unwrap().inner().get(UNREADABLE) {
        Some(AMQPValue::LongString(reason)) => reason.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn headers_that_lie_too_deep_are_taken_off_and_the_rest_stays() {
    for levels in [DEEPEST + 1, 20_000] {
        // content type, headers, correlation id
        let payload = [&b"\x02ab"[..], &nested(levels), b"\x027f"].concat();
        let sent = [framed(2, &header(0b1010_0100_0000_0000, &payload)), framed(3, b"hello")].concat();
        let (given, end) = through(&sent, &[1000]);
        assert_eq!(end, None);
        let found = properties(&given);
        assert_eq!(found.content_type().as_ref().unwrap().as_str(), "ab");
        assert_eq!(found.correlation_id().as_ref().unwrap().as_str(), "7f");
        let expected = format!(
            "could not read the message: found headers nested {levels} deep, expected at most {DEEPEST}"
        );
        assert_eq!(reason(&found), expected);
        assert_eq!(read(&given)[1], AMQPFrame::Body(1, b"hello".to_vec()));
    }
}

#[test]
fn headers_as_deep_as_may_be_pass_as_they_are() {
    let sent = framed(2, &header(1 << 13, &nested(DEEPEST)));
    assert_eq!(through(&sent, &[7]), (sent, None));
}

#[test]
fn properties_that_nobody_can_read_are_taken_off() {
    let table = |field: &[u8]| [&u32::try_from(field.len()).unwrap().to_be_bytes()[..], field].concat();
    for (flags, bytes, expected) in [
        (1 << 13, table(b"\x01\xffV"), "a header whose name is cut off or no UTF-8"),
        (1 << 13, table(b"\x01a?"), "a header of the type 0x3f, expected one of AMQP 0-9-1"),
        (1 << 13, table(b"\x01aS\0\0\0\x09x"), "headers that are cut off"),
        (1 << 13, table(b"\x01aA\0\0\0\x01"), "headers that are cut off"),
        (1 << 15, b"\x01\xff".to_vec(), "properties that are cut off or no UTF-8"),
        (1 << 15, b"\x09a".to_vec(), "properties that are cut off or no UTF-8"),
        (1 << 15, b"\x01aa".to_vec(), "more than properties in their place"),
    ] {
        let (given, end) = through(&framed(2, &header(flags, &bytes)), &[1]);
        assert_eq!(end, None);
        assert_eq!(reason(&properties(&given)), format!("could not read the message: found {expected}"));
    }
}

#[test]
fn what_no_small_frame_has_room_for_is_put_aside_until_it_is_asked_for() {
    let message = |size: usize| {
        let mut headers = FieldTable::default();
        headers.insert("long".into(), AMQPValue::LongString("x".repeat(size).into()));
        let properties = BasicProperties::default().with_headers(headers).with_correlation_id("7".into());
        let header = AMQPContentHeader { class_id: 60, body_size: 5, properties };
        AMQPFrame::Header(3, header)
    };
    let around = written(&message(0)).len();
    let body = AMQPFrame::Body(3, b"hello".to_vec());
    for (size, is_small) in [(10, true), (SMALL_FRAME - around, true), (SMALL_FRAME - around + 1, false)] {
        let aside = Aside::default();
        let sent = [written(&message(size)), written(&body)].concat();
        let (given, end) = through_guard(Guard::new(Some(aside.clone())), &sent, &[1000]);
        assert_eq!((end, given == sent), (None, is_small));
        let [AMQPFrame::Header(3, header), found] = &read(&given)[..] else { panic!("{given:?}") };
        assert_eq!((header.body_size, found), (5, &body));
        let AMQPFrame::Header(_, original) = message(size) else { unreachable!() };
        assert_eq!(aside.whole(header.properties.clone()), original.properties);
        // Each is there once; and what somebody else calls a key is a header like any other.
        assert_eq!(aside.whole(header.properties.clone()), header.properties);
    }
}

#[test]
fn a_flood_of_what_becomes_longer_is_borne() {
    let one = framed(2, &header(1 << 15, b"\x01\xff"));
    let (given, end) = through(&one.repeat(30_000), &[usize::MAX]);
    assert_eq!(end, None);
    assert_eq!(given.len() % 30_000, 0);
    assert_eq!(read(&given[..given.len() / 30_000]).len(), 1);
}

#[test]
fn what_is_no_amqp_ends_the_connection_and_says_why() {
    let large = u32::try_from(FRAME - AROUND + 1).unwrap().to_be_bytes();
    for (sent, expected) in [
        (
            [&[1, 0, 0][..], &large].concat(),
            "found a frame of 131065 bytes from the server, expected at most 131064",
        ),
        (
            b"HTTP/1.1 400 Bad Request\r\n".to_vec(),
            "found a byte 0x48 from the server, expected a frame of AMQP",
        ),
        (b"AMQP\x00\x01\x00\x00".to_vec(), "found a server of AMQP 1-0-0, expected one of 0-9-1"),
        (
            vec![0x15, 3, 3, 0, 2, 2, 70],
            "found a server that speaks TLS, expected AMQP: is its address amqps://?",
        ),
        (vec![3, 0, 1, 0, 0, 0, 1, 7, 0], "found a frame from the server without its end, expected one"),
        (vec![2, 0, 1, 0, 0, 0, 1, 7, 0], "found a frame from the server without its end, expected one"),
        (framed(2, b"short"), "found 5 bytes of properties from the server, expected at least 14"),
    ] {
        assert_eq!(through(&sent, &[usize::MAX]).1.as_deref(), Some(expected));
    }
}

#[test]
fn what_came_before_the_fault_is_given_out() {
    let heartbeat = written(&AMQPFrame::Heartbeat);
    let sent = [&heartbeat[..], b"junk"].concat();
    let (given, end) = through(&sent, &[usize::MAX]);
    assert_eq!((given, end.is_some()), (heartbeat, true));
}

#[test]
fn methods_bring_no_deep_tables() {
    let start = |levels: usize| framed(1, &[&[0, 10, 0, 10, 0, 9][..], &nested(levels), &[0; 8]].concat());
    assert_eq!(through(&start(DEEPEST), &[50]), (start(DEEPEST), None));
    let expected = format!(
        "found headers nested {} deep, expected at most {DEEPEST} in what the server says of itself",
        DEEPEST + 1
    );
    assert_eq!(through(&start(DEEPEST + 1), &[50]).1, Some(expected));
    // What only clients send: a table in it would be read all the same.
    let declare = queue::Declare {
        queue: "q".into(),
        passive: false,
        durable: false,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: FieldTable::default(),
    };
    let declare = AMQPClass::Queue(queue::AMQPMethod::Declare(declare));
    let expected = "found a method 50.10 from the server, expected none that only clients send";
    assert_eq!(through(&written(&AMQPFrame::Method(1, declare)), &[9]).1.as_deref(), Some(expected));
}

#[test]
fn no_other_method_has_a_table() {
    // With nothing but zeros before it, the table of each method that has one is read in one of these places.
    let deep = nested(DEEPEST + 1);
    let (mut with_table, mut passed) = (BTreeSet::new(), Vec::new());
    for (class, method) in (0..=100).flat_map(|class| (0..=120).map(move |method| (class, method))) {
        for before in 0..12 {
            let payload = [&[0, class, 0, method][..], &vec![0; before], &deep, &[0; 8]].concat();
            let has_table = parse_class(&payload[..])
                .is_ok_and(|(_, found)| format!("{found:?}").contains("FieldArray("));
            if has_table {
                with_table.insert((class, method));
                passed.extend(headers::check_method(&payload).is_ok().then_some((class, method)));
            }
        }
    }
    assert_eq!((with_table.len(), passed), (9, Vec::new()), "{with_table:?}");
}

fn value() -> impl Strategy<Value = AMQPValue> {
    let leaf = prop_oneof![
        Just(AMQPValue::Void),
        any::<bool>().prop_map(AMQPValue::Boolean),
        any::<i8>().prop_map(AMQPValue::ShortShortInt),
        any::<u16>().prop_map(AMQPValue::ShortUInt),
        any::<i32>().prop_map(AMQPValue::LongInt),
        any::<u64>().prop_map(AMQPValue::Timestamp),
        any::<f64>().prop_map(AMQPValue::Double),
        vec(any::<u8>(), 0..9).prop_map(|bytes| AMQPValue::LongString(bytes.into())),
    ];
    leaf.prop_recursive(6, 30, 4, |inner| {
        let table = vec(("[a-zäö]{0,3}", inner.clone()), 0..4);
        prop_oneof![
            vec(inner, 0..4).prop_map(|values| AMQPValue::FieldArray(values.into())),
            table.prop_map(|fields| AMQPValue::FieldTable(of(fields))),
        ]
    })
}

fn of(fields: Vec<(String, AMQPValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in fields {
        table.insert(name.into(), value);
    }
    table
}

prop_compose! {
    fn header_frames()(
        fields in vec(("[a-zäö]{0,3}", value()), 0..4),
        texts in ("[a-z/]{0,9}", "[a-z]{0,9}", "[a-z]{0,9}"),
        which in any::<[bool; 5]>(),
        number in any::<u64>(),
    ) -> AMQPFrame {
        let mut found = BasicProperties::default();
        if which[0] { found = found.with_headers(of(fields)); }
        if which[1] { found = found.with_content_type(texts.0.into()); }
        if which[2] { found = found.with_reply_to(texts.1.into()).with_delivery_mode(2); }
        if which[3] { found = found.with_cluster_id(texts.2.into()).with_timestamp(number); }
        if which[4] { found = found.with_priority(3).with_type("k".into()); }
        AMQPFrame::Header(1, AMQPContentHeader { class_id: 60, body_size: number, properties: found })
    }
}

fn frames() -> impl Strategy<Value = Vec<AMQPFrame>> {
    let closed = connection::AMQPMethod::CloseOk(connection::CloseOk {});
    let got = basic::AMQPMethod::GetEmpty(basic::GetEmpty {});
    vec(
        prop_oneof![
            4 => header_frames(),
            2 => vec(any::<u8>(), 0..400).prop_map(|body| AMQPFrame::Body(1, body)),
            1 => Just(AMQPFrame::Heartbeat),
            1 => select(vec![AMQPClass::Connection(closed), AMQPClass::Basic(got)]).prop_map(|method| AMQPFrame::Method(1, method)),
        ],
        0..6,
    )
}

proptest! {
    #[test]
    fn what_is_sound_passes_in_whatever_pieces_it_comes(frames in frames(), sizes in vec(1..200_usize, 1..5)) {
        let sent: Vec<u8> = frames.iter().flat_map(written).collect();
        prop_assert_eq!(through(&sent, &sizes), (sent, None));
    }

    /// The two never differ in what can be read: else the guard would let pass what ends the connection, or take off
    /// what need not be.
    #[test]
    fn what_passes_is_what_lapin_reads(
        frame in header_frames(),
        changes in vec((any::<Index>(), any::<u8>()), 0..4),
        cut in option_of_index(),
    ) {
        let mut frame = written(&frame);
        let mut payload = frame.split_off(HEAD);
        payload.pop();
        for (at, byte) in changes {
            let at = at.index(payload.len());
            payload[at] = byte;
        }
        if let Some(cut) = cut {
            payload.truncate(cut.index(payload.len()).max(14));
        }
        let sent = framed(2, &payload);
        let is_read = parse_frame(&sent[..]).is_ok();
        let (given, end) = through(&sent, &[usize::MAX]);
        prop_assert_eq!(end, None);
        prop_assert_eq!(is_read, given == sent);
        if !is_read {
            reason(&properties(&given));
        }
    }

    #[test]
    fn whatever_comes_is_read_or_refused(bytes in vec(prop_oneof![0..9_u8, any::<u8>()], 0..600), sizes in vec(1..200_usize, 1..5)) {
        let (given, end) = through(&bytes, &sizes);
        prop_assert!(given.len() <= bytes.len() + 200 * bytes.len() / 22);
        prop_assert!(end.is_none_or(|reason| reason.starts_with("found ")));
    }
}

fn option_of_index() -> impl Strategy<Value = Option<Index>> {
    prop::option::of(any::<Index>())
}
