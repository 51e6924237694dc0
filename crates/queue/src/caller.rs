//! Sockets that the thread which waits for them watches by itself.
//!
//! Where the runtime watches a socket, an answer wakes the runtime's thread, which wakes the one that waits: two switches
//! where the kernel needs one. So whoever has nothing else to do polls a future by [`poll`], and is told what it waits for.
//! A future that finds itself polled otherwise does without ([`is_here`]).

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a future waits for, beside its waker.
#[derive(Debug, Default)]
pub struct Wish {
    /// A socket. What waits for one waits for nothing else, but for a moment.
    pub socket: Option<Watched>,
    /// A moment.
    pub until: Option<Instant>,
}

/// A socket that is to be watched.
#[derive(Debug)]
pub struct Watched {
    /// It.
    pub stream: Arc<TcpStream>,
    /// Whether there being something to read is waited for.
    pub reads: bool,
    /// Whether room to write is.
    pub writes: bool,
}

thread_local! {
    /// What the future waits for that this thread polls by [`poll`].
    static WISH: RefCell<Option<Wish>> = const { RefCell::new(None) };
}

/// Polls a future for a thread that will wait for what it wishes, and then poll it again.
pub fn poll<F: Future>(future: Pin<&mut F>, context: &mut Context<'_>) -> (Poll<F::Output>, Wish) {
    /// Also when the future panics.
    struct Outer(Option<Wish>);
    impl Drop for Outer {
        fn drop(&mut self) {
            WISH.set(self.0.take());
        }
    }
    let _outer = Outer(WISH.replace(Some(Wish::default())));
    let polled = future.poll(context);
    (polled, WISH.take().unwrap_or_default())
}

/// Whether this thread waits for what the present future wishes.
pub(crate) fn is_here() -> bool {
    WISH.with_borrow(Option::is_some)
}

fn wish(say: impl FnOnce(&mut Wish)) {
    WISH.with_borrow_mut(|wish| wish.as_mut().map(say));
}

/// Waits for a moment. Only where the [caller waits](is_here).
pub(crate) async fn moment(when: Instant) {
    poll_fn(|_| {
        if Instant::now() >= when {
            return Poll::Ready(());
        }
        wish(|wish| wish.until = Some(wish.until.map_or(when, |other| other.min(when))));
        Poll::Pending
    })
    .await;
}

/// A socket for futures whose [caller waits](is_here).
pub(crate) struct Socket(Arc<TcpStream>);

impl Socket {
    /// # Errors
    /// If the kernel does not let the socket be watched.
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self(Arc::new(stream)))
    }

    fn attempt<T>(
        &self,
        watch: impl Fn(&mut Watched),
        mut action: impl FnMut(&TcpStream) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            match action(&self.0) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    wish(|wish| {
                        let stream = || Arc::clone(&self.0);
                        let unwatched = || Watched { stream: stream(), reads: false, writes: false };
                        watch(wish.socket.get_or_insert_with(unwatched));
                    });
                    return Poll::Pending;
                }
                done => return Poll::Ready(done),
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self
            .attempt(|watched| watched.reads = true, |mut stream| stream.read(buffer.initialize_unfilled()));
        read.map_ok(|count| buffer.advance(count))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.attempt(|watched| watched.writes = true, |mut stream| stream.write(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.shutdown(std::net::Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::pin::pin;
    use std::task::Waker;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A caller that waits for what is wished, and for nothing else.
    fn wait<F: Future>(future: F) -> F::Output {
        let mut future = pin!(future);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        loop {
            let (polled, wish) = poll(future.as_mut(), &mut Context::from_waker(Waker::noop()));
            if let Poll::Ready(value) = polled {
                return value;
            }
            runtime.block_on(async {
                let until =
                    wish.until.map_or(Duration::MAX, |when| when.saturating_duration_since(Instant::now()));
                let watched = async {
                    let Some(Watched { stream, reads, writes }) = wish.socket else {
                        std::future::pending().await
                    };
                    let stream = tokio::net::TcpStream::from_std(stream.try_clone().unwrap()).unwrap();
                    tokio::select! {
                        ready = stream.readable(), if reads => ready.unwrap(),
                        ready = stream.writable(), if writes => ready.unwrap(),
                    }
                };
                let _ = tokio::time::timeout(until, watched).await;
            });
        }
    }

    fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (Socket::new(near).unwrap(), listener.accept().unwrap().0)
    }

    #[test]
    fn an_answer_that_is_not_there_yet_is_waited_for() {
        let (mut near, mut far) = pair();
        let other = std::thread::spawn(move || {
            let mut question = [0; 4];
            far.read_exact(&mut question).unwrap();
            assert_eq!(&question, b"ping");
            far.write_all(b"pong").unwrap();
        });
        let mut answer = [0; 4];
        wait(async {
            near.write_all(b"ping").await.unwrap();
            near.read_exact(&mut answer).await.unwrap();
            assert_eq!(near.read(&mut [0; 4]).await.unwrap(), 0, "the other end has gone");
        });
        assert_eq!(&answer, b"pong");
        other.join().unwrap();
    }

    #[test]
    fn more_than_fits_into_the_kernel_goes_both_ways() {
        const SIZE: usize = 16 << 20;
        let (near, mut far) = pair();
        let mut back = far.try_clone().unwrap();
        let echo = std::thread::spawn(move || std::io::copy(&mut far, &mut back).unwrap());
        let sent: Vec<u8> = (0..=250_u8).cycle().take(SIZE).collect();
        let (mut reader, mut writer) = tokio::io::split(near);
        let mut received = vec![0; SIZE];
        wait(async {
            let writing = async {
                writer.write_all(&sent).await.unwrap();
                writer.shutdown().await.unwrap();
            };
            let reading = async { reader.read_exact(&mut received).await.unwrap() };
            tokio::join!(writing, reading)
        });
        assert!(received == sent);
        assert_eq!(echo.join().unwrap(), SIZE as u64);
    }

    #[test]
    fn the_earliest_of_the_moments_is_wished_and_no_end_comes_before_it() {
        let (early, late) = (Duration::from_millis(20), Duration::from_secs(3600));
        let began = Instant::now();
        wait(async {
            tokio::select! {
                () = moment(began + late) => panic!("an hour has not passed"),
                () = moment(began + early) => {}
            }
        });
        assert!(began.elapsed() >= early);
    }

    #[test]
    fn only_whom_the_caller_polls_is_told_that_he_waits() {
        assert!(!is_here());
        wait(async {
            assert!(is_here());
            // As when a future asks something itself.
            wait(async { assert!(is_here()) });
            assert!(is_here());
        });
        let panicked = std::panic::catch_unwind(|| wait(async { panic!("while it is polled") }));
        assert!(panicked.is_err() && !is_here());
    }
}
