//! The addresses of brokers and result stores.
//!
//! `memory://`, `sqlite:///file`, `redis://`, `rediss://`, `amqp://`, `amqps://`, and for results `rpc://` and
//! `postgresql://`, too. An address may hold a password; [`Address`] is written without it, always.

use std::fmt;

use url::Url;

use crate::error::Error;

/// Which server an address is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// This process alone.
    Memory,
    /// A file on this machine.
    Sqlite,
    /// Redis, with or without TLS.
    Redis,
    /// AMQP 0-9-1, which is `RabbitMQ`, with or without TLS.
    Amqp,
    /// Results as messages of the broker.
    Rpc,
    /// A `PostgreSQL` database.
    Postgres,
}

/// An address that was understood.
#[derive(Clone)]
pub struct Address {
    kind: Kind,
    whole: String,
    shown: String,
}

impl Address {
    /// Understands an address.
    ///
    /// # Errors
    /// [`Error::Address`] if its scheme is unknown or it is no URL.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let refuse = |reason: String| Error::Address { address: masked(text), reason };
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        let kind = match scheme {
            Some("memory") => Kind::Memory,
            Some("sqlite") => Kind::Sqlite,
            Some("redis" | "rediss") => Kind::Redis,
            Some("amqp" | "amqps" | "pyamqp") => Kind::Amqp,
            Some("rpc") => Kind::Rpc,
            Some("postgresql" | "postgres") => Kind::Postgres,
            _ => {
                return Err(refuse(
                    "expected memory://, sqlite:///, redis://, rediss://, amqp://, amqps://, rpc:// or postgresql://"
                        .into(),
                ));
            }
        };
        let is_url = !matches!(kind, Kind::Sqlite | Kind::Memory | Kind::Rpc);
        if is_url && let Err(error) = Url::parse(text) {
            return Err(refuse(format!("it is no URL: {error}")));
        }
        let whole = if kind == Kind::Sqlite { from_here(text) } else { None };
        Ok(Self { kind, whole: whole.unwrap_or_else(|| text.into()), shown: masked(text) })
    }

    /// Which server it is of.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The address with its password, for whoever connects. Not to be shown.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.whole
    }

    /// The path of the file of a `sqlite://` address: `sqlite:////var/jobs.db` names it, `sqlite:///jobs.db` is below the
    /// directory of the moment when the address was parsed.
    #[must_use]
    pub fn file(&self) -> &str {
        let rest = self.whole.split_once("://").map_or("", |(_, rest)| rest);
        let file = rest.split_once('?').map_or(rest, |(file, _)| file);
        file.strip_prefix('/').unwrap_or(file)
    }

    /// What stands behind the question mark of an address.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.whole.split_once('?').map(|(_, query)| query)
    }

    /// The address without its password.
    #[must_use]
    pub fn shown(&self) -> &str {
        &self.shown
    }
}

/// The address of a relative file, from the root: it is to be the same one wherever the program goes later.
fn from_here(text: &str) -> Option<String> {
    let rest = text.strip_prefix("sqlite:///")?;
    if rest.starts_with('/') || rest.split('?').next().is_none_or(str::is_empty) {
        return None;
    }
    let here = std::env::current_dir().ok()?;
    // What stands behind a question mark is no name.
    here.to_str()
        .filter(|here| !here.contains('?'))
        .map(|here| format!("sqlite:///{}/{rest}", here.trim_end_matches('/')))
}

/// `text` with what stands between the user's name and the `@` left out.
fn masked(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.into() };
    // The last one before the path: a password may hold an `@` itself.
    let authority_ends = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let at = rest[..authority_ends].rfind('@').or_else(|| rest.rfind('@'));
    let Some(at) = at else { return text.into() };
    let user = rest[..at].split_once(':').map_or(&rest[..at], |(user, _)| user);
    let secret = if rest[..at].contains(':') { ":***" } else { "" };
    format!("{scheme}://{user}{secret}{}", &rest[at..])
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.shown)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.shown)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        for (given, shown) in [
            ("redis://:hunter2@host:6379/1", "redis://:***@host:6379/1"),
            ("amqp://me:a@b@host//", "amqp://me:***@host//"),
            ("amqp://me@host/", "amqp://me@host/"),
            ("redis://host/0?password=x", "redis://host/0?password=x"),
        ] {
            let address = Address::parse(given).unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(format!("{address:?}"), shown);
            assert_eq!(address.secret(), given);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_without_its_password() {
        let error = Address::parse("carrier-pigeon://me:hunter2@host").unwrap_err().to_string();
        assert!(error.contains("carrier-pigeon://me:***@host"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn the_file_of_an_address() {
        let here = Address::parse("sqlite:///jobs.db").unwrap();
        assert_eq!(Path::new(here.file()), std::env::current_dir().unwrap().join("jobs.db"));
        assert_eq!(here.shown(), "sqlite:///jobs.db");
        assert_eq!(Address::parse("sqlite:////var/jobs.db").unwrap().file(), "/var/jobs.db");
        let address = Address::parse("sqlite:////jobs.db?synchronous=normal").unwrap();
        assert_eq!((address.file(), address.query()), ("/jobs.db", Some("synchronous=normal")));
        assert_eq!(Address::parse("sqlite://").unwrap().file(), "");
        assert_eq!(Address::parse("sqlite:///").unwrap().file(), "");
    }
}
