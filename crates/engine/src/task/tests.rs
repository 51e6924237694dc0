use proptest::prelude::*;

use super::*;

type Task = Cell<&'static str, i32, u8>;

#[test]
fn a_call_is_handed_out_once() {
    let task = Task::default();
    task.set_call("call");
    assert_eq!(task.start(Key::None), Start::Run(Some("call")));
    assert_eq!(task.start(Key::None), Start::Refused(State::Running));
    assert_eq!(task.finish(7, Key::None), Finish::Done(vec![]));
    assert_eq!(task.peek(|_, outcome, _| outcome.copied()), Some(7));
}

#[test]
fn a_retried_call_is_handed_out_again() {
    let task = Task::default();
    task.set_call("call");
    assert_eq!(task.start(Key::None), Start::Run(Some("call")));
    assert_eq!(task.requeue("call"), Ok(()));
    assert_eq!(task.state(), State::Pending);
    assert_eq!(task.start(Key::None), Start::Run(Some("call")));
}

#[test]
fn a_running_task_is_cancelled_only_by_who_insists() {
    let task = Task::default();
    assert_eq!(task.start(Key::None), Start::Run(None));
    assert_eq!(task.cancel(false, Key::None), Cancel::Refused(State::Running));
    assert_eq!(task.cancel(true, Key::None), Cancel::Done { waiters: vec![], call: None, was_running: true });
    assert_eq!(task.requeue("late"), Err("late"));
    assert_eq!(task.finish(1, Key::None), Finish::Refused(1, State::CancelledAndNotified));
}

#[test]
fn a_guarded_task_moves_only_for_the_holder_of_its_condition() {
    let task = Task::default();
    task.guard();
    assert_eq!(task.start(Key::None), Start::Guarded);
    assert_eq!(task.start(Key::Held), Start::Run(None));
    assert_eq!(task.finish(1, Key::None), Finish::Guarded(1));
    assert_eq!(task.cancel(true, Key::None), Cancel::Guarded);
    assert_eq!(task.finish(1, Key::Held), Finish::Done(vec![]));
}

#[derive(Debug, Clone)]
enum Step {
    Start,
    Requeue,
    Finish(i32),
    Cancel(bool),
    Subscribe(u8),
    Unsubscribe(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Start),
        Just(Step::Requeue),
        any::<i32>().prop_map(Step::Finish),
        any::<bool>().prop_map(Step::Cancel),
        any::<u8>().prop_map(Step::Subscribe),
        any::<u8>().prop_map(Step::Unsubscribe),
    ]
}

proptest! {
    #[test]
    fn every_waiter_is_handed_back_once_and_the_outcome_never_changes(
        steps in prop::collection::vec(step(), 0..40)
    ) {
        let task = Task::default();
        let (mut accepted, mut returned) = (Vec::new(), Vec::new());
        let mut outcome = None;
        for step in steps {
            let before = task.state();
            match step {
                Step::Start => {
                    let started = task.start(Key::None);
                    prop_assert_eq!(matches!(started, Start::Run(_)), before == State::Pending);
                }
                Step::Requeue => {
                    prop_assert_eq!(task.requeue("again").is_ok(), before == State::Running);
                }
                Step::Finish(value) => match task.finish(value, Key::None) {
                    Finish::Done(waiters) => {
                        prop_assert!(!before.is_done());
                        outcome = Some(value);
                        returned.extend(waiters);
                    }
                    Finish::Refused(given_back, state) => {
                        prop_assert_eq!((given_back, state), (value, before));
                        prop_assert!(before.is_done());
                    }
                    Finish::Guarded(_) => prop_assert!(false, "nobody guarded it"),
                },
                Step::Cancel(insist) => {
                    if let Cancel::Done { waiters, was_running, .. } = task.cancel(insist, Key::None) {
                        prop_assert!(!before.is_done());
                        prop_assert_eq!(was_running, before == State::Running);
                        returned.extend(waiters);
                    }
                }
                Step::Subscribe(waiter) => match task.subscribe(waiter) {
                    Ok(()) => accepted.push(waiter),
                    Err(_) => prop_assert!(before.is_done()),
                },
                Step::Unsubscribe(waiter) => returned.extend(task.unsubscribe(|other| *other == waiter)),
            }
            prop_assert_eq!(task.peek(|_, outcome, _| outcome.copied()), outcome);
        }
        returned.extend(task.clear().2);
        accepted.sort_unstable();
        returned.sort_unstable();
        prop_assert_eq!(accepted, returned);
    }
}
