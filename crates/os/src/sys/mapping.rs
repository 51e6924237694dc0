//! A file of shared memory as atomics in this process.

#![expect(unsafe_code, reason = "mapping memory, and speaking of it as words, is beyond the type system")]

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use rustix::fs::{SealFlags, fcntl_get_seals, fstat};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The seals without which somebody else could take the memory away under the mapping.
pub(crate) const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// When the kernel connects the pages of a mapping to their memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pages {
    /// Each when it is touched first: a fault for each, dear above all for the first write.
    OnDemand,
    /// All of them when it is mapped.
    AtOnce,
}

/// What becomes of what this process writes to a [`View`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// There is no writing: it is a fault.
    Refused,
    /// It stays this process's own: the page is copied first. Nobody who has the file sees it.
    Private,
}

/// Addresses of this process at which a sealed file is mapped, unmapped on drop.
#[derive(Debug)]
struct Range {
    start: NonNull<AtomicU64>,
    len: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread; it is unmapped once, by the drop of its one owner.
// Breaks if: a thread-local resource joins the fields. Exercised by: ring::tests, two threads on one segment.
unsafe impl Send for Range {}
// SAFETY: shared access is through atomics alone, or through a raw pointer whose user answers for it.
// Breaks if: a method lends the memory as plain bytes. Exercised by: ring::tests, two threads on one segment.
unsafe impl Sync for Range {}

impl Range {
    /// Maps the file behind `fd`, if it is sealed against any change of its size and has all of its memory.
    fn of_sealed(fd: BorrowedFd<'_>, prot: ProtFlags, flags: MapFlags) -> io::Result<Self> {
        let len = sealed_len(fd)?;
        // SAFETY: at a null address the kernel chooses a range that nothing else uses.
        // Breaks if: the address or MAP_FIXED is given. Exercised by: segment::tests.
        let start = unsafe { mmap(ptr::null_mut(), len, prot, flags, fd, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    const fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr().cast()
    }

    /// The memory as words; bytes that fill none at the end are left out. Nothing may be stored through them unless
    /// the mapping is writable.
    const fn words(&self) -> &[AtomicU64] {
        self.words_to(self.len)
    }

    /// The same of the first `len` bytes, which must be within the file.
    const fn words_to(&self, len: usize) -> &[AtomicU64] {
        assert!(len <= self.len);
        let count = len / size_of::<AtomicU64>();
        // SAFETY: the range is mapped as long as `self` lives, and backed, because the file is sealed; a mapping
        // begins at a page, so it is aligned; any bits are a u64. Others change it meanwhile, which atomics allow.
        // Breaks if: `of_sealed` stops asking for SEALS. Exercised by: segment::tests, ring::tests.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), count) }
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `mmap` gave, which nobody can still borrow.
        // Breaks if: the fields become visible outside this file. Exercised by: segment::tests.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

/// A whole file, mapped shared and writable. The file is sealed, so no access can fail.
#[derive(Debug)]
pub(crate) struct Mapping(Range);

impl Mapping {
    /// Maps the file behind `fd`, if it is sealed against any change of its size and has all of its memory.
    pub(crate) fn of_sealed(fd: BorrowedFd<'_>, pages: Pages) -> io::Result<Self> {
        let flags = match pages {
            Pages::OnDemand => MapFlags::SHARED,
            Pages::AtOnce => MapFlags::SHARED | MapFlags::POPULATE,
        };
        Range::of_sealed(fd, ProtFlags::READ | ProtFlags::WRITE, flags).map(Self)
    }

    pub(crate) const fn len(&self) -> usize {
        self.0.len
    }

    pub(crate) const fn as_ptr(&self) -> *mut u8 {
        self.0.as_ptr()
    }

    /// Copies `bytes` to `offset`, where they must fit.
    pub(crate) fn fill(&mut self, offset: usize, bytes: &[u8]) {
        // SAFETY: a reference can be read from.
        // Breaks if: the promise of `fill_from` grows. Exercised by: segment::tests, bytes at any place.
        unsafe { self.fill_from(offset, NonNull::from(bytes)) };
    }

    /// Copies what `source` points to, which is outside this mapping, to `offset`, where it must fit.
    ///
    /// # Safety
    /// As many bytes are readable at `source`. Others may write there meanwhile: the copy has some of both.
    pub(crate) unsafe fn fill_from(&mut self, offset: usize, source: NonNull<[u8]>) {
        let end = offset.checked_add(source.len());
        let len = self.len();
        assert!(end.is_some_and(|end| end <= len), "{} bytes at {offset} of {len}", source.len());
        // SAFETY: the place is within the mapping, as just asserted.
        // Breaks if: the assertion goes. Exercised by: segment::tests, bytes at any place.
        let target = unsafe { self.as_ptr().add(offset) };
        // SAFETY: as many bytes are readable there, says the caller, and writable here, backed because the file is
        // sealed. Nobody in this process uses words of the mapping meanwhile, which is borrowed for us alone; another
        // process that does only spoils the bytes, since nothing is read back.
        // Breaks if: it takes `&self`. Exercised by: segment::tests, bytes at any place.
        unsafe { ptr::copy(source.as_ptr().cast(), target, source.len()) };
    }

    /// The memory as words; bytes that fill none at the end are left out.
    pub(crate) const fn words(&self) -> &[AtomicU64] {
        self.0.words()
    }
}

/// A file that may become longer and never shorter, mapped shared and writable as far as it may ever reach.
#[derive(Debug)]
pub(crate) struct GrowingMapping {
    range: Range,
    /// So many bytes of it are there, as far as this process knows.
    there: AtomicUsize,
}

impl GrowingMapping {
    /// Maps the file behind `fd`, if it is sealed against becoming shorter: `most` bytes of it, or as many as this process
    /// has addresses for.
    pub(crate) fn of_unshrinking(fd: BorrowedFd<'_>, most: usize) -> io::Result<Self> {
        let seals = fcntl_get_seals(fd).unwrap_or(SealFlags::empty());
        if !seals.contains(SealFlags::SHRINK) {
            return Err(invalid(format!("found {seals:?}, expected {:?}", SealFlags::SHRINK)));
        }
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        let mut len = most;
        let start = loop {
            // SAFETY: at a null address the kernel chooses a range that nothing else uses.
            // Breaks if: the address or MAP_FIXED is given. Exercised by: shared::growing::tests.
            match unsafe { mmap(ptr::null_mut(), len, prot, flags, fd, 0) } {
                Ok(start) => break start,
                Err(error) if ((len / 4) as u64) < fstat(fd)?.st_size.unsigned_abs() => {
                    return Err(error.into());
                }
                Err(_) => len /= 4,
            }
        };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let mapping = Self { range: Range { start, len }, there: AtomicUsize::new(0) };
        mapping.look(fd)?;
        Ok(mapping)
    }

    /// Finds out how long the file `fd` is by now, which must be the one that is mapped; how many bytes are there.
    pub(crate) fn look(&self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        let len = usize::try_from(fstat(fd)?.st_size).unwrap_or(0).min(self.range.len);
        Ok(self.there.fetch_max(len, Ordering::Relaxed).max(len))
    }

    /// How many bytes it can become.
    pub(crate) const fn most(&self) -> usize {
        self.range.len
    }

    /// The memory that is known to be there, as words.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        self.range.words_to(self.there.load(Ordering::Relaxed))
    }
}

/// A whole file as somebody else filled it: what is written here never gets there.
#[derive(Debug)]
pub(crate) struct View(Range);

impl View {
    /// Maps the file behind `fd`, if it is sealed against any change of its size and has all of its memory.
    pub(crate) fn of_sealed(fd: BorrowedFd<'_>, writes: Writes) -> io::Result<Self> {
        let (prot, flags) = match writes {
            Writes::Refused => (ProtFlags::READ, MapFlags::SHARED),
            Writes::Private => (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE),
        };
        // Not populated: the kernel connects the neighbours of a page that is read, and would copy all that can be
        // written.
        Range::of_sealed(fd, prot, flags).map(Self)
    }

    pub(crate) const fn len(&self) -> usize {
        self.0.len
    }

    pub(crate) const fn as_ptr(&self) -> *mut u8 {
        self.0.as_ptr()
    }

    /// One of the words, which may change at any time; `None` beyond the last.
    pub(crate) fn word(&self, index: usize) -> Option<u64> {
        Some(self.0.words().get(index)?.load(Ordering::Relaxed))
    }
}

/// The size of a file that will keep it.
fn sealed_len(fd: BorrowedFd<'_>) -> io::Result<usize> {
    // Files that know no seals answer with an error.
    let seals = fcntl_get_seals(fd).unwrap_or(SealFlags::empty());
    if !seals.contains(SEALS) {
        return Err(invalid(format!("found {seals:?}, expected {SEALS:?}")));
    }
    let stat = fstat(fd)?;
    let len = usize::try_from(stat.st_size).ok().filter(|len| (1..=isize::MAX.unsigned_abs()).contains(len));
    let len = len.ok_or_else(|| invalid(format!("found {} bytes, expected at least 1", stat.st_size)))?;
    // Blocks of stat have 512 bytes, whatever the file system's have.
    let reserved = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
    if reserved < len as u64 {
        return Err(invalid(format!("found {reserved} bytes reserved, expected {len}")));
    }
    Ok(len)
}

fn invalid(found: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("could not map a segment: {found}"))
}
