//! The server at an address: how it is connected to, and what its errors mean.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lapin::protocol::{AMQPErrorKind, AMQPHardError};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{Connection, ConnectionProperties, ErrorKind};
use tokio_rustls::rustls;
use url::Url;

use super::aside::Aside;
use super::{FRAME, SMALL_FRAME, stream};
use crate::address::Address;
use crate::error::Error;
use crate::open::Options;
use crate::tls::{Terms, is_distrust};

/// Seconds between signs of life, of both sides, where the address does not say it (`?heartbeat=`). After twice as long
/// without any, the connection counts as lost.
const HEARTBEAT: u16 = 20;

/// A `RabbitMQ`, connected to or not.
#[derive(Debug)]
pub(crate) struct Server {
    uri: Uri,
    /// How to speak TLS with it, if one does.
    tls: Option<Arc<rustls::ClientConfig>>,
    shown: String,
    timeout: Duration,
    is_closed: AtomicBool,
}

/// What lapin connects to: it holds the password, so it is not shown.
struct Uri(AMQPUri);

impl std::fmt::Debug for Uri {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Uri")
    }
}

impl Server {
    /// The server at an address. Nothing is connected yet.
    pub(crate) fn at(address: &Address, options: &Options) -> Result<Self, Error> {
        let refuse = |reason| Error::Address { address: address.shown().into(), reason };
        let url = Url::parse(address.secret()).map_err(|error| refuse(format!("it is no URL: {error}")))?;
        let uri = understand(&url).map_err(refuse)?;
        let tls = match uri.scheme {
            AMQPScheme::AMQPS => Some(Terms::of_url(&url).and_then(|terms| terms.config()).map_err(refuse)?),
            AMQPScheme::AMQP => None,
        };
        Ok(Self {
            uri: Uri(uri),
            tls: tls.map(Arc::new),
            shown: address.shown().into(),
            timeout: options.timeout,
            is_closed: AtomicBool::new(false),
        })
    }

    /// Its address, without the password.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    /// How long to wait for an answer.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Nothing connects to it any more.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
    }

    /// Says no if it was closed.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.is_closed.load(Ordering::Acquire) {
            Err(Error::Closed { server: self.shown.clone() })
        } else {
            Ok(())
        }
    }

    /// A new connection, under a name for the server's lists; one with small frames, if there is a place for what does
    /// not fit into them.
    pub(super) async fn connect(&self, name: &str, aside: Option<&Aside>) -> Result<Connection, Error> {
        self.check()?;
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let mut uri = self.uri.0.clone();
        if aside.is_some() {
            uri.query.frame_max = u32::try_from(SMALL_FRAME).ok();
        }
        let connecting = stream::connect(uri, properties, self.tls.clone(), self.timeout, aside.cloned());
        self.answer("connect", connecting).await
    }

    /// Waits for an answer, as long as one waits for answers; `action` is a verb and its object.
    pub(crate) async fn answer<T>(
        &self,
        action: &str,
        question: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(self.timeout, question).await {
            Ok(answer) => answer.map_err(|error| self.explain(action, &error)),
            Err(_) => Err(self.silent(action)),
        }
    }

    /// The server has not answered in time.
    pub(crate) fn silent(&self, action: &str) -> Error {
        self.unreachable(format!("could not {action} within {:?}: no answer", self.timeout))
    }

    pub(crate) fn unreachable(&self, reason: String) -> Error {
        Error::Unreachable { server: self.shown.clone(), reason }
    }

    pub(crate) fn refused(&self, action: &str, reason: String) -> Error {
        Error::Refused { action: action.into(), server: self.shown.clone(), reason }
    }

    /// The limit of what the server keeps is reached.
    pub(crate) fn full(&self, reason: &str) -> Error {
        Error::Full { server: self.shown.clone(), reason: reason.into() }
    }

    /// What an error of lapin's means to whoever wanted `action`.
    pub(crate) fn explain(&self, action: &str, error: &lapin::Error) -> Error {
        if let Err(closed) = self.check() {
            return closed;
        }
        match error.kind() {
            ErrorKind::ProtocolError(said) if !is_passing(said.kind()) => {
                self.refused(action, said.get_message().as_str().into())
            }
            ErrorKind::ProtocolError(said) => self.unreachable(said.get_message().as_str().into()),
            ErrorKind::AuthProviderError(_)
            | ErrorKind::SerialisationError(_)
            | ErrorKind::NoDefaultRuntime => self.refused(action, error.to_string()),
            ErrorKind::IOError(error) if is_distrust(error) => self.refused(action, error.to_string()),
            ErrorKind::IOError(error) => self.unreachable(error.to_string()),
            _ => self.unreachable(error.to_string()),
        }
    }
}

/// Whether an error of the server's says something about the server, and nothing about what was asked of it.
fn is_passing(kind: &AMQPErrorKind) -> bool {
    matches!(
        kind,
        AMQPErrorKind::Hard(
            AMQPHardError::CONNECTIONFORCED | AMQPHardError::INTERNALERROR | AMQPHardError::RESOURCEERROR
        )
    )
}

/// What an error is of those that forbid nothing for ever, by its number.
pub(super) fn is(error: &lapin::Error, number: u16) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(said) if said.get_id() == number)
}

fn understand(url: &Url) -> Result<AMQPUri, String> {
    let scheme = if url.scheme() == "amqps" { AMQPScheme::AMQPS } else { AMQPScheme::AMQP };
    let mut query = AMQPQueryString {
        frame_max: u32::try_from(FRAME).ok(),
        heartbeat: Some(HEARTBEAT),
        ..AMQPQueryString::default()
    };
    for (name, value) in url.query_pairs() {
        let number =
            || value.parse().map_err(|_| format!("found {name}={value}, expected a number of seconds"));
        if name == "heartbeat" {
            query.heartbeat = Some(number()?);
        }
    }
    let host = url.host_str().filter(|host| !host.is_empty()).unwrap_or("localhost");
    let or_guest = |text: &str| if text.is_empty() { Ok("guest".into()) } else { decoded(text) };
    Ok(AMQPUri {
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo {
                username: or_guest(url.username())?,
                password: or_guest(url.password().unwrap_or_default())?,
            },
            host: decoded(host.trim_start_matches('[').trim_end_matches(']'))?,
            port: url.port().unwrap_or_else(|| scheme.default_port()),
        },
        vhost: match decoded(url.path().strip_prefix('/').unwrap_or(url.path()))? {
            path if path.is_empty() => "/".into(),
            path => path,
        },
        scheme,
        query,
    })
}

/// A text in which `%2F` and its like stand for bytes.
fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, others)) = rest.split_first() {
        let digits = others.get(..2).filter(|_| first == b'%').and_then(|two| str::from_utf8(two).ok());
        if let Some(byte) = digits.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            bytes.push(byte);
            rest = &others[2..];
        } else {
            bytes.push(first);
            rest = others;
        }
    }
    String::from_utf8(bytes).map_err(|_| "found bytes that are no UTF-8, expected a text".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn understand(text: &str) -> Result<AMQPUri, String> {
        super::understand(&Url::parse(text).unwrap())
    }

    #[test]
    fn what_an_address_leaves_out_is_what_the_server_is_installed_with() {
        let uri = understand("amqp://").unwrap();
        assert_eq!((uri.authority.host.as_str(), uri.authority.port), ("localhost", 5672));
        assert_eq!(uri.authority.userinfo.username, "guest");
        assert_eq!(uri.authority.userinfo.password, "guest");
        assert_eq!(uri.vhost, "/");
        assert_eq!(understand("amqps://host").unwrap().authority.port, 5671);
    }

    #[test]
    fn the_virtual_host_is_what_celery_takes_it_for() {
        for (address, expected) in [
            ("amqp://host", "/"),
            ("amqp://host/", "/"),
            ("amqp://host//", "/"),
            ("pyamqp://host/%2f", "/"),
            ("amqp://host/shop", "shop"),
            ("amqp://host/%2Fshop%20a", "/shop a"),
        ] {
            assert_eq!(understand(address).unwrap().vhost, expected, "{address}");
        }
    }

    #[test]
    fn a_password_may_hold_anything() {
        let uri = understand("amqp://me%40home:p%2Fs%25s:w%3Frd@10.0.0.1:5673/v?heartbeat=7").unwrap();
        assert_eq!(uri.authority.userinfo.username, "me@home");
        assert_eq!(uri.authority.userinfo.password, "p/s%s:w?rd");
        assert_eq!((uri.authority.host.as_str(), uri.authority.port), ("10.0.0.1", 5673));
        assert_eq!(uri.query.heartbeat, Some(7));
    }

    #[test]
    fn what_is_not_understood_is_refused_and_never_shown_with_its_password() {
        for address in ["amqp://me:hunter2@host/?heartbeat=often", "amqp://me:hunter2@host/%FF"] {
            let address = Address::parse(address).unwrap();
            let error = Server::at(&address, &Options::default()).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        let server =
            Server::at(&Address::parse("amqp://me:hunter2@host/").unwrap(), &Options::default()).unwrap();
        assert!(!format!("{server:?}").contains("hunter2"));
    }
}
