//! Who of a process waits for which lock of processes, for others to read: so a deadlock across processes is found.
//!
//! A process that looks for deadlocks has a board. A thread that waits for a lock without a limit has a note on it: for
//! which lock, since when, and who had that at its last look. Whoever waits follows the notes, from the holder of his lock
//! to whom that one waits for, until they lead back to himself or to somebody without a note.
//!
//! ```text
//! a note, of 288 words: 0 odd while it changes │ 1 the thread, 0: free │ 2 since when │ 3…5 the lock │ 6 the process that
//! has it │ 7 the thread that does │ 8 when that was seen │ 9 bytes of text │ 10… the text
//! ```
//!
//! **Guarantees.** [`cycle`] tells of no deadlock that is none. Whoever waits neither takes a lock nor lets go of one. So if a
//! note says that somebody was seen to have a lock when he waited already, and he still waits for the same, he still has it;
//! and that is required of every link. It tells one of those who wait for each other, the last to come.
//!
//! A note may be torn, or be nonsense, if its process was killed or means harm: then it is no note, or leads nowhere.
//!
//! **Not here.** A lock that another thread of its holder's process releases, which is allowed, is taken to be its holder's
//! to release.

use super::Owner;
use crate::prim::atomic::{AtomicU64, Ordering, fence};

/// How many may have a note at a time.
pub const NOTES: usize = 64;
const NOTE: usize = 288;
const TEXT: usize = 10;
const LONGEST: usize = (NOTE - TEXT) * 8;
/// How many words a board has.
pub const WORDS: usize = NOTES * NOTE;
/// How often one reads a note that changes meanwhile.
const READINGS: usize = if cfg!(loom) { 2 } else { 100 };
/// How many may wait for each other.
const LONGEST_CYCLE: usize = 64;

/// A thread of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Someone {
    /// The word of the process's [`Owner`].
    pub process: u64,
    /// The thread, by a number that no other thread of any process has.
    pub thread: u64,
}

/// Which lock: the segment's token, and the word in it.
pub type Lock = [u64; 3];

/// What a note says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Who waits.
    pub who: Someone,
    /// Since when, on the clock of all processes.
    pub since: u64,
    /// For what.
    pub lock: Lock,
    /// Who had it.
    pub holder: Someone,
    /// When he was seen to have it, or before.
    pub seen: u64,
    /// What there is to say of the one who waits.
    pub text: String,
}

impl Note {
    fn is_same_wait(&self, other: &Self) -> bool {
        (self.who, self.since, self.lock) == (other.who, other.since, other.lock)
    }
}

/// The board of a process, in the words of a segment.
#[derive(Clone, Copy)]
pub struct Board<'w> {
    words: &'w [AtomicU64],
}

impl<'w> Board<'w> {
    /// The board in these words; `None` if they are too few.
    #[must_use]
    pub fn new(words: &'w [AtomicU64]) -> Option<Self> {
        (words.len() >= WORDS).then_some(Self { words })
    }

    fn note(&self, place: usize) -> &'w [AtomicU64] {
        &self.words[place * NOTE..(place + 1) * NOTE]
    }

    /// Writes what a thread of this process waits for; `None` if there is no room. Another thread may do so too.
    #[must_use]
    pub fn write(&self, note: &Note) -> Option<usize> {
        let is_taken = |place: &usize| {
            let thread = &self.note(*place)[1];
            thread.compare_exchange(0, note.who.thread, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        };
        let place = (0..NOTES).find(is_taken)?;
        change(self.note(place), |words| {
            words[2].store(note.since, Ordering::Relaxed);
            for (word, part) in words[3..6].iter().zip(note.lock) {
                word.store(part, Ordering::Relaxed);
            }
            see(words, note.holder, note.seen);
            // The innermost lines stand last.
            let text = note.text.as_bytes();
            let text = &text[text.len().saturating_sub(LONGEST)..];
            words[9].store(text.len() as u64, Ordering::Relaxed);
            for (word, bytes) in words[TEXT..].iter().zip(text.chunks(8)) {
                let mut eight = [0; 8];
                eight[..bytes.len()].copy_from_slice(bytes);
                word.store(u64::from_le_bytes(eight), Ordering::Relaxed);
            }
        });
        Some(place)
    }

    /// Takes note of who has the lock, that is, who had it after `seen`.
    pub fn see(&self, place: usize, holder: Someone, seen: u64) {
        change(self.note(place), |words| see(words, holder, seen));
    }

    /// Takes the note away.
    pub fn wipe(&self, place: usize) {
        // Whoever takes the place next shows his thread before the rest, and must not seem to wait as this one did.
        let nobody = Someone { process: 0, thread: 0 };
        change(self.note(place), |words| {
            see(words, nobody, 0);
            words[1].store(0, Ordering::Relaxed);
        });
    }

    /// The note of a thread of `process`, whose board this is.
    #[must_use]
    pub fn find(&self, who: Someone) -> Option<Note> {
        let place = (0..NOTES).find(|place| self.note(*place)[1].load(Ordering::Relaxed) == who.thread)?;
        self.read(place, who.process).filter(|note| note.who == who)
    }

    fn read(&self, place: usize, process: u64) -> Option<Note> {
        steady(self.note(place), |words| {
            let word = |index: usize| words[index].load(Ordering::Relaxed);
            let length = usize::try_from(word(9)).unwrap_or(LONGEST).min(LONGEST);
            let bytes = words[TEXT..].iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes());
            Note {
                who: Someone { process, thread: word(1) },
                since: word(2),
                lock: [word(3), word(4), word(5)],
                holder: Someone { process: word(6), thread: word(7) },
                seen: word(8),
                text: String::from_utf8_lossy(&bytes.take(length).collect::<Vec<u8>>()).into_owned(),
            }
        })
    }
}

/// Changes words of which the first tells that they change.
fn change(words: &[AtomicU64], change: impl FnOnce(&[AtomicU64])) {
    let before = words[0].load(Ordering::Relaxed);
    words[0].store(before | 1, Ordering::Relaxed);
    // Pairs with the Acquire fence in `steady`: whoever reads what is written now sees the odd number.
    fence(Ordering::Release);
    change(words);
    // Release pairs with the first Acquire in `steady`.
    words[0].store((before | 1).wrapping_add(1), Ordering::Release);
}

/// Reads them while they do not change; `None` if they do all the time.
fn steady<T>(words: &[AtomicU64], read: impl Fn(&[AtomicU64]) -> T) -> Option<T> {
    (0..READINGS).find_map(|_| {
        let before = words[0].load(Ordering::Acquire);
        let found = read(words);
        fence(Ordering::Acquire);
        (before.is_multiple_of(2) && words[0].load(Ordering::Relaxed) == before).then_some(found)
    })
}

fn see(words: &[AtomicU64], holder: Someone, seen: u64) {
    words[6].store(Owner::of_word(holder.process).map_or(0, Owner::word), Ordering::Relaxed);
    words[7].store(holder.thread, Ordering::Relaxed);
    words[8].store(seen, Ordering::Relaxed);
}

/// Those who wait for each other with whoever wrote `mine`, if he is the last of them to come; his own note is the first.
/// `find` looks for the note of somebody.
pub fn cycle(mine: &Note, mut find: impl FnMut(Someone) -> Option<Note>) -> Option<Vec<Note>> {
    let mut cycle = vec![mine.clone()];
    while let Some(last) = cycle.last().filter(|last| last.holder != mine.who) {
        if cycle.len() == LONGEST_CYCLE || last.holder.thread == 0 {
            return None;
        }
        // Who was seen to have it before he waited may have let go of it before, too.
        let next = find(last.holder).filter(|note| note.since <= last.seen)?;
        cycle.push(next);
    }
    // For the last link it is enough that whoever asks waits since before.
    let closes = cycle.last().is_some_and(|last| mine.since <= last.seen);
    let is_last = cycle[1..].iter().all(|note| (note.since, note.who) < (mine.since, mine.who));
    let still_wait = |note: &Note| find(note.who).is_some_and(|now| now.is_same_wait(note));
    (closes && is_last && cycle[1..].iter().all(still_wait)).then_some(cycle)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn board() -> Vec<AtomicU64> {
        (0..WORDS).map(|_| AtomicU64::new(0)).collect()
    }

    fn someone(number: u64) -> Someone {
        Someone { process: Owner::new(u32::try_from(number).unwrap(), 7).word(), thread: 100 + number }
    }

    /// `who` waits since then for what `holder` has, which he has seen then.
    fn note(who: u64, since: u64, holder: u64, seen: u64) -> Note {
        let text = format!("thread {who}");
        Note { who: someone(who), since, lock: [holder, 0, 0], holder: someone(holder), seen, text }
    }

    fn told(mine: &Note, others: &[Note]) -> Option<Vec<u64>> {
        let cycle = cycle(mine, |who| others.iter().find(|note| note.who == who).cloned())?;
        Some(cycle.iter().map(|note| note.who.thread - 100).collect())
    }

    #[test]
    fn what_is_written_is_read_until_it_is_wiped() {
        let words = board();
        let board = Board::new(&words).unwrap();
        let mut written = note(1, 5, 2, 6);
        written.text = "é".repeat(20);
        let place = board.write(&written).unwrap();
        assert_eq!(board.find(written.who), Some(written.clone()));
        board.see(place, someone(3), 9);
        let seen = board.find(written.who).unwrap();
        assert_eq!((seen.holder, seen.seen), (someone(3), 9));
        board.wipe(place);
        assert_eq!(board.find(written.who), None);
        assert!(Board::new(&words[1..]).is_none());
    }

    #[test]
    fn a_long_text_loses_its_beginning_and_a_full_board_takes_no_more() {
        let words = board();
        let board = Board::new(&words).unwrap();
        let long = Note { text: format!("{}end", "x".repeat(10_000)), ..note(1, 5, 2, 6) };
        board.write(&long).unwrap();
        let text = board.find(long.who).unwrap().text;
        assert!(text.len() == LONGEST && text.ends_with("xend"));
        for number in 2..=NOTES as u64 {
            assert!(board.write(&note(number, 5, 1, 6)).is_some());
        }
        assert_eq!(board.write(&note(99, 5, 1, 6)), None);
    }

    #[test]
    fn nonsense_is_no_note() {
        let words = board();
        let board = Board::new(&words).unwrap();
        let written = note(1, 5, 2, 6);
        board.write(&written).unwrap();
        words[9].store(u64::MAX, Ordering::Relaxed);
        assert_eq!(board.find(written.who).unwrap().text.len(), LONGEST);
        words[0].store(7, Ordering::Relaxed);
        assert_eq!(board.find(written.who), None, "its writer has died meanwhile");
    }

    #[test]
    fn the_last_to_come_is_told_and_nobody_else() {
        let (one, other) = (note(1, 10, 2, 30), note(2, 20, 1, 25));
        assert_eq!(told(&other, &[one.clone(), other.clone()]), Some(vec![2, 1]));
        assert_eq!(told(&one, &[one.clone(), other]), None);
        let three = [note(1, 10, 2, 50), note(2, 20, 3, 50), note(3, 30, 1, 50)];
        assert_eq!(told(&three[2], &three), Some(vec![3, 1, 2]));
        assert_eq!(told(&three[2], &three[1..]), None, "one of them does not wait");
    }

    #[test]
    fn what_was_seen_before_the_holder_waited_proves_nothing() {
        let (one, mine) = (note(1, 20, 2, 22), note(2, 10, 1, 15));
        assert_eq!(told(&mine, std::slice::from_ref(&one)), None);
        let late = note(2, 30, 1, 35);
        assert_eq!(told(&late, &[one]), None, "he saw it before we waited");
        assert_eq!(told(&late, &[note(1, 20, 2, 31)]), Some(vec![2, 1]));
    }

    #[test]
    fn a_wait_that_ends_meanwhile_is_in_no_cycle() {
        let (first, again) = (note(1, 10, 2, 50), note(1, 40, 2, 50));
        let mut notes = vec![again, first];
        let mine = note(2, 45, 1, 50);
        assert_eq!(cycle(&mine, |_| notes.pop()), None);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::thread;

    use super::*;
    use crate::prim::Arc;

    /// Whoever reads a note while it changes reads the one or the other, or none.
    #[test]
    fn loom_a_note_is_read_whole() {
        loom::model(|| {
            let words: Arc<Vec<AtomicU64>> = Arc::new((0..3).map(|_| AtomicU64::new(0)).collect());
            let writer = {
                let words = Arc::clone(&words);
                thread::spawn(move || {
                    change(&words, |words| {
                        words[1].store(5, Ordering::Relaxed);
                        words[2].store(5, Ordering::Relaxed);
                    });
                })
            };
            let read =
                steady(&words, |words| (words[1].load(Ordering::Relaxed), words[2].load(Ordering::Relaxed)));
            assert!(read.is_none_or(|(one, other)| one == other));
            writer.join().unwrap();
        });
    }
}
