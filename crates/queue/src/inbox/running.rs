//! Deliveries that are ready or running, by a key that is never given twice.

use super::Ticket;
use crate::message::Message;

/// A delivery that is ready or running.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Entry {
    pub(crate) ticket: Ticket,
    pub(crate) queue: String,
    pub(crate) task: usize,
    pub(crate) message: Box<Message>,
    /// Its broker was told to hold it, and may not have kept it.
    pub(crate) is_held: bool,
    pub(crate) is_running: bool,
    /// Its message was settled when it began.
    pub(crate) is_settled: bool,
    pub(crate) is_result_wanted: bool,
    /// Somebody has called it off while it ran, and it is to be ended.
    pub(crate) is_terminated: bool,
}

impl Entry {
    pub(crate) fn new(ticket: Ticket, queue: String, task: usize, message: Message) -> Self {
        let message = Box::new(message);
        Self {
            ticket,
            queue,
            task,
            message,
            is_held: false,
            is_running: false,
            is_settled: false,
            is_result_wanted: true,
            is_terminated: false,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Running {
    slots: Vec<Slot>,
    vacant: Vec<u32>,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    entry: Option<Entry>,
}

impl Running {
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.vacant.len()
    }

    pub(crate) fn insert(&mut self, entry: Entry) -> u64 {
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).expect("fewer than 2³² tasks at once")
        });
        let slot = &mut self.slots[index as usize];
        slot.entry = Some(entry);
        key(slot.generation, index)
    }

    pub(crate) fn get(&self, key: u64) -> Option<&Entry> {
        let (generation, index) = parts(key);
        self.slots.get(index as usize).filter(|slot| slot.generation == generation)?.entry.as_ref()
    }

    pub(crate) fn get_mut(&mut self, key: u64) -> Option<&mut Entry> {
        let (generation, index) = parts(key);
        self.slots.get_mut(index as usize).filter(|slot| slot.generation == generation)?.entry.as_mut()
    }

    pub(crate) fn remove(&mut self, key: u64) -> Option<Entry> {
        let (generation, index) = parts(key);
        let slot = self.slots.get_mut(index as usize).filter(|slot| slot.generation == generation)?;
        let entry = slot.entry.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.vacant.push(index);
        Some(entry)
    }

    pub(crate) fn remove_running(&mut self, key: u64) -> Option<Entry> {
        if self.get(key)?.is_running { self.remove(key) } else { None }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.slots.iter().filter_map(|slot| slot.entry.as_ref())
    }

    /// The keys of what is begun, and what it is.
    pub(crate) fn begun(&mut self) -> impl Iterator<Item = (u64, &mut Entry)> {
        let indexed = (0_u32..).zip(&mut self.slots);
        let running =
            indexed.filter_map(|(index, slot)| Some((key(slot.generation, index), slot.entry.as_mut()?)));
        running.filter(|(_, entry)| entry.is_running)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.slots.iter_mut().filter_map(|slot| slot.entry.as_mut())
    }

    /// The keys of what has not begun.
    pub(crate) fn not_begun(&self) -> Vec<u64> {
        let waits = |slot: &Slot| slot.entry.as_ref().is_some_and(|entry| !entry.is_running);
        let indexed = (0_u32..).zip(&self.slots).filter(|(_, slot)| waits(slot));
        indexed.map(|(index, slot)| key(slot.generation, index)).collect()
    }
}

fn key(generation: u32, index: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(index)
}

fn parts(key: u64) -> (u32, u32) {
    let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or_default();
    (half(key >> 32), half(key))
}
