//! The thread that works on the file, and the door to it.

use std::collections::HashMap;
use std::net::Shutdown;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, LazyLock, Mutex, Weak};
use std::time::{Duration, Instant, SystemTime};
use std::{io, thread};

use tokio::sync::oneshot;

use super::file::{self, Trouble};
use super::session::{News, Session};
use crate::address::Address;
use crate::error::Error;
use crate::named::locked;

/// How often one who waits looks at the file although nobody has rung, and after those who have died.
const ROUND: Duration = Duration::from_secs(1);
/// How many jobs share a transaction at most.
const MOST_JOBS: usize = 256;

/// What a job needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// It changes nothing.
    Read,
    /// What it changes may be lost with the machine's power.
    Write,
    /// What it changes may not.
    Durable,
}

/// What is to be done on the file. It may be run again, if it failed together with others.
pub(crate) trait Job: Send {
    /// What it needs. Asked after `is_needed`.
    fn kind(&self) -> Kind;

    /// Looks, before a transaction is begun, whether there is anything to be done at all.
    fn is_needed(&mut self, _session: &mut Session) -> Result<bool, Trouble> {
        Ok(true)
    }

    /// Does it. What it returns without an error for is committed.
    fn run(&mut self, session: &mut Session) -> Result<(), Trouble>;

    /// Hears that it is in the file, or why not.
    fn finish(self: Box<Self>, outcome: Result<(), Trouble>);
}

/// What a process wants to be rung for.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Hears {
    /// Messages.
    pub(crate) consumes: bool,
    /// Results.
    pub(crate) waits: bool,
}

/// Who is to be woken in this process.
pub(crate) trait Listener: Send + Sync {
    /// There may be more messages.
    fn messages(self: Arc<Self>);
    /// There may be more results.
    fn results(self: Arc<Self>);
}

enum Command {
    Job(Box<dyn Job>),
    Later(Box<dyn Job>),
    End,
}

/// Those in this process who are woken when somebody rings.
#[derive(Default)]
pub(crate) struct Bells {
    listeners: Mutex<Vec<Weak<dyn Listener>>>,
}

impl std::fmt::Debug for Bells {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Bells").finish_non_exhaustive()
    }
}

impl Bells {
    fn tell(&self, news: News) {
        // Outside of the lock: the last share of a listener may be ours by then.
        let mut awake = Vec::new();
        locked(&self.listeners)
            .retain(|listener| listener.upgrade().map(|listener| awake.push(listener)).is_some());
        for listener in awake {
            if news.messages {
                Arc::clone(&listener).messages();
            }
            if news.results {
                listener.results();
            }
        }
    }

    /// Listens at a socket, on a thread that sleeps in the meantime.
    pub(super) fn listen(self: &Arc<Self>, socket: UnixDatagram) -> io::Result<Listening> {
        let listening = Listening { socket: socket.try_clone()?, is_over: Arc::default() };
        let (bells, is_over) = (Arc::clone(self), Arc::clone(&listening.is_over));
        let listen = move || {
            let mut what = [0];
            while socket.recv(&mut what).is_ok() && !is_over.load(Ordering::Acquire) {
                bells.tell(News { messages: what[0] & 1 != 0, results: what[0] & 2 != 0 });
            }
        };
        thread::Builder::new().name("mh-queue-bell".into()).spawn(listen)?;
        Ok(listening)
    }
}

/// A thread that listens, until this is dropped.
#[derive(Debug)]
pub(super) struct Listening {
    socket: UnixDatagram,
    is_over: Arc<AtomicBool>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        // Wakes the thread. That a socket has been shut already would be as good.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// A file of messages and results, as this process uses it.
#[derive(Debug)]
pub(crate) struct Store {
    shown: String,
    sender: Sender<Command>,
    bells: Arc<Bells>,
    /// A fork has the door, and no thread behind it.
    process: u32,
}

type Stores = HashMap<(u32, PathBuf, bool), Weak<Store>>;

/// One for each file, of a process: a fork begins anew. One that waits for the disk, and one that does not.
static STORES: LazyLock<Mutex<Stores>> = LazyLock::new(Mutex::default);

impl Store {
    /// The store of that file, which all in this process share. It is opened when it is first used.
    pub(crate) fn find(address: &Address, patience: Duration) -> Result<Arc<Self>, Error> {
        let refuse = |reason: String| Error::Address { address: address.shown().into(), reason };
        let file = address.file();
        if file.is_empty() {
            return Err(refuse("found no file, expected sqlite:///file or sqlite:////folder/file".into()));
        }
        let is_synced = match address.query() {
            None | Some("synchronous=full") => true,
            Some("synchronous=normal") => false,
            Some(other) => {
                let expected = "expected synchronous=full or synchronous=normal";
                return Err(refuse(format!("found {other:?} behind the file, {expected}")));
            }
        };
        let path = resolved(Path::new(file)).map_err(|error| refuse(error.to_string()))?;
        let process = std::process::id();
        let key = (process, path.clone(), is_synced);
        let mut stores = locked(&STORES);
        stores.retain(|_, store| store.strong_count() > 0);
        if let Some(store) = stores.get(&key).and_then(Weak::upgrade) {
            return Ok(store);
        }
        let (sender, receiver) = mpsc::channel();
        let bells = Arc::new(Bells::default());
        let keeper = Keeper {
            path,
            is_synced,
            patience,
            session: None,
            generation: 0,
            rounds_begin: Instant::now(),
            bells: Arc::clone(&bells),
            later: Vec::new(),
        };
        let store = Arc::new(Self { shown: address.shown().into(), sender, bells, process });
        let thread = thread::Builder::new().name("mh-queue-file".into());
        thread.spawn(move || keeper.work(&receiver)).map_err(|error| refuse(error.to_string()))?;
        stores.insert(key, Arc::downgrade(&store));
        Ok(store)
    }

    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    pub(crate) fn bells(&self) -> &Arc<Bells> {
        &self.bells
    }

    /// From now on, and as long as it lives, the listener hears who rings.
    pub(crate) fn enlist(&self, listener: Weak<dyn Listener>) {
        locked(&self.bells.listeners).push(listener);
    }

    /// Hands over a job. False if there is nobody to do it: it was dropped then.
    pub(crate) fn send(&self, job: Box<dyn Job>) -> bool {
        std::process::id() == self.process && self.sender.send(Command::Job(job)).is_ok()
    }

    /// Has something done on the file, and waits for what came of it.
    pub(crate) async fn call<T, F>(&self, kind: Kind, run: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnMut(&mut Session) -> Result<T, Trouble> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        self.send(Box::new(Call { kind, run, value: None, reply }));
        match answer.await {
            Ok(answer) => answer.map_err(|trouble| trouble.error(&self.shown)),
            Err(_) => Err(self.closed()),
        }
    }

    /// Hands over a job that failed, to be tried again in a while.
    pub(crate) fn send_later(&self, job: Box<dyn Job>) {
        // As above: without a thread there is nobody to do it.
        let _ = self.sender.send(Command::Later(job));
    }

    pub(crate) fn closed(&self) -> Error {
        Error::Closed { server: self.shown.clone() }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // One whose thread has gone needs no end.
        let _ = self.sender.send(Command::End);
    }
}

/// The path by which all processes know the file, which need not be there yet.
fn resolved(path: &Path) -> io::Result<PathBuf> {
    if let Ok(whole) = path.canonicalize() {
        return Ok(whole);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or_else(|| io::Error::other("it names no file"))?;
    Ok(folder.canonicalize()?.join(name))
}

/// A job that answers with a value.
pub(crate) struct Call<T, F> {
    pub(crate) kind: Kind,
    pub(crate) run: F,
    pub(crate) value: Option<T>,
    pub(crate) reply: oneshot::Sender<Result<T, Trouble>>,
}

impl<T, F> Job for Call<T, F>
where
    T: Send,
    F: FnMut(&mut Session) -> Result<T, Trouble> + Send,
{
    fn kind(&self) -> Kind {
        self.kind
    }

    fn run(&mut self, session: &mut Session) -> Result<(), Trouble> {
        self.value = Some((self.run)(session)?);
        Ok(())
    }

    fn finish(self: Box<Self>, outcome: Result<(), Trouble>) {
        // Whoever asked may have given up.
        let _ = match (outcome, self.value) {
            (Ok(()), Some(value)) => self.reply.send(Ok(value)),
            (Ok(()), None) => Ok(()),
            (Err(trouble), _) => self.reply.send(Err(trouble)),
        };
    }
}

/// The thread's side.
struct Keeper {
    path: PathBuf,
    /// Whether what is durable waits for the disk.
    is_synced: bool,
    patience: Duration,
    session: Option<Session>,
    generation: u64,
    rounds_begin: Instant,
    bells: Arc<Bells>,
    /// What failed, and is tried again in each round.
    later: Vec<Box<dyn Job>>,
}

impl Keeper {
    fn work(mut self, receiver: &Receiver<Command>) {
        let mut jobs = Vec::new();
        loop {
            let rounds = self.session.as_ref().is_some_and(Session::is_listening);
            let first = if rounds {
                receiver.recv_timeout(ROUND.saturating_sub(self.rounds_begin.elapsed()))
            } else {
                receiver.recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            let mut is_over = matches!(first, Err(RecvTimeoutError::Disconnected));
            let mut command = first.ok();
            while let Some(found) = command {
                match found {
                    Command::Job(job) => jobs.push(job),
                    Command::Later(job) => self.later.push(job),
                    Command::End => is_over = true,
                }
                let may_have_more = !is_over && jobs.len() < MOST_JOBS;
                command = if may_have_more { receiver.try_recv().ok() } else { None };
            }
            if !jobs.is_empty() {
                self.serve(&mut jobs);
            }
            if is_over {
                return self.end();
            }
            if rounds && self.rounds_begin.elapsed() >= ROUND {
                self.rounds_begin = Instant::now();
                self.go_round();
                jobs.append(&mut self.later);
                if !jobs.is_empty() {
                    self.serve(&mut jobs);
                }
            }
        }
    }

    /// The open file, which is opened if it is not.
    fn session(&mut self) -> Result<&mut Session, Trouble> {
        file::be_patient(self.patience);
        if let Some(Err(trouble)) = self.session.as_ref().map(|session| session.check_place(&self.path)) {
            self.session = None;
            return Err(trouble);
        }
        if self.session.is_none() {
            self.generation += 1;
            let session = Session::open(&self.path, self.generation)?;
            let dead = session.find_dead()?;
            self.session = Some(session);
            self.bury(dead);
        }
        self.session.as_mut().ok_or_else(|| Trouble::Passing("it was closed".into()))
    }

    /// Does the jobs, together if they can be, and tells each what came of it.
    fn serve(&mut self, jobs: &mut Vec<Box<dyn Job>>) {
        let outcome = self.attempt(jobs);
        match outcome {
            Ok(news) => {
                self.spread(news);
                jobs.drain(..).for_each(|job| job.finish(Ok(())));
            }
            Err(trouble) => {
                self.note(&trouble);
                if jobs.len() == 1 {
                    jobs.drain(..).for_each(|job| job.finish(Err(trouble.clone())));
                    return;
                }
                // One of them may be to blame: each for itself.
                for job in std::mem::take(jobs) {
                    self.serve(&mut vec![job]);
                }
            }
        }
    }

    fn attempt(&mut self, jobs: &mut [Box<dyn Job>]) -> Result<News, Trouble> {
        let is_synced = self.is_synced;
        let session = self.session()?;
        let mut needed = Vec::with_capacity(jobs.len());
        for job in jobs {
            if job.is_needed(session)? {
                needed.push(job);
            }
        }
        let Some(mut kind) = needed.iter().map(|job| job.kind()).max() else { return Ok(News::default()) };
        if !is_synced {
            kind = kind.min(Kind::Write);
        }
        let done = begin(session, kind).and_then(|()| {
            needed.into_iter().try_for_each(|job| job.run(session))?;
            session.command("COMMIT")?;
            Ok(std::mem::take(&mut session.news))
        });
        if done.is_err() {
            session.roll_back();
        }
        done
    }

    /// Tells here and elsewhere what is new.
    fn spread(&mut self, news: News) {
        if news == News::default() {
            return;
        }
        self.bells.tell(news);
        let dead = self.session.as_ref().map_or(Ok(Vec::new()), |session| session.ring(news));
        // Those whom it could not ring for look for themselves within a round.
        self.bury(dead.unwrap_or_default());
    }

    /// Gives back what the dead had.
    fn bury(&mut self, dead: Vec<String>) {
        if dead.is_empty() {
            return;
        }
        let Some(session) = &mut self.session else { return };
        file::be_patient(self.patience);
        let buried = begin(session, Kind::Write).and_then(|()| {
            dead.iter().try_for_each(|name| session.bury_peer(name))?;
            session.command("COMMIT")?;
            Ok(std::mem::take(&mut session.news))
        });
        match buried {
            Ok(news) => {
                for name in &dead {
                    session.remove_socket(name);
                }
                self.spread(news);
            }
            // The next round finds them again.
            Err(_) => session.roll_back(),
        }
    }

    /// What has to be looked at although nobody has rung.
    fn go_round(&mut self) {
        let Ok(session) = self.session() else { return };
        let now = now_in_ms();
        let dead = session.find_dead().unwrap_or_default();
        if session.is_untidy(now).unwrap_or(false) {
            let tidied = begin(session, Kind::Write)
                .and_then(|()| Ok(session.tidy(now)?))
                .and_then(|()| Ok(session.command("COMMIT")?));
            if tidied.is_err() {
                session.roll_back();
            }
        }
        // What cannot be given back now can be later.
        let _ = session.shrink();
        self.bury(dead);
        self.bells.tell(News { messages: true, results: true });
    }

    /// Looks whether the file can be used any longer.
    fn note(&mut self, trouble: &Trouble) {
        if trouble.ends_connection() {
            self.session = None;
            self.bells.tell(News { messages: true, results: true });
        }
    }

    /// Gives back what is left here, as if it had died.
    fn end(mut self) {
        if let Some(session) = self.session.as_ref().filter(|session| session.is_listening()) {
            let name = session.name().to_owned();
            self.bury(vec![name]);
        }
    }
}

/// Begins a transaction; one that writes waits here for others, and not when it has already read.
fn begin(session: &mut Session, kind: Kind) -> Result<(), Trouble> {
    if kind == Kind::Read {
        return Ok(session.command("BEGIN")?);
    }
    session.set_synchronous(kind == Kind::Durable)?;
    Ok(session.command("BEGIN IMMEDIATE")?)
}

/// Milliseconds since 1970.
pub(crate) fn now_in_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
