//! What a server sends, looked at before the library that understands it does.
//!
//! **Why.** That library goes down a level of its stack for each table within a table, and gives up the connection for
//! a header that it cannot read. Either would let one message end a program, or come again and again.
//!
//! **Guarantees.** What passes is made of whole frames of at most [`FRAME`] bytes, and no table in them lies deeper than
//! [`DEEPEST`](crate::wire::table::DEEPEST) levels. A message whose properties cannot be read passes with its body, but
//! without the ones in question: instead of its headers there is the one by which `wire::table` knows that it is
//! unreadable, and why. On a connection with small frames, properties that are larger than one are put
//! [aside](super::aside). Everything else that is no AMQP ends the connection.
//!
//! **Cost.** Each byte is copied once. Of a body nothing is looked at. Between whole frames there are [`USUAL`] bytes of
//! room, and [`FRAME`] while there is one that needs more.

mod headers;

use std::io::IoSliceMut;

use super::aside::Aside;
use super::{FRAME, SMALL_FRAME};

/// What a frame has around its payload: its kind, its channel and its size before it, a mark behind it.
const HEAD: usize = 7;
const AROUND: usize = HEAD + 1;

/// So much is read at once, as long as no frame is larger.
const USUAL: usize = 16 << 10;

/// The mark behind each frame.
const END: u8 = 0xCE;

/// Why a connection cannot go on: what was found, and what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unfit(String);

/// Between the bytes that come from a server and whoever reads them.
pub(super) struct Guard {
    buffer: Vec<u8>,
    /// What lies before was given out.
    given: usize,
    /// What lies before may be given out.
    judged: usize,
    /// What lies before has come.
    came: usize,
    /// How much is still to come of a frame that is let through as it comes.
    passing: usize,
    /// Where properties go that are larger than a small frame, on a connection that has those.
    aside: Option<Aside>,
    end: Option<Unfit>,
}

impl Guard {
    pub(super) fn new(aside: Option<Aside>) -> Self {
        Self { buffer: Vec::new(), given: 0, judged: 0, came: 0, passing: 0, aside, end: None }
    }

    /// Gives out what may be, as far as there is room for it.
    pub(super) fn give(&mut self, to: &mut [IoSliceMut<'_>]) -> usize {
        let mut size = 0;
        for to in to {
            let here = to.len().min(self.judged - self.given);
            to[..here].copy_from_slice(&self.buffer[self.given..self.given + here]);
            self.given += here;
            size += here;
        }
        size
    }

    /// Where the next bytes go, when everything has been given out that may be.
    pub(super) fn room(&mut self) -> Result<&mut [u8], Unfit> {
        if let Some(end) = &self.end {
            return Err(end.clone());
        }
        if self.given > 0 {
            self.buffer.copy_within(self.given..self.came, 0);
            self.judged -= self.given;
            self.came -= self.given;
            self.given = 0;
        }
        let size = if self.came < USUAL { USUAL } else { FRAME };
        self.buffer.resize(size, 0); // what was mended may have made it longer
        self.buffer.shrink_to(size);
        Ok(&mut self.buffer[self.came..])
    }

    /// So many bytes have come there.
    pub(super) fn came(&mut self, size: usize) {
        self.came += size;
        while self.end.is_none() {
            match self.judge() {
                Ok(true) => {}
                Ok(false) => return,
                Err(reason) => self.end = Some(Unfit(reason)),
            }
        }
    }

    /// Judges what comes next, if enough of it is here for that.
    fn judge(&mut self) -> Result<bool, String> {
        if self.passing > 0 {
            return self.pass();
        }
        let here = &self.buffer[self.judged..self.came];
        let Some(&kind) = here.first() else { return Ok(false) };
        if !matches!(kind, 1..=3 | 8) {
            return Err(foreign(here));
        }
        let Some(&[_, _, _, a, b, c, d]) = here.first_chunk::<HEAD>() else { return Ok(false) };
        let size = u32::from_be_bytes([a, b, c, d]) as usize;
        if size > FRAME - AROUND {
            let most = FRAME - AROUND;
            return Err(format!("found a frame of {size} bytes from the server, expected at most {most}"));
        }
        if matches!(kind, 3 | 8) {
            self.judged += HEAD;
            self.passing = size + 1;
            return Ok(true);
        }
        let Some(frame) = here.get(..size + AROUND) else { return Ok(false) };
        if frame[HEAD + size] != END {
            return Err(endless());
        }
        let payload = &frame[HEAD..HEAD + size];
        if kind == 1 {
            headers::check_method(payload)?;
        } else if let Err(flaw) = headers::check_properties(payload)? {
            let mended = headers::mend(payload, &flaw);
            self.replace(size, &mended);
            return Ok(true);
        } else if let Some(aside) = self.aside.as_ref().filter(|_| frame.len() > SMALL_FRAME) {
            let key = headers::key(payload, &aside.keep(frame));
            self.replace(size, &key);
            return Ok(true);
        }
        self.judged += size + AROUND;
        Ok(true)
    }

    /// Lets through what is here of a frame.
    fn pass(&mut self) -> Result<bool, String> {
        let here = self.passing.min(self.came - self.judged);
        self.judged += here;
        self.passing -= here;
        if self.passing > 0 {
            return Ok(false);
        }
        if self.buffer[self.judged - 1] == END { Ok(true) } else { Err(endless()) }
    }

    /// Puts another payload into the frame that comes next, in the place of its own of so many bytes.
    fn replace(&mut self, size: usize, payload: &[u8]) {
        let frame = self.judged..self.judged + size + AROUND;
        let mut replaced = self.buffer[frame.start..frame.start + 3].to_vec();
        replaced.extend(u32::try_from(payload.len()).unwrap_or_default().to_be_bytes());
        replaced.extend(payload);
        replaced.push(END);
        self.judged += replaced.len();
        self.came = self.came - frame.len() + replaced.len();
        self.buffer.splice(frame, replaced);
    }
}

fn endless() -> String {
    "found a frame from the server without its end, expected one".into()
}

/// What is to be said of bytes with which no frame begins.
fn foreign(bytes: &[u8]) -> String {
    match bytes {
        [b'A', b'M', b'Q', b'P', _, major, minor, revision, ..] => {
            format!("found a server of AMQP {major}-{minor}-{revision}, expected one of 0-9-1")
        }
        [0x15, 3, ..] => "found a server that speaks TLS, expected AMQP: is its address amqps://?".into(),
        _ => format!("found a byte {:#04x} from the server, expected a frame of AMQP", bytes[0]),
    }
}

#[cfg(test)]
mod tests;
