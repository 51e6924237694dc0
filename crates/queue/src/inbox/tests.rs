use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::broker::{Revocation, Tag, Unreadable};
use crate::message::{Headers, Outgoing, Properties};

const START: u64 = 1_795_211_410_000_000_000;

fn at(seconds: f64) -> Moment {
    let nanoseconds = u64::try_from(Duration::from_secs_f64(seconds).as_nanos()).unwrap();
    Moment { steady: Tick::from_nanos(nanoseconds), wall: Tick::from_nanos(START + nanoseconds) }
}

fn terms(name: &str) -> Terms {
    Terms {
        name: name.into(),
        model: 0,
        rate: None,
        acks_late: true,
        reject_on_worker_lost: true,
        ignore_result: false,
        track_started: false,
        limits: [None, None],
    }
}

fn inbox(tasks: Vec<Terms>) -> Inbox {
    Inbox::new(Settings::default(), 2, tasks)
}

fn message(task: &str, id: &str) -> Message {
    Message {
        headers: Headers { task: task.into(), id: id.into(), ..Headers::default() },
        properties: Properties::default(),
        body: Bytes::from_static(b"[[], {}, {}]"),
    }
}

fn delivery(tag: u64, message: Message) -> Delivery {
    Delivery { tag: Tag(tag), queue: "celery".into(), is_redelivered: false, content: Ok(message) }
}

fn revocation(id: &str, terminate: bool) -> Revocation {
    Revocation { id: id.into(), terminate }
}

fn later(seconds: f64) -> String {
    times::show(at(seconds).wall)
}

fn take(inbox: &mut Inbox, now: f64, out: &mut Effects) -> Result<(Handle, String), Option<Tick>> {
    inbox.take(0, at(now), out, |work| (work.handle, work.message.headers.id.clone()))
}

fn settled(out: &Effects) -> Vec<(u64, &Settlement)> {
    let settle = out.steps.iter().filter_map(|step| step.settle.as_ref());
    settle.map(|(ticket, settlement)| (ticket.tag.0, settlement)).collect()
}

fn document(step: &Step) -> Value {
    serde_json::from_slice(&step.result.as_ref().unwrap().document).unwrap()
}

fn returned(json: &'static str) -> Outcome {
    Outcome::Returned(Answer { result: json.into(), ..Answer::default() })
}

const RUN: Duration = Duration::from_millis(3);

#[test]
fn a_result_is_stored_before_its_message_is_settled() {
    let (mut inbox, mut out) = (inbox(vec![terms("add")]), Effects::default());
    inbox.deliver(0, delivery(7, message("add", "a")), at(0.0), &mut out);
    let (handle, id) = take(&mut inbox, 0.0, &mut out).unwrap();
    assert_eq!(id, "a");
    assert!(out.steps.is_empty());
    assert_eq!(inbox.at_work(), [("add".into(), "a".to_owned())]);
    inbox.finish(handle, returned("5"), RUN, at(1.0), &mut out);
    assert_eq!(out.steps.len(), 1);
    assert_eq!(document(&out.steps[0])["result"], 5);
    assert_eq!(settled(&out), [(7, &Settlement::Done)]);
    assert_eq!(inbox.load(), Load::default());
    inbox.finish(handle, returned("6"), RUN, at(1.0), &mut out);
    assert_eq!(out.steps.len(), 1, "a handle is finished once");
}

#[test]
fn an_early_acknowledgement_comes_before_the_result() {
    let (mut inbox, mut out) = (inbox(vec![Terms { acks_late: false, ..terms("add") }]), Effects::default());
    inbox.deliver(0, delivery(1, message("add", "a")), at(0.0), &mut out);
    let (handle, _) = take(&mut inbox, 0.0, &mut out).unwrap();
    assert_eq!(settled(&out), [(1, &Settlement::Done)]);
    out.steps.clear();
    inbox.finish(handle, Outcome::Lost("killed".into()), RUN, at(1.0), &mut out);
    assert_eq!(document(&out.steps[0])["result"]["exc_type"], "WorkerLostError");
    assert!(settled(&out).is_empty());
}

#[test]
fn a_retry_of_a_settled_message_is_published() {
    let (mut inbox, mut out) = (inbox(vec![Terms { acks_late: false, ..terms("add") }]), Effects::default());
    inbox.deliver(0, delivery(1, message("add", "a")), at(0.0), &mut out);
    let (handle, _) = take(&mut inbox, 0.0, &mut out).unwrap();
    out.steps.clear();
    let again =
        Outcome::Again { answer: Answer::default(), summary: String::new(), at: at(5.0).wall, body: None };
    inbox.finish(handle, again, RUN, at(1.0), &mut out);
    assert!(settled(&out).is_empty());
    assert_eq!(out.steps[0].publish.as_ref().unwrap().message.headers.retries, 1);
}

#[test]
fn what_nobody_can_run_becomes_a_dead_letter_with_the_reason() {
    let (mut inbox, mut out) = (inbox(vec![terms("add")]), Effects::default());
    let unreadable = Err(Unreadable { reason: "found no JSON".into() });
    let garbage =
        Delivery { tag: Tag(1), queue: "celery".into(), is_redelivered: false, content: unreadable };
    inbox.deliver(0, garbage, at(0.0), &mut out);
    inbox.deliver(0, delivery(2, message("no.such", "b")), at(0.0), &mut out);
    let mut pickled = message("add", "c");
    pickled.properties.content_type = "application/x-python-serialize".into();
    inbox.deliver(0, delivery(3, pickled), at(0.0), &mut out);
    let mut timeless = message("add", "d");
    timeless.headers.eta = Some("tomorrow".into());
    inbox.deliver(0, delivery(4, timeless), at(0.0), &mut out);
    let reasons: Vec<_> = settled(&out)
        .into_iter()
        .map(|(tag, settlement)| match settlement {
            Settlement::Dead { reason, .. } => (tag, reason.as_str()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(reasons[0], (1, "found no JSON"));
    assert!(reasons[1].1.contains("no.such"), "{reasons:?}");
    assert!(reasons[2].1.contains("application/x-python-serialize"), "{reasons:?}");
    assert!(reasons[3].1.contains("tomorrow"), "{reasons:?}");
    let failure = document(&out.steps[1]);
    assert_eq!(failure["status"], "FAILURE");
    assert_eq!(failure["result"]["exc_type"], "NotRegistered");
    assert_eq!(failure["result"]["exc_message"], json!(["no.such"]));
    assert_eq!(take(&mut inbox, 9.0, &mut out), Err(None));
}

#[test]
fn what_comes_too_late_is_revoked() {
    let (mut inbox, mut out) = (inbox(vec![terms("add")]), Effects::default());
    let expiring = |id: &str, seconds| {
        let mut message = message("add", id);
        message.headers.expires = Some(later(seconds));
        message
    };
    inbox.deliver(0, delivery(1, expiring("late", 0.0)), at(1.0), &mut out);
    assert_eq!(document(&out.steps[0])["result"]["exc_message"], json!(["expired"]));
    assert_eq!(document(&out.steps[0])["status"], "REVOKED");
    out.steps.clear();
    inbox.deliver(0, delivery(2, expiring("waits", 5.0)), at(1.0), &mut out);
    assert!(out.steps.is_empty());
    assert_eq!(take(&mut inbox, 6.0, &mut out), Err(None));
    assert_eq!(settled(&out), [(2, &Settlement::Done)]);
    assert_eq!(inbox.load(), Load::default());
}

#[test]
fn what_was_revoked_is_not_begun_wherever_it_waits() {
    let (mut inbox, mut out) = (inbox(vec![terms("add")]), Effects::default());
    let mut delayed = message("add", "delayed");
    delayed.headers.eta = Some(later(10.0));
    inbox.deliver(0, delivery(1, delayed), at(0.0), &mut out);
    inbox.deliver(0, delivery(2, message("add", "ready")), at(0.0), &mut out);
    let revoked = ["delayed", "ready", "coming"].map(|id| revocation(id, false));
    assert_eq!(inbox.revoke(&revoked, at(0.0), &mut out), []);
    let mut tags: Vec<_> = settled(&out).into_iter().map(|(tag, _)| tag).collect();
    tags.sort_unstable();
    assert_eq!(tags, [1, 2], "whoever waits for them is told at once");
    assert_eq!(inbox.load(), Load::default());
    inbox.deliver(0, delivery(3, message("add", "coming")), at(0.0), &mut out);
    assert_eq!(settled(&out)[2], (3, &Settlement::Done));
    inbox.advance(at(10.0), &mut out);
    assert_eq!(take(&mut inbox, 10.0, &mut out), Err(None));
    assert!(out.steps.iter().all(|step| document(step)["result"]["exc_message"] == json!(["revoked"])));
}

#[test]
fn only_what_was_revoked_is_taken_out_of_what_is_held() {
    let (mut inbox, mut out) = (inbox(vec![terms("add")]), Effects::default());
    let uuid = |number: u64| format!("00000000-0000-4000-8000-{number:012}");
    for number in 0..50 {
        for (tag, id) in [(number, uuid(number)), (100 + number, format!("own-{number}"))] {
            let mut delayed = message("add", &id);
            delayed.headers.eta = Some(later(10.0));
            delayed.headers.other.insert("x-tenant".into(), number.into());
            inbox.deliver(0, delivery(tag, delayed), at(0.0), &mut out);
        }
    }
    inbox.revoke(&[revocation(&uuid(7), true), revocation("own-9", false)], at(1.0), &mut out);
    assert_eq!(settled(&out), [(7, &Settlement::Done), (109, &Settlement::Done)]);
    assert_eq!(inbox.load().held, 98);
    inbox.advance(at(11.0), &mut out);
    let begun = std::iter::from_fn(|| take(&mut inbox, 11.0, &mut out).ok()).count();
    assert_eq!((begun, inbox.load().held_bytes), (98, 0));
}

#[test]
fn what_was_revoked_gives_its_place_before_a_rate_to_others() {
    let rated = Terms { rate: Some("1/s".parse().unwrap()), ..terms("slow") };
    let (mut inbox, mut out) = (inbox(vec![rated]), Effects::default());
    for tag in 0..3 {
        inbox.deliver(0, delivery(tag, message("slow", &format!("s{tag}"))), at(0.0), &mut out);
    }
    inbox.revoke(&[revocation("s0", false), revocation("s1", false)], at(0.0), &mut out);
    assert_eq!((inbox.load().ready, inbox.load().behind_rates), (1, 1));
    let (_, id) = (0..3).find_map(|second| take(&mut inbox, f64::from(second), &mut out).ok()).unwrap();
    assert_eq!((id.as_str(), inbox.load().behind_rates), ("s2", 0));
}

#[test]
fn what_runs_is_ended_only_if_it_is_to_be_terminated() {
    let (mut inbox, mut out) =
        (inbox(vec![terms("add"), Terms { model: 1, ..terms("other") }]), Effects::default());
    inbox.deliver(0, delivery(1, message("add", "a")), at(0.0), &mut out);
    inbox.deliver(0, delivery(2, message("other", "b")), at(0.0), &mut out);
    let (first, _) = take(&mut inbox, 0.0, &mut out).unwrap();
    let second = inbox.take(1, at(0.0), &mut out, |work| work.handle).unwrap();
    assert_eq!(inbox.revoke(&[revocation("a", false)], at(0.0), &mut out), []);
    let doomed = inbox.revoke(&[revocation("b", true), revocation("c", true)], at(0.0), &mut out);
    assert_eq!(doomed, [(1, second)]);
    assert_eq!(inbox.revoke(&[revocation("b", true)], at(0.0), &mut out), [], "it is ended once");
    assert!(out.steps.is_empty());
    inbox.finish(first, returned("5"), RUN, at(1.0), &mut out);
    inbox.finish(second, Outcome::Lost("killed".into()), RUN, at(1.0), &mut out);
    assert_eq!(document(&out.steps[0])["status"], "SUCCESS");
    assert_eq!(document(&out.steps[1])["status"], "REVOKED");
    assert_eq!(document(&out.steps[1])["result"]["exc_message"], json!(["terminated"]));
    assert_eq!(settled(&out), [(1, &Settlement::Done), (2, &Settlement::Done)]);
}

#[test]
fn what_returns_before_it_is_ended_has_returned() {
    let (mut inbox, mut out) = (inbox(vec![terms("add")]), Effects::default());
    inbox.deliver(0, delivery(1, message("add", "a")), at(0.0), &mut out);
    let (handle, _) = take(&mut inbox, 0.0, &mut out).unwrap();
    inbox.revoke(&[revocation("a", true)], at(0.0), &mut out);
    inbox.finish(handle, returned("5"), RUN, at(1.0), &mut out);
    assert_eq!(document(&out.steps[0])["status"], "SUCCESS");
    // Nor is it run again if its message comes again.
    inbox.deliver(0, delivery(2, message("add", "a")), at(2.0), &mut out);
    assert_eq!(take(&mut inbox, 2.0, &mut out), Err(None));
}

#[test]
fn what_is_due_later_waits_and_does_not_count_as_prefetched() {
    let (mut inbox, mut out) = (inbox(vec![terms("add")]), Effects::default());
    let mut delayed = message("add", "delayed");
    delayed.headers.eta = Some(later(10.0));
    inbox.deliver(3, delivery(1, delayed), at(0.0), &mut out);
    assert_eq!(out.hold, [Ticket { line: 3, tag: Tag(1), is_redelivered: false }]);
    assert_eq!(inbox.load().held, 1);
    let mut wall = at(0.0).wall;
    while let Some(next) = inbox.next() {
        assert_eq!(take(&mut inbox, 0.0, &mut out), Err(None));
        wall = wall.max(next);
        inbox.advance(Moment { wall, ..at(0.0) }, &mut out);
    }
    // A wheel of milliseconds fires late by less than one of them, never early.
    assert!(wall >= at(10.0).wall && wall <= at(10.001).wall);
    assert_eq!(take(&mut inbox, 10.0, &mut out).unwrap().1, "delayed");
    assert_eq!(inbox.load().held_bytes, 0);
}

#[test]
fn what_was_held_is_brought_along_when_it_goes_elsewhere() {
    let rated = Terms { rate: Some("100/s".parse().unwrap()), ..terms("slow") };
    let (mut inbox, mut out) = (inbox(vec![terms("add"), rated]), Effects::default());
    let mut delayed = message("add", "delayed");
    delayed.headers.eta = Some(later(10.0));
    let held = [delayed, message("slow", "slow")];
    for (tag, message) in (0..).zip(held.iter().cloned().chain([message("add", "plain")])) {
        inbox.deliver(0, delivery(tag, message), at(0.0), &mut out);
    }
    inbox.advance(at(10.001), &mut out);
    assert_eq!(out.hold.len(), held.len());
    for requeue in [true, false, true] {
        let (handle, _) = take(&mut inbox, 10.001, &mut out).unwrap();
        let outcome = Outcome::Rejected { requeue, summary: String::new() };
        inbox.finish(handle, outcome, RUN, at(11.0), &mut out);
    }
    let mut brought: Vec<_> = settled(&out)
        .into_iter()
        .map(|(tag, settlement)| match settlement {
            Settlement::Requeue { held } | Settlement::Dead { held, .. } => (tag, held.as_deref().cloned()),
            other => panic!("{other:?}"),
        })
        .collect();
    brought.sort_unstable_by_key(|(tag, _)| *tag);
    let outgoing = |message: &Message| Some(Outgoing { queue: "celery".into(), message: message.clone() });
    assert_eq!(brought, [(0, outgoing(&held[0])), (1, outgoing(&held[1])), (2, None)]);
}

#[test]
fn a_rate_holds_back_its_own_tasks_alone() {
    let rated = Terms { rate: Some("1/s".parse().unwrap()), ..terms("slow") };
    let (mut inbox, mut out) = (inbox(vec![rated, terms("add")]), Effects::default());
    for tag in 0..3 {
        inbox.deliver(0, delivery(tag, message("slow", &format!("s{tag}"))), at(0.0), &mut out);
    }
    inbox.deliver(0, delivery(9, message("add", "a")), at(0.0), &mut out);
    assert_eq!(out.hold.len(), 3, "those before a rate leave room for others");
    assert_eq!(take(&mut inbox, 0.0, &mut out).unwrap().1, "s0");
    assert_eq!(take(&mut inbox, 0.0, &mut out).unwrap().1, "a");
    assert_eq!(take(&mut inbox, 0.5, &mut out), Err(Some(at(1.0).steady)));
    assert_eq!(take(&mut inbox, 1.0, &mut out).unwrap().1, "s1");
    assert_eq!(inbox.load().behind_rates, 1);
}

#[test]
fn the_more_urgent_goes_first_by_the_brokers_scale() {
    for (small_goes_first, expected) in [(false, ["high", "low"]), (true, ["low", "high"])] {
        let settings = Settings { small_goes_first, ..Settings::default() };
        let mut inbox = Inbox::new(settings, 1, vec![terms("add")]);
        let mut out = Effects::default();
        for (tag, (id, priority)) in [("low", 1), ("high", 8)].into_iter().enumerate() {
            let mut message = message("add", id);
            message.properties.priority = priority;
            inbox.deliver(0, delivery(tag as u64, message), at(0.0), &mut out);
        }
        let found: Vec<_> = (0..2).map(|_| take(&mut inbox, 0.0, &mut out).unwrap().1).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn each_model_gets_its_own() {
    let (mut inbox, mut out) =
        (inbox(vec![terms("add"), Terms { model: 1, ..terms("wait") }]), Effects::default());
    inbox.deliver(0, delivery(1, message("wait", "w")), at(0.0), &mut out);
    assert_eq!(take(&mut inbox, 0.0, &mut out), Err(None));
    let task = inbox.take(1, at(0.0), &mut out, |work| work.task).unwrap();
    assert_eq!(&*inbox.terms(task).name, "wait");
}

#[test]
fn a_retry_is_a_new_message_with_the_same_id() {
    let (mut inbox, mut out) = (inbox(vec![terms("add")]), Effects::default());
    let mut first = message("add", "a");
    first.headers.expires = Some(later(99.0));
    first.headers.group = Some("g".into());
    first.headers.other.insert("x-tenant".into(), "acme".into());
    first.properties.priority = 4;
    inbox.deliver(0, delivery(1, first.clone()), at(0.0), &mut out);
    let (handle, _) = take(&mut inbox, 0.0, &mut out).unwrap();
    let answer = Answer { result: r#"{"exc_type": "KeyError"}"#.into(), ..Answer::default() };
    let again = Outcome::Again { answer, summary: "KeyError(1)".into(), at: at(5.0).wall, body: None };
    inbox.finish(handle, again, RUN, at(1.0), &mut out);
    let read = document(&out.steps[0]);
    assert_eq!((read["status"].as_str(), &read["date_done"]), (Some("RETRY"), &Value::Null));
    assert_eq!(read["children"], json!([[["a", null], null]]));
    let (_, Settlement::Replace(outgoing)) = out.steps.remove(0).settle.unwrap() else { panic!() };
    assert_eq!(outgoing.queue, "celery");
    first.headers.retries = 1;
    first.headers.eta = Some(later(5.0));
    first.headers.root_id = Some("a".into());
    first.headers.parent_id = Some("a".into());
    assert_eq!(outgoing.message, first);
}

#[test]
fn a_message_that_ends_its_workers_becomes_a_dead_letter() {
    let (mut inbox, mut out) = (inbox(vec![terms("add")]), Effects::default());
    let mut next = message("add", "a");
    for loss in 1..=3 {
        out = Effects::default();
        inbox.deliver(0, delivery(loss, next.clone()), at(0.0), &mut out);
        let (handle, _) = take(&mut inbox, 0.0, &mut out).unwrap();
        inbox.finish(handle, Outcome::Lost("SIGKILL".into()), RUN, at(1.0), &mut out);
        match &out.steps[0].settle {
            Some((_, Settlement::Replace(outgoing))) if loss < 3 => {
                assert!(out.steps[0].result.is_none());
                next = outgoing.message.clone();
            }
            Some((_, Settlement::Dead { reason, .. })) if loss == 3 => {
                assert!(reason.contains("SIGKILL"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(document(&out.steps[0])["result"]["exc_type"], "WorkerLostError");
}

#[test]
fn a_lost_worker_is_a_failure_for_those_who_want_no_second_try() {
    let tasks = vec![Terms { reject_on_worker_lost: false, ..terms("add") }];
    let (mut inbox, mut out) = (inbox(tasks), Effects::default());
    inbox.deliver(0, delivery(1, message("add", "a")), at(0.0), &mut out);
    let (handle, _) = take(&mut inbox, 0.0, &mut out).unwrap();
    inbox.finish(handle, Outcome::Lost("SIGKILL".into()), RUN, at(1.0), &mut out);
    assert_eq!(settled(&out), [(1, &Settlement::Done)]);
    assert_eq!(document(&out.steps[0])["result"]["exc_message"], json!(["SIGKILL"]));
}

#[test]
fn a_hard_limit_is_told_as_celery_tells_it() {
    let (mut inbox, mut out) = (inbox(vec![terms("add")]), Effects::default());
    inbox.deliver(0, delivery(1, message("add", "a")), at(0.0), &mut out);
    let (handle, _) = take(&mut inbox, 0.0, &mut out).unwrap();
    inbox.finish(handle, Outcome::TimedOut(1.0), RUN, at(1.0), &mut out);
    let result = &document(&out.steps[0])["result"];
    let expected =
        json!({"exc_type": "TimeLimitExceeded", "exc_message": [1], "exc_module": "billiard.exceptions"});
    assert_eq!(*result, expected);
}

#[test]
fn limits_and_wishes_of_a_message_come_before_those_of_its_task() {
    let tasks = vec![Terms { limits: [Some(30.0), Some(20.0)], ignore_result: true, ..terms("add") }];
    let (mut inbox, mut out) = (inbox(tasks), Effects::default());
    let mut own = message("add", "own");
    own.headers.timelimit = [Some(3.0), None];
    own.headers.ignore_result = Some(false);
    inbox.deliver(0, delivery(1, own), at(0.0), &mut out);
    inbox.deliver(0, delivery(2, message("add", "plain")), at(0.0), &mut out);
    let mut seen = || inbox.take(0, at(0.0), &mut out, |work| (work.limits, work.is_result_wanted)).unwrap();
    assert_eq!(seen(), ([Some(3.0), Some(20.0)], true));
    assert_eq!(seen(), ([Some(30.0), Some(20.0)], false));
}

#[test]
fn who_wants_to_know_is_told_when_a_task_begins() {
    let tasks = vec![Terms { track_started: true, ..terms("add") }, terms("other")];
    let (mut inbox, mut out) = (inbox(tasks), Effects::default());
    let ignored = Some(true);
    for (tag, name, ignore_result) in [(1, "add", None), (2, "add", ignored), (3, "other", None)] {
        let mut message = message(name, "a");
        message.headers.ignore_result = ignore_result;
        inbox.deliver(0, delivery(tag, message), at(0.0), &mut out);
    }
    let mut is_tracked = || inbox.take(0, at(0.0), &mut out, |work| work.is_tracked).unwrap();
    assert_eq!([is_tracked(), is_tracked(), is_tracked()], [true, false, false]);
}

#[test]
fn after_a_lost_line_nothing_is_run_twice_that_is_running() {
    let (mut inbox, mut out) = (inbox(vec![terms("add")]), Effects::default());
    let mut delayed = message("add", "delayed");
    delayed.headers.eta = Some(later(10.0));
    inbox.deliver(0, delivery(1, message("add", "runs")), at(0.0), &mut out);
    let (handle, _) = take(&mut inbox, 0.0, &mut out).unwrap();
    inbox.deliver(0, delivery(2, message("add", "waits")), at(0.0), &mut out);
    inbox.deliver(0, delivery(3, delayed), at(0.0), &mut out);
    inbox.lost(0);
    assert_eq!(inbox.load(), Load { running: 1, ..Load::default() });
    for (tag, id) in [(1, "runs"), (2, "waits")] {
        let again = Delivery { is_redelivered: true, ..delivery(tag + 10, message("add", id)) };
        inbox.deliver(1, again, at(1.0), &mut out);
    }
    assert_eq!(take(&mut inbox, 1.0, &mut out).unwrap().1, "waits");
    assert_eq!(take(&mut inbox, 1.0, &mut out), Err(None));
    assert!(out.steps.is_empty());
    inbox.finish(handle, returned("1"), RUN, at(2.0), &mut out);
    let (ticket, settlement) = out.steps[0].settle.as_ref().unwrap();
    assert_eq!((ticket.line, ticket.tag, settlement), (1, Tag(11), &Settlement::Done));
}

#[test]
fn what_has_ended_but_could_not_be_settled_is_not_run_again() {
    let (mut inbox, mut out) = (inbox(vec![terms("add")]), Effects::default());
    inbox.will_come_again("a");
    let again = Delivery { is_redelivered: true, ..delivery(5, message("add", "a")) };
    inbox.deliver(1, again, at(1.0), &mut out);
    assert_eq!(settled(&out), [(5, &Settlement::Done)]);
    assert_eq!(take(&mut inbox, 1.0, &mut out), Err(None));
}

#[test]
fn everything_that_has_not_begun_goes_back_at_the_end() {
    let rated = Terms { rate: Some("1/h".parse().unwrap()), ..terms("slow") };
    let (mut inbox, mut out) = (inbox(vec![rated, terms("add")]), Effects::default());
    let mut delayed = message("add", "delayed");
    delayed.headers.eta = Some(later(10.0));
    inbox.deliver(0, delivery(1, delayed), at(0.0), &mut out);
    inbox.deliver(0, delivery(2, message("slow", "first")), at(0.0), &mut out);
    inbox.deliver(0, delivery(3, message("slow", "second")), at(0.0), &mut out);
    inbox.deliver(0, delivery(4, message("add", "runs")), at(0.0), &mut out);
    inbox.deliver(0, delivery(5, message("add", "waits")), at(0.0), &mut out);
    assert_eq!(take(&mut inbox, 0.0, &mut out).unwrap().1, "first");
    let (handle, _) = take(&mut inbox, 0.0, &mut out).unwrap();
    let mut tags: Vec<_> = inbox.close().into_iter().map(|ticket| ticket.tag.0).collect();
    tags.sort_unstable();
    assert_eq!(tags, [1, 3, 5]);
    assert_eq!(take(&mut inbox, 99.0, &mut out), Err(None));
    inbox.deliver(0, delivery(6, message("add", "late")), at(0.0), &mut out);
    assert_eq!(settled(&out), [(6, &Settlement::Return)]);
    out.steps.clear();
    inbox.finish(handle, Outcome::NotBegun, RUN, at(1.0), &mut out);
    assert_eq!(settled(&out), [(4, &Settlement::Return)]);
}

#[test]
fn delayed_tasks_cost_little() {
    let (mut inbox, mut out) = (inbox(vec![terms("shop.charge")]), Effects::default());
    let count = 20_000;
    for number in 0..count as u64 {
        let id = uuid::Uuid::from_u128(u128::from(number) << 64 | 0x4000_8000_0000_0000_0001).to_string();
        let mut message = message("shop.charge", &id);
        message.headers.eta = Some(later(3600.0 + number as f64 / 1000.0));
        message.headers.root_id = Some(id.clone());
        message.headers.argsrepr = Some(format!("({number},)"));
        message.headers.kwargsrepr = Some("{}".into());
        message.headers.origin = Some("gen14656@vm".into());
        message.properties.correlation_id = Some(id);
        message.properties.reply_to = Some("5e239fe7-1ad0-3058-8a0a-3a6b5a0b0c0d".into());
        let body = format!(
            r#"[[{number}], {{}}, {{"callbacks": null, "errbacks": null, "chain": null, "chord": null}}]"#
        );
        message.body = body.into();
        inbox.deliver(0, delivery(number, message), at(0.0), &mut out);
        out.hold.clear();
        out.notes.clear();
    }
    let load = inbox.load();
    assert_eq!(load.held, count);
    let each = load.held_bytes / load.held;
    assert!(each <= 180, "{each} bytes for each");
    inbox.advance(at(7200.0), &mut out);
    assert!(inbox.load().ready < count / 2, "what is due stays packed until there is room");
    let mut taken = 0;
    while let Ok((handle, _)) = take(&mut inbox, 7200.0, &mut out) {
        inbox.finish(handle, Outcome::Ignored, RUN, at(7200.0), &mut out);
        inbox.advance(at(7200.0), &mut out);
        taken += 1;
    }
    assert_eq!(taken, count);
    assert_eq!(inbox.load(), Load::default());
}

#[derive(Debug, Clone)]
enum Act {
    Deliver { id: u8, eta: Option<u8>, expires: Option<u8>, task: u8, is_redelivered: bool },
    Pass(u8),
    Take,
    Finish(u8, u8),
    Revoke(u8),
    Lose,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let deliver =
        (0..20_u8, proptest::option::of(0..20_u8), proptest::option::of(0..30_u8), 0..4_u8, any::<bool>());
    let deliver = deliver.prop_map(|(id, eta, expires, task, is_redelivered)| Act::Deliver {
        id,
        eta,
        expires,
        task,
        is_redelivered,
    });
    let act = prop_oneof![
        6 => deliver,
        2 => (0..5_u8).prop_map(Act::Pass),
        5 => Just(Act::Take),
        4 => (any::<u8>(), 0..8_u8).prop_map(|(which, how)| Act::Finish(which, how)),
        1 => (0..20_u8).prop_map(Act::Revoke),
        1 => Just(Act::Lose),
    ];
    proptest::collection::vec(act, 0..120)
}

fn outcome(how: u8, now: Moment) -> Outcome {
    match how {
        0 => Outcome::Raised(Answer::default(), String::new()),
        1 => Outcome::Again { answer: Answer::default(), summary: String::new(), at: now.wall, body: None },
        2 => Outcome::Rejected { requeue: false, summary: String::new() },
        3 => Outcome::Rejected { requeue: true, summary: String::new() },
        4 => Outcome::Ignored,
        5 => Outcome::Lost(String::new()),
        6 => Outcome::NotBegun,
        _ => Outcome::Returned(Answer::default()),
    }
}

proptest! {
    /// Whatever comes in whatever order: each ticket of a line that is alive is settled once, or given back at the end.
    #[test]
    fn every_ticket_is_settled_exactly_once(acts in acts()) {
        let rated = Terms { rate: Some("2/s".parse().unwrap()), ..terms("t1") };
        let early = Terms { acks_late: false, ..terms("t2") };
        let mut inbox = inbox(vec![terms("t0"), rated, early]);
        let (mut out, mut now, mut line, mut next_tag) = (Effects::default(), 0.0, 0, 0);
        let mut adopted = 0;
        let mut open: HashSet<(Line, u64)> = HashSet::new();
        let mut running = Vec::new();
        for act in acts {
            match act {
                Act::Deliver { id, eta, expires, task, is_redelivered } => {
                    let mut message = message(&format!("t{task}"), &format!("i{id}"));
                    message.headers.eta = eta.map(|eta| later(f64::from(eta)));
                    message.headers.expires = expires.map(|expires| later(f64::from(expires)));
                    next_tag += 1;
                    open.insert((line, next_tag));
                    let delivery = Delivery { is_redelivered, ..delivery(next_tag, message) };
                    let before = (inbox.load(), out.steps.len());
                    inbox.deliver(line, delivery, at(now), &mut out);
                    adopted += usize::from((inbox.load(), out.steps.len()) == before);
                }
                Act::Pass(seconds) => {
                    now += f64::from(seconds);
                    inbox.advance(at(now), &mut out);
                }
                Act::Take => running.extend(take(&mut inbox, now, &mut out).ok()),
                Act::Finish(which, how) if !running.is_empty() => {
                    let (handle, _) = running.swap_remove(usize::from(which) % running.len());
                    inbox.finish(handle, outcome(how, at(now)), RUN, at(now), &mut out);
                }
                Act::Finish(..) => {}
                Act::Revoke(id) => {
                    let revoked = revocation(&format!("i{id}"), id % 2 == 0);
                    inbox.revoke(&[revoked], at(now), &mut out);
                }
                Act::Lose => {
                    inbox.lost(line);
                    open.clear();
                    line += 1;
                }
            }
            for (ticket, _) in out.steps.drain(..).filter_map(|step| step.settle) {
                if ticket.line == line {
                    prop_assert!(open.remove(&(ticket.line, ticket.tag.0)), "{ticket:?} was settled twice");
                }
            }
        }
        for ticket in inbox.close() {
            if ticket.line == line {
                prop_assert!(open.remove(&(ticket.line, ticket.tag.0)), "{ticket:?} was given back twice");
            }
        }
        for (handle, _) in running {
            inbox.finish(handle, Outcome::Ignored, RUN, at(now), &mut out);
        }
        for (ticket, _) in out.steps.drain(..).filter_map(|step| step.settle) {
            open.remove(&(ticket.line, ticket.tag.0));
        }
        // A ticket whose task was running under an older one gives up the older one, which its broker has taken back.
        prop_assert_eq!(inbox.load(), Load::default());
        prop_assert!(open.len() <= adopted, "{open:?} were forgotten");
    }
}
