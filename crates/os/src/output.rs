//! A run's output file: at every moment a readable prefix of what an uninterrupted run writes.
//!
//! A resumed run produces the whole output again, most of it from its journal. As long as that equals what the
//! file holds, nothing is written; from the first line that differs the file is cut and written anew. So a line
//! torn by a crash is mended, an edited input gives the output it should, and somebody who follows the file
//! does not see it shrink without need.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use crate::spool::{Habit, Next, Spool, directory_of};

/// Soon enough for someone who watches the file; the disk is the journal's business until the end.
const HABIT: Habit = Habit { write_within: Duration::from_millis(20), sync_within: None };

/// Where a run's lines go.
#[derive(Debug)]
pub struct Output {
    state: State,
    /// What keeps the file's name, if that may be new. The disk need not have it before the end: a resumed run makes
    /// the file again from the journal.
    directory: Option<File>,
}

#[derive(Debug)]
enum State {
    Comparing { earlier: BufReader<File>, equal: u64 },
    Writing(Spool),
}

impl Output {
    /// Begins an empty file at `path`, whatever was there.
    ///
    /// # Errors
    /// The file system's.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = File::create(path)?;
        let directory = if file.metadata()?.is_file() { Some(directory_of(path)?) } else { None };
        Ok(Self { directory, ..Self::stream(file)? })
    }

    /// Goes on with the file at `path`, or begins it.
    ///
    /// # Errors
    /// The file system's.
    pub fn resume(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let earlier = BufReader::with_capacity(64 * 1024, file);
        Ok(Self { state: State::Comparing { earlier, equal: 0 }, directory: Some(directory_of(path)?) })
    }

    /// Writes to something that is already open: a pipe, a terminal.
    ///
    /// # Errors
    /// If the thread that writes cannot be started.
    pub fn stream(file: File) -> io::Result<Self> {
        Ok(Self { state: State::Writing(Spool::new(file, 0, HABIT)?), directory: None })
    }

    /// Adds whole lines without waiting.
    ///
    /// # Errors
    /// The first error of this output, whenever it happened.
    pub fn append(&mut self, lines: &[u8]) -> io::Result<Next> {
        if let State::Comparing { earlier, equal } = &mut self.state {
            if begins_with(earlier, lines)? {
                *equal += lines.len() as u64;
                return Ok(Next::Nothing);
            }
            let (file, end) = (earlier.get_ref().try_clone()?, *equal);
            cut(&file, end)?;
            (&file).seek(SeekFrom::Start(end))?;
            self.state = State::Writing(Spool::new(file, end, HABIT)?);
        }
        match &self.state {
            State::Writing(spool) => spool.append(lines),
            State::Comparing { .. } => unreachable!("it has just begun to write"),
        }
    }

    /// Gives everything appended so far to the kernel; may wait.
    ///
    /// # Errors
    /// The first error of this output, whenever it happened.
    pub fn flush(&self) -> io::Result<()> {
        match &self.state {
            State::Writing(spool) => spool.flush(),
            State::Comparing { .. } => Ok(()),
        }
    }

    /// Ends the output where the last line ended, and waits until the disk has it.
    ///
    /// # Errors
    /// The first error of this output, whenever it happened.
    pub fn close(self) -> io::Result<()> {
        match self.state {
            State::Writing(spool) => spool.close(),
            State::Comparing { earlier, equal } => {
                cut(earlier.get_ref(), equal)?;
                earlier.get_ref().sync_data()
            }
        }?;
        self.directory.map_or(Ok(()), |directory| directory.sync_all())
    }
}

fn cut(file: &File, end: u64) -> io::Result<()> {
    if file.metadata()?.len() > end { file.set_len(end) } else { Ok(()) }
}

/// Reads on in `earlier` for as long as it equals `expected`.
fn begins_with(earlier: &mut impl BufRead, mut expected: &[u8]) -> io::Result<bool> {
    while !expected.is_empty() {
        let found = earlier.fill_buf()?;
        let length = found.len().min(expected.len());
        if length == 0 || found[..length] != expected[..length] {
            return Ok(false);
        }
        earlier.consume(length);
        expected = &expected[length..];
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use proptest::prelude::*;

    fn write(mut output: Output, lines: &[String]) {
        for line in lines {
            if output.append(line.as_bytes()).unwrap() == Next::Flush {
                output.flush().unwrap();
            }
        }
        output.close().unwrap();
    }

    proptest! {
        #[test]
        fn whatever_was_there_the_end_is_what_was_appended(
            earlier in proptest::collection::vec("[ab]{0,3}\n", 0..8),
            lines in proptest::collection::vec("[ab]{0,3}\n", 0..8),
            torn in 0..4_usize,
        ) {
            let scratch = Scratch::new();
            let path = scratch.path("out");
            let text = earlier.concat();
            std::fs::write(&path, &text[..text.len().saturating_sub(torn)]).unwrap();
            write(Output::resume(&path).unwrap(), &lines);
            prop_assert_eq!(std::fs::read_to_string(&path).unwrap(), lines.concat());
        }
    }

    #[test]
    fn equal_lines_are_left_alone() {
        let scratch = Scratch::new();
        let path = scratch.path("out");
        let lines: Vec<String> = (0..1000).map(|line| format!("{line}\n")).collect();
        write(Output::create(&path).unwrap(), &lines);
        let before = std::fs::metadata(&path).unwrap().modified().unwrap();
        write(Output::resume(&path).unwrap(), &lines);
        assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), before);
    }

    #[test]
    fn the_file_never_shrinks_below_what_is_equal() {
        let scratch = Scratch::new();
        let path = scratch.path("out");
        std::fs::write(&path, "a\nb\nc\n").unwrap();
        let mut output = Output::resume(&path).unwrap();
        let _ = output.append(b"a\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"a\nb\nc\n");
        let _ = output.append(b"x\n").unwrap();
        output.flush().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"a\nx\n");
        output.close().unwrap();
    }
}
