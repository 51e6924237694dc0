use loom::thread;

use super::*;
use crate::prim::Arc;

type Task = Cell<u8, u8, u8>;

#[test]
fn loom_a_waiter_is_refused_or_woken_never_forgotten() {
    loom::model(|| {
        let task = Arc::new(Task::default());
        let finisher = {
            let task = Arc::clone(&task);
            thread::spawn(move || match task.finish(1, Key::None) {
                Finish::Done(waiters) => waiters.len(),
                other => panic!("nobody else settles it: {other:?}"),
            })
        };
        let accepted = task.subscribe(9).is_ok();
        assert_eq!(finisher.join().unwrap(), usize::from(accepted));
    });
}

#[test]
fn loom_either_the_worker_or_the_canceller_gets_the_call() {
    loom::model(|| {
        let task = Arc::new(Task::default());
        task.set_call(5);
        let canceller = {
            let task = Arc::clone(&task);
            thread::spawn(move || matches!(task.cancel(false, Key::None), Cancel::Done { call: Some(5), .. }))
        };
        let ran = matches!(task.start(Key::None), Start::Run(Some(5)));
        assert!(ran ^ canceller.join().unwrap());
    });
}

#[test]
fn loom_a_timeout_and_a_result_never_both_win() {
    loom::model(|| {
        let task = Arc::new(Task::default());
        let _ = task.start(Key::None);
        task.subscribe(9).unwrap();
        let timer = {
            let task = Arc::clone(&task);
            thread::spawn(move || task.finish(2, Key::None))
        };
        let mine = task.finish(1, Key::None);
        let theirs = timer.join().unwrap();
        let wins = [&mine, &theirs].iter().filter(|end| ***end == Finish::Done(vec![9])).count();
        assert_eq!(wins, 1);
    });
}

#[test]
fn loom_a_retry_and_a_forced_cancel_agree() {
    loom::model(|| {
        let task = Arc::new(Task::default());
        let _ = task.start(Key::None);
        let canceller = {
            let task = Arc::clone(&task);
            thread::spawn(move || matches!(task.cancel(true, Key::None), Cancel::Done { .. }))
        };
        let requeued = task.requeue(5).is_ok();
        assert!(canceller.join().unwrap());
        // Whichever came first, nobody may run it now; if it was queued again, whoever takes it out tells of its end.
        let told = if requeued { Start::Cancelled } else { Start::Refused(State::CancelledAndNotified) };
        assert_eq!(task.start(Key::None), told);
    });
}
