//! Opening the file, and what can go wrong with it.

use std::cell::Cell;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior, ffi};

use crate::error::Error;

/// "mhq1": by it `SQLite`'s header says whose file it is.
const APPLICATION: i32 = 0x6d68_7131;
/// The form of the tables.
const VERSION: i32 = 1;

/// `rank` is the priority the other way round, so that all order is ascending. A message's `place` is its number, unless
/// it was put behind others that came later. Who is given a message moves its row from `waiting` to `given`; the message
/// itself, which may be large, stays where it is.
const TABLES: &str = "
    CREATE TABLE counter (last INTEGER NOT NULL);
    INSERT INTO counter VALUES (0);
    CREATE TABLE queue (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
    CREATE TABLE message (id INTEGER PRIMARY KEY, head BLOB NOT NULL, body BLOB NOT NULL);
    CREATE TABLE waiting (
        queue INTEGER NOT NULL, rank INTEGER NOT NULL, place INTEGER NOT NULL,
        message INTEGER NOT NULL, redelivered INTEGER NOT NULL,
        PRIMARY KEY (queue, rank, place)
    ) WITHOUT ROWID;
    CREATE TABLE given (
        consumer INTEGER NOT NULL, message INTEGER NOT NULL,
        queue INTEGER NOT NULL, rank INTEGER NOT NULL, place INTEGER NOT NULL,
        PRIMARY KEY (consumer, message)
    ) WITHOUT ROWID;
    CREATE TABLE dead (
        queue INTEGER NOT NULL, id INTEGER NOT NULL, message INTEGER NOT NULL, rank INTEGER NOT NULL,
        reason TEXT NOT NULL, died REAL NOT NULL,
        PRIMARY KEY (queue, id)
    ) WITHOUT ROWID;
    CREATE TABLE peer (name TEXT PRIMARY KEY, consumes INTEGER NOT NULL, waits INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE consumer (id INTEGER PRIMARY KEY, peer TEXT NOT NULL);
    CREATE TABLE revoked (
        number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, terminate INTEGER NOT NULL, at REAL NOT NULL
    );
    CREATE TABLE result (
        seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, state TEXT NOT NULL, document BLOB NOT NULL, expires INTEGER
    );
    CREATE INDEX result_by_expiry ON result (expires) WHERE expires IS NOT NULL;
";

/// Why the file could not be used, for each who wanted to.
#[derive(Debug, Clone)]
pub(crate) enum Trouble {
    /// It may go away.
    Passing(String),
    /// What was open is not there any more; it may be worth opening it anew.
    Gone(String),
    /// It will not go away.
    Lasting(String),
    /// It will not go away, and the file is of no use as it is.
    Damaged(String),
    /// No room.
    Full(String),
}

impl Trouble {
    pub(crate) fn error(self, server: &str) -> Error {
        let server = server.to_owned();
        match self {
            Self::Passing(reason) | Self::Gone(reason) => Error::Unreachable { server, reason },
            Self::Lasting(reason) | Self::Damaged(reason) => {
                Error::Refused { action: "use the file".into(), server, reason }
            }
            Self::Full(reason) => Error::Full { server, reason },
        }
    }

    /// Whether the connection is of no use any more.
    pub(super) fn ends_connection(&self) -> bool {
        matches!(self, Self::Gone(_) | Self::Damaged(_))
    }
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        let text = error.to_string();
        let rusqlite::Error::SqliteFailure(failure, _) = &error else { return Self::Lasting(text) };
        match failure.code {
            ErrorCode::DiskFull => Self::Full(text),
            // A quota or a limit of sizes: any other reason not to write than a disk without a free block.
            ErrorCode::SystemIoFailure if failure.extended_code == ffi::SQLITE_IOERR_WRITE => {
                Self::Full(text)
            }
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
                Self::Passing(format!("other processes kept it locked: {text}"))
            }
            ErrorCode::SystemIoFailure => Self::Gone(text),
            ErrorCode::OutOfMemory => Self::Passing(text),
            ErrorCode::NotADatabase => {
                Self::Damaged("found something else, expected a database of SQLite".into())
            }
            ErrorCode::DatabaseCorrupt => Self::Damaged(format!("found a damaged database: {text}")),
            _ => Self::Lasting(text),
        }
    }
}

thread_local! {
    /// Until when this thread waits for other processes.
    static DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// From now on this thread waits at most so long for other processes.
pub(super) fn be_patient(patience: Duration) {
    DEADLINE.set(Instant::now().checked_add(patience));
}

/// Waits a little longer each time, and never for the same time as another process does.
fn give_way(attempt: i32) -> bool {
    let longest = 50 << attempt.clamp(0, 6);
    std::thread::sleep(Duration::from_micros(fastrand::u64(25..=longest)));
    DEADLINE.get().is_none_or(|deadline| Instant::now() < deadline)
}

/// Opens the file, and makes it if there is none.
pub(super) fn open(path: &Path) -> Result<Connection, Trouble> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(path, flags)?;
    db.busy_handler(Some(give_way))?;
    db.set_prepared_statement_cache_capacity(64);
    // In one view of it: another process may be making it at this moment.
    let view = db.transaction()?;
    let is_ours = recognise(&view)?;
    drop(view);
    if !is_ours {
        // Both have to be said before there is anything in the file.
        db.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    write_ahead(&db)?;
    // The log is written from its start again after so many pages, and its blocks stay allocated: to overwrite them is
    // cheaper than to grow.
    db.pragma_update(None, "wal_autocheckpoint", 2000)?;
    db.pragma_update(None, "journal_size_limit", 32 << 20)?;
    db.pragma_update(None, "cache_size", -16_384)?;
    db.pragma_update(None, "temp_store", "MEMORY")?;
    if !is_ours {
        make(&mut db)?;
    }
    Ok(db)
}

/// Whether the file is ours; it is an error if it is somebody else's.
fn recognise(db: &Connection) -> Result<bool, Trouble> {
    let pragma = |name| db.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let (application, version) = (pragma("application_id")?, pragma("user_version")?);
    if application == APPLICATION {
        if version == VERSION {
            return Ok(true);
        }
        return Err(Trouble::Damaged(format!("found a queue file of version {version}, expected {VERSION}")));
    }
    let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application == 0 && version == 0 && tables == 0 {
        return Ok(false);
    }
    Err(Trouble::Damaged(format!(
        "found a database of another program ({tables} tables), expected a queue file"
    )))
}

/// Two processes that make the same file at once are told that it is busy without their handlers being asked.
fn write_ahead(db: &Connection) -> Result<(), Trouble> {
    let mut attempt = 0;
    loop {
        match db.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0)) {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => {
                return Err(Trouble::Lasting(format!(
                    "found a file system that allows the journal {mode:?}, expected one that allows \"wal\""
                )));
            }
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && give_way(attempt) => {
                attempt += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn make(db: &mut Connection) -> Result<(), Trouble> {
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have been faster.
    if !recognise(&transaction)? {
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn whoever_comes_while_a_file_is_made_finds_it_one_of_ours() {
        let folder = std::env::temp_dir().join(format!("manyhands-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&folder).unwrap();
        for number in 0..50 {
            let (path, barrier) = (folder.join(number.to_string()), Barrier::new(4));
            let come = || {
                barrier.wait();
                open(&path).map(drop)
            };
            let ends = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(come)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
            });
            for end in ends {
                end.unwrap();
            }
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
