//! Memory that processes share, passed on as a file descriptor.
//!
//! A segment is a file without a name: it is gone with its last descriptor and mapping, however the processes
//! that had them die. All of its memory is reserved when it is made, so that a lack of it is an error there and
//! not a SIGBUS in the middle of a write; and it is sealed, so that nobody who has the descriptor can take the
//! memory away again.
//!
//! What is *in* a segment may be written at any time by anybody who has it: read it as words, copy it out, and
//! check the copy.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::buffer::spare_capacity;
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::{Errno, pread, retry_on_intr};

use crate::memory;
pub use crate::sys::Writes;
use crate::sys::{Mapping, Pages, SEALS, ViewMapping};

/// How much is reserved by one call: a signal makes a call give back all it has reserved, so that a large one
/// would never end under a profiler's timer.
const STEP: u64 = 4 << 20;

/// Whether there is room for so little is not looked up: it would take longer than reserving it.
const SMALL: u64 = 1 << 20;

/// The number of the next segment.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// A piece of shared memory, mapped in this process; see the module.
#[derive(Debug)]
pub struct Segment {
    number: u64,
    mapping: Mapping,
    file: File,
}

impl Segment {
    /// Makes a segment of `len` bytes, all zero.
    ///
    /// # Errors
    /// `StorageFull`, `OutOfMemory` or `FileTooLarge` if the machine or a limit does not allow for so much
    /// memory; `InvalidInput` if `len` is 0.
    pub fn create(len: usize) -> io::Result<Self> {
        Self::create_as("manyhands", len)
    }

    /// Makes a segment as [`create`](Self::create) does, which the kernel's tables of descriptors call by that name.
    ///
    /// # Errors
    /// As [`create`](Self::create); `InvalidInput` also for a name of more than 249 bytes or with a NUL in it.
    pub fn create_as(name: &str, len: usize) -> io::Result<Self> {
        if len == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "could not make a segment: found 0 bytes, expected at least 1",
            ));
        }
        let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        expect_room_for(len as u64).and_then(|()| reserve(fd.as_fd(), len as u64)).map_err(|error| {
            io::Error::new(error.kind(), format!("could not reserve {len} bytes of shared memory: {error}"))
        })?;
        fcntl_add_seals(&fd, SEALS)?;
        // Whoever makes a segment fills it.
        Self::new(fd, Pages::AtOnce)
    }

    /// Maps a segment that somebody else made.
    ///
    /// # Errors
    /// `InvalidData` if it is not sealed against a change of its size, empty, or not reserved in full.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        Self::new(fd, Pages::OnDemand)
    }

    /// Maps a segment that somebody else made, to fill it: with all of its pages.
    ///
    /// # Errors
    /// As [`from_fd`](Self::from_fd).
    pub fn from_fd_at_once(fd: OwnedFd) -> io::Result<Self> {
        Self::new(fd, Pages::AtOnce)
    }

    fn new(fd: OwnedFd, pages: Pages) -> io::Result<Self> {
        let mapping = Mapping::of_sealed(fd.as_fd(), pages)?;
        Ok(Self { number: NEXT.fetch_add(1, Ordering::Relaxed), mapping, file: fd.into() })
    }

    /// What no other segment of this process ever has; not 0.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// What to send to the process that shall share it.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Its size in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a segment is never empty")]
    pub const fn len(&self) -> usize {
        self.mapping.len()
    }

    /// Copies `bytes` to `offset`, while nobody else in this process has the segment.
    ///
    /// # Errors
    /// `InvalidInput` if they do not fit.
    pub fn fill(&mut self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        self.check(offset, bytes.len())?;
        self.mapping.fill(offset, bytes);
        Ok(())
    }

    /// Copies what `source` points to, to `offset`, while nobody else in this process has the segment.
    ///
    /// # Safety
    /// As many bytes are readable at `source`. Others may write there meanwhile: the copy has some of both.
    ///
    /// # Errors
    /// `InvalidInput` if they do not fit.
    #[expect(unsafe_code, reason = "memory of others, which they may write meanwhile, cannot be a slice")]
    pub unsafe fn fill_from(&mut self, offset: usize, source: NonNull<[u8]>) -> io::Result<()> {
        self.check(offset, source.len())?;
        // SAFETY: the same promise.
        // Breaks if: the promise of `Mapping::fill_from` grows. Exercised by: tests/contract/test_large_data.py.
        unsafe { self.mapping.fill_from(offset, source) };
        Ok(())
    }

    /// Copies `bytes` to `offset` by way of the kernel: half as fast as [`fill`](Self::fill), but no matter who
    /// reads or writes there meanwhile.
    ///
    /// # Errors
    /// `InvalidInput` if they do not fit.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        self.check(offset, bytes.len())?;
        self.file.write_all_at(bytes, offset as u64)
    }

    /// A copy of `len` bytes at `offset`, by way of the kernel: no matter who writes there meanwhile.
    ///
    /// # Errors
    /// `InvalidInput` if there are not so many, `OutOfMemory` if there is no room for the copy.
    pub fn read(&self, offset: usize, len: usize) -> io::Result<Vec<u8>> {
        self.check(offset, len)?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len)?;
        while bytes.len() < len {
            let at = (offset + bytes.len()) as u64;
            if retry_on_intr(|| pread(&self.file, spare_capacity(&mut bytes), at))? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        bytes.truncate(len);
        Ok(bytes)
    }

    fn check(&self, offset: usize, len: usize) -> io::Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len() => Ok(()),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("could not reach {len} bytes at {offset} of a segment: found {} bytes", self.len()),
            )),
        }
    }

    /// The memory as words, which may change at any time.
    #[must_use]
    pub const fn words(&self) -> &[AtomicU64] {
        self.mapping.words()
    }

    /// Where the memory begins, for those who lend it out as bytes and answer for it. Valid as long as `self`.
    #[must_use]
    pub const fn as_ptr(&self) -> *mut u8 {
        self.mapping.as_ptr()
    }
}

/// A segment that somebody else made and filled, mapped in this process, which never changes it.
///
/// It lives on when the one who made it has ended. Its content is as steady as its maker keeps it.
#[derive(Debug)]
pub struct View(ViewMapping);

impl View {
    /// Maps the segment behind `fd`; the descriptor is not needed any more.
    ///
    /// # Errors
    /// `InvalidData` if it is not sealed against a change of its size, empty, or not reserved in full; `OutOfMemory`
    /// if this process has too many mappings.
    pub fn from_fd(fd: BorrowedFd<'_>, writes: Writes) -> io::Result<Self> {
        ViewMapping::of_sealed(fd, writes).map(Self)
    }

    /// Its size in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a segment is never empty")]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// One of its words, which may change at any time; `None` beyond the last.
    #[must_use]
    pub fn word(&self, index: usize) -> Option<u64> {
        self.0.word(index)
    }

    /// Where the memory begins, for those who lend it out as bytes and answer for it. Valid as long as `self`.
    #[must_use]
    pub const fn as_ptr(&self) -> *mut u8 {
        self.0.as_ptr()
    }
}

/// Fails for more memory than there is. The kernel would not: it hands out page after page and kills a process,
/// perhaps this one, when the last is gone.
pub(crate) fn expect_room_for(len: u64) -> io::Result<()> {
    if len <= SMALL {
        return Ok(());
    }
    match memory::available() {
        Some(available) if available < len => Err(io::Error::new(
            io::ErrorKind::OutOfMemory,
            format!("found {available} bytes of memory available"),
        )),
        _ => Ok(()),
    }
}

/// Gives the file its size and every page of it its memory.
fn reserve(fd: BorrowedFd<'_>, len: u64) -> io::Result<()> {
    ftruncate(fd, len)?;
    allocate(fd, 0, len)
}

/// Gives every page of a part of the file its memory; the file becomes as long as that needs.
pub(crate) fn allocate(fd: BorrowedFd<'_>, start: u64, len: u64) -> io::Result<()> {
    let mut done = start;
    while done < len {
        let step = STEP.min(len - done);
        match fallocate(fd, FallocateFlags::empty(), done, step) {
            Ok(()) => done += step,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::Metadata;
    use std::io::ErrorKind;
    use std::os::unix::fs::MetadataExt;
    use std::sync::atomic::Ordering;

    use std::process::Command;

    use rustix::fs::SealFlags;

    use super::*;
    use crate::scratch::Scratch;

    fn memfd(len: u64, seals: SealFlags) -> OwnedFd {
        let fd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&fd, len).unwrap();
        fcntl_add_seals(&fd, seals).unwrap();
        fd
    }

    #[test]
    fn what_one_mapping_writes_the_other_reads() {
        let mine = Segment::create(10_000).unwrap();
        let theirs = Segment::from_fd(mine.fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!((mine.len(), theirs.len(), theirs.words().len()), (10_000, 10_000, 1_250));
        assert!(mine.words().iter().all(|word| word.load(Ordering::Relaxed) == 0));
        mine.words()[1_249].store(42, Ordering::Relaxed);
        assert_eq!(theirs.words()[1_249].load(Ordering::Relaxed), 42);
        assert_ne!(mine.as_ptr(), theirs.as_ptr());
    }

    #[test]
    fn bytes_can_be_copied_in_and_out_at_any_place() {
        let mut segment = Segment::create(100_000).unwrap();
        let bytes: Vec<u8> = (0..90_001).map(|at| u8::try_from(at % 251).unwrap()).collect();
        segment.fill(9_999, &bytes).unwrap();
        assert_eq!(segment.read(9_999, 90_001).unwrap(), bytes);
        segment.write(3, &bytes).unwrap();
        assert_eq!(segment.read(3, 90_001).unwrap(), bytes);
        assert_eq!(segment.read(0, 5).unwrap(), [0, 0, 0, 0, 1]);
        segment.fill(9_999, &bytes).unwrap();
        assert_eq!(segment.words()[1_250].load(Ordering::Relaxed).to_le_bytes(), bytes[1..9]);
        for (offset, len) in [(1, 100_000), (100_001, 0), (usize::MAX, 2)] {
            assert_eq!(segment.read(offset, len).unwrap_err().kind(), ErrorKind::InvalidInput);
        }
        assert_eq!(segment.write(10_000, &bytes).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(segment.fill(10_000, &bytes).unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn a_view_shows_what_its_maker_wrote_and_outlives_it() {
        let mut segment = Segment::create(10_000).unwrap();
        segment.fill(8, &42_u64.to_le_bytes()).unwrap();
        for writes in [Writes::Refused, Writes::Private] {
            let view = View::from_fd(segment.fd(), writes).unwrap();
            assert_eq!(
                (view.len(), view.word(0), view.word(1), view.word(1250)),
                (10_000, Some(0), Some(42), None)
            );
        }
        let view = View::from_fd(segment.fd(), Writes::Refused).unwrap();
        drop(segment);
        assert_eq!(view.word(1), Some(42));
    }

    #[test]
    fn a_view_of_memory_that_could_go_away_is_refused() {
        let growing = memfd(4096, SealFlags::SHRINK | SealFlags::SEAL);
        for fd in [memfd(4096, SealFlags::empty()), growing, memfd(1 << 40, SEALS)] {
            let found = View::from_fd(fd.as_fd(), Writes::Private).unwrap_err();
            assert_eq!(found.kind(), ErrorKind::InvalidData, "{found}");
        }
    }

    #[test]
    fn nobody_can_take_the_memory_away() {
        let segment = Segment::create(4096).unwrap();
        assert!(ftruncate(segment.fd(), 0).is_err());
        assert!(ftruncate(segment.fd(), 8192).is_err());
        assert!(fcntl_add_seals(segment.fd(), SealFlags::FUTURE_WRITE).is_err());
    }

    #[test]
    fn a_descriptor_that_could_harm_us_is_refused() {
        let sealed = SEALS;
        let unreserved = memfd(1 << 40, sealed);
        let growing = memfd(4096, SealFlags::SHRINK | SealFlags::SEAL);
        let cases = [memfd(4096, SealFlags::empty()), growing, memfd(0, sealed), unreserved];
        for fd in cases
            .into_iter()
            .chain([File::open("/dev/zero").unwrap().into(), File::open("/proc").unwrap().into()])
        {
            let found = Segment::from_fd(fd).unwrap_err();
            assert_eq!(found.kind(), ErrorKind::InvalidData, "{found}");
        }
    }

    #[test]
    fn it_leaves_nothing_behind() {
        let segment = Segment::create(1 << 20).unwrap();
        let (device, inode) = identity(segment.file.metadata().unwrap());
        assert!(is_mapped(inode) && is_open(device, inode));
        drop(segment);
        assert!(!is_mapped(inode) && !is_open(device, inode));
    }

    fn identity(file: Metadata) -> (u64, u64) {
        (file.dev(), file.ino())
    }

    fn is_mapped(inode: u64) -> bool {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().any(|line| line.split_whitespace().nth(4) == Some(&inode.to_string()))
    }

    fn is_open(device: u64, inode: u64) -> bool {
        let links = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
        links
            .filter_map(|link| std::fs::metadata(link).ok())
            .map(identity)
            .any(|file| file == (device, inode))
    }

    #[test]
    fn more_than_the_machine_has_is_refused_before_it_is_taken() {
        let found = Segment::create(1 << 46).unwrap_err();
        assert_eq!(found.kind(), ErrorKind::OutOfMemory);
        assert!(found.to_string().starts_with("could not reserve 70368744177664 bytes"), "{found}");
    }

    /// Run on a file system of 64 KiB by the next test.
    #[test]
    fn on_a_small_file_system() {
        let Ok(path) = std::env::var("MANYHANDS_SMALL_FILE_SYSTEM") else { return };
        let file = || File::create_new(format!("{path}/file")).unwrap();
        let full = reserve(file().as_fd(), 1 << 20).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::StorageFull);
        std::fs::remove_file(format!("{path}/file")).unwrap();
        reserve(file().as_fd(), 32 << 10).unwrap();
    }

    #[test]
    fn a_full_file_system_is_an_error_when_memory_is_reserved() {
        let scratch = Scratch::new();
        let path = scratch.path("");
        let mount = "mount -t tmpfs -o size=64k none \"$MANYHANDS_SMALL_FILE_SYSTEM\" && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount"]);
        if !command.arg("true").status().is_ok_and(|status| status.success()) {
            eprintln!("not checked: this machine lets nobody mount a file system of his own");
            return;
        }
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", mount, "sh"]);
        command.arg(std::env::current_exe().unwrap());
        command.args(["--exact", "segment::tests::on_a_small_file_system"]);
        let output = command.env("MANYHANDS_SMALL_FILE_SYSTEM", path).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{output:?}");
    }

    #[test]
    fn an_empty_one_is_refused() {
        assert_eq!(Segment::create(0).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
