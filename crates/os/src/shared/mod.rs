//! Memory that the processes of one user share for as long as any of them has it.
//!
//! A shared segment is a file without a name in any file system (a memfd), so it is gone with its last descriptor,
//! however the processes that had it died: the kernel counts, nobody has to clean up, and nothing is ever left behind in
//! `/dev/shm`. What it lacks for that is a place where others could look for it. There is one all the same: the kernel's
//! own tables of descriptors, `/proc/<pid>/fd`. A [`Handle`] says which descriptor of which process it is; if that
//! process has gone since, or if only a name is known, the tables of all of the user's processes are searched. So a
//! segment can be found exactly as long as it exists, which no file that tells of it could promise; there is no
//! server to pass descriptors around, no count of users to go wrong at a SIGKILL, and no sweep.
//!
//! The price: each process needs a descriptor for each segment; all must see each other's numbers (one pid namespace) and
//! run as one user, whom alone the kernel lets into these tables and alone the file's mode lets in (0600). A handle that
//! is on its way does not keep the segment: whoever sent it has to.
//!
//! **Names.** Two who make a segment of one name at a time both see the other's: first each makes his, as a proposal that
//! others see, then each looks for others. A finished one wins over a proposal, the lower token wins over the higher, and
//! whoever finds only higher ones waits until they have seen him and gone.
//!
//! ```text
//! word 0  the mark: what this is, and its version      1  the kind of what is in it
//!      2  the token, two words                         4  1 once it may be used; 0: a proposal
//!     16… what is in it
//! ```

mod find;
mod growing;
pub mod wait;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use manyhands_engine::shared::Memory;
use rustix::fs::{Mode, SealFlags, fchmod, fcntl_get_seals, fstat};
use rustix::process::geteuid;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::segment::Segment;
use growing::Growing;
use wait::Nap;

/// The name of the format, its version last. Change the version with any layout here or in `engine::shared`.
const MARK: u64 = u64::from_be_bytes(*b"mhshare\x01");
const HEADER: usize = 16;
const KIND: usize = 1;
const TOKEN: usize = 2;
const LIVE: usize = 4;
/// The longest name in bytes.
const LONGEST_NAME: usize = 200;

/// What no other segment ever has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub [u64; 2]);

impl Token {
    fn new() -> io::Result<Self> {
        let mut halves = [[0; 8]; 2];
        for half in &mut halves {
            getrandom(half, GetRandomFlags::empty())?;
        }
        Ok(Self(halves.map(u64::from_ne_bytes)))
    }
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}{:016x}", self.0[0], self.0[1])
    }
}

/// Where a segment was, for another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handle {
    /// A process that had it.
    pub pid: u32,
    /// Its descriptor there.
    pub descriptor: i32,
    /// Which segment it is.
    pub token: Token,
}

/// A shared segment, mapped in this process; see the module.
#[derive(Debug)]
pub struct Shared {
    body: Body,
    token: Token,
}

#[derive(Debug)]
enum Body {
    Fixed(Segment),
    Growing(Growing),
}

impl Body {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Fixed(segment) => segment.fd(),
            Self::Growing(growing) => growing.fd(),
        }
    }

    fn words(&self) -> &[AtomicU64] {
        match self {
            Self::Fixed(segment) => segment.words(),
            Self::Growing(growing) => growing.words(),
        }
    }
}

impl Shared {
    /// Makes a segment for `len` bytes of that kind, which `fill` may fill before anybody else sees it.
    ///
    /// # Errors
    /// `AlreadyExists` if there is one of that name, `InvalidInput` if it cannot be one; else as [`Segment::create`].
    pub fn create(
        kind: u64,
        len: usize,
        name: Option<&str>,
        fill: impl FnOnce(&[AtomicU64]),
    ) -> io::Result<Self> {
        Self::make(kind, len, name, fill, |name, len| Segment::create_as(name, len).map(Body::Fixed))
    }

    /// The same, of a segment that may [grow](Self::grow).
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_growing(
        kind: u64,
        len: usize,
        name: Option<&str>,
        fill: impl FnOnce(&[AtomicU64]),
    ) -> io::Result<Self> {
        Self::make(kind, len, name, fill, |name, len| Growing::create_as(name, len).map(Body::Growing))
    }

    fn make(
        kind: u64,
        len: usize,
        name: Option<&str>,
        fill: impl FnOnce(&[AtomicU64]),
        create: impl FnOnce(&str, usize) -> io::Result<Body>,
    ) -> io::Result<Self> {
        check_name(name)?;
        let token = Token::new()?;
        let len = len.checked_add(HEADER * size_of::<u64>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let body = create(&find::kernel_name(token, name), len)?;
        fchmod(body.fd(), Mode::RUSR | Mode::WUSR)?;
        let shared = Self { body, token };
        fill(shared.words());
        let header = shared.header();
        header[KIND].store(kind, Ordering::Relaxed);
        header[TOKEN].store(token.0[0], Ordering::Relaxed);
        header[TOKEN + 1].store(token.0[1], Ordering::Relaxed);
        // Release publishes all of it to those who find the mark.
        header[0].store(MARK, Ordering::Release);
        if let Some(name) = name {
            shared.win(name)?;
        }
        header[LIVE].store(1, Ordering::Release);
        wait::wake(&header[LIVE], i32::MAX.unsigned_abs());
        Ok(shared)
    }

    /// Returns when nobody else can get the name.
    fn win(&self, name: &str) -> io::Result<()> {
        let mut nap = Nap::default();
        loop {
            let rivals = find::named(name).filter_map(|fd| Self::adopt(fd).ok());
            let mut higher = None;
            for rival in rivals.filter(|rival| rival.token != self.token) {
                if rival.is_live() || rival.token < self.token {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                higher = Some(rival);
            }
            let Some(rival) = higher else { return Ok(()) };
            let _ = nap.sleep(&rival.header()[LIVE], 0, None);
        }
    }

    /// Opens the segment of a handle.
    ///
    /// # Errors
    /// `NotFound` if no process of this user has it any more.
    pub fn open(handle: Handle) -> io::Result<Self> {
        let direct = find::at(handle).into_iter();
        let mut found = direct.chain(find::with(handle.token)).filter_map(|fd| Self::adopt(fd).ok());
        found.find(|shared| shared.token == handle.token).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Opens the segment of a name.
    ///
    /// # Errors
    /// `NotFound` if no process of this user has one.
    pub fn open_name(name: &str) -> io::Result<Self> {
        check_name(Some(name))?;
        let mut found = find::named(name).filter_map(|fd| Self::adopt(fd).ok());
        found.find(Self::is_live).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn adopt(fd: OwnedFd) -> io::Result<Self> {
        if fstat(&fd)?.st_uid != geteuid().as_raw() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let may_grow = !fcntl_get_seals(&fd)?.contains(SealFlags::GROW);
        let body =
            if may_grow { Body::Growing(Growing::from_fd(fd)?) } else { Body::Fixed(Segment::from_fd(fd)?) };
        let words = body.words();
        // Acquire pairs with the Release in `create`.
        if words.len() < HEADER || words[0].load(Ordering::Acquire) != MARK {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let token = Token([TOKEN, TOKEN + 1].map(|index| words[index].load(Ordering::Relaxed)));
        Ok(Self { body, token })
    }

    fn header(&self) -> &[AtomicU64] {
        &self.body.words()[..HEADER]
    }

    fn is_live(&self) -> bool {
        // Acquire pairs with the Release in `create`.
        self.header()[LIVE].load(Ordering::Acquire) == 1
    }

    /// What for another process to open it by.
    #[must_use]
    pub fn handle(&self) -> Handle {
        let descriptor = self.body.fd().as_raw_fd();
        Handle { pid: std::process::id(), descriptor, token: self.token }
    }

    /// What it was called when it was made.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        find::name_of(self.body.fd().as_raw_fd())
    }

    /// The kind of what is in it.
    #[must_use]
    pub fn kind(&self) -> u64 {
        self.header()[KIND].load(Ordering::Relaxed)
    }

    /// What is in it, which anybody may change at any time.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        &self.body.words()[HEADER..]
    }

    /// The words in it, if there are so many by now: somebody else may have seen to it.
    #[must_use]
    pub fn words_to(&self, end: usize) -> Option<&[AtomicU64]> {
        if self.words().len() < end
            && let Body::Growing(growing) = &self.body
        {
            growing.look().ok()?;
        }
        Some(self.words()).filter(|words| words.len() >= end)
    }

    /// Sees to it that there are so many words in it, one process at a time.
    ///
    /// # Errors
    /// `StorageFull` or `OutOfMemory` if there is no room; `Unsupported` if it is not made to grow.
    pub fn grow(&self, words: usize) -> io::Result<()> {
        let len = words.checked_add(HEADER).and_then(|words| words.checked_mul(size_of::<u64>()));
        match (&self.body, len) {
            (Body::Growing(growing), Some(len)) => growing.grow(len),
            (Body::Growing(_), None) => Err(io::ErrorKind::OutOfMemory.into()),
            (Body::Fixed(_), _) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// How many bytes are in it.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> usize {
        let all = match &self.body {
            Body::Fixed(segment) => segment.len(),
            Body::Growing(growing) => size_of_val(growing.words()),
        };
        all - HEADER * size_of::<u64>()
    }

    /// Where they begin, for those who lend them out as bytes and answer for it. Valid as long as `self`.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.words().as_ptr().cast::<u8>().cast_mut()
    }
}

fn check_name(name: Option<&str>) -> io::Result<()> {
    match name {
        Some(name) if name.is_empty() || name.len() > LONGEST_NAME || name.contains(['\0', '/']) => {
            Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("found {name:?}, expected 1 to {LONGEST_NAME} bytes without / and NUL"),
            ))
        }
        _ => Ok(()),
    }
}

impl Memory for Shared {
    type Error = io::Error;

    fn words(&self, end: usize) -> Option<&[AtomicU64]> {
        self.words_to(end)
    }

    fn grow(&self, end: usize) -> io::Result<()> {
        Self::grow(self, end)
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::sync::Barrier;

    use super::*;

    fn create(name: Option<&str>) -> io::Result<Shared> {
        Shared::create(3, 4000, name, |words| words[7].store(42, Ordering::Relaxed))
    }

    /// A name that no other test and no other run has.
    fn fresh() -> String {
        Token::new().unwrap().to_string()
    }

    #[test]
    fn a_handle_opens_the_same_memory() {
        let made = create(None).unwrap();
        let opened = Shared::open(made.handle()).unwrap();
        assert_eq!((opened.kind(), opened.len(), opened.words().len()), (3, 4000, 500));
        assert_eq!(opened.words()[7].load(Ordering::Relaxed), 42);
        opened.words()[499].store(1, Ordering::Relaxed);
        assert_eq!(made.words()[499].load(Ordering::Relaxed), 1);
    }

    #[test]
    fn it_is_found_as_long_as_somebody_has_it_and_no_longer() {
        let made = create(None).unwrap();
        let handle = made.handle();
        let opened = Shared::open(handle).unwrap();
        drop(made);
        let again = Shared::open(handle).unwrap();
        drop((opened, again));
        assert_eq!(Shared::open(handle).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_descriptor_that_is_something_else_by_now_is_not_taken_for_it() {
        let (one, other) = (create(None).unwrap(), create(None).unwrap());
        let token = one.token;
        let wrong = Handle { token, ..other.handle() };
        assert_eq!(Shared::open(wrong).unwrap().token, token);
        drop(one);
        assert_eq!(Shared::open(wrong).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_name_is_given_once_and_is_free_again() {
        let name = fresh();
        assert_eq!(Shared::open_name(&name).unwrap_err().kind(), ErrorKind::NotFound);
        let made = create(Some(&name)).unwrap();
        assert_eq!(Shared::open_name(&name).unwrap().token, made.token);
        assert_eq!((made.name(), create(None).unwrap().name()), (Some(name.clone()), None));
        assert_eq!(create(Some(&name)).unwrap_err().kind(), ErrorKind::AlreadyExists);
        drop(made);
        assert!(create(Some(&name)).is_ok());
    }

    #[test]
    fn a_name_must_be_one() {
        for name in ["", "a/b", "a\0b", &"x".repeat(LONGEST_NAME + 1)] {
            assert_eq!(create(Some(name)).unwrap_err().kind(), ErrorKind::InvalidInput);
            assert_eq!(Shared::open_name(name).unwrap_err().kind(), ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn of_those_who_want_a_name_at_once_one_gets_it() {
        for _ in 0..20 {
            let (name, barrier) = (fresh(), Barrier::new(3));
            let made: Vec<_> = std::thread::scope(|scope| {
                let make = || {
                    barrier.wait();
                    create(Some(&name))
                };
                let threads: Vec<_> = (0..3).map(|_| scope.spawn(make)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            let won = made.iter().filter(|made| made.is_ok()).count();
            let lost = made.iter().filter_map(|made| made.as_ref().err()).map(io::Error::kind);
            assert_eq!((won, lost.collect()), (1, vec![ErrorKind::AlreadyExists; 2]));
        }
    }

    #[test]
    fn one_that_grows_is_longer_for_all_who_have_it() {
        let made = Shared::create_growing(3, 4000, None, |_| ()).unwrap();
        let opened = Shared::open(made.handle()).unwrap();
        assert!(opened.words_to(1_000_000).is_none());
        made.grow(1_000_000).unwrap();
        made.words_to(1_000_000).unwrap()[999_999].store(5, Ordering::Relaxed);
        assert_eq!(opened.words_to(1_000_000).unwrap()[999_999].load(Ordering::Relaxed), 5);
        made.grow(500).unwrap();
        assert!(opened.words_to(1_000_000).is_some());
        assert_eq!(create(None).unwrap().grow(1000).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(made.grow(1 << 45).unwrap_err().kind(), ErrorKind::OutOfMemory);
    }

    #[test]
    fn what_bears_our_name_and_is_not_ours_is_passed_over() {
        let name = fresh();
        let foreign = Segment::create_as(&find::kernel_name(Token([1, 2]), Some(&name)), 4096).unwrap();
        foreign.words()[0].store(MARK + 1, Ordering::Relaxed);
        let made = create(Some(&name)).unwrap();
        assert_eq!(Shared::open_name(&name).unwrap().token, made.token);
    }
}
