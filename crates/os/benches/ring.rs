//! What a message costs: `cargo bench -p manyhands-os --bench ring`.
//!
//! Each figure is the best and the median of several runs, in nanoseconds a message: the best is what the code
//! costs, the rest is the machine's other business.

#![expect(clippy::print_stdout, reason = "figures are for reading")]

use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::time::Duration;

use manyhands_engine::clock::Tick;
use manyhands_os::clock::{self, thread_cpu};
use manyhands_os::ring::{Consumer, Producer, consumer, initialise, producer};
use manyhands_os::segment::Segment;

const RING: usize = 64 << 10;
const RUNS: usize = 15;

fn ring() -> (Producer, Consumer) {
    let segment = Arc::new(Segment::create(RING).unwrap());
    initialise(&segment, 0, RING).unwrap();
    (producer(Arc::clone(&segment), 0, RING).unwrap(), consumer(segment, 0, RING).unwrap())
}

/// Reports by the clock on the wall, or by the processor time of this thread: what the machine does beside us then
/// does not count.
fn report(name: &str, messages: usize, now: fn() -> Duration, mut run: impl FnMut()) {
    let mut figures: Vec<f64> = (0..RUNS)
        .map(|_| {
            let start = now();
            run();
            now().saturating_sub(start).as_nanos() as f64 / messages as f64
        })
        .collect();
    figures.sort_by(f64::total_cmp);
    println!("{name:<58} best {:8.1} ns   median {:8.1} ns", figures[0], figures[RUNS / 2]);
}

/// One thread does both: push and pop, `burst` messages at a time.
fn alone(length: usize, burst: usize) {
    let (mut producer, mut consumer) = ring();
    let (message, mut into) = (vec![7; length], Vec::new());
    let bursts = 200_000 / burst;
    report(
        &format!("one thread, push + pop of {length} bytes, {burst} at a time"),
        bursts * burst,
        thread_cpu,
        || {
            for _ in 0..bursts {
                for _ in 0..burst {
                    let _ = black_box(producer.try_push(&[&message]).unwrap());
                }
                while consumer.try_pop(&mut into).unwrap() {
                    black_box(&into);
                }
            }
        },
    );
}

/// Two threads, each as fast as it can; a full or empty ring is spun on.
fn through(length: usize) {
    const MESSAGES: usize = 300_000;
    report(&format!("two threads, push | pop of {length} bytes"), MESSAGES, wall, || {
        let (mut producer, mut consumer) = ring();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let message = vec![7; length];
                for _ in 0..MESSAGES {
                    while producer.try_push(&[&message]).is_err() {
                        spin_loop();
                    }
                }
            });
            let mut into = Vec::new();
            for _ in 0..MESSAGES {
                while !consumer.try_pop(&mut into).unwrap() {
                    spin_loop();
                }
            }
        });
    });
}

/// There and back, one message under way at a time; both sides spin.
fn round_trip(length: usize) {
    const MESSAGES: usize = 50_000;
    report(&format!("two threads, round trip of {length} bytes"), MESSAGES, wall, || {
        let ((mut there, mut other), (mut answer, mut back)) = (ring(), ring());
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut into = Vec::new();
                for _ in 0..MESSAGES {
                    while !other.try_pop(&mut into).unwrap() {
                        spin_loop();
                    }
                    let _ = answer.try_push(&[&into]).unwrap();
                }
            });
            let (message, mut into) = (vec![7; length], Vec::new());
            for _ in 0..MESSAGES {
                let _ = there.try_push(&[&message]).unwrap();
                while !back.try_pop(&mut into).unwrap() {
                    spin_loop();
                }
            }
        });
    });
}

fn wall() -> Duration {
    clock::now() - Tick::ZERO
}

fn main() {
    alone(64, 1);
    alone(64, 100);
    alone(1024, 10);
    alone(16 << 10, 1);
    through(64);
    through(1024);
    round_trip(64);
}
