//! The scheduler against a model that searches every task and every start anew, in virtual time.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::rate::Rate;

const SECOND: Duration = Duration::from_secs(1);

fn at(nanos: u64) -> Tick {
    Tick::from_nanos(nanos)
}

fn rate(calls: u32, nanos: u64, burst: u32) -> Limits {
    Limits { rate: Some(Rate { calls, per: Duration::from_nanos(nanos), burst }), concurrency: None }
}

fn concurrency(tasks: usize) -> Limits {
    Limits { rate: None, concurrency: Some(tasks) }
}

fn popped<T>(scheduler: &mut Scheduler<T>, now: Tick) -> Vec<T> {
    std::iter::from_fn(|| match scheduler.pop(now) {
        Pop::Ready { task, .. } => Some(task),
        _ => None,
    })
    .collect()
}

#[test]
fn tasks_without_an_order_come_first_in_first_out() {
    let mut scheduler = Scheduler::new();
    assert_eq!(scheduler.pop(Tick::ZERO), Pop::Empty);
    let ages: Vec<u64> = (0..5).map(|task| scheduler.push(task, Order::default())).collect();
    assert!(ages.is_sorted_by(|one, next| one < next));
    assert_eq!(scheduler.len(), 5);
    assert_eq!(popped(&mut scheduler, Tick::ZERO), [0, 1, 2, 3, 4]);
    assert!(scheduler.is_empty());
}

#[test]
fn a_retried_task_keeps_its_age_and_goes_before_newer_ones() {
    let mut scheduler = Scheduler::new();
    for task in ["old", "newer", "newest"] {
        scheduler.push(task, Order::default());
    }
    let Pop::Ready { task: "old", age } = scheduler.pop(Tick::ZERO) else { panic!("the oldest comes first") };
    let again = scheduler.push("old", Order { age: Some(age), not_before: Some(at(10)), ..Order::default() });
    assert_eq!(again, age);
    assert_eq!((scheduler.len(), scheduler.ready_len()), (3, 2));
    assert!(matches!(scheduler.pop(at(9)), Pop::Ready { task: "newer", .. }));
    assert_eq!(popped(&mut scheduler, at(10)), ["old", "newest"]);
}

#[test]
fn an_age_that_was_never_given_makes_nobody_older() {
    let mut scheduler = Scheduler::new();
    assert_eq!(scheduler.push("first", Order { age: Some(u64::MAX), ..Order::default() }), 0);
    assert_eq!(scheduler.push("second", Order { age: Some(1), ..Order::default() }), 1);
    assert_eq!(popped(&mut scheduler, Tick::ZERO), ["first", "second"]);
}

#[test]
fn order_holds_across_gates() {
    let mut scheduler = Scheduler::new();
    let gates =
        [None, Some(scheduler.add_gate(concurrency(99))), Some(scheduler.add_gate(Limits::default()))];
    for task in 0..30_usize {
        let priority = i32::from(task % 5 == 0);
        scheduler.push(task, Order { priority, gate: gates[task % 3], ..Order::default() });
    }
    let (urgent, rest): (Vec<_>, Vec<_>) = (0..30).partition(|task| task % 5 == 0);
    assert_eq!(popped(&mut scheduler, Tick::ZERO), [urgent, rest].concat());
}

#[test]
fn it_says_whether_a_task_waits_for_more_than_a_hand() {
    let mut scheduler = Scheduler::new();
    let gate = scheduler.add_gate(rate(1, 100, 1));
    assert!(!scheduler.holds_back());
    scheduler.push("free", Order::default());
    assert!(!scheduler.holds_back());
    scheduler.push("gated", Order { gate: Some(gate), ..Order::default() });
    assert!(scheduler.holds_back());
    assert_eq!(popped(&mut scheduler, Tick::ZERO), ["free", "gated"]);
    assert!(!scheduler.holds_back());
    scheduler.push("delayed", Order { not_before: Some(at(50)), ..Order::default() });
    assert!(scheduler.holds_back());
    assert_eq!(popped(&mut scheduler, at(50)), ["delayed"]);
    assert!(!scheduler.holds_back());
}

#[test]
fn a_closed_gate_holds_up_only_its_own_tasks() {
    let mut scheduler = Scheduler::new();
    let slow = scheduler.add_gate(rate(1, 100, 1));
    for task in ["slow 1", "slow 2"] {
        scheduler.push(task, Order { priority: 9, gate: Some(slow), ..Order::default() });
    }
    scheduler.push("free", Order::default());
    assert_eq!(popped(&mut scheduler, Tick::ZERO), ["slow 1", "free"]);
    assert_eq!(scheduler.pop(at(99)), Pop::Wait(at(100)));
    assert_eq!(popped(&mut scheduler, at(100)), ["slow 2"]);
}

#[test]
fn the_rate_counts_starts_however_long_tasks_waited() {
    let mut scheduler = Scheduler::new();
    let gate = scheduler.add_gate(rate(10, 1_000_000_000, 1));
    for task in 0..50 {
        scheduler.push(task, Order { gate: Some(gate), ..Order::default() });
    }
    // Nobody asks for an hour; the tokens of that hour are not saved up.
    let late = Tick::ZERO + 3600 * SECOND;
    assert_eq!(popped(&mut scheduler, late), [0]);
    assert_eq!(scheduler.pop(late), Pop::Wait(late + SECOND / 10));
}

#[test]
fn a_slot_is_taken_until_the_task_has_finished() {
    let mut scheduler = Scheduler::new();
    let gate = scheduler.add_gate(concurrency(2));
    for task in 0..4 {
        scheduler.push(task, Order { gate: Some(gate), ..Order::default() });
    }
    assert_eq!(popped(&mut scheduler, Tick::ZERO), [0, 1]);
    assert_eq!(scheduler.pop(Tick::ZERO), Pop::Blocked);
    scheduler.finished(gate);
    assert_eq!(popped(&mut scheduler, Tick::ZERO), [2]);
    scheduler.push(9, Order { not_before: Some(at(7)), ..Order::default() });
    assert_eq!(scheduler.pop(Tick::ZERO), Pop::Wait(at(7)));
}

#[test]
fn a_removed_gate_limits_its_last_task_and_is_forgotten() {
    let mut scheduler = Scheduler::new();
    let gate = scheduler.add_gate(rate(1, 100, 1));
    let order = Order { gate: Some(gate), ..Order::default() };
    scheduler.push(1, order);
    scheduler.push(2, order);
    scheduler.remove_gate(gate);
    assert_eq!(popped(&mut scheduler, Tick::ZERO), [1]);
    assert_eq!(popped(&mut scheduler, at(100)), [2]);
    // Its place is taken by another; the old name reaches neither gate.
    let closed = scheduler.add_gate(concurrency(0));
    scheduler.finished(gate);
    scheduler.remove_gate(gate);
    scheduler.push(3, order);
    assert_eq!(popped(&mut scheduler, at(100)), [3]);
    scheduler.push(4, Order { gate: Some(closed), ..Order::default() });
    assert_eq!(scheduler.pop(at(100)), Pop::Blocked);
}

#[test]
fn draining_takes_everything_oldest_first() {
    let mut scheduler = Scheduler::new();
    let gate = scheduler.add_gate(concurrency(0));
    for task in 0..40_u64 {
        let priority = i32::try_from(task % 3).unwrap();
        let not_before = (task % 4 == 0).then(|| at(1000 - task));
        scheduler
            .push(task, Order { priority, gate: (task % 5 == 0).then_some(gate), not_before, age: None });
    }
    assert!(scheduler.drain().is_sorted());
    assert_eq!((scheduler.len(), scheduler.ready_len()), (0, 0));
    assert_eq!(scheduler.pop(at(2000)), Pop::Empty);
}

#[test]
fn the_end_of_time_is_never_reached() {
    let mut scheduler = Scheduler::new();
    let nothing_passes = scheduler.add_gate(rate(0, 1, 1));
    scheduler.push(1, Order { gate: Some(nothing_passes), ..Order::default() });
    scheduler.push(2, Order { not_before: Some(Tick::NEVER), ..Order::default() });
    assert_eq!(scheduler.pop(Tick::NEVER), Pop::Wait(Tick::NEVER));
    assert_eq!(scheduler.drain(), [1, 2]);
}

#[test]
fn a_clock_read_too_early_changes_nothing() {
    let mut scheduler = Scheduler::new();
    let gate = scheduler.add_gate(rate(1, 100, 1));
    let order = Order { gate: Some(gate), ..Order::default() };
    scheduler.push(1, order);
    scheduler.push(2, order);
    assert_eq!(popped(&mut scheduler, at(500)), [1]);
    assert_eq!(scheduler.pop(at(400)), Pop::Wait(at(600)));
    scheduler.push(3, Order { priority: 1, ..Order::default() });
    assert!(matches!(scheduler.pop(at(600)), Pop::Ready { task: 3, .. }));
    // The gate was seen open at 600, so it is.
    assert_eq!(popped(&mut scheduler, at(550)), [2]);
    scheduler.push(4, order);
    assert_eq!(scheduler.pop(at(550)), Pop::Wait(at(700)));
}

/// The rules, each decided by looking at everything there is.
#[derive(Default)]
struct Model {
    now: u64,
    tasks: Vec<Task>,
    gates: Vec<ModelGate>,
}

#[derive(Debug, Clone, Copy)]
struct Task {
    id: u32,
    age: u64,
    priority: i32,
    gate: Option<usize>,
    not_before: u64,
}

struct ModelGate {
    id: GateId,
    limits: Limits,
    starts: Vec<u64>,
    running: usize,
    removed: bool,
    forgotten: bool,
}

impl ModelGate {
    /// The least tick at which one more start leaves every window, ending with it, within burst and rate.
    fn opens(&self) -> Option<u64> {
        if self.limits.concurrency.is_some_and(|limit| self.running >= limit) {
            return None;
        }
        let Some(rate) = self.limits.rate else { return Some(0) };
        let per = u64::try_from(rate.per.as_nanos()).unwrap();
        let windows = self.starts.iter().rev().zip(2_u64..).map(|(start, count)| {
            let beyond_burst = count.saturating_sub(u64::from(rate.burst));
            if beyond_burst == 0 { 0 } else { start + (beyond_burst * per).div_ceil(u64::from(rate.calls)) }
        });
        Some(windows.max().unwrap_or(0))
    }
}

impl Model {
    /// When this task could start if no other did; `None` while its gate is full.
    fn could_start(&self, task: &Task) -> Option<u64> {
        let opens = task.gate.map_or(Some(0), |gate| self.gates[gate].opens())?;
        Some(opens.max(task.not_before))
    }

    fn pop(&mut self, now: u64) -> Pop<u32> {
        self.now = now;
        let times: Vec<Option<u64>> = self.tasks.iter().map(|task| self.could_start(task)).collect();
        let eligible = (0..self.tasks.len()).filter(|&i| times[i].is_some_and(|time| time <= now));
        let best = eligible.min_by_key(|&i| (-self.tasks[i].priority, self.tasks[i].age));
        match (best, times.into_iter().flatten().min()) {
            (Some(best), _) => self.start(best),
            (None, Some(time)) => Pop::Wait(at(time)),
            (None, None) if self.tasks.is_empty() => Pop::Empty,
            (None, None) => Pop::Blocked,
        }
    }

    fn start(&mut self, best: usize) -> Pop<u32> {
        let task = self.tasks.remove(best);
        if let Some(gate) = task.gate {
            self.gates[gate].starts.push(self.now);
            self.gates[gate].running += 1;
        }
        self.forget();
        Pop::Ready { task: task.id, age: task.age }
    }

    fn forget(&mut self) {
        for (index, gate) in self.gates.iter_mut().enumerate() {
            gate.forgotten |= gate.removed && self.tasks.iter().all(|task| task.gate != Some(index));
        }
    }

    fn drain(&mut self) -> Vec<u32> {
        self.tasks.sort_by_key(|task| task.age);
        let ids = self.tasks.drain(..).map(|task| task.id).collect();
        self.forget();
        ids
    }

    /// The least and the most there may be: while a gate is closed, the end of a delay before it goes
    /// unnoticed.
    fn ready_len(&self) -> std::ops::RangeInclusive<usize> {
        let due = self.tasks.iter().filter(|task| task.not_before <= self.now);
        let free = due.clone().filter(|task| self.could_start(task).is_some_and(|time| time <= self.now));
        free.count()..=due.count()
    }
}

/// The scheduler and its model, led through the same calls.
#[derive(Default)]
struct Pair {
    now: u64,
    real: Scheduler<u32>,
    model: Model,
    pushed: u32,
    started: Vec<Task>,
    seen: Vec<u32>,
}

#[derive(Debug, Clone)]
enum Call {
    Push { priority: i32, gate: Option<usize>, delay: Option<u64> },
    Retry { which: usize, delay: u64 },
    Pop,
    Pass(u64),
    WaitAndPop,
    Finish(usize),
    AddGate(Limits),
    RemoveGate(usize),
    Drain,
}

impl Pair {
    fn run(&mut self, call: Call) {
        match call {
            Call::Push { priority, gate, delay } => self.push(priority, gate, delay),
            Call::Retry { which, delay } => self.retry(which, delay),
            Call::Pop => drop(self.pop()),
            Call::Pass(nanos) => self.now += nanos,
            Call::WaitAndPop => self.wait_and_pop(),
            Call::Finish(which) => self.finish(which),
            Call::AddGate(limits) => self.add_gate(limits),
            Call::RemoveGate(which) => self.remove_gate(which),
            Call::Drain => self.drain(),
        }
        assert_eq!(self.real.len(), self.model.tasks.len());
        assert_eq!(self.real.is_empty(), self.model.tasks.is_empty());
    }

    fn push(&mut self, priority: i32, gate: Option<usize>, delay: Option<u64>) {
        let gate = gate.and_then(|gate| gate.checked_rem(self.model.gates.len()));
        self.push_again(Task { id: self.pushed, age: u64::MAX, priority, gate, not_before: 0 }, delay);
        self.pushed += 1;
    }

    fn retry(&mut self, which: usize, delay: u64) {
        if let Some(which) = which.checked_rem(self.started.len()) {
            let task = self.started.swap_remove(which);
            self.seen.retain(|id| *id != task.id);
            self.push_again(task, Some(delay));
        }
    }

    fn push_again(&mut self, task: Task, delay: Option<u64>) {
        let gate = task.gate.map(|gate| self.model.gates[gate].id);
        let due = delay.map(|delay| self.now + delay);
        let earlier = (task.age != u64::MAX).then_some(task.age);
        let order = Order { priority: task.priority, gate, not_before: due.map(at), age: earlier };
        let age = self.real.push(task.id, order);
        assert!(earlier.is_none_or(|earlier| earlier == age));
        let gate = task.gate.filter(|gate| !self.model.gates[*gate].forgotten);
        self.model.tasks.push(Task { age, gate, not_before: due.unwrap_or(0), ..task });
    }

    fn pop(&mut self) -> Pop<u32> {
        let before = self.model.tasks.clone();
        let expected = self.model.pop(self.now);
        let found = self.real.pop(at(self.now));
        assert_eq!(found, expected);
        assert!(self.model.ready_len().contains(&self.real.ready_len()));
        if let Pop::Ready { task, .. } = &found {
            assert!(!self.seen.contains(task), "popped twice");
            self.seen.push(*task);
            self.started.extend(before.iter().find(|known| known.id == *task));
        }
        found
    }

    /// `Wait` is exact: one nanosecond before nothing comes, at the tick something does.
    fn wait_and_pop(&mut self) {
        if let Pop::Wait(until) = self.pop() {
            assert!(until > at(self.now));
            self.now = until.as_nanos() - 1;
            assert_eq!(self.pop(), Pop::Wait(until));
            self.now += 1;
            assert!(matches!(self.pop(), Pop::Ready { .. }));
        }
    }

    fn finish(&mut self, which: usize) {
        if let Some(which) = which.checked_rem(self.model.gates.len()) {
            let gate = &mut self.model.gates[which];
            gate.running = gate.running.saturating_sub(1);
            self.real.finished(gate.id);
        }
    }

    fn add_gate(&mut self, limits: Limits) {
        let id = self.real.add_gate(limits);
        assert!(self.model.gates.iter().all(|gate| gate.id != id), "a name given twice");
        let (starts, running, removed, forgotten) = (Vec::new(), 0, false, false);
        self.model.gates.push(ModelGate { id, limits, starts, running, removed, forgotten });
    }

    fn remove_gate(&mut self, which: usize) {
        if let Some(which) = which.checked_rem(self.model.gates.len()) {
            self.model.gates[which].removed = true;
            self.model.forget();
            self.real.remove_gate(self.model.gates[which].id);
        }
    }

    fn drain(&mut self) {
        let drained = self.real.drain();
        assert_eq!(drained, self.model.drain());
        self.seen.extend(drained);
    }

    /// Runs whatever is left and checks that each task came out exactly once.
    fn finish_all(mut self) {
        for gate in &mut self.model.gates {
            gate.running = 0;
            // As often as a task can have started, so that every slot is free.
            (0..gate.starts.len()).for_each(|_| self.real.finished(gate.id));
        }
        loop {
            match self.pop() {
                Pop::Ready { .. } => {}
                Pop::Wait(until) => self.now = until.as_nanos(),
                Pop::Blocked => (0..self.model.gates.len()).for_each(|gate| self.finish(gate)),
                Pop::Empty => break,
            }
        }
        self.seen.sort_unstable();
        assert_eq!(self.seen, (0..self.pushed).collect::<Vec<_>>());
    }
}

fn any_limits() -> impl Strategy<Value = Limits> {
    let rates = (1..5_u32, 1..200_u64, 1..4_u32).prop_map(|(calls, nanos, burst)| Rate {
        calls,
        per: Duration::from_nanos(nanos),
        burst,
    });
    (proptest::option::of(rates), proptest::option::of(1..4_usize))
        .prop_map(|(rate, concurrency)| Limits { rate, concurrency })
}

fn any_call() -> impl Strategy<Value = Call> {
    let delays = proptest::option::weighted(0.3, 0..300_u64);
    let push = (-2..=2_i32, proptest::option::weighted(0.7, any::<usize>()), delays);
    prop_oneof![
        12 => push.prop_map(|(priority, gate, delay)| Call::Push { priority, gate, delay }),
        3 => (any::<usize>(), 0..100_u64).prop_map(|(which, delay)| Call::Retry { which, delay }),
        8 => Just(Call::Pop),
        4 => (0..150_u64).prop_map(Call::Pass),
        4 => Just(Call::WaitAndPop),
        5 => any::<usize>().prop_map(Call::Finish),
        2 => any_limits().prop_map(Call::AddGate),
        1 => any::<usize>().prop_map(Call::RemoveGate),
        1 => Just(Call::Drain),
    ]
}

proptest! {
    #[test]
    fn every_answer_is_the_one_of_the_model(calls in proptest::collection::vec(any_call(), 1..120)) {
        let mut pair = Pair::default();
        for call in calls {
            pair.run(call);
        }
        pair.finish_all();
    }

    #[test]
    fn a_rate_is_attained_and_never_exceeded(calls in 1..50_u32, interval in 1..5000_u64, burst in 1..5_u32) {
        let mut scheduler = Scheduler::new();
        let gate = scheduler.add_gate(rate(calls, interval * u64::from(calls), burst));
        for task in 0..200_u64 {
            scheduler.push(task, Order { gate: Some(gate), ..Order::default() });
        }
        let mut now = Tick::ZERO;
        let mut started = 0_u64;
        loop {
            match scheduler.pop(now) {
                Pop::Ready { task, .. } => {
                    prop_assert_eq!(task, started);
                    started += 1;
                    prop_assert_eq!(now, at(started.saturating_sub(u64::from(burst)) * interval));
                }
                Pop::Wait(until) => now = until,
                Pop::Blocked => prop_assert!(false, "nothing limits concurrency"),
                Pop::Empty => break,
            }
        }
        prop_assert_eq!(started, 200);
    }
}
