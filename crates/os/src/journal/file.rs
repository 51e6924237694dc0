//! The journal as a file: creating, locking, appending, reading back, recovering after a crash.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::record::{
    self, Content, Found, HEAD, Head, Key, Kind, MAGIC, MAX_PAYLOAD, SYNCED, SYNCED_AT, Scan,
};
use crate::spool::{Habit, Spool, sync_name};

/// A record goes to the kernel when it is appended: a system call of half a microsecond buys that a killed
/// process runs no finished row again.
const HABIT: Habit = Habit { write_within: Duration::ZERO, sync_within: Some(Duration::from_millis(900)) };

/// Rows are mostly read back in the order in which they were written, so one read serves many.
const READ_AHEAD: usize = 64 * 1024;

const NO_KEY: Key = Key { content: [0; 16], occurrence: 0 };

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has it open.
    #[error("could not open journal `{}`: another run is using it", .0.display())]
    Busy(PathBuf),
    /// It holds the record of a run, and the caller did not ask to replace it.
    #[error("could not create journal `{}`: found the journal of an earlier run", .0.display())]
    Exists(PathBuf),
    /// There is none, or the run that made it ended before it had begun.
    #[error("could not resume from journal `{}`: found no journal", .0.display())]
    Missing(PathBuf),
    /// The file is something else.
    #[error("could not open journal `{}`: found a file that is not a journal", .0.display())]
    Foreign(PathBuf),
    /// A different version of the format.
    #[error("could not open journal `{}`: found a format this version does not know", .0.display())]
    Version(PathBuf),
    /// Bytes that had safely reached the disk are not what was written.
    #[error("could not read journal `{}`: found damaged bytes at offset {offset}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Everything before it is sound.
        offset: u64,
    },
    /// A single result beyond all measure.
    #[error("could not keep a result of {0} bytes: found more than {MAX_PAYLOAD} bytes")]
    TooLarge(usize),
    /// The file system said no.
    #[error("could not {verb} journal `{}`: {source}", path.display())]
    Io {
        /// What was being done.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl JournalError {
    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Busy(_) => Some("wait until it has ended, or write to another output".into()),
            Self::Foreign(_) => Some("move the file away, or write to another output".into()),
            Self::Version(_) => Some("resume with the version of manyhands that wrote it".into()),
            Self::Damaged { path, offset } => Some(format!(
                "`truncate -s {offset} {}` keeps the rows before the damage; resume then runs the others again",
                path.display()
            )),
            Self::Exists(_) | Self::Missing(_) | Self::TooLarge(_) | Self::Io { .. } => None,
        }
    }
}

/// What was found in a journal that is opened again.
#[derive(Debug)]
pub struct Recovered {
    /// The payload of the last [`Kind::Opening`].
    pub opening: Vec<u8>,
    /// Bytes of unfinished records that were cut off the end.
    pub torn_bytes: u64,
}

/// An open, locked journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    spool: Spool,
    /// The offset in the last [`Kind::Synced`] record, or where this run began.
    vouched: u64,
    scratch: Vec<u8>,
    ahead: Ahead,
}

#[derive(Debug, Default)]
struct Ahead {
    offset: u64,
    bytes: Vec<u8>,
}

impl Journal {
    /// Makes a new journal at `path` that begins with `opening`.
    ///
    /// # Errors
    /// [`JournalError::Exists`] if there is one already and `overwrite` is false; it is never another kind of
    /// file that is overwritten. [`JournalError::Busy`] if it is in use.
    pub fn create(path: &Path, opening: &[u8], overwrite: bool) -> Result<Self, JournalError> {
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).clone();
        let mut file = locked(path, &options)?;
        match started(&mut file, path) {
            Err(JournalError::Version(_)) | Ok(true) if !overwrite => {
                return Err(JournalError::Exists(path.into()));
            }
            Err(error @ (JournalError::Foreign(_) | JournalError::Io { .. })) => return Err(error),
            _ => {}
        }
        let begun = file.set_len(0).and_then(|()| file.write_all_at(&MAGIC, 0));
        begun.map_err(|source| failed("create", path, source))?;
        let mut journal = Self::over(file, path, MAGIC.len() as u64)?;
        journal.open(opening)?;
        let synced = journal.spool.sync().and_then(|()| sync_name(path));
        synced.map_err(|source| failed("write", path, source))?;
        Ok(journal)
    }

    /// Opens the journal of an earlier run, cuts what a crash tore, and shows `visit` every row's record with
    /// its offset, oldest first: the last one about a row counts.
    ///
    /// # Errors
    /// [`JournalError::Missing`], [`JournalError::Busy`], [`JournalError::Foreign`], [`JournalError::Version`],
    /// [`JournalError::Damaged`].
    pub fn resume(path: &Path, visit: impl FnMut(Key, Kind, u64)) -> Result<(Self, Recovered), JournalError> {
        let mut file = locked(path, OpenOptions::new().read(true).write(true))?;
        if !started(&mut file, path)? {
            return Err(JournalError::Missing(path.into()));
        }
        let (opening, sound, torn_bytes) = recover(&file, path, visit)?;
        if torn_bytes > 0 {
            file.set_len(sound)
                .and_then(|()| file.sync_all())
                .map_err(|source| failed("repair", path, source))?;
        }
        Ok((Self::over(file, path, sound)?, Recovered { opening, torn_bytes }))
    }

    fn over(mut file: File, path: &Path, end: u64) -> Result<Self, JournalError> {
        let spool = file.seek(SeekFrom::Start(end)).and_then(|_| Spool::new(file, end, HABIT));
        let spool = spool.map_err(|source| failed("open", path, source))?;
        Ok(Self { path: path.into(), spool, vouched: end, scratch: Vec::new(), ahead: Ahead::default() })
    }

    /// Writes another opening, which replaces the one before.
    ///
    /// # Errors
    /// [`JournalError::TooLarge`], [`JournalError::Io`].
    pub fn open(&mut self, opening: &[u8]) -> Result<(), JournalError> {
        self.append(Kind::Opening, NO_KEY, opening).map(drop)
    }

    /// Adds a record about a row and returns its offset; the kernel has it then.
    ///
    /// # Errors
    /// [`JournalError::TooLarge`], after which the journal goes on; [`JournalError::Io`], after which it does
    /// not.
    pub fn append(&mut self, kind: Kind, key: Key, payload: &[u8]) -> Result<u64, JournalError> {
        if payload.len() > MAX_PAYLOAD {
            return Err(JournalError::TooLarge(payload.len()));
        }
        self.scratch.clear();
        let end = self.spool.end();
        self.vouch(end);
        let offset = end + self.scratch.len() as u64;
        record::encode(&mut self.scratch, offset, kind, key, payload);
        self.write()?;
        Ok(offset)
    }

    /// Puts before the next record how much the disk is known to have: what is damaged before that was not torn.
    fn vouch(&mut self, end: u64) {
        let durable = self.spool.durable();
        if durable > self.vouched {
            self.vouched = durable;
            let key = Key { content: SYNCED, occurrence: 0 };
            record::encode(&mut self.scratch, end, Kind::Synced, key, &durable.to_le_bytes());
        }
    }

    fn write(&mut self) -> Result<(), JournalError> {
        let written = self.spool.append(&self.scratch).and_then(|_| self.spool.flush());
        written.map_err(|source| failed("write", &self.path, source))
    }

    /// Reads back the record at `offset`.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] if it is no longer what was written, [`JournalError::Io`].
    pub fn read(&mut self, offset: u64) -> Result<(Key, Kind, Vec<u8>), JournalError> {
        let room = self.spool.written().checked_sub(offset).and_then(|rest| rest.checked_sub(HEAD as u64));
        let room = room.ok_or_else(|| self.damaged(offset))?;
        let mut bytes = [0; HEAD];
        bytes.copy_from_slice(self.bytes_at(offset, HEAD)?);
        let head = Head::parse(&bytes, room).ok_or_else(|| self.damaged(offset))?;
        let payload = self.bytes_at(offset + HEAD as u64, head.length)?.to_vec();
        if !head.holds(offset, &bytes, &payload) {
            return Err(self.damaged(offset));
        }
        Ok((head.key, head.kind, payload))
    }

    fn damaged(&self, offset: u64) -> JournalError {
        JournalError::Damaged { path: self.path.clone(), offset }
    }

    /// `length` written bytes from `offset`; what was read ahead stays valid, for a journal only grows.
    fn bytes_at(&mut self, offset: u64, length: usize) -> Result<&[u8], JournalError> {
        let within = |ahead: &Ahead| {
            let start = usize::try_from(offset.checked_sub(ahead.offset)?).ok()?;
            (start + length <= ahead.bytes.len()).then_some(start)
        };
        if within(&self.ahead).is_none() {
            let available = usize::try_from(self.spool.written() - offset).unwrap_or(usize::MAX);
            self.ahead.offset = offset;
            self.ahead.bytes.resize(available.min(READ_AHEAD.max(length)), 0);
            let read = self.spool.file().read_exact_at(&mut self.ahead.bytes, offset);
            if let Err(source) = read {
                self.ahead.bytes.clear();
                return Err(failed("read", &self.path, source));
            }
        }
        let start = usize::try_from(offset - self.ahead.offset).expect("it was read from `offset` or before");
        Ok(&self.ahead.bytes[start..start + length])
    }

    /// Waits until the disk has everything, and unlocks the file.
    ///
    /// # Errors
    /// [`JournalError::Io`], also for what went wrong earlier in the background.
    pub fn close(mut self) -> Result<(), JournalError> {
        self.spool.sync().map_err(|source| failed("sync", &self.path, source))?;
        self.scratch.clear();
        let end = self.spool.end();
        self.vouch(end);
        self.write()?;
        self.spool.close().map_err(|source| failed("sync", &self.path, source))
    }
}

fn failed(verb: &'static str, path: &Path, source: io::Error) -> JournalError {
    JournalError::Io { verb, path: path.into(), source }
}

fn locked(path: &Path, options: &OpenOptions) -> Result<File, JournalError> {
    let file = options.open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound if !path.exists() => JournalError::Missing(path.into()),
        _ => failed("open", path, source),
    })?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(JournalError::Busy(path.into())),
        Err(errno) => Err(failed("lock", path, errno.into())),
    }
}

/// Whether the file is a journal whose first opening was written in full.
fn started(file: &mut File, path: &Path) -> Result<bool, JournalError> {
    let end = file.metadata().map_err(|source| failed("read", path, source))?.len();
    let mut magic = [0; MAGIC.len()];
    let length = magic.len().min(usize::try_from(end).unwrap_or(usize::MAX));
    file.read_exact_at(&mut magic[..length], 0).map_err(|source| failed("read", path, source))?;
    if !MAGIC.starts_with(&magic[..length]) {
        let named = magic.starts_with(&MAGIC[..14]);
        return Err(if named {
            JournalError::Version(path.into())
        } else {
            JournalError::Foreign(path.into())
        });
    }
    if length < MAGIC.len() {
        return Ok(false);
    }
    let mut scan = scan(file, end).map_err(|source| failed("read", path, source))?;
    let first = scan.next().map_err(|source| failed("read", path, source))?;
    Ok(matches!(first, Found::Record { head, .. } if head.kind == Kind::Opening))
}

fn scan(file: &File, end: u64) -> io::Result<Scan<BufReader<&File>>> {
    let start = MAGIC.len() as u64;
    let mut reader = BufReader::with_capacity(READ_AHEAD, file);
    reader.seek(SeekFrom::Start(start))?;
    Ok(Scan::new(reader, start, end))
}

/// The last opening, where the sound records end, and how many bytes follow that a crash left behind.
fn recover(
    file: &File,
    path: &Path,
    mut visit: impl FnMut(Key, Kind, u64),
) -> Result<(Vec<u8>, u64, u64), JournalError> {
    let mut walk = || -> io::Result<(Vec<u8>, u64, u64)> {
        let end = file.metadata()?.len();
        let mut scan = scan(file, end)?;
        let mut last_opening = Vec::new();
        loop {
            match scan.next()? {
                Found::Record { head, payload, .. } if head.kind == Kind::Opening => {
                    last_opening = payload.to_vec();
                }
                Found::Record { head, .. } if head.kind == Kind::Synced => {}
                Found::Record { offset, head, .. } => visit(head.key, head.kind, offset),
                Found::End | Found::Damage => return Ok((last_opening, scan.offset, end)),
            }
        }
    };
    let (opening, sound, end) = walk().map_err(|source| failed("read", path, source))?;
    let vouched = vouched_beyond(file, sound, end).map_err(|source| failed("read", path, source))?;
    if vouched {
        return Err(JournalError::Damaged { path: path.into(), offset: sound });
    }
    Ok((opening, sound, end - sound))
}

/// Whether a sound record after `damage` says that the bytes at `damage` had reached the disk.
fn vouched_beyond(file: &File, damage: u64, end: u64) -> io::Result<bool> {
    const STEP: usize = 1 << 20;
    const RECORD: usize = HEAD + 8;
    let mut bytes = Vec::new();
    let mut offset = damage;
    while offset < end {
        let length = usize::try_from(end - offset).unwrap_or(usize::MAX).min(STEP + RECORD);
        bytes.resize(length, 0);
        file.read_exact_at(&mut bytes, offset)?;
        let vouches = marks(&bytes).any(|start| {
            let found = record::synced(&bytes[start..], offset + start as u64);
            found.is_some_and(|upto| upto > damage)
        });
        if vouches {
            return Ok(true);
        }
        offset += STEP as u64;
    }
    Ok(false)
}

/// Where in `bytes` a [`Kind::Synced`] record may begin.
fn marks(bytes: &[u8]) -> impl Iterator<Item = usize> + '_ {
    let places = bytes.windows(size_of::<Content>()).enumerate();
    places.filter(|(_, window)| *window == SYNCED).filter_map(|(place, _)| place.checked_sub(SYNCED_AT))
}
