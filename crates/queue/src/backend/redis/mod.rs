//! `redis://` and `rediss://`: results under `celery-task-meta-<id>`, told on the channel of the same name.
//!
//! **Guarantees.** A success is final: the server looks and writes in one step. Whoever waits has subscribed before it
//! looks, so that nothing passes in between, and does both again after the connection was lost.
//!
//! **Not here.** What is compressed is not read: its state is unknown here ([`State::Custom`] of an empty name), a wait ends
//! with it, and it is not recognised as a success that is final.

mod listener;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use redis::pipe;
use tokio::time::{Instant, sleep};

use self::listener::Listener;
use super::{Backend, Found, State, Stored};
use crate::address::Address;
use crate::broker::redis::connection::{Link, Script, Server};
use crate::error::Error;
use crate::open::Options;

/// How many results, and about how many bytes, are stored in one step.
const STORED_AT_ONCE: (usize, usize) = (100, 4 << 20);

/// The largest value that Redis takes.
const LARGEST: usize = 512 << 20;

static STORE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("store.lua")));

/// The result store behind a `redis://` address.
#[derive(Debug)]
pub struct RedisBackend {
    link: Link,
    listener: Arc<Listener>,
    /// What stands before a task's id.
    prefix: String,
    keep: Duration,
    max_size: u64,
}

impl RedisBackend {
    /// # Errors
    /// [`Error::Address`] if the address is none of a Redis server.
    pub fn open(address: &Address, options: &Options) -> Result<Self, Error> {
        let server = Server::of(address, options.timeout)?;
        Ok(Self {
            link: server.link(pipe()),
            listener: Listener::new(&server),
            prefix: format!("{}celery-task-meta-", separated(&options.key_prefix)),
            keep: options.keep_results,
            max_size: options.max_size,
        })
    }

    fn key(&self, id: &str) -> String {
        format!("{}{id}", self.prefix)
    }

    fn found(&self, id: &str, document: Bytes) -> Result<Found, Error> {
        let size = document.len() as u64;
        if size > self.max_size {
            return Err(Error::TooLarge {
                what: format!("the result of {id}"),
                found: size,
                most: self.max_size,
            });
        }
        Ok(Found { state: state_of(&document), document })
    }

    async fn read(&self, id: &str, key: &str) -> Result<Option<Found>, Error> {
        // No more than may be read, and one byte to tell that there is more.
        let mut read = redis::pipe();
        read.cmd("GETRANGE").arg(key).arg(0).arg(self.max_size);
        let (document,): (Vec<u8>,) = self.link.ask("read a result", &read).await?;
        if document.is_empty() {
            return Ok(None);
        }
        self.found(id, document.into()).map(Some)
    }
}

#[async_trait]
impl Backend for RedisBackend {
    fn address(&self) -> &str {
        self.link.server().shown()
    }

    async fn store(&self, results: &[Stored]) -> Result<(), Error> {
        let seconds = self.keep.as_millis().div_ceil(1000);
        let mut rest = results;
        while !rest.is_empty() {
            let mut store = STORE.begin(0);
            store.arg(u64::try_from(seconds).unwrap_or(u64::MAX));
            let (mut count, mut size) = (0, 0);
            for stored in rest {
                size += stored.document.len();
                if count > 0 && (count >= STORED_AT_ONCE.0 || size > STORED_AT_ONCE.1) {
                    break;
                }
                if stored.document.len() >= LARGEST {
                    let what = format!("the result of {}", stored.id);
                    return Err(Error::TooLarge { what, found: size as u64, most: LARGEST as u64 - 1 });
                }
                store.arg(self.key(&stored.id)).arg(&*stored.document);
                count += 1;
            }
            self.link.call::<()>("store results", &STORE, &store).await?;
            rest = &rest[count..];
        }
        Ok(())
    }

    async fn get(&self, id: &str) -> Result<Option<Found>, Error> {
        self.read(id, &self.key(id)).await
    }

    async fn wait(&self, id: &str, patience: Duration) -> Result<Found, Error> {
        let key = self.key(id);
        let mut place = self.listener.enter(&key);
        let mut away: Option<(Instant, Duration)> = None;
        loop {
            let looked = match place.listen().await {
                Ok(()) => self.read(id, &key).await,
                Err(error) => Err(error),
            };
            match looked {
                Ok(Some(found)) if is_over(&found.state) => return Ok(found),
                Ok(_) => away = None,
                Err(error) if error.is_transient() => {
                    let (since, pause) = away.get_or_insert((Instant::now(), Duration::from_millis(20)));
                    if since.elapsed() >= patience {
                        return Err(error);
                    }
                    sleep(*pause).await;
                    *pause = (*pause * 2).min(Duration::from_secs(1));
                    continue;
                }
                Err(error) => return Err(error),
            }
            while let Some(document) = place.heard().await {
                let found = self.found(id, document)?;
                if is_over(&found.state) {
                    return Ok(found);
                }
            }
        }
    }

    async fn forget(&self, id: &str) -> Result<(), Error> {
        let mut forget = redis::cmd("DEL");
        forget.arg(self.key(id));
        self.link.run("forget a result", &forget).await
    }

    async fn close(&self) {
        self.link.close();
        self.listener.close();
    }
}

/// Celery's rule for the prefix of results, which is not that for messages.
fn separated(prefix: &str) -> String {
    let is_separated = prefix.is_empty() || prefix.ends_with([':', '_', '-', '.']);
    if is_separated { prefix.into() } else { format!("{prefix}_") }
}

/// Whether there is nothing to wait for: it is ready, or only the application can tell.
fn is_over(state: &State) -> bool {
    state.is_ready() || *state == State::Custom(String::new())
}

/// The state that a document tells; one of an empty name if it must be decoded first.
fn state_of(document: &[u8]) -> State {
    #[derive(serde::Deserialize)]
    struct Status {
        status: String,
    }
    if document.first() == Some(&b'{')
        && let Ok(Status { status }) = serde_json::from_slice(document)
    {
        return State::of_name(&status);
    }
    State::of_name(named(document).unwrap_or_default())
}

/// The state in pickle or msgpack, where the name stands as it is, and a few bytes that are no letters before the value.
fn named(document: &[u8]) -> Option<&str> {
    const NAME: &[u8] = b"status";
    let head = &document[..document.len().min(128)];
    let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let after = head.windows(NAME.len()).position(|window| window == NAME)? + NAME.len();
    let begin = after + head[after..].iter().take(5).position(is_letter)?;
    let length = head[begin..].iter().take_while(|byte| is_letter(byte)).count();
    let state = std::str::from_utf8(&head[begin..begin + length]).ok()?;
    state.bytes().all(|byte| !byte.is_ascii_lowercase()).then_some(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_read_in_every_format() {
        let msgpack = b"\x86\xa6status\xa7SUCCESS\xa6result\x05";
        let pickle = b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x06status\x94\x8c\x07FAILURE\x94\x8c\x06result";
        for (document, state) in [
            (&br#"{"result": {"status": "SUCCESS"}, "status": "RETRY"}"#[..], State::Retry),
            (br#"{"status": "PROGRESS", "result": null}"#, State::Custom("PROGRESS".into())),
            (msgpack, State::Success),
            (pickle, State::Failure),
            (b"\0celery-compressed\0application/x-gzip\0x\x9c", State::Custom(String::new())),
            (b"", State::Custom(String::new())),
            (b"{", State::Custom(String::new())),
            (b"status", State::Custom(String::new())),
        ] {
            assert_eq!(state_of(document), state, "{document:?}");
        }
    }

    #[test]
    fn the_prefix_is_separated_once() {
        let prefixes = ["", "shop", "shop_", "shop:"].map(separated);
        assert_eq!(prefixes, ["", "shop_", "shop_", "shop:"]);
    }
}
