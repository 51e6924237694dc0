//! Waiting on words of shared memory, and for locks whose holders may die.
//!
//! A process that dies wakes nobody, and may do so between a change and the wake-up that belongs to it. So nobody sleeps
//! for long: after a [nap](Nap) he looks again, also whether the holder still lives. The naps begin short, so that a death is
//! noticed soon where many things happen, and end at 64 ms, so that waiting costs nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{fs, io};

use manyhands_engine::clock::Tick;
use manyhands_engine::shared::Owner;
use manyhands_engine::shared::lock;
use rustix::io::Errno;
use rustix::thread::futex;

use crate::clock;
use crate::process::ProcessHandle;
use crate::sys::low_half;

const SHORTEST: Duration = Duration::from_millis(2);
const LONGEST: Duration = Duration::from_millis(64);
/// How often one looks again for what is held for some nanoseconds.
const SPINS: u32 = 200;

/// This process; 0 as long as nobody has asked.
static ME: AtomicU64 = AtomicU64::new(0);

/// This process, as the owner of something.
#[must_use]
#[inline]
pub fn me() -> Owner {
    match Owner::of_word(ME.load(Ordering::Relaxed)) {
        Some(me) => me,
        None => find_me(),
    }
}

#[cold]
fn find_me() -> Owner {
    let pid = std::process::id();
    let me = Owner::new(pid, start(pid).unwrap_or_default());
    ME.store(me.word(), Ordering::Relaxed);
    me
}

/// Has this process find out anew who it is: after a fork.
pub fn forget_me() {
    ME.store(0, Ordering::Relaxed);
}

/// When a process was started, in the kernel's ticks.
fn start(pid: u32) -> io::Result<u64> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name of the program, in parentheses, may have anything in it.
    let (_, fields) = line.rsplit_once(") ").ok_or(io::ErrorKind::InvalidData)?;
    let start = fields.split(' ').nth(19).and_then(|field| field.parse().ok());
    start.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Whether that process lives; one that cannot be looked at for want of descriptors does, for the time being.
#[must_use]
pub fn is_alive(owner: Owner) -> bool {
    if owner == me() {
        return true;
    }
    let Ok(pid) = i32::try_from(owner.pid()) else { return false };
    match ProcessHandle::open(pid) {
        // Read while the descriptor keeps the number from being given again.
        Ok(handle) => match start(owner.pid()) {
            Ok(start) => Owner::new(owner.pid(), start) == owner && !handle.has_ended().unwrap_or(false),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        },
        Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput),
    }
}

/// Why a nap ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slept {
    /// The word has changed, or somebody woke us.
    Woken,
    /// It has lasted long enough: look around.
    Enough,
    /// The deadline passed.
    TimedOut,
    /// A signal was delivered to this thread.
    Interrupted,
}

/// The naps of one wait, each longer than the last.
#[derive(Debug)]
pub struct Nap(Duration);

impl Default for Nap {
    fn default() -> Self {
        Self(SHORTEST)
    }
}

impl Nap {
    /// Sleeps as long as the low half of `word` is `low`, but not long.
    pub fn sleep(&mut self, word: &AtomicU64, low: u32, deadline: Option<Tick>) -> Slept {
        let left = deadline.map_or(Duration::MAX, |deadline| deadline.since(clock::now()));
        if left.is_zero() {
            return Slept::TimedOut;
        }
        let timeout = self.0.min(left).try_into().unwrap_or_default();
        match futex::wait(low_half(word), futex::Flags::empty(), low, Some(&timeout)) {
            Ok(()) | Err(Errno::AGAIN) => Slept::Woken,
            Err(Errno::INTR) => Slept::Interrupted,
            Err(_) if left <= self.0 => Slept::TimedOut,
            Err(_) => {
                self.0 = (self.0 * 2).min(LONGEST);
                Slept::Enough
            }
        }
    }
}

/// Wakes so many of those who sleep on the word.
pub fn wake(word: &AtomicU64, count: u32) {
    // A failure could only mean a bad address.
    let _ = futex::wake(low_half(word), futex::Flags::empty(), count);
}

/// Acquires a lock without waiting, from a dead holder too.
#[must_use]
pub fn try_acquire(word: &AtomicU64) -> bool {
    lock::try_acquire(word, me(), false) || take_over_if_dead(word)
}

fn take_over_if_dead(word: &AtomicU64) -> bool {
    let Some(seen) = lock::announce(word) else { return lock::try_acquire(word, me(), false) };
    // A word that makes no sense is nobody's.
    !seen.holder().is_some_and(is_alive) && lock::take_over(word, seen, me())
}

/// Waits for a lock: `Woken` is acquired. `Enough` and `Interrupted` are occasions to look whether a signal wants
/// something: one that came between two naps has interrupted neither.
#[must_use]
pub fn acquire(word: &AtomicU64, nap: &mut Nap, deadline: Option<Tick>) -> Slept {
    loop {
        if lock::try_acquire(word, me(), true) {
            return Slept::Woken;
        }
        let Some(seen) = lock::announce(word) else { continue };
        match nap.sleep(word, seen.low(), deadline) {
            Slept::Enough | Slept::TimedOut if take_over_if_dead(word) => return Slept::Woken,
            Slept::Woken => {}
            ended => return ended,
        }
    }
}

/// Releases a lock; `false` if this process does not hold it.
#[must_use]
#[inline]
pub fn release(word: &AtomicU64) -> bool {
    let released = lock::release(word, me());
    if released == Some(true) {
        wake(word, 1);
    }
    released.is_some()
}

/// A lock that is held for a moment; released when dropped.
#[derive(Debug)]
pub struct Held<'a>(&'a AtomicU64);

impl<'a> Held<'a> {
    /// Acquires it at once or almost.
    #[must_use]
    #[inline]
    pub fn soon(word: &'a AtomicU64) -> Option<Self> {
        // Not `then_some`, which would make one to be dropped, and so release what another thread holds.
        spin(word).then(|| Self(word))
    }

    /// Acquires it, however long it takes.
    #[must_use]
    pub fn now(word: &'a AtomicU64) -> Self {
        // A signal changes nothing: it is a moment.
        let mut nap = Nap::default();
        while !spin(word) && acquire(word, &mut nap, None) != Slept::Woken {}
        Self(word)
    }

    /// Whether the last holder died with it.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        lock::is_abandoned(self.0)
    }
}

#[inline]
fn spin(word: &AtomicU64) -> bool {
    (0..SPINS).any(|_| {
        let is_acquired = lock::try_acquire(word, me(), false);
        if !is_acquired {
            std::hint::spin_loop();
        }
        is_acquired
    })
}

impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        let released = release(self.0);
        debug_assert!(released, "somebody has meddled with the lock");
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::sync::Arc;

    use super::*;

    fn someone() -> (std::process::Child, Owner) {
        let child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let owner = Owner::new(child.id(), start(child.id()).unwrap());
        (child, owner)
    }

    #[test]
    fn a_process_lives_until_it_has_ended_reaped_or_not() {
        let (mut child, owner) = someone();
        assert!(is_alive(owner) && is_alive(me()));
        assert!(!is_alive(Owner::new(owner.pid(), u64::from(owner.start()) + 1)), "its number alone");
        child.kill().unwrap();
        ProcessHandle::open(child.id().cast_signed()).unwrap().wait(None).unwrap();
        assert!(!is_alive(owner), "not reaped yet");
        child.wait().unwrap();
        assert!(!is_alive(owner));
        assert!(!is_alive(Owner::new((1 << 30) - 1, 0)));
    }

    #[test]
    fn a_lock_passes_on_when_its_holder_dies() {
        let (mut child, owner) = someone();
        let word = Arc::new(AtomicU64::new(owner.word()));
        assert!(!try_acquire(&word));
        assert_eq!(
            acquire(&word, &mut Nap::default(), Some(clock::now() + Duration::from_millis(1))),
            Slept::TimedOut
        );
        let waiter = {
            let word = Arc::clone(&word);
            std::thread::spawn(move || {
                let mut nap = Nap::default();
                while acquire(&word, &mut nap, None) != Slept::Woken {}
            })
        };
        child.kill().unwrap();
        child.wait().unwrap();
        waiter.join().unwrap();
        assert!(lock::is_abandoned(&word) && release(&word) && !release(&word));
        assert!(try_acquire(&word) && !lock::is_abandoned(&word));
    }

    #[test]
    fn a_dead_holder_is_noticed_without_waiting_too() {
        let (mut child, owner) = someone();
        let word = AtomicU64::new(owner.word());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(try_acquire(&word) && lock::is_abandoned(&word));
    }

    #[test]
    fn threads_take_turns() {
        let shared = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || {
                    for _ in 0..10_000 {
                        let _held = Held::now(&shared.0);
                        shared.1.store(shared.1.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(shared.1.load(Ordering::Relaxed), 40_000);
    }

    #[test]
    fn a_change_of_the_word_ends_a_nap() {
        let word = AtomicU64::new(7 << 32 | 5);
        assert_eq!(Nap::default().sleep(&word, 6, None), Slept::Woken);
        assert_eq!(Nap::default().sleep(&word, 5, None), Slept::Enough);
        let soon = clock::now() + Duration::from_millis(1);
        assert_eq!(Nap::default().sleep(&word, 5, Some(soon)), Slept::TimedOut);
    }
}
