//! Tasks that are not to be run any more: called off, or too late.

use std::collections::HashSet;

use super::{Effects, Event, Handle, Inbox, Moment, Step, Ticket, document, held_size, note, times};
use crate::backend::State;
use crate::broker::{Revocation, Settlement};
use crate::message::Message;
use crate::packed;

/// Why a task is not run that was called off.
const REVOKED: &str = "revoked";

impl Inbox {
    /// Calls tasks off: those that have not begun never do. Returns the ones that run and are to be ended, with their
    /// models; however such a one ends but by returning, it counts as revoked.
    pub fn revoke(&mut self, revoked: &[Revocation], now: Moment, out: &mut Effects) -> Vec<(usize, Handle)> {
        if revoked.is_empty() {
            return Vec::new();
        }
        for revocation in revoked {
            self.revoked.add(&revocation.id);
        }
        let ids: HashSet<&str> = revoked.iter().map(|revocation| revocation.id.as_str()).collect();
        for key in self.entries.not_begun() {
            let is_one =
                self.entries.get(key).is_some_and(|entry| ids.contains(entry.message.headers.id.as_str()));
            if let Some(entry) = is_one.then(|| self.drop_ready(key)).flatten() {
                self.revoke_message(entry.ticket, &entry.message, REVOKED, now, out);
            }
        }
        let sought = packed::Ids::new(ids.into_iter());
        for packed in self.held.extract(|packed| sought.have(packed)) {
            self.held_bytes -= held_size(&packed);
            let (ticket, _, message) = self.shapes.unpack(packed);
            self.revoke_message(ticket, &message, REVOKED, now, out);
        }
        self.doomed(revoked)
    }

    /// Those of the tasks that run and are to be ended.
    fn doomed(&mut self, revoked: &[Revocation]) -> Vec<(usize, Handle)> {
        let terminated = revoked.iter().filter(|revocation| revocation.terminate);
        let ids: HashSet<&str> = terminated.map(|revocation| revocation.id.as_str()).collect();
        let mut doomed = Vec::new();
        for (key, entry) in self.entries.begun() {
            if !entry.is_terminated && ids.contains(entry.message.headers.id.as_str()) {
                entry.is_terminated = true;
                doomed.push((self.tasks[entry.task].terms.model, Handle(key)));
            }
        }
        doomed
    }

    /// Why a task is not to be begun any more.
    pub(super) fn lapsed(&self, message: &Message, now: Moment) -> Option<&'static str> {
        if self.revoked.has(&message.headers.id) {
            return Some(REVOKED);
        }
        let expires = message.headers.expires.as_deref()?;
        let expires = times::parse(expires, &self.settings.zone)?;
        (expires <= now.wall).then_some("expired")
    }

    pub(super) fn revoke_message(
        &mut self,
        ticket: Ticket,
        message: &Message,
        why: &'static str,
        now: Moment,
        out: &mut Effects,
    ) {
        let ignores = self.numbers.get(message.headers.task.as_str());
        let ignores = ignores.is_some_and(|number| self.tasks[*number].terms.ignore_result);
        let is_wanted = !message.headers.ignore_result.unwrap_or(ignores);
        let result = is_wanted.then(|| self.stored(message, State::Revoked, &document::revoked(why), now));
        out.steps.push(Step::new(message.headers.id.clone(), result, Some((ticket, Settlement::Done))));
        out.notes.push(note(message, Event::Revoked(why)));
    }
}
