//! What shows that a consumer lives, and what becomes of the messages of one that does not.
//!
//! Each of our consumers says every second or so that it lives. One that has not said so for some seconds is dead: the
//! next that notices forbids it to take more and gives back what it had. Nobody is found dead by one who has not been
//! connected for as long himself, so that a restart of the server kills nobody.
//!
//! For workers of other makes there is kombu's rule: what was taken longer ago than the visibility timeout goes back. Ours
//! keep that rule, too, and renew the time of what they hold, so that it does not hit them.

use std::sync::{Arc, Weak};
use std::time::Duration;

use redis::pipe;
use tokio::time::{Instant, sleep};

use super::consumer::{Core, End};
use super::{Shared, scripts};
use crate::error::Error;

/// After how long a silent consumer is dead, unless the visibility timeout is shorter.
const LEASE: Duration = Duration::from_secs(6);

/// How many messages are looked at in one step.
const AT_ONCE: usize = 500;

impl Core {
    fn lease(&self) -> Duration {
        LEASE.min(self.visibility)
    }

    /// Makes the consumer known.
    pub(super) async fn join(&self) -> Result<(), Error> {
        self.beat("join", false).await.map(drop)
    }

    /// Says that it lives. Returns the name of a dead one that is now the caller's to look after, or an empty one.
    async fn beat(&self, verb: &str, may_look: bool) -> Result<Option<String>, Error> {
        let keys = &self.shared.keys;
        let mut beat = scripts::BEAT.begin(2);
        beat.arg(&keys.consumers).arg(&keys.fences).arg(&self.id).arg(self.lease().as_secs_f64());
        beat.arg(verb).arg(i32::from(may_look));
        self.shared.link.call("say that a consumer lives", &scripts::BEAT, &beat).await
    }

    /// Says so until its end, and meanwhile looks after the dead.
    pub(super) async fn live(core: Weak<Self>) {
        let Some(lease) = core.upgrade().map(|core| core.lease()) else { return };
        let mut swept: Option<Instant> = None;
        loop {
            sleep(lease / 4).await;
            let Some(core) = core.upgrade() else { return };
            if !matches!(core.lock().end, End::None | End::Stopped) {
                return;
            }
            let may_look = core.shared.link.since().is_some_and(|since| since.elapsed() >= lease);
            match core.beat("beat", may_look).await {
                Ok(Some(dead)) if dead.is_empty() => {}
                Ok(Some(dead)) => drop(tokio::spawn(Shared::recover(Arc::clone(&core.shared), dead))),
                Ok(None) => core.end(End::Lost),
                // As long as the server is away, nobody can be found dead.
                Err(_) => continue,
            }
            let _ = core.renew().await;
            let is_due = swept.is_none_or(|swept| swept.elapsed() >= core.pause_between_sweeps());
            if is_due && core.shared.sweep(core.visibility).await.is_ok() {
                swept = Some(Instant::now());
            }
        }
    }

    fn pause_between_sweeps(&self) -> Duration {
        (self.visibility / 10).min(Duration::from_secs(60))
    }

    /// Renews the time of what it has held for a while.
    async fn renew(&self) -> Result<(), Error> {
        let (now, old) = (self.age(), (self.visibility / 4).as_secs());
        let due: Vec<u64> = {
            let state = self.lock();
            let is_due = |told: u32| u64::from(now - told) >= old;
            state.held.iter().filter(|(_, held)| is_due(held.told)).map(|(number, _)| number).collect()
        };
        for numbers in due.chunks(AT_ONCE) {
            let mut renew = scripts::REFRESH.begin(1);
            renew.arg(&self.shared.keys.index);
            for number in numbers {
                renew.arg(self.tag(*number));
            }
            self.shared.link.call::<()>("renew messages", &scripts::REFRESH, &renew).await?;
            let mut state = self.lock();
            for number in numbers {
                if let Some(held) = state.held.get_mut(*number) {
                    held.told = now;
                }
            }
        }
        Ok(())
    }
}

impl Shared {
    /// There is no such consumer any more.
    pub(super) async fn strike(&self, id: &str) -> Result<(), Error> {
        let mut strike = pipe();
        strike.atomic();
        strike.cmd("ZREM").arg(&self.keys.consumers).arg(id).ignore();
        strike.cmd("HDEL").arg(&self.keys.fences).arg(id).ignore();
        self.link.run_all("sign a consumer off", &strike).await
    }

    /// Gives back what a dead consumer had. If this does not come to its end, somebody else begins anew.
    async fn recover(self: Arc<Self>, dead: String) {
        let all = async {
            let mut numbers = Vec::new();
            let mut cursor = 0_u64;
            loop {
                let mut scan = redis::cmd("ZSCAN");
                scan.arg(&self.keys.index).arg(cursor).arg("MATCH").arg(format!("{dead}:*"));
                scan.arg("COUNT").arg(AT_ONCE);
                let (next, found): (u64, Vec<String>) = self.link.run("look for messages", &scan).await?;
                let number = |tag: &String| tag.rsplit_once(':')?.1.parse::<u64>().ok();
                numbers.extend(found.iter().step_by(2).filter_map(number));
                cursor = next;
                if cursor == 0 {
                    break;
                }
            }
            numbers.sort_unstable_by(|one, other| other.cmp(one));
            numbers.dedup();
            for numbers in numbers.chunks(AT_ONCE) {
                let tags: Vec<String> = numbers.iter().map(|number| format!("{dead}:{number}")).collect();
                self.give_back(&tags).await?;
            }
            self.strike(&dead).await
        };
        // What went wrong goes wrong for whoever comes next, too, until the server is back.
        let _: Result<(), Error> = all.await;
    }

    /// Gives back what was taken longer ago than that by somebody who is not known to live.
    async fn sweep(&self, visibility: Duration) -> Result<(), Error> {
        loop {
            let mut look = scripts::OVERDUE.begin(3);
            look.arg(&self.keys.index).arg(&self.keys.mutex).arg(&self.keys.consumers);
            look.arg(visibility.as_secs_f64()).arg(AT_ONCE);
            let mut tags: Vec<String> =
                self.link.call("look for forgotten messages", &scripts::OVERDUE, &look).await?;
            // The oldest is to come first.
            tags.reverse();
            // What cannot be given back stays, and must not be looked at for ever.
            if tags.is_empty() || self.give_back(&tags).await? == 0 {
                return Ok(());
            }
        }
    }
}
