//! TLS, in the words of the addresses of `PostgreSQL`'s own clients.
//!
//! `sslmode` says how much is demanded: `prefer` (if the address says nothing) takes TLS where the server offers it,
//! `require` demands it, `verify-ca` demands a certificate that is trusted, `verify-full` one that names the server, too.
//! `sslrootcert`, `sslcert` and `sslkey` name files in PEM; `sslrootcert=system` trusts whom this machine trusts, and demands
//! `verify-full`.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Socket;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use url::Url;

use crate::tls::{Check, Terms, read, said};

/// The words that are understood here.
const WORDS: [&str; 4] = ["sslmode", "sslrootcert", "sslcert", "sslkey"];

/// How to speak TLS with a server.
#[derive(Clone)]
pub(super) struct Tls(Arc<ClientConfig>);

/// What an address says of TLS, and the address without it.
pub(super) fn of_address(address: &str) -> Result<(Tls, SslMode, String), String> {
    let url = Url::parse(address).map_err(|error| error.to_string())?;
    let is_of_machine = said(&url, "sslrootcert").as_deref() == Some("system");
    let authorities = if is_of_machine { None } else { read(&url, "sslrootcert")? };
    let (mode, check) = match said(&url, "sslmode").as_deref() {
        None | Some("verify-full") if is_of_machine => (SslMode::Require, Check::Name),
        Some(other) if is_of_machine => {
            return Err(format!("found sslmode={other} with sslrootcert=system, expected verify-full"));
        }
        Some("disable") => (SslMode::Disable, Check::Nothing),
        None | Some("allow" | "prefer") => (SslMode::Prefer, Check::Nothing),
        Some("require") if authorities.is_none() => (SslMode::Require, Check::Nothing),
        Some("require" | "verify-ca") => (SslMode::Require, Check::Authority),
        Some("verify-full") => (SslMode::Require, Check::Name),
        Some(other) => {
            let known = "disable, allow, prefer, require, verify-ca or verify-full";
            return Err(format!("found sslmode={other}, expected {known}"));
        }
    };
    let identity = match (read(&url, "sslcert")?, read(&url, "sslkey")?) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err("expected sslcert and sslkey, or neither".into()),
    };
    let mut config = Terms { authorities, identity, check }.config()?;
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok((Tls(Arc::new(config)), mode, without(address)))
}

fn without(address: &str) -> String {
    let Some((rest, query)) = address.split_once('?') else { return address.into() };
    let others = query.split('&').filter(|word| !WORDS.contains(&word.split('=').next().unwrap_or_default()));
    format!("{rest}?{}", others.collect::<Vec<_>>().join("&"))
}

impl MakeTlsConnect<Socket> for Tls {
    type Stream = Encrypted;
    type TlsConnect = Named;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<Named> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        Ok(Named { tls: self.clone(), name })
    }
}

/// How to speak TLS with a server of that name.
pub(super) struct Named {
    tls: Tls,
    name: ServerName<'static>,
}

impl TlsConnect<Socket> for Named {
    type Stream = Encrypted;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Encrypted>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        let connecting = TlsConnector::from(self.tls.0).connect(self.name, socket);
        Box::pin(async { Ok(Encrypted(Box::new(connecting.await?))) })
    }
}

/// A connection through TLS.
pub(super) struct Encrypted(Box<TlsStream<Socket>>);

impl tokio_postgres::tls::TlsStream for Encrypted {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, to)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_tls_is_kept_from_those_who_do_not_understand_it() {
        for (address, expected) in [
            ("postgresql://me@host/db", "postgresql://me@host/db"),
            ("postgresql://host/db?sslmode=verify-full", "postgresql://host/db?"),
            ("postgresql://host/db?a=1&sslmode=allow&b=sslmode", "postgresql://host/db?a=1&b=sslmode"),
        ] {
            assert_eq!(of_address(address).unwrap().2, expected);
        }
    }

    #[test]
    fn what_is_demanded_is_what_the_address_says() {
        for (word, expected) in [
            ("", SslMode::Prefer),
            ("?sslmode=disable", SslMode::Disable),
            ("?sslmode=require", SslMode::Require),
            ("?sslmode=verify-ca", SslMode::Require),
            ("?sslrootcert=system", SslMode::Require),
            ("?sslrootcert=system&sslmode=verify-full", SslMode::Require),
        ] {
            assert_eq!(of_address(&format!("postgresql://host/db{word}")).unwrap().1, expected);
        }
        for wrong in [
            "?sslmode=perhaps",
            "?sslrootcert=/nowhere",
            "?sslcert=/dev/null",
            "?sslrootcert=system&sslmode=require",
        ] {
            assert!(of_address(&format!("postgresql://host/db{wrong}")).is_err());
        }
    }
}
