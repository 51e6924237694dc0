//! Other processes, by descriptors that cannot come to mean somebody else.
//!
//! A process number is given to a new process some time after its owner has ended; a descriptor is not. It can be
//! waited for beside anything else, whoever's child the process is.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
pub use rustix::process::Signal;
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};

use crate::event;

/// A process, running or ended.
#[derive(Debug)]
pub struct ProcessHandle {
    fd: OwnedFd,
    pid: Option<i32>,
}

impl ProcessHandle {
    /// Opens the process that has this number now: to be sure whose it is, be its parent and not have reaped it.
    ///
    /// # Errors
    /// `NotFound` if there is none; `InvalidInput` if `pid` is no process number.
    pub fn open(pid: i32) -> io::Result<Self> {
        let number =
            Some(pid).filter(|pid| *pid > 0).and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
        match pidfd_open(number, PidfdFlags::empty()) {
            Ok(fd) => Ok(Self { fd, pid: Some(pid) }),
            Err(Errno::SRCH) => Err(io::ErrorKind::NotFound.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes over a descriptor that another process opened.
    ///
    /// # Errors
    /// `InvalidData` if it is not a process's.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
        let pid: i32 = field(&info, "Pid:").ok_or_else(|| {
            let text = "could not take over a process: found a descriptor of something else";
            io::Error::new(io::ErrorKind::InvalidData, text)
        })?;
        Ok(Self { fd, pid: Some(pid).filter(|pid| *pid > 0) })
    }

    /// Its number; `None` if it had ended when its descriptor was taken over, or is not of our pid namespace.
    #[must_use]
    pub const fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// Sends a signal; `false` if it has ended and been reaped.
    ///
    /// # Errors
    /// `PermissionDenied` if it belongs to somebody else.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        match pidfd_send_signal(&self.fd, signal) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether it has ended; its parent may not have reaped it yet.
    ///
    /// # Errors
    /// None in practice.
    pub fn has_ended(&self) -> io::Result<bool> {
        self.wait(Some(Duration::ZERO))
    }

    /// Sleeps until it has ended, or for `timeout`; whether it has.
    ///
    /// # Errors
    /// `Interrupted` if a signal handler of this thread ran: let it say whether to go on.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        event::wait_readable(self.fd(), timeout)
    }

    /// The most memory it ever had at a time, in bytes; `None` if it has ended: then only its parent can know.
    #[must_use]
    pub fn peak_memory(&self) -> Option<u64> {
        let peak = peak_memory(self.pid?);
        // It had not ended after the reading, so its number was still its own.
        peak.filter(|_| self.has_ended().is_ok_and(|ended| !ended))
    }

    /// What to wait for together with others: readable once it has ended.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The most memory that the process with this number ever had at a time, in bytes.
#[must_use]
pub fn peak_memory(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    field::<u64>(&status, "VmHWM:").map(|kibibytes| kibibytes * 1024)
}

/// The first word after `name` at the beginning of a line.
fn field<T: std::str::FromStr>(text: &str, name: &str) -> Option<T> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// Has the kernel kill this process when the thread that started it ends.
///
/// It says nothing of a parent that ended before: look afterwards whether the parent is still the one expected.
/// Children do not inherit it.
///
/// # Errors
/// None in practice.
pub fn set_parent_death_signal() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// Whether the caller is the thread that the process began with, or was forked with.
#[must_use]
pub fn is_main_thread() -> bool {
    rustix::thread::gettid() == rustix::process::getpid()
}

/// Has descendants whose parent ends become children of this process.
///
/// # Errors
/// None in practice.
pub fn become_subreaper() -> io::Result<()> {
    // The kernel only asks whether there is a number.
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process that lasts until its input is closed.
    fn lasting() -> (Child, ProcessHandle) {
        let child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let handle = ProcessHandle::open(child.id().cast_signed()).unwrap();
        (child, handle)
    }

    #[test]
    fn its_end_can_be_waited_for() {
        let (mut child, handle) = lasting();
        assert!(!handle.has_ended().unwrap());
        assert!(!handle.wait(Some(Duration::from_millis(2))).unwrap());
        assert!(handle.signal(Signal::KILL).unwrap());
        assert!(handle.wait(None).unwrap());
        assert!(handle.has_ended().unwrap());
        child.wait().unwrap();
        assert!(handle.has_ended().unwrap());
        assert!(!handle.signal(Signal::KILL).unwrap());
        assert_eq!(handle.peak_memory(), None);
    }

    #[test]
    fn a_descriptor_taken_over_knows_whose_it_is() {
        let (mut child, handle) = lasting();
        let pid = handle.pid();
        let other = ProcessHandle::from_fd(handle.fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(other.pid(), pid);
        drop(child.stdin.take());
        assert!(other.wait(None).unwrap());
        child.wait().unwrap();
        assert_eq!(ProcessHandle::from_fd(handle.fd().try_clone_to_owned().unwrap()).unwrap().pid(), None);
    }

    #[test]
    fn anything_but_a_process_is_refused() {
        let file = fs::File::open("/dev/null").unwrap();
        assert_eq!(ProcessHandle::from_fd(file.into()).unwrap_err().kind(), ErrorKind::InvalidData);
        for pid in [0, -1, i32::MIN] {
            assert_eq!(ProcessHandle::open(pid).unwrap_err().kind(), ErrorKind::InvalidInput);
        }
        // Beyond the kernel's largest number.
        assert_eq!(ProcessHandle::open(i32::MAX).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn the_peak_of_memory_stays_when_the_memory_is_given_back() {
        let pid = std::process::id().cast_signed();
        let before = peak_memory(pid).unwrap();
        let size = 1 << 26;
        drop(std::hint::black_box(vec![1_u8; size]));
        let after = ProcessHandle::open(pid).unwrap().peak_memory().unwrap();
        assert!(after >= before.max(size as u64), "{before} {after}");
    }
}
