//! A wake-up that crosses processes: an event descriptor, which a sleeper waits for and anybody may signal.
//!
//! Signals do not add up: any number before the sleeper [drains](Event::drain) count as one. Drain first and
//! look for work then: a signal that comes after is kept.
//!
//! ```text
//! while !consumer.try_pop(&mut message)? {
//!     if consumer.prepare_sleep() {
//!         event.wait(None)?;
//!         event.drain();
//!         consumer.end_sleep();
//!     }
//! }
//! ```

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// A year: as good as for ever, and a timespec of the kernel holds it.
const LONGEST: Duration = Duration::from_secs(31_536_000);

/// An event descriptor; see the module. Its clones by [`fd`](Self::fd), in other processes too, are one event.
#[derive(Debug)]
pub struct Event(OwnedFd);

impl Event {
    /// Makes an event that nobody has signalled.
    ///
    /// # Errors
    /// If the process or the machine has no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Takes over an event that another process made.
    ///
    /// # Errors
    /// `InvalidData` if `fd` is something else.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let kind = describe(fd.as_fd())?;
        if kind != "anon_inode:[eventfd]" {
            let text = format!("could not take over an event: found {kind}, expected anon_inode:[eventfd]");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let flags = fcntl_getfl(&fd)?;
        fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        Ok(Self(fd))
    }

    /// Wakes whoever waits, or will wait next. Never blocks.
    pub fn signal(&self) {
        // The one error possible is a counter that is full, and so it is signalled.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Forgets the signals so far. Never blocks.
    pub fn drain(&self) {
        // The one error possible is that there were none.
        let _ = rustix::io::read(&self.0, &mut [0_u8; 8]);
    }

    /// Sleeps until somebody signals, or for `timeout`. `true`: signalled, and it stays so until [drained](Self::drain).
    ///
    /// # Errors
    /// `Interrupted` if a signal handler of this thread ran: let it say whether to go on.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        wait_readable(self.fd(), timeout)
    }

    /// What to wait for together with others, or to send to another process: readable once it is signalled.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Sleeps until `fd` can be read, or for `timeout`; whether it can.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<bool> {
    wait_ready(fd, [true, false], timeout)
}

/// Sleeps until `fd` can be read or written, as far as `reads_writes` asks for it, or for `timeout`; whether it can be,
/// or can never be again.
///
/// # Errors
/// `Interrupted` if a signal handler of this thread ran.
pub fn wait_ready(
    fd: BorrowedFd<'_>,
    reads_writes: [bool; 2],
    timeout: Option<Duration>,
) -> io::Result<bool> {
    let timeout: Option<Timespec> = timeout.map(|time| time.min(LONGEST).try_into().unwrap_or_default());
    let mut flags = PollFlags::empty();
    flags.set(PollFlags::IN, reads_writes[0]);
    flags.set(PollFlags::OUT, reads_writes[1]);
    let ready = poll(&mut [PollFd::from_borrowed_fd(fd, flags)], timeout.as_ref())?;
    Ok(ready > 0)
}

/// What the kernel calls the file behind `fd`.
pub(crate) fn describe(fd: BorrowedFd<'_>) -> io::Result<String> {
    use std::os::fd::AsRawFd;
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    Ok(link.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    const SOON: Option<Duration> = Some(Duration::from_millis(5));

    #[test]
    fn it_stays_signalled_until_it_is_drained() {
        let event = Event::new().unwrap();
        assert!(!event.wait(SOON).unwrap());
        event.signal();
        event.signal();
        assert!(event.wait(None).unwrap() && event.wait(None).unwrap());
        event.drain();
        assert!(!event.wait(SOON).unwrap());
    }

    #[test]
    fn signalling_and_draining_never_block() {
        let event = Event::new().unwrap();
        event.drain();
        rustix::io::write(event.fd(), &(u64::MAX - 1).to_ne_bytes()).unwrap();
        event.signal();
        assert!(event.wait(SOON).unwrap());
    }

    #[test]
    fn a_descriptor_of_an_event_is_the_same_event() {
        let event = Event::new().unwrap();
        let other = Event::from_fd(event.fd().try_clone_to_owned().unwrap()).unwrap();
        other.signal();
        assert!(event.wait(None).unwrap());
    }

    #[test]
    fn anything_else_is_refused() {
        let file = std::fs::File::open("/dev/zero").unwrap();
        let found = Event::from_fd(file.into()).unwrap_err();
        assert_eq!(found.kind(), ErrorKind::InvalidData);
        assert!(found.to_string().contains("/dev/zero"), "{found}");
    }
}
