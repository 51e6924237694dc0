//! Which rows are done, which are to be run, and what comes out in which order.

use std::collections::{HashMap, HashSet};

use super::file::{Journal, JournalError, Recovered};
use super::order::{Order, Slot};
use super::record::{Content, Key, Kind};

/// A row that is to be run. Given back to [`Ledger::finish`], or kept: then the row was never finished.
#[must_use]
#[derive(Debug)]
pub struct Ticket {
    /// Its place among the rows, or `None` if it is placed when it is finished.
    position: Option<u64>,
    key: Key,
    line: u64,
}

impl Ticket {
    /// The line of the input on which the row begins.
    #[must_use]
    pub fn line(&self) -> u64 {
        self.line
    }

    /// What names the row, wherever it stands.
    #[must_use]
    pub fn key(&self) -> Key {
        self.key
    }
}

/// What to do about a row of the input.
#[derive(Debug)]
pub enum Claim {
    /// Run it.
    Run(Ticket),
    /// An earlier run has finished it; its result will come out in its place.
    Done,
    /// In an earlier run it failed, as this payload says; that will come out in its place.
    Failed(Vec<u8>),
}

/// The outcome of a row, in its turn.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    /// Names the row to [`Ledger::revise`].
    pub key: Key,
    /// The line of the input on which it begins.
    pub line: u64,
    /// It failed for good.
    pub is_failed: bool,
    /// As given to [`Ledger::finish`], in this run or an earlier one.
    pub payload: Vec<u8>,
}

/// The books of a run over rows; see the module above.
///
/// Rows are claimed in input order and finished in any order; [`next_row`](Self::next_row) gives their outcomes
/// in input order, or as they finish if that was asked for. Without a journal nothing is kept and nothing
/// resumed; the order is the same.
#[derive(Debug)]
pub struct Ledger {
    journal: Option<Journal>,
    past: HashMap<Key, Past>,
    seen: Occurrences,
    order: Order<Row>,
    is_ordered: bool,
    is_keyed: bool,
    retries_failed: bool,
}

/// What earlier runs left of a row: the offset of the last record about it, whether it failed, and whether this
/// run has come upon it. A million rows make this table worth packing.
#[derive(Clone, Copy, Debug)]
struct Past(u64);

impl Past {
    const FAILED: u64 = 1;
    const CLAIMED: u64 = 2;

    fn new(offset: u64, is_failed: bool) -> Self {
        Self(offset << 2 | if is_failed { Self::FAILED } else { 0 })
    }

    fn offset(self) -> u64 {
        self.0 >> 2
    }

    fn is_failed(self) -> bool {
        self.0 & Self::FAILED != 0
    }

    /// Whether this is the first time.
    fn claim(&mut self) -> bool {
        let is_first = self.0 & Self::CLAIMED == 0;
        self.0 |= Self::CLAIMED;
        is_first
    }
}

/// Counts rows with the same content that no earlier run knew. Most are alone, and cost sixteen bytes.
#[derive(Debug, Default)]
struct Occurrences {
    once: HashSet<Content>,
    more: HashMap<Content, u32>,
}

impl Occurrences {
    fn next(&mut self, content: Content) -> u32 {
        if self.once.insert(content) { 0 } else { self.again(content) }
    }

    /// The next of rows of which the first is known elsewhere.
    fn again(&mut self, content: Content) -> u32 {
        let count = self.more.entry(content).or_insert(0);
        *count += 1;
        *count
    }
}

impl Ledger {
    /// Books for a run with nothing behind it.
    #[must_use]
    pub fn new(journal: Option<Journal>, is_ordered: bool) -> Self {
        Self {
            is_keyed: journal.is_some(),
            journal,
            past: HashMap::new(),
            seen: Occurrences::default(),
            order: Order::default(),
            is_ordered,
            retries_failed: true,
        }
    }

    /// Books that go on where an earlier run's stopped; rows that failed in it are run again if
    /// `retries_failed`.
    ///
    /// # Errors
    /// As [`Journal::resume`].
    pub fn resume(
        path: &std::path::Path,
        is_ordered: bool,
        retries_failed: bool,
    ) -> Result<(Self, Recovered), JournalError> {
        let mut past = HashMap::new();
        let (journal, recovered) = Journal::resume(path, |key, kind, offset| match kind {
            Kind::Done | Kind::Failed => drop(past.insert(key, Past::new(offset, kind == Kind::Failed))),
            _ => drop(past.remove(&key)),
        })?;
        let ledger = Self { past, retries_failed, ..Self::new(Some(journal), is_ordered) };
        Ok((ledger, recovered))
    }

    /// Has rows told apart although there is no journal, for the sake of [`Ticket::key`].
    #[must_use]
    pub fn keyed(self) -> Self {
        Self { is_keyed: true, ..self }
    }

    /// How many rows the journal knew when it was opened.
    #[must_use]
    pub fn past_rows(&self) -> usize {
        self.past.len()
    }

    /// The journal, if there is one.
    pub fn journal(&mut self) -> Option<&mut Journal> {
        self.journal.as_mut()
    }

    /// Takes the next row of the input, which begins on `line` and contains `content`; if rows are not told apart
    /// it does not matter what.
    ///
    /// # Errors
    /// [`JournalError::Damaged`], [`JournalError::Io`]: a failure could not be read back.
    pub fn claim(&mut self, content: Content, line: u64) -> Result<Claim, JournalError> {
        let key = Key { content, occurrence: if self.is_keyed { self.occurrence(content) } else { 0 } };
        match self.past.get(&key).copied() {
            Some(past) if !past.is_failed() => {
                self.place(past, line);
                Ok(Claim::Done)
            }
            Some(past) if !self.retries_failed => {
                let row = self.read(past.offset(), line)?;
                self.place(past, line);
                Ok(Claim::Failed(row.payload))
            }
            _ => Ok(Claim::Run(self.ticket(key, line))),
        }
    }

    /// How many rows with `content` came before this one.
    fn occurrence(&mut self, content: Content) -> u32 {
        let known = self.past.get_mut(&Key { content, occurrence: 0 });
        match known.map(Past::claim) {
            Some(true) => 0,
            Some(false) => self.seen.again(content),
            None => self.seen.next(content),
        }
    }

    fn ticket(&mut self, key: Key, line: u64) -> Ticket {
        Ticket { position: self.is_ordered.then(|| self.order.claim(line)), key, line }
    }

    fn place(&mut self, past: Past, line: u64) {
        let position = self.order.claim(line);
        self.order.store(position, past.offset());
    }

    /// Closes the books on a row: journals its outcome and lines it up for [`next_row`](Self::next_row).
    ///
    /// # Errors
    /// As [`Journal::append`].
    pub fn finish(&mut self, ticket: Ticket, is_failed: bool, payload: Vec<u8>) -> Result<(), JournalError> {
        let Ticket { position, key, line } = ticket;
        let kind = if is_failed { Kind::Failed } else { Kind::Done };
        let offset = match &mut self.journal {
            Some(journal) => Some(journal.append(kind, key, &payload)?),
            None => None,
        };
        let position = position.unwrap_or_else(|| self.order.claim(line));
        let bytes = payload.len();
        match offset {
            Some(offset) if !self.order.may_hold(position, bytes) => self.order.store(position, offset),
            _ => self.order.hold(position, Row { key, line, is_failed, payload }, bytes),
        }
        Ok(())
    }

    /// Replaces what was said about a row that has left already: it failed after all, or, without a payload,
    /// is not done after all.
    ///
    /// # Errors
    /// As [`Journal::append`].
    pub fn revise(&mut self, key: Key, failure: Option<&[u8]>) -> Result<(), JournalError> {
        let Some(journal) = &mut self.journal else { return Ok(()) };
        match failure {
            Some(payload) => journal.append(Kind::Failed, key, payload)?,
            None => journal.append(Kind::Dropped, key, &[])?,
        };
        Ok(())
    }

    /// The next outcome whose turn has come.
    ///
    /// # Errors
    /// As [`Journal::read`].
    pub fn next_row(&mut self) -> Result<Option<Row>, JournalError> {
        match self.order.pop(|row| row.payload.len()) {
            None | Some((_, Slot::Open)) => Ok(None),
            Some((_, Slot::Held(row))) => Ok(Some(*row)),
            Some((line, Slot::Stored(offset))) => self.read(offset, line).map(Some),
        }
    }

    fn read(&mut self, offset: u64, line: u64) -> Result<Row, JournalError> {
        let journal = self.journal.as_mut().expect("only a journal stores rows");
        let (key, kind, payload) = journal.read(offset)?;
        Ok(Row { key, line, is_failed: kind == Kind::Failed, payload })
    }

    /// Closes the journal.
    ///
    /// # Errors
    /// As [`Journal::close`].
    pub fn close(self) -> Result<(), JournalError> {
        self.journal.map_or(Ok(()), Journal::close)
    }
}
