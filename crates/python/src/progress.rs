//! The progress bar of a map, drawn by a Rust thread, so that it moves while Python is busy.
//!
//! On a terminal a bar; elsewhere (a pipe, a log, a notebook) a line now and then, at growing intervals. Everything
//! goes to standard error.

use std::fmt::Write;
use std::io::{IsTerminal, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use manyhands_engine::clock::Tick;
use manyhands_os::clock;
use manyhands_os::park::Parker;

/// How often the bar is drawn anew.
const FRAME: Duration = Duration::from_millis(100);
/// When the first line is written where there is no terminal, and the longest time between two.
const FIRST_LINE: Duration = Duration::from_secs(5);
const LONGEST_GAP: Duration = Duration::from_secs(60);

/// The counts behind a bar; anybody may add to them.
#[derive(Default)]
pub(crate) struct Counts {
    done: AtomicU64,
    failed: AtomicU64,
    retried: AtomicU64,
    is_over: AtomicBool,
    parker: Parker,
}

impl Counts {
    /// Counts a settled item.
    pub(crate) fn add(&self, failed: bool, retries: u64) {
        self.done.fetch_add(1, Ordering::Relaxed);
        self.failed.fetch_add(u64::from(failed), Ordering::Relaxed);
        self.retried.fetch_add(retries, Ordering::Relaxed);
    }

    /// Counts settled items, none of which was retried.
    pub(crate) fn add_many(&self, done: u64, failed: u64) {
        self.done.fetch_add(done, Ordering::Relaxed);
        self.failed.fetch_add(failed, Ordering::Relaxed);
    }

    /// Sets the final counts: the map may be over before everybody who counts has been heard.
    pub(crate) fn settle(&self, done: u64, failed: u64, retried: u64) {
        self.done.store(done, Ordering::Relaxed);
        self.failed.store(failed, Ordering::Relaxed);
        self.retried.store(retried, Ordering::Relaxed);
    }

    fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// What is not said by the bar itself.
    fn troubles(&self) -> String {
        let (failed, retried) = (self.failed.load(Ordering::Relaxed), self.retried.load(Ordering::Relaxed));
        let troubles = [(failed, "failed"), (retried, "retried")];
        let shown = troubles.iter().filter(|(count, _)| *count > 0);
        shown.map(|(count, name)| format!(", {count} {name}")).collect::<Vec<_>>().concat()
    }
}

/// A bar that is being drawn; it ends when dropped.
pub(crate) struct Progress {
    pub(crate) counts: Arc<Counts>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Starts to draw. `total` is the number of items, if it is known.
    pub(crate) fn start(label: String, total: Option<u64>) -> std::io::Result<Self> {
        let counts = Arc::<Counts>::default();
        let drawn = Arc::clone(&counts);
        let thread = std::thread::Builder::new().name("manyhands-progress".to_owned()).spawn(move || {
            if std::io::stderr().is_terminal() {
                draw_bar(&drawn, label, total);
            } else {
                write_lines(&drawn, &label, total);
            }
        })?;
        Ok(Self { counts, thread: Some(thread) })
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.counts.is_over.store(true, Ordering::Release);
        self.counts.parker.unpark();
        if let Some(thread) = self.thread.take() {
            // It draws the last frame and ends; should it have panicked, there is no bar to lose.
            let _ = thread.join();
        }
    }
}

/// Sleeps until `at`; `false` when the map is over.
fn sleep_until(counts: &Counts, at: Tick) -> bool {
    while !counts.is_over.load(Ordering::Acquire) {
        if clock::now() >= at {
            return true;
        }
        let _ = counts.parker.park(Some(at));
    }
    false
}

fn draw_bar(counts: &Counts, label: String, total: Option<u64>) {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    let template = match total {
        Some(_) => "{prefix} {wide_bar} {human_pos}/{human_len} {rate}, {eta} left{msg}",
        None => "{prefix} {spinner} {human_pos} {rate}, {elapsed}{msg}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        let rate = |state: &ProgressState, text: &mut dyn Write| {
            // A text in memory takes everything.
            let _ = write!(text, "{:.1}/s", state.per_sec());
        };
        bar.set_style(style.with_key("rate", rate));
    }
    bar.set_prefix(label);
    loop {
        let goes_on = sleep_until(counts, clock::now() + FRAME);
        bar.set_message(counts.troubles());
        bar.set_position(counts.done());
        if !goes_on {
            bar.abandon();
            // What is printed next begins on a line of its own.
            let _ = writeln!(std::io::stderr());
            return;
        }
        bar.tick();
    }
}

fn write_lines(counts: &Counts, label: &str, total: Option<u64>) {
    let began = clock::now();
    let mut gap = FIRST_LINE;
    loop {
        let goes_on = sleep_until(counts, clock::now() + gap);
        // Where standard error is closed there is nobody to tell.
        let _ = writeln!(std::io::stderr(), "{}", line(counts, label, total, clock::now() - began));
        if !goes_on {
            return;
        }
        gap = (gap * 2).min(LONGEST_GAP);
    }
}

fn line(counts: &Counts, label: &str, total: Option<u64>, elapsed: Duration) -> String {
    let done = counts.done();
    let rate = done as f64 / elapsed.as_secs_f64().max(1e-9);
    let of_total = total.map_or_else(String::new, |total| format!("/{total}"));
    let left = match total {
        Some(total) if done > 0 && done < total => format!(", {:.0} s left", (total - done) as f64 / rate),
        _ => String::new(),
    };
    format!("{label} {done}{of_total} {rate:.1}/s, {:.1} s{left}{}", elapsed.as_secs_f64(), counts.troubles())
}
