//! What a file of messages bears: processes that are killed, a full disk, and files that are none of ours.
//!
//! The other processes are this binary again, told by its environment to be `another_process`, and in which role. They
//! tell what they have done by lines on their output.

mod contract;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use contract::{
    PATIENCE, consume, done, in_time, nothing_comes, number, numbered, outgoing, receive, unique,
};
use manyhands_queue::address::Address;
use manyhands_queue::backend::{State, Stored};
use manyhands_queue::broker::{Consumer, Settlement};
use manyhands_queue::open::{Options, open_backend, open_broker};
use manyhands_queue::{Backend, Broker, Error};

const ROLE: &str = "MANYHANDS_ROLE";
const FILE: &str = "MANYHANDS_FILE";
const QUEUE: &str = "faults";

/// A folder with one file, which goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(unique("manyhands-faults"));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("jobs.db")
    }

    fn broker(&self) -> Arc<dyn Broker> {
        open_broker(&address(&self.file()), &Options::default()).unwrap()
    }

    fn backend(&self) -> Arc<dyn Backend> {
        open_backend(&address(&self.file()), None, &Options::default()).unwrap()
    }

    fn spawn(&self, role: &str) -> Other {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "another_process", "--nocapture"]);
        self.start(command, role)
    }

    fn start(&self, mut command: Command, role: &str) -> Other {
        command.env(ROLE, role).env(FILE, self.file()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Other { child, lines }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn address(file: &Path) -> Address {
    Address::parse(&format!("sqlite:///{}", file.display())).unwrap()
}

/// Another process, which does not outlive its test.
struct Other {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Other {
    /// The next of its lines that begin with the word, without it.
    fn says(&mut self, word: &str) -> Option<String> {
        self.lines.by_ref().map_while(Result::ok).find_map(|line| {
            // The first stands behind what the test harness has written.
            line.rsplit_once(word).map(|(_, rest)| rest.trim().to_owned())
        })
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn say(word: &str, what: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{word} {what}").unwrap();
    out.flush().unwrap();
}

/// Not a test: what this binary is when another test starts it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process() {
    let (Ok(role), Ok(file)) = (std::env::var(ROLE), std::env::var(FILE)) else { return };
    let address = address(Path::new(&file));
    let broker = open_broker(&address, &Options::default()).unwrap();
    let backend = open_backend(&address, None, &Options::default()).unwrap();
    match &*role {
        "hoards" => hoard(&broker).await,
        "publishes" => publish_for_ever(&broker).await,
        "works" => work(&broker, &backend).await,
        "fills" => fill(&broker).await,
        other => panic!("{other}"),
    }
}

/// Takes what it can get, and settles nothing.
async fn hoard(broker: &Arc<dyn Broker>) {
    let mut consumer = consume(broker, QUEUE, 50).await;
    let came = receive(&mut consumer, 50).await;
    consumer.settler().hold(&[came[0].tag]).await.unwrap();
    say("has", came.len());
    std::future::pending::<()>().await;
}

async fn publish_for_ever(broker: &Arc<dyn Broker>) {
    for at in 0.. {
        broker.publish(&[outgoing(QUEUE, at)]).await.unwrap();
        say("confirmed", at);
    }
}

/// Does what a worker does. A message counts as run when its line is written.
async fn work(broker: &Arc<dyn Broker>, backend: &Arc<dyn Backend>) {
    let mut consumer = consume(broker, QUEUE, 20).await;
    say("ready", "");
    loop {
        for delivery in consumer.next(5).await.unwrap() {
            say("ran", number(&delivery));
            let id = delivery.content.as_ref().unwrap().headers.id.clone();
            backend.store(&[success(&id)]).await.unwrap();
            done(&*consumer, &[delivery]).await;
        }
    }
}

fn success(id: &str) -> Stored {
    Stored {
        id: id.into(),
        state: State::Success,
        document: format!("document of {id}").into(),
        content_type: "application/json".into(),
        content_encoding: "utf-8".into(),
        reply_to: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_process_had_comes_back_once() {
    let folder = Folder::new();
    let broker = folder.broker();
    broker.publish(&numbered(QUEUE, 0..60)).await.unwrap();
    let mut other = folder.spawn("hoards");
    assert_eq!(other.says("has").unwrap(), "50");
    assert_eq!(broker.depth(QUEUE).await.unwrap(), 10);
    let mut consumer = consume(&broker, QUEUE, 100).await;
    let untouched = in_time(receive(&mut consumer, 10)).await;
    assert!(untouched.iter().all(|delivery| !delivery.is_redelivered));
    nothing_comes(&mut consumer).await;
    other.kill();
    let back = in_time(receive(&mut consumer, 50)).await;
    assert!(back.iter().all(|delivery| delivery.is_redelivered));
    assert_eq!(back.iter().map(number).collect::<Vec<_>>(), (0..50).collect::<Vec<_>>());
    done(&*consumer, &back).await;
    done(&*consumer, &untouched).await;
    nothing_comes(&mut consumer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_workers_are_killed() {
    const COUNT: usize = 600;
    let folder = Folder::new();
    let (broker, backend) = (folder.broker(), folder.backend());
    broker.publish(&numbered(QUEUE, 0..COUNT)).await.unwrap();
    // Three in turn are killed in the middle of their work, beside one that goes on.
    let survivor = folder.spawn("works");
    let mut ran = BTreeMap::<usize, usize>::new();
    let mut killed = 0;
    for _ in 0..3 {
        let mut victim = folder.spawn("works");
        for _ in 0..30 {
            let Some(number) = victim.says("ran") else { break };
            *ran.entry(number.parse().unwrap()).or_default() += 1;
        }
        victim.kill();
        while let Some(number) = victim.says("ran") {
            *ran.entry(number.parse().unwrap()).or_default() += 1;
        }
        killed += 1;
    }
    for at in 0..COUNT {
        let found = in_time(backend.wait(&format!("id-{at}"), PATIENCE)).await.unwrap();
        assert_eq!(found.document, format!("document of id-{at}"));
    }
    // What has a result is settled a moment later.
    while in_time(holders(&folder)).await > 0 {
        tokio::task::yield_now().await;
    }
    drop(broker);
    let mut survivor = survivor;
    survivor.kill();
    while let Some(number) = survivor.says("ran") {
        *ran.entry(number.parse().unwrap()).or_default() += 1;
    }
    assert_eq!(ran.len(), COUNT, "each ran");
    let doubled: usize = ran.values().map(|times| times - 1).sum();
    assert!(doubled <= killed, "only what ran at the moment of a death may run again: {doubled} of {killed}");
}

/// How many messages wait or are somebody's.
async fn holders(folder: &Folder) -> i64 {
    let file = folder.file();
    let count = move || {
        let db = rusqlite::Connection::open(file).unwrap();
        db.query_row("SELECT count(*) FROM message", [], |row| row.get(0)).unwrap()
    };
    tokio::task::spawn_blocking(count).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_confirmed_before_a_kill_is_there() {
    let folder = Folder::new();
    let mut other = folder.spawn("publishes");
    let mut confirmed = 0;
    while confirmed < 200 {
        confirmed = other.says("confirmed").unwrap().parse::<usize>().unwrap() + 1;
    }
    other.kill();
    while let Some(number) = other.says("confirmed") {
        confirmed = number.parse::<usize>().unwrap() + 1;
    }
    let broker = folder.broker();
    let depth = usize::try_from(broker.depth(QUEUE).await.unwrap()).unwrap();
    assert!((confirmed..=confirmed + 1).contains(&depth), "found {depth}, confirmed were {confirmed}");
    let mut consumer = consume(&broker, QUEUE, 0).await;
    let came = in_time(receive(&mut consumer, depth)).await;
    assert_eq!(came.iter().map(number).collect::<Vec<_>>(), (0..depth).collect::<Vec<_>>());
    done(&*consumer, &came).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_programs_share_and_double_nothing() {
    const COUNT: usize = 400;
    let folder = Folder::new();
    let (broker, backend) = (folder.broker(), folder.backend());
    let mut others = [folder.spawn("works"), folder.spawn("works")];
    for other in &mut others {
        other.says("ready").unwrap();
    }
    broker.publish(&numbered(QUEUE, 0..COUNT)).await.unwrap();
    for at in 0..COUNT {
        in_time(backend.wait(&format!("id-{at}"), PATIENCE)).await.unwrap();
    }
    let mut ran = Vec::new();
    for other in &mut others {
        other.kill();
        while let Some(number) = other.says("ran") {
            ran.push(number.parse::<usize>().unwrap());
        }
    }
    ran.sort_unstable();
    assert_eq!(ran, (0..COUNT).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_in_another_process_is_rung_for() {
    const ROUNDS: usize = 60;
    let folder = Folder::new();
    let (broker, backend) = (folder.broker(), folder.backend());
    let mut other = folder.spawn("works");
    other.says("ready").unwrap();
    let begin = Instant::now();
    for at in 0..ROUNDS {
        let (found, published) =
            tokio::join!(in_time(async { backend.wait(&format!("id-{at}"), PATIENCE).await }), async {
                broker.publish(&[outgoing(QUEUE, at)]).await
            });
        published.unwrap();
        assert_eq!(found.unwrap().state, State::Success);
    }
    // Each who waits looks once in a second by himself: found that way, these would have taken two minutes.
    assert!(begin.elapsed().as_secs() < 20, "{:?}", begin.elapsed());
}

/// Publishes until there is no room, then makes room, and takes out what it was told is there.
async fn fill(broker: &Arc<dyn Broker>) {
    let mut consumer = consume(broker, QUEUE, 10).await;
    broker.publish(&[outgoing(QUEUE, 0)]).await.unwrap();
    let first = receive(&mut consumer, 1).await;
    let mut next = 1;
    let refused = loop {
        let batch: Vec<_> = (next..next + 20)
            .map(|at| {
                let mut outgoing = outgoing(QUEUE, at);
                outgoing.message.headers.argsrepr = Some("x".repeat(2000));
                outgoing
            })
            .collect();
        match broker.publish(&batch).await {
            Ok(()) => next += batch.len(),
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused.error, Error::Full { .. }), "{refused}");
    assert!(refused.error.is_transient());
    assert_eq!(refused.confirmed, 0);
    say("full", next);
    assert_eq!(broker.depth(QUEUE).await.unwrap(), next as u64 - 1);

    // With no room at all nothing can be given to the consumer, which waits; and what it has stays its own.
    limit_files("4096:unlimited");
    nothing_comes(&mut consumer).await;
    let settler = consumer.settler();
    let refused = settler.settle(vec![(first[0].tag, Settlement::Done)]).await;
    assert!(matches!(refused, Err(Error::Full { .. })), "{refused:?}");

    limit_files("unlimited");
    settler.settle(vec![(first[0].tag, Settlement::Done)]).await.unwrap();
    broker.publish(&[outgoing(QUEUE, next)]).await.unwrap();
    for at in 1..=next {
        let came = receive(&mut consumer, 1).await;
        assert_eq!(number(&came[0]), at);
        done(&*consumer, &came).await;
    }
    say("emptied", next + 1);
}

/// From now on no file of this process may become longer.
fn limit_files(size: &str) {
    let pid = std::process::id().to_string();
    let limited = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={size}")]).status().unwrap();
    assert!(limited.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_loses_nothing() {
    let folder = Folder::new();
    let mut command = Command::new("sh");
    // A file may not become longer than a megabyte, and who tries is told so instead of being killed.
    let limit = r#"trap "" XFSZ; ulimit -S -f 2048; exec "$0" "$@""#;
    command.args(["-c", limit]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "another_process", "--nocapture"]);
    let mut other = folder.start(command, "fills");
    let taken: usize = other.says("full").expect("it meets the limit").parse().unwrap();
    assert!(taken > 0);
    assert_eq!(other.says("emptied").expect("it goes on"), (taken + 1).to_string());
    assert_eq!(in_time(holders(&folder)).await, 0);
}

async fn refusal(file: &Path) -> Error {
    let broker = open_broker(&address(file), &Options::default()).unwrap();
    broker.publish(&[outgoing(QUEUE, 0)]).await.unwrap_err().error
}

#[tokio::test]
async fn a_file_of_others_is_left_alone() {
    let folder = Folder::new();
    std::fs::write(folder.file(), "not a database, and long enough for SQLite to see it".repeat(50)).unwrap();
    let error = refusal(&folder.file()).await;
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert!(error.to_string().contains("expected a database of SQLite"), "{error}");

    let foreign = folder.0.join("foreign.db");
    rusqlite::Connection::open(&foreign)
        .unwrap()
        .execute_batch("CREATE TABLE mine (x); INSERT INTO mine VALUES (1)")
        .unwrap();
    let before = std::fs::read(&foreign).unwrap();
    let error = refusal(&foreign).await;
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert!(error.to_string().contains("another program"), "{error}");
    assert_eq!(std::fs::read(&foreign).unwrap(), before);

    let newer = folder.0.join("newer.db");
    open_broker(&address(&newer), &Options::default()).unwrap().publish(&[outgoing(QUEUE, 0)]).await.unwrap();
    rusqlite::Connection::open(&newer).unwrap().pragma_update(None, "user_version", 7).unwrap();
    // The first door to it is shut by now or in a moment; what is asked here is whether a new one opens.
    let error = loop {
        match open_broker(&address(&newer), &Options::default()).unwrap().depth(QUEUE).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("version 7, expected 1"), "{error}");

    let nowhere = Address::parse(&format!("sqlite:///{}/no/such/folder.db", folder.0.display())).unwrap();
    assert!(matches!(open_broker(&nowhere, &Options::default()), Err(Error::Address { .. })));
    let nothing = Address::parse("sqlite://").unwrap();
    assert!(matches!(open_broker(&nothing, &Options::default()), Err(Error::Address { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_file_is_seen_and_made_anew() {
    let folder = Folder::new();
    let broker = folder.broker();
    broker.publish(&numbered(QUEUE, 0..1)).await.unwrap();
    let mut consumer = consume(&broker, QUEUE, 10).await;
    let came = receive(&mut consumer, 1).await;
    for end in ["", "-wal", "-shm"] {
        std::fs::remove_file(format!("{}{end}", folder.file().display())).unwrap();
    }
    let lost = broker.publish(&[outgoing(QUEUE, 1)]).await.unwrap_err().error;
    assert!(matches!(lost, Error::Unreachable { .. }), "{lost}");
    broker.publish(&[outgoing(QUEUE, 2)]).await.unwrap();
    let late = consumer.settler().settle(vec![(came[0].tag, Settlement::Done)]).await;
    assert!(matches!(late, Err(Error::TakenBack { .. })), "{late:?}");
    let over = in_time(consumer.next(1)).await;
    assert!(matches!(over, Err(Error::Unreachable { .. })), "{over:?}");
    let mut consumer: Box<dyn Consumer> = consume(&broker, QUEUE, 10).await;
    let came = in_time(receive(&mut consumer, 1)).await;
    assert_eq!(number(&came[0]), 2);
    done(&*consumer, &came).await;
}
