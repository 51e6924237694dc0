//! The connection that lapin is given: what comes by it is guarded.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_core::Stream;
use lapin::uri::AMQPUri;
use lapin::{AsyncTcpStream, Connection, ConnectionProperties};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::aside::Aside;
use super::guard::Guard;

/// A TCP connection, with or without TLS.
trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Socket for S {}

/// A connection by which only what is sound comes in.
pub(super) struct Guarded {
    socket: Box<dyn Socket>,
    guard: Guard,
}

/// Connects to a server, through TLS if it is told how.
pub(super) async fn connect(
    uri: AMQPUri,
    properties: ConnectionProperties,
    tls: Option<Arc<ClientConfig>>,
    patience: Duration,
    aside: Option<Aside>,
) -> lapin::Result<Connection> {
    let runtime = Runtime::new(RuntimeParts::new(Tokio::current(), Sockets(Tokio::current())));
    let open = async move |uri: AMQPUri, _| {
        let opening = open(&uri.authority.host, uri.authority.port, tls.as_ref());
        let socket = tokio::time::timeout(patience, opening).await.map_err(io::Error::from)??;
        Ok(AsyncTcpStream::Plain(Guarded { socket, guard: Guard::new(aside.clone()) }))
    };
    Connection::connector(uri, runtime, open, properties).await
}

async fn open(host: &str, port: u16, tls: Option<&Arc<ClientConfig>>) -> io::Result<Box<dyn Socket>> {
    let socket = TcpStream::connect((host, port)).await?;
    socket.set_nodelay(true)?;
    let Some(tls) = tls else { return Ok(Box::new(socket)) };
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    Ok(Box::new(TlsConnector::from(Arc::clone(tls)).connect(name, socket).await?))
}

async fn guarded(address: SocketAddr) -> io::Result<Guarded> {
    let socket = open(&address.ip().to_string(), address.port(), None).await?;
    Ok(Guarded { socket, guard: Guard::new(None) })
}

impl futures_io::AsyncRead for Guarded {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_read_vectored(context, &mut [IoSliceMut::new(to)])
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        to: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { socket, guard } = &mut *self;
        loop {
            let given = guard.give(to);
            if given > 0 || to.iter().all(|to| to.is_empty()) {
                return Poll::Ready(Ok(given));
            }
            let room = guard.room().map_err(|unfit| io::Error::new(io::ErrorKind::InvalidData, unfit))?;
            let mut room = ReadBuf::new(room);
            ready!(Pin::new(&mut *socket).poll_read(context, &mut room))?;
            let came = room.filled().len();
            if came == 0 {
                return Poll::Ready(Ok(0));
            }
            guard.came(came);
        }
    }
}

impl futures_io::AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

/// What lapin's runtime is to think that connections are.
#[derive(Debug, Clone)]
struct Sockets(Tokio);

impl Reactor for Sockets {
    type TcpStream = Guarded;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + std::os::fd::AsFd + std::os::fd::AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl futures_io::AsyncRead + futures_io::AsyncWrite + Send + Unpin + 'static> {
        self.0.register(socket)
    }

    fn sleep(&self, time: Duration) -> Self::Sleep {
        self.0.sleep(time)
    }

    fn interval(&self, time: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(time)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        guarded(address)
    }
}
