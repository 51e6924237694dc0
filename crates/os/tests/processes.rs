//! Rings and segments between real processes.
//!
//! The other process is this binary again, told by its environment to be `another_process`, and in which role. It
//! finds the segment by way of its parent's descriptors, and the two events in place of its input and its errors.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use manyhands_os::event::Event;
use manyhands_os::process::{ProcessHandle, Signal, set_parent_death_signal};
use manyhands_os::ring::{self, Consumer, Producer, PushError};
use manyhands_os::segment::Segment;

const ROLE: &str = "MANYHANDS_ROLE";
const SEGMENT: &str = "MANYHANDS_SEGMENT";
const PARENT: &str = "MANYHANDS_PARENT";
/// Bytes of a ring; the segment has one each way.
const RING: usize = 16 << 10;
/// Longer than anything here takes: a wait that lasts so long has lost its wake-up.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(30));

/// One end of a pair of rings.
struct End {
    out: Producer,
    into: Consumer,
    mine: Event,
    theirs: Event,
}

impl End {
    fn open(segment: &Arc<Segment>, out: usize, mine: Event, theirs: Event) -> Self {
        Self {
            out: ring::producer(Arc::clone(segment), out, RING).unwrap(),
            into: ring::consumer(Arc::clone(segment), RING - out, RING).unwrap(),
            mine,
            theirs,
        }
    }

    /// Pushes if there is room.
    fn try_send(&mut self, parts: &[&[u8]]) -> bool {
        match self.out.try_push(parts) {
            Ok(pushed) => {
                self.wake(pushed.must_wake);
                true
            }
            Err(PushError::Full) => false,
            Err(error) => panic!("{error}"),
        }
    }

    fn send(&mut self, parts: &[&[u8]]) {
        let length = parts.iter().map(|part| part.len()).sum();
        while !self.try_send(parts) {
            if self.out.prepare_sleep(length) {
                self.sleep();
                self.out.end_sleep();
            }
        }
    }

    /// Pops if there is something.
    fn try_receive(&mut self, message: &mut Vec<u8>) -> bool {
        let popped = self.into.try_pop(message).unwrap();
        let must_wake = self.into.must_wake();
        self.wake(must_wake);
        popped
    }

    fn receive(&mut self, message: &mut Vec<u8>) {
        while !self.try_receive(message) {
            if self.into.prepare_sleep() {
                self.sleep();
                self.into.end_sleep();
            }
        }
    }

    fn wake(&self, must_wake: bool) {
        if must_wake {
            self.theirs.signal();
        }
    }

    fn sleep(&self) {
        assert!(self.mine.wait(PATIENCE).unwrap(), "a wake-up was lost");
        self.mine.drain();
    }
}

/// This binary, in a role.
fn in_role(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "another_process", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, role).stdout(Stdio::null());
    command
}

/// Another process; killed when the test ends, however it ends.
struct Other {
    child: Child,
    handle: ProcessHandle,
    segment: Arc<Segment>,
}

impl Other {
    fn start(role: &str) -> (Self, End) {
        let segment = Arc::new(Segment::create(2 * RING).unwrap());
        ring::initialise(&segment, 0, RING).unwrap();
        ring::initialise(&segment, RING, RING).unwrap();
        let end = End::open(&segment, 0, Event::new().unwrap(), Event::new().unwrap());
        let child = in_role(role)
            .env(SEGMENT, format!("/proc/{}/fd/{}", std::process::id(), segment.fd().as_raw_fd()))
            .stdin(copy(&end.theirs))
            .stderr(copy(&end.mine))
            .spawn()
            .unwrap();
        let handle = ProcessHandle::open(child.id().cast_signed()).unwrap();
        (Self { child, handle, segment }, end)
    }

    fn ends_well(&mut self) {
        assert!(self.handle.wait(PATIENCE).unwrap(), "it did not end");
        assert!(self.child.wait().unwrap().success());
    }

    fn kill(&self) {
        assert!(self.handle.signal(Signal::KILL).unwrap());
        assert!(self.handle.wait(PATIENCE).unwrap());
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.handle.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}

fn copy(event: &Event) -> OwnedFd {
    event.fd().try_clone_to_owned().unwrap()
}

/// No test of its own: what the other process does.
#[test]
fn another_process() {
    match std::env::var(ROLE).as_deref() {
        Ok("echo") => echo(far_end()),
        Ok("deaf") => hang(),
        Ok("takes one") => take_one_and_hang(far_end()),
        Ok("vandal") => scribble(&far_segment()),
        Ok("parent") => start_a_child_and_hang(),
        Ok("child") => tell_its_number_and_hang(far_end()),
        Ok("limited") => make_too_large_a_segment(),
        Ok(role) => panic!("there is no role {role}"),
        Err(_) => {}
    }
}

fn far_segment() -> Arc<Segment> {
    let path = std::env::var(SEGMENT).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    Arc::new(Segment::from_fd(file.into()).unwrap())
}

fn far_end() -> End {
    let mine = Event::from_fd(std::io::stdin().as_fd().try_clone_to_owned().unwrap()).unwrap();
    let theirs = Event::from_fd(std::io::stderr().as_fd().try_clone_to_owned().unwrap()).unwrap();
    End::open(&far_segment(), RING, mine, theirs)
}

fn hang() -> ! {
    loop {
        std::thread::park();
    }
}

fn number(message: &[u8]) -> u64 {
    u64::from_le_bytes(message[..8].try_into().unwrap())
}

/// Sends everything back, until it gets an empty message.
fn echo(mut end: End) {
    let mut message = Vec::new();
    loop {
        end.receive(&mut message);
        let (first, second) = message.split_at(message.len() / 2);
        end.send(&[first, second]);
        if message.is_empty() {
            return;
        }
    }
}

#[test]
fn a_million_messages_go_there_and_back_unchanged() {
    const MESSAGES: u64 = 1_000_000;
    let (mut other, mut end) = Other::start("echo");
    let filling: Vec<u8> = (0..=255).collect();
    let filling_of = |number: u64| &filling[..usize::try_from(number % 100).unwrap()];
    let (mut sent, mut received, mut message) = (0, 0, Vec::new());
    while received < MESSAGES {
        while sent < MESSAGES && end.try_send(&[&sent.to_le_bytes(), filling_of(sent)]) {
            sent += 1;
        }
        end.receive(&mut message);
        assert_eq!((number(&message), &message[8..]), (received, filling_of(received)));
        received += 1;
    }
    end.send(&[]);
    end.receive(&mut message);
    assert!(message.is_empty());
    other.ends_well();
}

#[test]
fn both_processes_sleep_when_they_can_do_nothing_and_wake_when_they_can() {
    let (mut other, mut end) = Other::start("echo");
    let largest = vec![7; end.out.max_message()];
    let mut message = Vec::new();
    for turn in 0..1_000_u64 {
        if turn % 10 == 0 {
            // Each of these fills a ring, so the senders have to wait as well.
            end.send(&[&largest]);
            end.send(&[&largest]);
            for _ in 0..2 {
                end.receive(&mut message);
                assert_eq!(message, largest);
            }
        }
        end.send(&[&turn.to_le_bytes()]);
        end.receive(&mut message);
        assert_eq!(number(&message), turn);
    }
    end.send(&[]);
    other.ends_well();
}

/// Says that it has claimed the first message, and does nothing more.
fn take_one_and_hang(mut end: End) {
    let mut message = Vec::new();
    end.receive(&mut message);
    end.send(&[&message]);
    hang();
}

#[test]
fn a_killed_consumer_leaves_what_it_had_not_claimed() {
    let (other, mut end) = Other::start("takes one");
    for number in 0..10_u64 {
        end.send(&[&number.to_le_bytes()]);
    }
    let mut message = Vec::new();
    end.receive(&mut message);
    assert_eq!(number(&message), 0);
    other.kill();
    assert_eq!(end.out.unclaimed(), 9);
    assert_eq!(end.out.take_back(usize::MAX), 9);
    assert_eq!(end.out.unclaimed(), 0);
}

#[test]
fn a_process_killed_at_any_moment_loses_at_most_the_message_it_was_handling() {
    for round in 0..20 {
        let (other, mut end) = Other::start("echo");
        let (mut sent, mut echoed, mut message) = (0_u64, 0_u64, Vec::new());
        let mut receive_all = |end: &mut End| {
            while end.try_receive(&mut message) {
                assert_eq!(number(&message), echoed);
                echoed += 1;
            }
            echoed
        };
        // At work, and each round at another moment.
        while receive_all(&mut end) < 300 + round * 37 {
            sent += u64::from(end.try_send(&[&sent.to_le_bytes()]));
        }
        other.kill();
        let echoed = receive_all(&mut end);
        let back = end.out.take_back(usize::MAX) as u64;
        assert!(sent - echoed - back <= 1, "{sent} sent, {echoed} echoed, {back} taken back");
    }
}

/// What was put ahead for a process that never opens its end can all be taken back.
#[test]
fn nothing_is_lost_in_the_ring_of_a_process_that_never_looks() {
    let (_other, mut end) = Other::start("deaf");
    let mut sent = 0;
    while end.try_send(&[&[0; 100]]) {
        sent += 1;
    }
    assert!(sent > 100);
    assert_eq!(end.out.take_back(usize::MAX), sent);
    assert!(end.try_send(&[&vec![0; end.out.max_message()]]));
}

/// Writes garbage all over the segment until it is killed.
fn scribble(segment: &Segment) {
    set_parent_death_signal().unwrap();
    let mut garbage = 0x9e37_79b9_7f4a_7c15_u64;
    loop {
        for word in segment.words() {
            garbage = garbage.wrapping_mul(0xd129_0d3b_4d5b_1c8d).rotate_left(23) ^ 0x2545_f491_4f6c_dd1d;
            word.store(garbage, Ordering::Relaxed);
        }
    }
}

#[test]
fn a_process_that_scribbles_over_its_rings_breaks_nothing_else() {
    let (other, mut end) = Other::start("vandal");
    let (mut push, mut pop, mut message) = (None, None, Vec::new());
    while push.is_none() || pop.is_none() {
        push = push.or(end.out.try_push(&[b"some message"]).err().filter(|error| *error != PushError::Full));
        end.out.take_back(1);
        pop = pop.or(end.into.try_pop(&mut message).err());
        assert!(message.len() <= RING);
    }
    assert!(matches!(push, Some(PushError::Corrupt(_))), "{push:?}");
    assert_eq!(end.out.take_back(usize::MAX), 0);
    assert!(!end.into.prepare_sleep(), "there is an error to be told");
    assert_eq!(other.segment.len(), 2 * RING);
}

/// The kernel's signal comes at the end of the thread that starts the child: this one.
fn start_a_child_and_hang() {
    let mut child = in_role("child").env(PARENT, std::process::id().to_string()).spawn().unwrap();
    child.wait().unwrap();
    hang();
}

fn tell_its_number_and_hang(mut end: End) {
    set_parent_death_signal().unwrap();
    assert_eq!(std::os::unix::process::parent_id().to_string(), std::env::var(PARENT).unwrap());
    end.send(&[&u64::from(std::process::id()).to_le_bytes()]);
    hang();
}

#[test]
fn a_process_that_asked_for_it_dies_with_its_parent() {
    let (other, mut end) = Other::start("parent");
    let mut message = Vec::new();
    end.receive(&mut message);
    let grandchild = ProcessHandle::open(i32::try_from(number(&message)).unwrap()).unwrap();
    assert!(!grandchild.has_ended().unwrap());
    other.kill();
    assert!(grandchild.wait(PATIENCE).unwrap());
}

fn make_too_large_a_segment() {
    let found = Segment::create(64 << 20).unwrap_err();
    assert_eq!(found.kind(), ErrorKind::FileTooLarge, "{found}");
    assert!(found.to_string().contains("67108864 bytes"), "{found}");
    Segment::create(4096).unwrap();
}

#[test]
fn a_limit_on_the_size_of_files_is_an_error_where_the_segment_is_made() {
    let role = in_role("limited");
    // The shell counts in blocks of 512 or 1024 bytes. The signal is ignored, as Python ignores it.
    let status = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 1024; exec \"$@\"", "sh"])
        .arg(role.get_program())
        .args(role.get_args())
        .env(ROLE, "limited")
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
}
