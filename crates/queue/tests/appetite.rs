//! A hostile message takes little memory, whatever its size. Alone in its program, for it looks at the
//! most memory that this ever had.

use std::fs;

use lapin::BasicProperties;
use manyhands_queue::wire::{Limits, envelope, table};

/// The most memory that this process ever had, in bytes.
fn peak() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
fn hostile_messages_take_little_memory() {
    const HEADERS: usize = 32 << 10;
    const BODY: usize = 256 << 10;
    let limits = Limits { body: BODY as u64, headers: HEADERS };
    let fill = |unit: &str, size: usize| unit.repeat(size / unit.len());
    let before = peak();
    let check = |text: String| {
        let _ = envelope::delivery_tag(text.as_bytes());
        let _ = envelope::mark_redelivered(text.as_bytes());
        envelope::decode(text.as_bytes(), &limits).is_ok()
    };
    let head = r#""task": "t", "id": "7""#;
    // What takes the most memory for its text: many small values, and objects that are small each.
    for unit in ["0,", "{},", r#"{"":0},"#, r#""\n","#] {
        for (room, is_read) in [(HEADERS - 1000, true), (1 << 20, false)] {
            let values = fill(unit, room);
            let values = values.trim_end_matches(',');
            let text = format!(r#"{{"body": "", "headers": {{{head}, "x": [{values}]}}}}"#);
            assert_eq!(check(text), is_read, "{unit}");
            let old = format!(r#"{{{head}, "x": [{values}]}}"#);
            let read =
                table::decode(&BasicProperties::default(), old.into(), &Limits { body: 1 << 30, ..limits });
            assert_eq!(read.is_ok(), is_read, "{unit}");
        }
    }
    let members = fill(r#""":0,"#, 1 << 20);
    let members = members.trim_end_matches(',');
    assert!(!check(format!(r#"{{"body": "", "headers": {{{members}}}}}"#)));
    assert!(!check(format!("{{{members}}}")));
    // Bodies that are larger than they may be, as base64 and as text, with escapes and without.
    for body in [fill("AAAA", 1 << 20), fill(r"\n", 1 << 20)] {
        for encoding in ["base64", "utf-8"] {
            let properties = format!(r#"{{"body_encoding": "{encoding}"}}"#);
            let text = format!(r#"{{"body": "{body}", "properties": {properties}, "headers": {{{head}}}}}"#);
            assert!(!check(text));
        }
    }
    // Some of it are the messages themselves. Without the limits, values alone would take 40 and more.
    let grown = (peak() - before) >> 20;
    assert!(grown < 25, "{grown} MiB for messages of one");
}
