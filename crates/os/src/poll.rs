//! One thread that waits for many things.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use manyhands_engine::clock::Tick;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;

use crate::clock;

/// The most tokens that one call of [`Poller::wait`] gives; what else is ready comes with the next.
const BATCH: usize = 64;

/// The longest sleep at a time: the kernel counts milliseconds in 32 bits.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Tells which descriptors can be read (for a process: has ended). It tells so until they are read, not once.
///
/// [`add`](Self::add) and [`remove`](Self::remove) may be called from any thread, also while another waits.
#[derive(Debug)]
pub struct Poller(OwnedFd);

impl Poller {
    /// Makes a poller that watches nothing.
    ///
    /// # Errors
    /// If the process or the machine has no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// Watches `fd` and calls it `token`. [Remove](Self::remove) it before it is closed: as long as anybody has
    /// a copy of it, here or in another process, it would be watched.
    ///
    /// # Errors
    /// `AlreadyExists` if it is watched, and whatever the kernel says of a file that cannot be.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        Ok(epoll::add(&self.0, fd, EventData::new_u64(token), EventFlags::IN)?)
    }

    /// Watches `fd` no longer.
    ///
    /// # Errors
    /// `NotFound` if it was not watched.
    pub fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(epoll::delete(&self.0, fd)?)
    }

    /// Sleeps until something is ready or `deadline` has passed (up to a millisecond late, never early), and
    /// puts the tokens of what is ready into `tokens`, in place of what was there.
    ///
    /// # Errors
    /// None in practice; signals do not end the wait.
    pub fn wait(&self, tokens: &mut Vec<u64>, deadline: Option<Tick>) -> io::Result<()> {
        tokens.clear();
        let mut events = [MaybeUninit::uninit(); BATCH];
        loop {
            let left = deadline.map(|deadline| deadline.since(clock::now()));
            let timeout = left.map(|left| left.min(LONGEST).try_into().unwrap_or_default());
            match epoll::wait(&self.0, &mut events, timeout.as_ref()) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok((ready, _)) => tokens.extend(ready.iter().map(|event| event.data.u64())),
            }
            if !tokens.is_empty() || left == Some(Duration::ZERO) {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;
    use crate::event::Event;

    const PAST: Option<Tick> = Some(Tick::ZERO);

    fn wait(poller: &Poller, deadline: Option<Tick>) -> Vec<u64> {
        let mut tokens = vec![99];
        poller.wait(&mut tokens, deadline).unwrap();
        tokens.sort_unstable();
        tokens
    }

    #[test]
    fn it_tells_what_is_ready_until_it_is_read() {
        let (poller, first, second) = (Poller::new().unwrap(), Event::new().unwrap(), Event::new().unwrap());
        poller.add(first.fd(), 1).unwrap();
        poller.add(second.fd(), u64::MAX).unwrap();
        assert_eq!(wait(&poller, PAST), []);
        first.signal();
        assert_eq!(wait(&poller, None), [1]);
        second.signal();
        assert_eq!(wait(&poller, None), [1, u64::MAX]);
        first.drain();
        assert_eq!(wait(&poller, None), [u64::MAX]);
    }

    #[test]
    fn more_than_a_batch_is_told_bit_by_bit() {
        let poller = Poller::new().unwrap();
        let events: Vec<_> = (0..BATCH + 10).map(|_| Event::new().unwrap()).collect();
        for (token, event) in events.iter().enumerate() {
            poller.add(event.fd(), token as u64).unwrap();
            event.signal();
        }
        let mut seen = std::collections::BTreeSet::new();
        while seen.len() < events.len() {
            for token in wait(&poller, None) {
                events[usize::try_from(token).unwrap()].drain();
                seen.insert(token);
            }
        }
        assert_eq!(wait(&poller, PAST), []);
    }

    #[test]
    fn what_was_removed_is_not_told() {
        let (poller, event) = (Poller::new().unwrap(), Event::new().unwrap());
        poller.add(event.fd(), 1).unwrap();
        assert_eq!(poller.add(event.fd(), 2).unwrap_err().kind(), ErrorKind::AlreadyExists);
        event.signal();
        poller.remove(event.fd()).unwrap();
        assert_eq!(wait(&poller, PAST), []);
        assert_eq!(poller.remove(event.fd()).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_deadline_is_never_early() {
        let poller = Poller::new().unwrap();
        for nanoseconds in [0, 1, 900_000, 1_000_001, 3_300_000] {
            let deadline = clock::now() + Duration::from_nanos(nanoseconds);
            assert_eq!(wait(&poller, Some(deadline)), []);
            assert!(clock::now() >= deadline);
        }
    }

    #[test]
    fn another_thread_may_add_while_one_waits() {
        let (poller, event) = (Poller::new().unwrap(), Event::new().unwrap());
        event.signal();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| wait(&poller, None));
            poller.add(event.fd(), 7).unwrap();
            assert_eq!(waiter.join().unwrap(), [7]);
        });
    }
}
