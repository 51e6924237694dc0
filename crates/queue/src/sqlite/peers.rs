//! The processes that use one file: how they ring for each other, and how the death of one is seen.
//!
//! Each has a datagram socket in the folder beside the file. The kernel refuses what is sent to a socket whose last holder
//! has died, however it died: there is no lease to renew, and no clock to trust.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// A path that is longer than this does not fit into the address of a socket.
const LONGEST: usize = 100;

/// The folder of the sockets.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// By its descriptor a folder has a short name, wherever it lies.
    handle: File,
    sender: UnixDatagram,
}

impl Folder {
    /// The folder beside the file.
    pub(super) fn open(file: &Path) -> io::Result<Self> {
        let mut path = file.as_os_str().to_owned();
        path.push("-peers");
        let path = PathBuf::from(path);
        fs::create_dir_all(&path)?;
        let handle = File::open(&path)?;
        let sender = UnixDatagram::unbound()?;
        sender.set_nonblocking(true)?;
        Ok(Self { path, handle, sender })
    }

    fn socket(&self, name: &str) -> PathBuf {
        let long = self.path.join(name);
        if long.as_os_str().len() <= LONGEST {
            return long;
        }
        format!("/proc/self/fd/{}/{name}", self.handle.as_raw_fd()).into()
    }

    /// A socket of a new name.
    pub(super) fn bind(&self) -> io::Result<(String, UnixDatagram)> {
        let name = format!("{:016x}", fastrand::u64(..));
        let socket = UnixDatagram::bind(self.socket(&name))?;
        Ok((name, socket))
    }

    /// Wakes a process; whether it is alive.
    pub(super) fn ring(&self, name: &str, what: u8) -> bool {
        // One that does not get round to emptying its socket has enough in there to wake it.
        let sent = self.sender.send_to(&[what], self.socket(name));
        !matches!(sent, Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound))
    }

    /// Removes what a process has left.
    pub(super) fn remove(&self, name: &str) {
        // It may have been removed by another one meanwhile, which is as good.
        let _ = fs::remove_file(self.path.join(name));
    }

    /// Removes the sockets of the dead that no table knows any more.
    pub(super) fn sweep(&self) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if let Some(name) = entry.file_name().to_str()
                && name.len() == 16
                && !self.ring(name, 0)
            {
                self.remove(name);
            }
        }
    }
}
