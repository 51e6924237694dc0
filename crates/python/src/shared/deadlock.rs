//! Deadlocks across processes: every process has a [board](manyhands_engine::shared::board) on which its threads note for
//! which lock they wait, if deadlocks are looked for.
//!
//! A board is a segment with a name that says whose it is, so others find it. Notes are written after the first nap: a short
//! wait costs nothing more. Whoever waits looks after each nap, which is some times a second.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use manyhands_engine::shared::Owner;
use manyhands_engine::shared::board::{self, Board, Note, Someone};
use manyhands_os::clock;
use manyhands_os::shared::wait;
use manyhands_os::shared::{Shared, Token};
use pyo3::prelude::*;

use super::{Kind, create, thread};
use crate::sync::{deadlock_note, deadlock_of_notes};

const BOARD: Kind = Kind(15, "Board");
/// So many boards of others are kept open.
const MOST: usize = 64;

/// Boards by whose they are, our own among them.
static BOARDS: Mutex<Option<HashMap<u64, Arc<Shared>>>> = Mutex::new(None);

/// Held by attached threads only, so that a fork finds it free.
fn boards() -> MutexGuard<'static, Option<HashMap<u64, Arc<Shared>>>> {
    BOARDS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn name(owner: Owner) -> String {
    format!("manyhands-deadlock-{}-{}", owner.pid(), owner.start())
}

/// The board of this process.
fn own() -> PyResult<Arc<Shared>> {
    let me = wait::me();
    let mut boards = boards();
    let boards = boards.get_or_insert_default();
    if let Some(board) = boards.get(&me.word()) {
        return Ok(Arc::clone(board));
    }
    let board = Arc::new(create(BOARD, board::WORDS, Some(&name(me)), |_| ())?);
    boards.insert(me.word(), Arc::clone(&board));
    Ok(board)
}

/// The board of that process, if it has one.
fn board_of(process: u64) -> Option<Arc<Shared>> {
    let owner = Owner::of_word(process)?;
    let mut boards = boards();
    let boards = boards.get_or_insert_default();
    if let Some(board) = boards.get(&process) {
        return Some(Arc::clone(board));
    }
    let found = Shared::open_name(&name(owner)).ok().filter(|shared| shared.kind() == BOARD.0)?;
    if boards.len() >= MOST {
        boards.retain(|process, _| *process == wait::me().word());
    }
    let found = Arc::new(found);
    boards.insert(process, Arc::clone(&found));
    Some(found)
}

fn find(who: Someone) -> Option<Note> {
    // What a dead process has left on its board waits for nothing.
    let _ = Owner::of_word(who.process).filter(|owner| wait::is_alive(*owner))?;
    let shared = board_of(who.process)?;
    Board::new(shared.words())?.find(who)
}

/// A lock that is waited for.
pub(super) struct Awaited<'l> {
    pub(super) shared: &'l Shared,
    pub(super) first: usize,
    /// Who has it at this moment.
    pub(super) holder: &'l dyn Fn() -> Someone,
}

impl Awaited<'_> {
    fn describe(&self) -> String {
        let Token([high, _]) = self.shared.handle().token;
        match self.shared.name() {
            Some(name) => format!("the shared lock {name:?}"),
            None => format!("the shared lock {:08x}", high >> 32),
        }
    }
}

/// A thread that waits, and its note.
pub(super) struct Watch {
    board: Arc<Shared>,
    place: usize,
    note: Note,
}

impl Watch {
    /// `None` if there is no room on the board.
    fn begin(py: Python<'_>, lock: &Awaited<'_>) -> PyResult<Option<Self>> {
        let Token([high, low]) = lock.shared.handle().token;
        let text = deadlock_note(py, &lock.describe())?;
        let note = Note {
            who: Someone { process: wait::me().word(), thread: thread(py) },
            since: clock::now().as_nanos(),
            lock: [high, low, lock.first as u64],
            holder: Someone { process: 0, thread: 0 },
            seen: 0,
            text,
        };
        let board = own()?;
        let place = Board::new(board.words()).and_then(|board| board.write(&note));
        Ok(place.map(|place| Self { board, place, note }))
    }

    /// Looks around.
    fn look(&mut self, lock: &Awaited<'_>) -> Option<Vec<Note>> {
        // First the time: who is seen after it had it after it.
        self.note.seen = clock::now().as_nanos();
        self.note.holder = (lock.holder)();
        Board::new(self.board.words())?.see(self.place, self.note.holder, self.note.seen);
        board::cycle(&self.note, find)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // In the child of a fork, the note is the parent's.
        if self.note.who.process == wait::me().word()
            && let Some(board) = Board::new(self.board.words())
        {
            board.wipe(self.place);
        }
    }
}

/// The calling thread has waited for `lock` for a while.
///
/// # Errors
/// `DeadlockError` if it would wait for ever, and came last of those who do.
#[cold]
pub(super) fn look(py: Python<'_>, lock: &Awaited<'_>, watch: &mut Option<Watch>) -> PyResult<()> {
    if watch.is_none() {
        *watch = Watch::begin(py, lock)?;
    }
    let cycle = watch.as_mut().and_then(|watch| watch.look(lock));
    match cycle {
        None => Ok(()),
        Some(cycle) => Err(deadlock_of_notes(py, cycle.into_iter().map(|note| note.text).collect())),
    }
}
