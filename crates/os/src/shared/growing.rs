//! A segment that becomes longer: mapped, in every process, as far as it may ever reach.
//!
//! Addresses cost nothing, so nothing has to be mapped anew when it grows, and what somebody reads stays where it is. The
//! file is sealed against becoming shorter, and memory is reserved before it is used, as for all segments.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use crate::segment::{allocate, expect_room_for};
use crate::sys::GrowingMapping;

/// As many bytes as one can become, where a process has the addresses: a small part of them all.
const MOST: usize = 1 << 38;

#[derive(Debug)]
pub(super) struct Growing {
    mapping: GrowingMapping,
    file: File,
}

impl Growing {
    pub(super) fn create_as(name: &str, len: usize) -> io::Result<Self> {
        let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::SEAL)?;
        let growing = Self::from_fd(fd)?;
        growing.grow(len)?;
        Ok(growing)
    }

    pub(super) fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { mapping: GrowingMapping::of_unshrinking(fd.as_fd(), MOST)?, file: fd.into() })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub(super) fn words(&self) -> &[AtomicU64] {
        self.mapping.words()
    }

    /// Finds out how long it is by now.
    pub(super) fn look(&self) -> io::Result<usize> {
        self.mapping.look(self.fd())
    }

    /// Sees to it that so many bytes are there.
    pub(super) fn grow(&self, len: usize) -> io::Result<()> {
        let there = self.look()?;
        if len <= there {
            return Ok(());
        }
        if len > self.mapping.most() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        expect_room_for((len - there) as u64)?;
        // A page at a time is reserved, and a file as long as that needs: whoever dies on the way leaves no hole.
        allocate(self.fd(), there as u64, len as u64)?;
        self.look().map(drop)
    }
}
