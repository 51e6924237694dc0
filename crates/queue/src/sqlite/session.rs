//! The open file, as the jobs see it: what several of them need.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::file::{self, Trouble};
use super::peers::Folder;
use super::store::{Bells, Hears, Listening};

/// What others have to hear of when the transaction has been committed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct News {
    /// There are more messages.
    pub(crate) messages: bool,
    /// There are more results.
    pub(crate) results: bool,
}

/// The socket of this process, in the folder of all. Dropped, it is dead for the others.
#[derive(Debug)]
struct Seat {
    name: String,
    hears: Hears,
    _listening: Listening,
}

/// The open file.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) db: Connection,
    /// Which opening of the file this is. What belongs to an earlier one is gone.
    pub(crate) generation: u64,
    pub(crate) news: News,
    inode: (u64, u64),
    folder: Folder,
    queues: HashMap<Box<str>, i64>,
    is_synchronous: Option<bool>,
    seat: Option<Seat>,
}

impl Session {
    pub(super) fn open(path: &Path, generation: u64) -> Result<Self, Trouble> {
        let db = file::open(path)?;
        let lasting =
            |error: io::Error| Trouble::Lasting(format!("could not keep sockets beside it: {error}"));
        let folder = Folder::open(path).map_err(lasting)?;
        folder.sweep();
        let inode = inode(path).ok_or_else(|| Trouble::Gone("it was deleted while it was opened".into()))?;
        Ok(Self {
            db,
            generation,
            news: News::default(),
            inode,
            folder,
            queues: HashMap::new(),
            is_synchronous: None,
            seat: None,
        })
    }

    /// An error if what is open is not any more what the path names: whatever were written there, nobody would find it.
    pub(super) fn check_place(&self, path: &Path) -> Result<(), Trouble> {
        if inode(path) == Some(self.inode) {
            return Ok(());
        }
        Err(Trouble::Gone("it was deleted or replaced while it was open".into()))
    }

    /// Whether commits are to wait for the disk.
    pub(super) fn set_synchronous(&mut self, is_synchronous: bool) -> rusqlite::Result<()> {
        if self.is_synchronous != Some(is_synchronous) {
            let level =
                if is_synchronous { "PRAGMA synchronous = FULL" } else { "PRAGMA synchronous = NORMAL" };
            self.db.prepare_cached(level)?.execute([])?;
            self.is_synchronous = Some(is_synchronous);
        }
        Ok(())
    }

    /// Runs a statement without an answer.
    pub(super) fn command(&self, sql: &str) -> rusqlite::Result<()> {
        self.db.prepare_cached(sql)?.execute([]).map(|_| ())
    }

    pub(super) fn roll_back(&mut self) {
        // It may have been rolled back by what went wrong.
        if !self.db.is_autocommit() {
            let _ = self.command("ROLLBACK");
        }
        // Some of these were perhaps never committed.
        self.queues.clear();
        self.news = News::default();
    }

    /// So many new numbers: the first of them.
    pub(crate) fn numbers(&self, count: usize) -> rusqlite::Result<i64> {
        let mut update =
            self.db.prepare_cached("UPDATE counter SET last = last + ?1 RETURNING last - ?1 + 1")?;
        update.query_row([super::bounded(count)], |row| row.get(0))
    }

    /// The number of a queue that may not be there yet.
    pub(crate) fn queue(&mut self, name: &str) -> rusqlite::Result<i64> {
        if let Some(id) = self.known_queue(name)? {
            return Ok(id);
        }
        self.db.prepare_cached("INSERT INTO queue (name) VALUES (?)")?.execute([name])?;
        let id = self.db.last_insert_rowid();
        self.queues.insert(name.into(), id);
        Ok(id)
    }

    /// The number of a queue.
    pub(crate) fn known_queue(&mut self, name: &str) -> rusqlite::Result<Option<i64>> {
        if let Some(id) = self.queues.get(name) {
            return Ok(Some(*id));
        }
        let mut select = self.db.prepare_cached("SELECT id FROM queue WHERE name = ?")?;
        let id = select.query_row([name], |row| row.get(0)).optional()?;
        if let Some(id) = id {
            self.queues.insert(name.into(), id);
        }
        Ok(id)
    }

    /// From now on this process is rung for. In a transaction of the caller's.
    pub(crate) fn listen(&mut self, bells: &Arc<Bells>, hears: Hears) -> Result<(), Trouble> {
        let passing = |error: io::Error| Trouble::Passing(format!("could not be rung for: {error}"));
        let seat = if let Some(seat) = &mut self.seat {
            seat
        } else {
            let (name, socket) = self.folder.bind().map_err(passing)?;
            let listening = bells.listen(socket).map_err(passing)?;
            self.seat.insert(Seat { name, hears: Hears::default(), _listening: listening })
        };
        // Written each time: an earlier transaction may have been rolled back.
        seat.hears.consumes |= hears.consumes;
        seat.hears.waits |= hears.waits;
        let sql = "INSERT INTO peer VALUES (?1, ?2, ?3)
                   ON CONFLICT (name) DO UPDATE SET consumes = ?2, waits = ?3";
        self.db.prepare_cached(sql)?.execute(params![seat.name, seat.hears.consumes, seat.hears.waits])?;
        Ok(())
    }

    /// Whether this process is rung for when there are results.
    pub(crate) fn hears_results(&self) -> bool {
        self.seat.as_ref().is_some_and(|seat| seat.hears.waits)
    }

    /// What this process is called among the others; nothing if it does not listen.
    pub(crate) fn name(&self) -> &str {
        self.seat.as_ref().map_or("", |seat| &seat.name)
    }

    /// Whether there is a need to look at the file now and then.
    pub(super) fn is_listening(&self) -> bool {
        self.seat.is_some()
    }

    /// Rings for those who want to hear it. Returns who is dead.
    pub(super) fn ring(&self, news: News) -> rusqlite::Result<Vec<String>> {
        let what = u8::from(news.messages) | u8::from(news.results) << 1;
        let sql = "SELECT name FROM peer WHERE (consumes AND ?1) OR (waits AND ?2)";
        self.ask_peers(sql, news, what)
    }

    /// Who is dead of those who use the file.
    pub(super) fn find_dead(&self) -> rusqlite::Result<Vec<String>> {
        self.ask_peers("SELECT name FROM peer WHERE ?1 OR ?2 OR TRUE", News::default(), 0)
    }

    fn ask_peers(&self, sql: &str, news: News, what: u8) -> rusqlite::Result<Vec<String>> {
        let mut dead = Vec::new();
        let mut select = self.db.prepare_cached(sql)?;
        let mut rows = select.query([news.messages, news.results])?;
        while let Some(row) = rows.next()? {
            let name = row.get_ref(0)?.as_str()?;
            if name != self.name() && !self.folder.ring(name, what) {
                dead.push(name.to_owned());
            }
        }
        Ok(dead)
    }

    /// Gives back what the consumers of a process had, and forgets it. In a transaction of the caller's: so it happens once,
    /// whoever else has seen the death.
    pub(super) fn bury_peer(&mut self, name: &str) -> rusqlite::Result<()> {
        let consumers: Vec<i64> = {
            let mut select = self.db.prepare_cached("SELECT id FROM consumer WHERE peer = ?")?;
            select.query_map([name], |row| row.get(0))?.collect::<Result<_, _>>()?
        };
        for consumer in consumers {
            self.end_consumer(consumer)?;
        }
        self.db.prepare_cached("DELETE FROM peer WHERE name = ?")?.execute([name])?;
        Ok(())
    }

    /// Removes the socket of a process that was buried.
    pub(super) fn remove_socket(&self, name: &str) {
        self.folder.remove(name);
    }

    /// Gives back what a consumer had.
    pub(crate) fn end_consumer(&mut self, consumer: i64) -> rusqlite::Result<()> {
        let back = "INSERT INTO waiting SELECT queue, rank, place, message, 1 FROM given WHERE consumer = ?";
        let count = self.db.prepare_cached(back)?.execute([consumer])?;
        self.db.prepare_cached("DELETE FROM given WHERE consumer = ?")?.execute([consumer])?;
        self.db.prepare_cached("DELETE FROM consumer WHERE id = ?")?.execute([consumer])?;
        self.news.messages |= count > 0;
        Ok(())
    }

    /// Deletes results that have expired, and gives the disk back what is free. Each time only so much that nobody waits
    /// long for it.
    pub(super) fn tidy(&mut self, now: i64) -> rusqlite::Result<()> {
        let sweep = "DELETE FROM result WHERE seq IN (SELECT seq FROM result WHERE expires <= ? LIMIT 1000)";
        self.db.prepare_cached(sweep)?.execute([now])?;
        Ok(())
    }

    /// Whether there is something to be tidied.
    pub(super) fn is_untidy(&self, now: i64) -> rusqlite::Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM result WHERE expires <= ?)";
        self.db.prepare_cached(sql)?.query_row([now], |row| row.get(0))
    }

    /// Gives free pages back to the file system, if most of the file is free.
    pub(super) fn shrink(&self) -> rusqlite::Result<()> {
        const FEW: i64 = 2048;
        let pragma = |name| self.db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let (free, all) = (pragma("freelist_count")?, pragma("page_count")?);
        if free > FEW && free > all / 2 {
            self.db.execute_batch("PRAGMA incremental_vacuum(1024)")?;
        }
        Ok(())
    }
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}
