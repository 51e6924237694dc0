//! How a message lies in the data area.
//!
//! A message is a word that holds its length (low half) and its number (high half), and then its bytes, the last
//! word filled up. It begins where the message before it ended and goes on at the beginning when it meets the
//! end of the area: each is cut in two at most, every word can be used, and no marker for skipped room is
//! needed, which a withdrawal would have to take account of.

use super::{MAX_WORDS, Slot, WORD};

/// A place in the data area that goes round.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    at: usize,
    words: usize,
}

impl Cursor {
    pub(super) fn new(words: usize) -> Self {
        debug_assert!((2..=MAX_WORDS).contains(&words), "a data area of {words} words");
        Self { at: 0, words }
    }

    /// The word here.
    pub(super) fn slot<S>(self, data: &[S]) -> &S {
        &data[self.at]
    }

    /// Moves on by `count` words, at most once round.
    pub(super) const fn advance(&mut self, count: usize) {
        self.at += count;
        if self.at >= self.words {
            self.at -= self.words;
        }
    }

    /// Moves back by `count` words, at most once round.
    pub(super) const fn retreat(&mut self, count: usize) {
        if self.at < count {
            self.at += self.words;
        }
        self.at -= count;
    }
}

/// Words that a message of `length` bytes takes.
pub(super) const fn words(length: usize) -> usize {
    1 + length.div_ceil(WORD)
}

pub(super) const fn header(number: u32, length: u32) -> u64 {
    (number as u64) << 32 | length as u64
}

/// The number and the length in a header.
#[expect(clippy::cast_possible_truncation, reason = "the halves are what is asked for")]
pub(super) const fn parse(header: u64) -> (u32, u32) {
    ((header >> 32) as u32, header as u32)
}

/// Copies `length` bytes from `cursor` on, in place of what `into` held. `length` fits the data area.
pub(super) fn read<S: Slot>(data: &[S], cursor: Cursor, length: usize, into: &mut Vec<u8>) {
    let words = length.div_ceil(WORD);
    into.resize(words * WORD, 0);
    let (before, after) = data.split_at(cursor.at);
    let straight = words.min(after.len());
    let (first, second) = into.split_at_mut(straight * WORD);
    copy_out(after, first);
    copy_out(before, second);
    into.truncate(length);
}

fn copy_out<S: Slot>(slots: &[S], into: &mut [u8]) {
    for (slot, bytes) in slots.iter().zip(into.chunks_exact_mut(WORD)) {
        bytes.copy_from_slice(&slot.load().to_le_bytes());
    }
}

/// Writes bytes of any number of parts, a whole word at a time.
pub(super) struct Writer<'a, S> {
    data: &'a [S],
    cursor: Cursor,
    /// The bytes that do not fill a word yet, in its low end.
    partial: u64,
    /// How many bits of them there are, less than a word.
    bits: u32,
}

impl<'a, S: Slot> Writer<'a, S> {
    pub(super) const fn new(data: &'a [S], cursor: Cursor) -> Self {
        Self { data, cursor, partial: 0, bits: 0 }
    }

    pub(super) fn put(&mut self, part: &[u8]) {
        let mut rest = part;
        while rest.len() >= WORD {
            let data = self.data;
            let slots = &data[self.cursor.at..];
            let count = slots.len().min(rest.len() / WORD);
            let (whole, later) = rest.split_at(count * WORD);
            if self.bits == 0 {
                copy_in(slots, whole);
            } else {
                for (slot, bytes) in slots.iter().zip(whole.chunks_exact(WORD)) {
                    slot.store(self.shift_in(load(bytes)));
                }
            }
            self.cursor.advance(count);
            rest = later;
        }
        self.put_few(rest);
    }

    /// Takes the last bytes of a part, fewer than a word.
    fn put_few(&mut self, few: &[u8]) {
        if few.is_empty() {
            return;
        }
        let word = load(few);
        let bits = self.bits + bit_count(few);
        if bits < u64::BITS {
            self.partial |= word << self.bits;
            self.bits = bits;
            return;
        }
        let full = self.shift_in(word);
        self.store(full);
        self.bits = bits - u64::BITS;
    }

    /// The word that the partial one becomes with the first bytes of `word`; the others are the new partial.
    const fn shift_in(&mut self, word: u64) -> u64 {
        let full = self.partial | word << self.bits;
        // In two steps, because a shift by a whole word is none at all.
        self.partial = word >> 1 >> (u64::BITS - 1 - self.bits);
        full
    }

    fn store(&mut self, word: u64) {
        self.data[self.cursor.at].store(word);
        self.cursor.advance(1);
    }

    /// Writes what is left; gives back where the message ends.
    pub(super) fn finish(mut self) -> Cursor {
        if self.bits > 0 {
            self.store(self.partial);
        }
        self.cursor
    }

    /// Writes a whole word, before any part.
    pub(super) fn put_word(&mut self, word: u64) {
        self.store(word);
    }
}

fn copy_in<S: Slot>(slots: &[S], bytes: &[u8]) {
    for (slot, bytes) in slots.iter().zip(bytes.chunks_exact(WORD)) {
        slot.store(load(bytes));
    }
}

/// Up to a word's worth of bytes, in the word's low end.
#[inline]
fn load(bytes: &[u8]) -> u64 {
    let mut word = [0; WORD];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

/// The bits of fewer bytes than a word has.
#[expect(clippy::cast_possible_truncation, reason = "less than 64")]
const fn bit_count(few: &[u8]) -> u32 {
    few.len() as u32 * u8::BITS
}
