//! Numbers that change whole: a word each, read and written at once, whoever dies or runs meanwhile.

use crate::prim::atomic::{AtomicU64, Ordering};

/// A sum does not fit into 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sum does not fit into 64 bits")]
pub struct Overflow;

/// A whole number of 64 bits as a word.
#[must_use]
pub const fn of_int(number: i64) -> u64 {
    number.cast_unsigned()
}

/// The whole number that a word stands for.
#[must_use]
pub const fn int(word: u64) -> i64 {
    word.cast_signed()
}

/// Adds; the sum. It begins with a guess of what the word is, say what one has made of it last: right, it is one step, and
/// wrong, it says what is there without fetching the cache line first to read and once more to write, as a load would.
///
/// # Errors
/// If it does not fit: then nothing was added.
#[inline]
pub fn add_int(word: &AtomicU64, number: i64, guess: u64) -> Result<i64, Overflow> {
    let mut seen = guess;
    loop {
        let Some(sum) = int(seen).checked_add(number) else {
            // Of a wrong guess it means nothing.
            let now = word.load(Ordering::Relaxed);
            if now == seen {
                return Err(Overflow);
            }
            seen = now;
            continue;
        };
        match word.compare_exchange_weak(seen, of_int(sum), Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => return Ok(sum),
            Err(now) => seen = now,
        }
    }
}

/// Adds; the sum. The guess is as for [`add_int`].
#[inline]
pub fn add_float(word: &AtomicU64, number: f64, guess: u64) -> f64 {
    let mut seen = guess;
    loop {
        let sum = f64::from_bits(seen) + number;
        match word.compare_exchange_weak(seen, sum.to_bits(), Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => return sum,
            Err(now) => seen = now,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_not_added() {
        let word = AtomicU64::new(of_int(i64::MAX - 1));
        assert_eq!(add_int(&word, 1, 0), Ok(i64::MAX));
        for guess in [0, of_int(i64::MAX), of_int(-1)] {
            assert_eq!(add_int(&word, 1, guess), Err(Overflow));
        }
        assert_eq!(add_int(&word, i64::MIN, 0), Ok(-1));
        assert_eq!(int(word.load(Ordering::Relaxed)), -1);
    }

    #[test]
    fn a_guess_changes_nothing_but_the_time_it_takes() {
        for guess in [0, 5, of_int(i64::MAX), of_int(i64::MIN)] {
            let word = AtomicU64::new(5);
            assert_eq!((add_int(&word, 2, guess), add_int(&word, -9, guess)), (Ok(7), Ok(-2)));
        }
    }

    #[test]
    fn fractions_add_up() {
        let word = AtomicU64::new(1.5_f64.to_bits());
        assert!((add_float(&word, 0.25, 0) - 1.75).abs() < f64::EPSILON);
        assert!((add_float(&word, -2.0, 0) + 0.25).abs() < f64::EPSILON);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::thread;

    use super::*;
    use crate::prim::Arc;

    #[test]
    fn loom_no_addition_is_lost() {
        loom::model(|| {
            let word = Arc::new(AtomicU64::new(0));
            let other = {
                let word = Arc::clone(&word);
                thread::spawn(move || add_int(&word, 1, 0))
            };
            add_int(&word, 2, 1).unwrap();
            other.join().unwrap().unwrap();
            assert_eq!(int(word.load(Ordering::Relaxed)), 3);
        });
    }
}
