use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::record::{HEAD, MAGIC};
use super::*;
use crate::scratch::Scratch;

const OPENING: &[u8] = b"about this run";

fn key(number: u8) -> Key {
    Key { content: [number; 16], occurrence: u32::from(number) }
}

type Records = Vec<(Key, Kind, u64)>;

fn resume(path: &Path) -> Result<(Journal, Recovered, Records), JournalError> {
    let mut found = Vec::new();
    let (journal, recovered) = Journal::resume(path, |key, kind, offset| found.push((key, kind, offset)))?;
    Ok((journal, recovered, found))
}

fn payload(number: u8) -> Vec<u8> {
    vec![number; usize::from(number) * 3]
}

/// A journal of `rows` rows, and where each of their records ends.
fn written(path: &Path, rows: u8) -> Vec<u64> {
    let mut journal = Journal::create(path, OPENING, false).unwrap();
    let ends = (0..rows).map(|number| {
        let offset = journal.append(Kind::Done, key(number), &payload(number)).unwrap();
        offset + (HEAD + payload(number).len()) as u64
    });
    let ends = ends.collect();
    journal.close().unwrap();
    ends
}

/// The same bytes as they were before the run was closed: without the last word on what is synced.
fn as_if_killed(path: &Path, ends: &[u64]) -> Vec<u8> {
    let mut bytes = fs::read(path).unwrap();
    bytes.truncate(usize::try_from(*ends.last().unwrap()).unwrap());
    bytes
}

#[test]
fn what_was_appended_is_found_again() {
    let scratch = Scratch::new();
    let path = scratch.path("journal");
    written(&path, 20);
    let (mut journal, recovered, found) = resume(&path).unwrap();
    assert_eq!((recovered.opening.as_slice(), recovered.torn_bytes), (OPENING, 0));
    assert_eq!(found.len(), 20);
    for (number, (found_key, kind, offset)) in (0..).zip(found) {
        assert_eq!((found_key, kind), (key(number), Kind::Done));
        assert_eq!(journal.read(offset).unwrap(), (key(number), Kind::Done, payload(number)));
    }
}

#[test]
fn the_last_opening_counts() {
    let scratch = Scratch::new();
    let path = scratch.path("journal");
    written(&path, 3);
    let (mut journal, ..) = resume(&path).unwrap();
    journal.open(b"another").unwrap();
    journal.close().unwrap();
    assert_eq!(resume(&path).unwrap().1.opening, b"another");
}

#[test]
fn a_tail_torn_at_any_byte_costs_only_the_torn_record() {
    let scratch = Scratch::new();
    let path = scratch.path("journal");
    let ends = written(&path, 8);
    let bytes = as_if_killed(&path, &ends);
    let first = MAGIC.len() + HEAD + OPENING.len();
    for length in first..bytes.len() {
        fs::write(&path, &bytes[..length]).unwrap();
        let (mut journal, recovered, found) = resume(&path).unwrap();
        let whole = ends.iter().filter(|end| **end <= length as u64).count();
        assert_eq!(found.iter().filter(|(_, kind, _)| *kind == Kind::Done).count(), whole, "cut at {length}");
        // What is appended after the repair is found, too: nothing torn stays in between.
        journal.append(Kind::Done, key(99), b"after").unwrap();
        journal.close().unwrap();
        let (mut journal, again, found) = resume(&path).unwrap();
        assert_eq!(again.torn_bytes, 0, "cut at {length}, torn before: {}", recovered.torn_bytes);
        assert_eq!(found.len(), whole + 1);
        assert_eq!(journal.read(found[whole].2).unwrap().2, b"after");
    }
}

#[test]
fn a_tail_of_zeros_is_torn() {
    let scratch = Scratch::new();
    let path = scratch.path("journal");
    let ends = written(&path, 4);
    let mut bytes = as_if_killed(&path, &ends);
    bytes.extend([0; 4096]);
    fs::write(&path, bytes).unwrap();
    let (_, recovered, found) = resume(&path).unwrap();
    assert_eq!((recovered.torn_bytes, found.len()), (4096, 4));
}

#[test]
fn nothing_has_begun_before_the_opening_is_whole() {
    let scratch = Scratch::new();
    let path = scratch.path("journal");
    written(&path, 0);
    let bytes = fs::read(&path).unwrap();
    for length in 0..MAGIC.len() + HEAD + OPENING.len() {
        fs::write(&path, &bytes[..length]).unwrap();
        assert!(matches!(resume(&path), Err(JournalError::Missing(_))), "cut at {length}");
        let journal = Journal::create(&path, OPENING, false).unwrap();
        journal.close().unwrap();
    }
}

#[test]
fn damage_in_what_was_synced_is_reported_with_its_place() {
    let scratch = Scratch::new();
    let path = scratch.path("journal");
    let ends = written(&path, 8);
    let sound = fs::read(&path).unwrap();
    let records: Vec<u64> =
        std::iter::once((MAGIC.len() + HEAD + OPENING.len()) as u64).chain(ends).collect();
    for (number, window) in records.windows(2).enumerate() {
        for place in [window[0], window[0] + 10, window[1] - 1] {
            let mut bytes = sound.clone();
            bytes[usize::try_from(place).unwrap()] ^= 0x40;
            fs::write(&path, &bytes).unwrap();
            let Err(JournalError::Damaged { offset, .. }) = resume(&path) else { panic!("row {number}") };
            assert_eq!(fs::read(&path).unwrap(), bytes, "a damaged journal is left as it is");
            assert!(
                (window[0]..=place).contains(&offset),
                "row {number}: {offset} for {place} in {window:?}"
            );
            // The way out that the hint names.
            let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.set_len(offset).unwrap();
            assert_eq!(resume(&path).unwrap().2.len(), number);
        }
    }
}

#[test]
fn a_journal_is_used_by_one_run_at_a_time() {
    let scratch = Scratch::new();
    let path = scratch.path("journal");
    let journal = Journal::create(&path, OPENING, false).unwrap();
    assert!(matches!(resume(&path), Err(JournalError::Busy(_))));
    assert!(matches!(Journal::create(&path, OPENING, true), Err(JournalError::Busy(_))));
    journal.close().unwrap();
    assert!(resume(&path).is_ok());
}

#[test]
fn an_earlier_journal_is_overwritten_only_on_request() {
    let scratch = Scratch::new();
    let path = scratch.path("journal");
    written(&path, 3);
    assert!(matches!(Journal::create(&path, OPENING, false), Err(JournalError::Exists(_))));
    Journal::create(&path, b"new", true).unwrap().close().unwrap();
    let (_, recovered, found) = resume(&path).unwrap();
    assert_eq!((recovered.opening.as_slice(), found.len()), (b"new".as_slice(), 0));
}

#[test]
fn other_files_are_neither_read_nor_overwritten() {
    let scratch = Scratch::new();
    let path = scratch.path("journal");
    for (bytes, version) in [(b"my diary, do not touch".as_slice(), false), (b"manyhands-jrnl9\n\0", true)] {
        fs::write(&path, bytes).unwrap();
        let refusal = resume(&path).unwrap_err();
        assert_eq!(matches!(refusal, JournalError::Version(_)), version);
        assert_eq!(matches!(refusal, JournalError::Foreign(_)), !version);
        assert!(Journal::create(&path, OPENING, false).is_err());
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
    fs::write(&path, b"my diary, do not touch").unwrap();
    assert!(matches!(Journal::create(&path, OPENING, true), Err(JournalError::Foreign(_))));
    assert!(matches!(resume(&scratch.path("none")), Err(JournalError::Missing(_))));
}

#[test]
fn a_forged_length_is_not_believed() {
    let scratch = Scratch::new();
    let path = scratch.path("journal");
    let ends = written(&path, 2);
    for length in [u32::MAX, 1 << 30, 100] {
        let mut bytes = as_if_killed(&path, &ends);
        bytes.extend(length.to_le_bytes());
        bytes.extend([2; HEAD]);
        fs::write(&path, bytes).unwrap();
        assert_eq!(resume(&path).unwrap().2.len(), 2);
    }
}

#[test]
fn a_payload_beyond_measure_is_refused_and_the_journal_goes_on() {
    let scratch = Scratch::new();
    let path = scratch.path("journal");
    let mut journal = Journal::create(&path, OPENING, false).unwrap();
    let huge = vec![0; MAX_PAYLOAD + 1];
    assert!(matches!(journal.append(Kind::Done, key(1), &huge), Err(JournalError::TooLarge(_))));
    journal.append(Kind::Done, key(2), b"small").unwrap();
    journal.close().unwrap();
    assert_eq!(resume(&path).unwrap().2.len(), 1);
}

#[test]
fn reading_a_place_without_a_record_is_an_error() {
    let scratch = Scratch::new();
    let path = scratch.path("journal");
    let mut journal = Journal::create(&path, OPENING, false).unwrap();
    let offset = journal.append(Kind::Done, key(1), b"result").unwrap();
    for wrong in [0, offset - 1, offset + 1, offset + 10_000, u64::MAX - 100] {
        assert!(matches!(journal.read(wrong), Err(JournalError::Damaged { .. })), "offset {wrong}");
    }
}

proptest! {
    #[test]
    fn no_bytes_whatever_break_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..400), keep in 0..300_usize) {
        let scratch = Scratch::new();
        let path = scratch.path("journal");
        let ends = written(&path, 5);
        let mut whole = as_if_killed(&path, &ends);
        whole.truncate(keep);
        whole.extend(&bytes);
        fs::write(&path, whole).unwrap();
        let _ = resume(&path);
    }
}

/// Runs a ledger over `rows`, finishing those that `stops_after` allows in the order `finish` says.
struct Run<'a> {
    path: &'a Path,
    rows: &'a [u8],
    stops_after: usize,
}

impl Run<'_> {
    /// The rows that were run, and the output.
    fn go(&self, shuffle: u64) -> (Vec<u8>, Vec<Vec<u8>>) {
        let mut ledger = match Ledger::resume(self.path, true, false) {
            Ok((ledger, _)) => ledger,
            Err(JournalError::Missing(_)) => {
                Ledger::new(Some(Journal::create(self.path, OPENING, false).unwrap()), true)
            }
            Err(error) => panic!("{error}"),
        };
        let mut open = Vec::new();
        for row in self.rows {
            if let Claim::Run(ticket) = ledger.claim([*row; 16], 7).unwrap() {
                open.push((*row, ticket));
            }
        }
        let (mut run, mut random) = (Vec::new(), shuffle);
        while !open.is_empty() && run.len() < self.stops_after {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (row, ticket) = open.swap_remove(usize::try_from(random >> 33).unwrap() % open.len());
            ledger.finish(ticket, false, vec![row; 3]).unwrap();
            run.push(row);
        }
        let mut output = Vec::new();
        while let Some(row) = ledger.next_row().unwrap() {
            output.push(row.payload);
        }
        (run, output)
    }
}

fn counts(rows: &[u8]) -> BTreeMap<u8, usize> {
    let mut counts = BTreeMap::new();
    for row in rows {
        *counts.entry(*row).or_default() += 1;
    }
    counts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn runs_that_stop_and_resume_run_each_row_once_and_end_in_order(
        rows in proptest::collection::vec(0..6_u8, 0..30),
        stops in proptest::collection::vec(0..8_usize, 0..5),
        shuffle in any::<u64>(),
    ) {
        let scratch = Scratch::new();
        let path = scratch.path("journal");
        let mut run = Vec::new();
        let mut output = Vec::new();
        for stops_after in stops.into_iter().chain([usize::MAX]) {
            let (now, lines) = Run { path: &path, rows: &rows, stops_after }.go(shuffle ^ run.len() as u64);
            run.extend(now);
            output = lines;
        }
        prop_assert_eq!(counts(&run), counts(&rows));
        prop_assert_eq!(output, rows.iter().map(|row| vec![*row; 3]).collect::<Vec<_>>());
    }

    #[test]
    fn an_edited_input_runs_only_what_is_new(
        before in proptest::collection::vec(0..9_u8, 0..30),
        after in proptest::collection::vec(0..9_u8, 0..30),
        shuffle in any::<u64>(),
    ) {
        let scratch = Scratch::new();
        let path = scratch.path("journal");
        Run { path: &path, rows: &before, stops_after: usize::MAX }.go(shuffle);
        let (run, output) = Run { path: &path, rows: &after, stops_after: usize::MAX }.go(shuffle);
        let (had, wants, ran) = (counts(&before), counts(&after), counts(&run));
        for (row, count) in wants {
            let new = count.saturating_sub(had.get(&row).copied().unwrap_or(0));
            prop_assert_eq!(ran.get(&row).copied().unwrap_or(0), new);
        }
        prop_assert_eq!(output, after.iter().map(|row| vec![*row; 3]).collect::<Vec<_>>());
    }
}

#[test]
fn failed_rows_are_kept_or_run_again_as_asked() {
    let scratch = Scratch::new();
    let path = scratch.path("journal");
    let mut ledger = Ledger::new(Some(Journal::create(&path, OPENING, false).unwrap()), true);
    let Claim::Run(ticket) = ledger.claim([1; 16], 7).unwrap() else { panic!("a new row is to be run") };
    ledger.finish(ticket, true, b"how it failed".to_vec()).unwrap();
    ledger.close().unwrap();

    let (mut ledger, _) = Ledger::resume(&path, true, false).unwrap();
    assert!(
        matches!(ledger.claim([1; 16], 7).unwrap(), Claim::Failed(payload) if payload == b"how it failed")
    );
    let row = ledger.next_row().unwrap().unwrap();
    assert_eq!((row.line, row.is_failed), (7, true));
    ledger.close().unwrap();

    let (mut ledger, _) = Ledger::resume(&path, true, true).unwrap();
    let Claim::Run(ticket) = ledger.claim([1; 16], 7).unwrap() else {
        panic!("a failed row is to be run again")
    };
    ledger.finish(ticket, false, b"fine".to_vec()).unwrap();
    ledger.close().unwrap();

    let (mut ledger, _) = Ledger::resume(&path, true, true).unwrap();
    assert!(matches!(ledger.claim([1; 16], 7).unwrap(), Claim::Done));
}

#[test]
fn a_revised_row_is_no_longer_done() {
    let scratch = Scratch::new();
    let path = scratch.path("journal");
    let mut ledger = Ledger::new(Some(Journal::create(&path, OPENING, false).unwrap()), false);
    for content in [[1; 16], [2; 16]] {
        let Claim::Run(ticket) = ledger.claim(content, 7).unwrap() else { panic!("a new row is to be run") };
        ledger.finish(ticket, false, b"fine".to_vec()).unwrap();
    }
    let first = ledger.next_row().unwrap().unwrap();
    let second = ledger.next_row().unwrap().unwrap();
    ledger.revise(first.key, None).unwrap();
    ledger.revise(second.key, Some(b"not so fine")).unwrap();
    ledger.close().unwrap();
    let (mut ledger, _) = Ledger::resume(&path, true, false).unwrap();
    assert!(matches!(ledger.claim([1; 16], 7).unwrap(), Claim::Run(_)));
    assert!(matches!(ledger.claim([2; 16], 7).unwrap(), Claim::Failed(_)));
}

#[test]
fn without_order_rows_leave_as_they_finish() {
    let mut ledger = Ledger::new(None, false);
    let Claim::Run(first) = ledger.claim([1; 16], 7).unwrap() else { panic!("a new row is to be run") };
    let Claim::Run(second) = ledger.claim([2; 16], 7).unwrap() else { panic!("a new row is to be run") };
    ledger.finish(second, false, b"second".to_vec()).unwrap();
    assert_eq!(ledger.next_row().unwrap().unwrap().payload, b"second");
    assert_eq!(ledger.next_row().unwrap(), None);
    ledger.finish(first, false, b"first".to_vec()).unwrap();
    assert_eq!(ledger.next_row().unwrap().unwrap().payload, b"first");
}

#[test]
fn results_behind_a_slow_row_are_read_back_from_the_journal() {
    let scratch = Scratch::new();
    let journal = Journal::create(&scratch.path("journal"), OPENING, false).unwrap();
    let mut ledger = Ledger::new(Some(journal), true);
    let mut tickets = Vec::new();
    for row in 0..30_u8 {
        let Claim::Run(ticket) = ledger.claim([row; 16], 7).unwrap() else {
            panic!("a new row is to be run")
        };
        tickets.push((row, ticket));
    }
    // Thirty megabytes wait behind the first row, more than is held in memory.
    for (row, ticket) in tickets.into_iter().rev() {
        assert_eq!(ledger.next_row().unwrap(), None);
        ledger.finish(ticket, false, vec![row; 1 << 20]).unwrap();
    }
    for row in 0..30_u8 {
        assert_eq!(ledger.next_row().unwrap().unwrap().payload, vec![row; 1 << 20]);
    }
}
