use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;

type Through = Channel<u32, &'static str>;

static NUMBERS: AtomicU64 = AtomicU64::new(0);

fn token() -> Arc<Token<u32>> {
    Arc::new(Token::new(NUMBERS.fetch_add(1, Ordering::Relaxed)))
}

fn name<T>(place: Option<Place<T, &'static str>>) -> Option<&'static str> {
    place.map(|place| place.waiter)
}

fn sent(channel: &Through, item: u32) -> Option<&'static str> {
    let Sent::Done(receiver) = channel.send(item) else { panic!("{item} was not sent") };
    name(receiver)
}

fn received(channel: &Through) -> (u32, Option<&'static str>) {
    let Received::Item(item, sender) = channel.receive() else { panic!("nothing was received") };
    (item, name(sender))
}

#[test]
fn items_come_out_in_order_and_a_sender_refills_the_room() {
    let channel = Through::new(2);
    assert_eq!([sent(&channel, 1), sent(&channel, 2)], [None, None]);
    assert!(matches!(channel.send(3), Sent::Full(3)));
    let waiting = token();
    channel.enter_sender(&waiting, 7, 3, "sender").unwrap();
    assert_eq!(received(&channel), (1, Some("sender")));
    assert_eq!(waiting.take(), Some((7, Outcome::Sent)));
    assert_eq!([received(&channel), received(&channel)], [(2, None), (3, None)]);
    assert!(matches!(channel.receive(), Received::Empty));
}

#[test]
fn without_room_an_item_passes_from_hand_to_hand() {
    let channel = Through::new(0);
    assert!(matches!(channel.send(1), Sent::Full(1)));
    let receiver = token();
    channel.enter_receiver(&receiver, 0, "receiver").unwrap();
    assert_eq!(sent(&channel, 1), Some("receiver"));
    assert_eq!(receiver.take(), Some((0, Outcome::Received(1))));
    assert_eq!(receiver.take(), None);
    channel.enter_sender(&token(), 0, 2, "sender").unwrap();
    assert_eq!(received(&channel), (2, Some("sender")));
    assert!(channel.is_empty());
}

#[test]
fn what_was_given_to_one_who_gave_up_comes_out_first() {
    let channel = Through::new(2);
    let receivers = [token(), token()];
    channel.enter_receiver(&receivers[0], 0, "a").unwrap();
    let second = channel.enter_receiver(&receivers[1], 0, "b").unwrap();
    assert_eq!(sent(&channel, 1), Some("a"));
    let Some((0, Outcome::Received(item))) = receivers[0].give_up() else { panic!() };
    assert_eq!(name(channel.give_back(item)), Some("b"));
    assert!(channel.leave_receiver(second).is_none(), "he was served");
    sent(&channel, 2);
    let Some((0, Outcome::Received(item))) = receivers[1].give_up() else { panic!() };
    assert_eq!(name(channel.give_back(item)), None);
    assert_eq!([received(&channel).0, received(&channel).0], [1, 2]);
}

#[test]
fn of_several_cases_one_is_decided() {
    let channels = [Through::new(0), Through::new(0)];
    let chooser = token();
    for (case, channel) in channels.iter().enumerate() {
        channel.enter_receiver(&chooser, case, "chooser").unwrap();
    }
    assert_eq!(sent(&channels[1], 1), Some("chooser"));
    assert!(matches!(channels[0].send(2), Sent::Full(2)), "he is served already");
    assert_eq!(chooser.take(), Some((1, Outcome::Received(1))));
}

#[test]
fn who_was_decided_in_one_line_gets_nothing_in_the_next() {
    let channels = [Through::new(1), Through::new(1)];
    sent(&channels[1], 5);
    let chooser = token();
    channels[0].enter_receiver(&chooser, 0, "chooser").unwrap();
    sent(&channels[0], 4);
    let entered = channels[1].enter_receiver(&chooser, 1, "chooser");
    assert!(matches!(entered, Err((Received::Over, "chooser"))));
    assert_eq!((chooser.take(), channels[1].len()), (Some((0, Outcome::Received(4))), 1));
}

#[test]
fn nobody_sends_to_himself() {
    let channel = Through::new(0);
    let mine = token();
    channel.enter_receiver(&mine, 0, "me").unwrap();
    channel.enter_sender(&mine, 1, 1, "me").unwrap();
    assert_eq!(received(&channel), (1, Some("me")));
    assert_eq!(mine.take(), Some((1, Outcome::Sent)));
}

#[test]
fn a_closed_channel_is_drained_and_lets_nobody_wait() {
    let channel = Through::new(1);
    let waiting = token();
    sent(&channel, 1);
    channel.enter_sender(&waiting, 3, 2, "sender").unwrap();
    assert_eq!(channel.close().len(), 1);
    assert_eq!(waiting.take(), Some((3, Outcome::Closed)));
    assert!(matches!(channel.send(3), Sent::Closed(3)));
    assert_eq!(received(&channel), (1, None));
    assert!(matches!(channel.receive(), Received::Closed));
    assert!(matches!(channel.enter_receiver(&token(), 0, "late"), Err((Received::Closed, "late"))));
}

/// One of four who send and receive at two channels, or wait for either.
#[derive(Default)]
struct Actor {
    waits: Option<(Arc<Token<u32>>, Vec<Case>)>,
    /// Those of his cases that he has not entered yet: others act between one and the next.
    ahead: Vec<usize>,
}

struct Case {
    channel: usize,
    item: Option<u32>,
    ticket: Option<Ticket>,
}

struct World {
    channels: [Channel<u32, usize>; 2],
    actors: [Actor; 4],
    next: u32,
    sent: Vec<u32>,
    received: Vec<u32>,
}

impl World {
    fn fresh(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    fn note(&mut self, case: &Case, outcome: Outcome<u32>) {
        match outcome {
            Outcome::Received(item) => self.received.push(item),
            Outcome::Sent => self.sent.extend(case.item),
            Outcome::Closed => {}
        }
    }

    fn choose(&mut self, who: usize, cases: &[usize]) {
        self.actors[who] = Actor { waits: Some((token(), Vec::new())), ahead: cases.to_vec() };
        self.enter_next(who);
    }

    /// Bit 0 of a case is the channel, bit 1 whether to send.
    fn enter_next(&mut self, who: usize) {
        let kind = self.actors[who].ahead.remove(0);
        let (channel, item) = (kind & 1, (kind & 2 != 0).then(|| self.fresh()));
        let (token, mut cases) = self.actors[who].waits.take().unwrap();
        let number = cases.len();
        let (ticket, is_done) = match item {
            Some(item) => match self.channels[channel].enter_sender(&token, number, item, who) {
                Ok(ticket) => (Some(ticket), false),
                Err((Sent::Done(_), _)) => {
                    self.sent.push(item);
                    (None, true)
                }
                Err(_) => (None, false),
            },
            None => match self.channels[channel].enter_receiver(&token, number, who) {
                Ok(ticket) => (Some(ticket), false),
                Err((Received::Item(item, _), _)) => {
                    self.received.push(item);
                    (None, true)
                }
                Err(_) => (None, false),
            },
        };
        if is_done {
            self.leave(&cases);
        } else {
            cases.push(Case { channel, item, ticket });
            self.actors[who].waits = Some((token, cases));
        }
        if ticket.is_none() {
            self.actors[who].ahead.clear();
        }
    }

    fn leave(&self, cases: &[Case]) {
        for Case { channel, item, ticket } in cases {
            let Some(ticket) = *ticket else { continue };
            let _ = match item {
                Some(_) => self.channels[*channel].leave_sender(ticket),
                None => self.channels[*channel].leave_receiver(ticket),
            };
        }
    }

    fn look(&mut self, who: usize, gives_up: bool) {
        let Some((token, cases)) = self.actors[who].waits.take() else { return };
        let decided = if gives_up { token.give_up() } else { token.take() };
        match decided {
            None if !gives_up => self.actors[who].waits = Some((token, cases)),
            None => self.leave(&cases),
            Some((case, Outcome::Received(item))) if gives_up => {
                self.leave(&cases);
                let _ = self.channels[cases[case].channel].give_back(item);
            }
            Some((case, outcome)) => {
                self.leave(&cases);
                self.note(&cases[case], outcome);
            }
        }
    }

    /// Everything that was sent has come out once, or is on its way.
    fn is_whole(&self) -> bool {
        let mut known = self.received.clone();
        for channel in &self.channels {
            known.extend(lock(&channel.inner).items.iter());
        }
        let mut all = self.sent.clone();
        for actor in &self.actors {
            let Some((token, cases)) = &actor.waits else { continue };
            token.look(|item| known.push(*item));
            if let Some((case, Outcome::Sent)) = token.peek() {
                all.extend(cases[case].item);
            }
        }
        known.sort_unstable();
        all.sort_unstable();
        known == all
    }

    /// Nobody waits who need not: for an item that is there, for room, for somebody who waits for him.
    fn nobody_waits_in_vain(&self) -> bool {
        self.channels.iter().all(|channel| {
            let inner = lock(&channel.inner);
            let open = |line: &Line<Place<u32, usize>>| {
                line.iter()
                    .filter(|place| place.token.is_open())
                    .map(|place| place.waiter)
                    .collect::<Vec<_>>()
            };
            let (senders, receivers) = (open(&inner.senders), open(&inner.receivers));
            let strangers = senders.iter().any(|sender| receivers.iter().any(|receiver| sender != receiver));
            !strangers
                && (receivers.is_empty() || inner.items.is_empty())
                && (senders.is_empty() || inner.items.len() >= channel.capacity)
        })
    }
}

proptest! {
    #[test]
    fn nothing_is_lost_or_doubled_whoever_chooses_and_gives_up(
        capacities in prop::array::uniform2(0_usize..3),
        steps in prop::collection::vec((0_usize..4, 0_usize..4, prop::collection::vec(0_usize..4, 1..4)), 1..120),
    ) {
        let mut world = World {
            channels: capacities.map(Channel::new),
            actors: Default::default(),
            next: 0,
            sent: Vec::new(),
            received: Vec::new(),
        };
        for (step, who, cases) in steps {
            match step {
                0 | 1 if world.actors[who].waits.is_none() => world.choose(who, &cases),
                _ if !world.actors[who].ahead.is_empty() => world.enter_next(who),
                2 => world.look(who, true),
                _ => world.look(who, false),
            }
            prop_assert!(world.is_whole());
            prop_assert!(world.nobody_waits_in_vain());
        }
    }
}
