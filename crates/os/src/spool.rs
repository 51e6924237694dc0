//! A file that only grows, fed from memory and kept up to date by a thread of its own.
//!
//! ```text
//! append ──▶ buffer ──flush──▶ kernel ──sync──▶ disk
//!   never blocks     the appender, or       the spool's thread,
//!                    the spool's thread     and `close`
//! ```
//!
//! - [`Spool::append`] only copies: it may be called while holding whatever must not wait. It says when the
//!   caller should [`Spool::flush`], which may wait (a full pipe, a busy disk).
//! - Appended bytes reach the kernel in order and whole appends at a time, within [`Habit::write_within`] even
//!   if nobody appends again; written bytes reach the disk within [`Habit::sync_within`].
//! - The first error sticks. Nothing is written after it, because what follows a half-written append could
//!   not be told from damage; every later call reports it.
//!
//! Two locks, always taken in this order: `turn` (who may write) and `state`. `state` is never held across a
//! system call, so an appender never waits for the disk.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A buffer this large is flushed by whoever appends, so that a fast appender cannot outrun the disk.
const LARGE: usize = 64 * 1024;

/// How soon what was appended moves on.
#[derive(Clone, Copy, Debug)]
pub struct Habit {
    /// The longest that appended bytes stay in memory. Zero: every append asks for a flush.
    pub write_within: Duration,
    /// The longest that written bytes stay unsynced. `None`: until [`Spool::close`].
    pub sync_within: Option<Duration>,
}

/// What the caller of [`Spool::append`] does next.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing: the spool's thread takes care of it.
    Nothing,
    /// Call [`Spool::flush`], where waiting is allowed.
    Flush,
}

/// An append-only file; see the module. Closed with its errors by [`Spool::close`], silently when dropped.
#[derive(Debug)]
pub struct Spool {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    file: File,
    habit: Habit,
    turn: Mutex<()>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    buffer: Vec<u8>,
    buffered_since: Option<Instant>,
    last_flush: Instant,
    /// File offset up to which bytes are appended, given to the kernel, on the disk: `durable ≤ written ≤ end`.
    end: u64,
    written: u64,
    durable: u64,
    unsynced_since: Option<Instant>,
    failure: Option<(io::ErrorKind, Option<i32>)>,
    /// The thread waits without a deadline and must be told of new work.
    resting: bool,
    closing: bool,
}

enum Duty {
    Rest,
    Wait(Duration),
    Flush,
    Sync,
    End,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until the disk knows the name of the new file at `path`: that is its directory's business.
pub(crate) fn sync_name(path: &Path) -> io::Result<()> {
    directory_of(path)?.sync_all()
}

/// The directory of the file at `path`, which keeps its name.
pub(crate) fn directory_of(path: &Path) -> io::Result<File> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)
}

impl Spool {
    /// Appends to `file`, whose cursor stands at `offset`, its end; what is there already counts as synced.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn new(file: File, offset: u64, habit: Habit) -> io::Result<Self> {
        let state = State {
            buffer: Vec::new(),
            buffered_since: None,
            last_flush: Instant::now(),
            end: offset,
            written: offset,
            durable: offset,
            unsynced_since: None,
            failure: None,
            resting: false,
            closing: false,
        };
        let shared = Arc::new(Shared {
            file,
            habit,
            turn: Mutex::new(()),
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let tended = Arc::clone(&shared);
        let thread = thread::Builder::new().name("manyhands-spool".into()).spawn(move || tended.tend())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The file itself, for reading back what is [`written`](Self::written).
    #[must_use]
    pub fn file(&self) -> &File {
        &self.shared.file
    }

    /// Where the next append will begin.
    #[must_use]
    pub fn end(&self) -> u64 {
        lock(&self.shared.state).end
    }

    /// Up to where the kernel has the bytes: a killed process loses nothing before this offset.
    #[must_use]
    pub fn written(&self) -> u64 {
        lock(&self.shared.state).written
    }

    /// Up to where the disk has the bytes: a power cut loses nothing before this offset.
    #[must_use]
    pub fn durable(&self) -> u64 {
        lock(&self.shared.state).durable
    }

    /// Takes over a copy of `bytes` without waiting.
    ///
    /// # Errors
    /// The first error of this spool, whenever it happened.
    pub fn append(&self, bytes: &[u8]) -> io::Result<Next> {
        let mut state = lock(&self.shared.state);
        state.check()?;
        state.buffer.extend_from_slice(bytes);
        state.end += bytes.len() as u64;
        if self.shared.habit.write_within.is_zero() {
            return Ok(Next::Flush);
        }
        let now = Instant::now();
        let began = *state.buffered_since.get_or_insert(now);
        let habit = self.shared.habit;
        if state.buffer.len() >= LARGE || now.duration_since(state.last_flush) >= habit.write_within {
            return Ok(Next::Flush);
        }
        if began == now {
            self.shared.changed.notify_one();
        }
        Ok(Next::Nothing)
    }

    /// Gives everything appended so far to the kernel; may wait.
    ///
    /// # Errors
    /// The first error of this spool, whenever it happened.
    pub fn flush(&self) -> io::Result<()> {
        self.shared.flush()
    }

    /// Flushes, and waits until the disk has it.
    ///
    /// # Errors
    /// The first error of this spool, whenever it happened.
    pub fn sync(&self) -> io::Result<()> {
        self.shared.flush()?;
        self.shared.sync()
    }

    /// Flushes, syncs and ends the thread.
    ///
    /// # Errors
    /// The first error of this spool, whenever it happened.
    pub fn close(mut self) -> io::Result<()> {
        self.end_thread();
        self.sync()
    }

    fn end_thread(&mut self) {
        lock(&self.shared.state).closing = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic in there has already been printed, and the sticky state says what was reached.
            let _ = thread.join();
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.end_thread();
            let _ = self.sync();
        }
    }
}

impl Shared {
    fn tend(&self) {
        let mut state = lock(&self.state);
        loop {
            match state.duty(self.habit, Instant::now()) {
                Duty::End => return,
                Duty::Rest => {
                    state.resting = true;
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    state.resting = false;
                }
                Duty::Wait(time) => {
                    state = self.changed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0;
                }
                // Errors stick in the state; the appender hears of them.
                Duty::Flush => {
                    drop(state);
                    let _ = self.flush();
                    state = lock(&self.state);
                }
                Duty::Sync => {
                    drop(state);
                    let _ = self.sync();
                    state = lock(&self.state);
                }
            }
        }
    }

    fn flush(&self) -> io::Result<()> {
        let _turn = lock(&self.turn);
        let bytes = {
            let mut state = lock(&self.state);
            state.check()?;
            state.buffered_since = None;
            std::mem::take(&mut state.buffer)
        };
        if bytes.is_empty() {
            return Ok(());
        }
        let result = (&self.file).write_all(&bytes);
        let mut state = lock(&self.state);
        state.settle(result)?;
        state.written += bytes.len() as u64;
        state.reuse(bytes);
        if !self.habit.write_within.is_zero() {
            state.last_flush = Instant::now();
        }
        if state.unsynced_since.is_none() {
            state.unsynced_since = Some(Instant::now());
            if state.resting {
                self.changed.notify_one();
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let upto = {
            let mut state = lock(&self.state);
            state.check()?;
            if state.durable == state.written {
                return Ok(());
            }
            state.unsynced_since = None;
            state.written
        };
        let result = match self.file.sync_data() {
            // Pipes, terminals and the like have nothing to sync.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            result => result,
        };
        let mut state = lock(&self.state);
        state.settle(result)?;
        state.durable = state.durable.max(upto);
        Ok(())
    }
}

impl State {
    fn check(&self) -> io::Result<()> {
        match self.failure {
            None => Ok(()),
            Some((_, Some(code))) => Err(io::Error::from_raw_os_error(code)),
            Some((kind, None)) => Err(kind.into()),
        }
    }

    fn settle(&mut self, result: io::Result<()>) -> io::Result<()> {
        if let Err(error) = &result {
            self.failure.get_or_insert((error.kind(), error.raw_os_error()));
        }
        result
    }

    /// Keeps the allocation of a written buffer, unless an unusual burst has made it huge.
    fn reuse(&mut self, mut bytes: Vec<u8>) {
        if self.buffer.is_empty() && bytes.capacity() <= 4 * LARGE {
            bytes.clear();
            self.buffer = bytes;
        }
    }

    fn duty(&self, habit: Habit, now: Instant) -> Duty {
        if self.closing {
            return Duty::End;
        }
        if self.failure.is_some() {
            return Duty::Rest;
        }
        if let Some(since) = self.buffered_since {
            return Self::due(since, habit.write_within, now).map_or(Duty::Flush, Duty::Wait);
        }
        match (self.unsynced_since, habit.sync_within) {
            (Some(since), Some(within)) => Self::due(since, within, now).map_or(Duty::Sync, Duty::Wait),
            _ => Duty::Rest,
        }
    }

    fn due(since: Instant, within: Duration, now: Instant) -> Option<Duration> {
        (since + within).checked_duration_since(now).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    const DAY: Duration = Duration::from_secs(86_400);

    fn spool(path: &Path, habit: Habit) -> Spool {
        Spool::new(File::create(path).unwrap(), 0, habit).unwrap()
    }

    /// Waits for the spool's own thread; a thread that never acts fails the test by its time limit.
    fn until(mut done: impl FnMut() -> bool) {
        let began = Instant::now();
        while !done() {
            assert!(began.elapsed() < Duration::from_secs(20), "the spool's thread did nothing for 20 s");
            thread::yield_now();
        }
    }

    #[test]
    fn appends_reach_the_file_in_order() {
        let scratch = Scratch::new();
        let spool = spool(&scratch.path("out"), Habit { write_within: DAY, sync_within: None });
        for number in 0..10_000 {
            if spool.append(format!("{number}\n").as_bytes()).unwrap() == Next::Flush {
                spool.flush().unwrap();
            }
        }
        spool.close().unwrap();
        let text = std::fs::read_to_string(scratch.path("out")).unwrap();
        assert!(text.lines().map(|line| line.parse::<u32>().unwrap()).eq(0..10_000));
    }

    #[test]
    fn a_zero_delay_asks_for_a_flush_at_every_append() {
        let scratch = Scratch::new();
        let spool = spool(&scratch.path("out"), Habit { write_within: Duration::ZERO, sync_within: None });
        for _ in 0..3 {
            assert_eq!(spool.append(b"x").unwrap(), Next::Flush);
            spool.flush().unwrap();
            assert_eq!(spool.written(), spool.end());
        }
    }

    #[test]
    fn a_lonely_append_is_written_and_synced_without_further_calls() {
        let scratch = Scratch::new();
        let soon = Duration::from_millis(100);
        let spool = spool(&scratch.path("out"), Habit { write_within: soon, sync_within: Some(soon) });
        // Twice: the second append finds the thread resting.
        for end in [1, 2] {
            if spool.append(b"x").unwrap() == Next::Flush {
                spool.flush().unwrap();
            }
            until(|| spool.durable() == end);
            assert_eq!(std::fs::metadata(scratch.path("out")).unwrap().len(), end);
        }
    }

    #[test]
    fn a_flushed_append_is_synced_by_the_thread() {
        let scratch = Scratch::new();
        let soon = Duration::from_millis(5);
        let spool =
            spool(&scratch.path("out"), Habit { write_within: Duration::ZERO, sync_within: Some(soon) });
        until(|| lock(&spool.shared.state).resting);
        let _ = spool.append(b"x").unwrap();
        spool.flush().unwrap();
        until(|| spool.durable() == 1);
    }

    #[test]
    fn an_error_sticks() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let spool = Spool::new(full, 0, Habit { write_within: DAY, sync_within: None }).unwrap();
        let _ = spool.append(b"x").unwrap();
        assert_eq!(spool.flush().unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(spool.append(b"y").unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(spool.written(), 0);
        assert_eq!(spool.close().unwrap_err().kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn a_stuck_reader_does_not_hold_up_appends() {
        let (reader, writer) = io::pipe().unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(writer));
        let spool = Spool::new(file, 0, Habit { write_within: DAY, sync_within: None }).unwrap();
        // More than a pipe holds: the flush waits for the reader while we append on.
        let _ = spool.append(&vec![b'a'; 1 << 20]).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| spool.flush().unwrap());
            until(|| lock(&spool.shared.state).buffered_since.is_none());
            let _ = spool.append(b"z").unwrap();
            let reading = scope.spawn(|| {
                let mut bytes = vec![0; (1 << 20) + 1];
                io::Read::read_exact(&mut { reader }, &mut bytes).unwrap();
                bytes
            });
            spool.sync().unwrap();
            assert!(reading.join().unwrap().ends_with(b"az"));
        });
    }
}
