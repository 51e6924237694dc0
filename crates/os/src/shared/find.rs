//! Segments in the kernel's tables of descriptors; see the parent.
//!
//! What is found there was put there by others: a link says what somebody called his file, no more.

use std::ffi::OsStr;
use std::fs::{self, DirEntry};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};

use super::{Handle, Token};

/// What the kernel writes before the name of such a file.
const LINK: &str = "/memfd:";
/// What it writes behind it, for the file has no name in any folder.
const END: &str = " (deleted)";
const OURS: &str = "manyhands:";

/// What the kernel is told to call it.
pub(super) fn kernel_name(token: Token, name: Option<&str>) -> String {
    format!("{OURS}{token}:{}", name.unwrap_or_default())
}

/// What the handle says, if it is still there.
pub(super) fn at(handle: Handle) -> Option<OwnedFd> {
    let path = PathBuf::from(format!("/proc/{}/fd/{}", handle.pid, handle.descriptor));
    try_open(&path, &|token, _| token == handle.token.to_string())
}

/// The segment with that token, as often as it is found.
pub(super) fn with(token: Token) -> impl Iterator<Item = OwnedFd> {
    let token = token.to_string();
    search(move |found, _| found == token)
}

/// The segments of that name.
pub(super) fn named(name: &str) -> impl Iterator<Item = OwnedFd> + use<> {
    let name = name.to_owned();
    search(move |_, found| found == name)
}

/// What the segment behind one of our own descriptors is called.
pub(super) fn name_of(descriptor: i32) -> Option<String> {
    let link = fs::read_link(format!("/proc/self/fd/{descriptor}")).ok()?;
    let named = link.to_str()?.strip_prefix(LINK)?.strip_prefix(OURS)?.strip_suffix(END)?;
    named.split_once(':').map(|(_, name)| name.to_owned()).filter(|name| !name.is_empty())
}

fn search(is_meant: impl Fn(&str, &str) -> bool) -> impl Iterator<Item = OwnedFd> {
    entries(Path::new("/proc"))
        .filter(|process| is_number(&process.file_name()))
        .flat_map(|process| entries(&process.path().join("fd")))
        .filter_map(move |descriptor| try_open(&descriptor.path(), &is_meant))
}

/// What is in a folder; nothing if we may not look or it is gone.
fn entries(folder: &Path) -> impl Iterator<Item = DirEntry> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten()
}

fn is_number(name: &OsStr) -> bool {
    name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
}

/// Opens a descriptor of another process, if token and name are meant.
fn try_open(path: &Path, is_meant: &impl Fn(&str, &str) -> bool) -> Option<OwnedFd> {
    let link = fs::read_link(path).ok()?;
    let (token, name) =
        link.to_str()?.strip_prefix(LINK)?.strip_prefix(OURS)?.strip_suffix(END)?.split_once(':')?;
    // By now it may be something else, to open which would take its time.
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    is_meant(token, name).then(|| open(path, flags, Mode::empty()).ok())?
}
