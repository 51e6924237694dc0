use loom::thread;

use super::*;
use crate::permits::sleeper::Sleeper;
use crate::prim::atomic::{AtomicUsize, Ordering};

type Through = Channel<usize, Sleeper>;

fn wake(place: Option<Place<usize, Sleeper>>) {
    if let Some(place) = place {
        place.waiter.wake();
    }
}

/// Sends, waiting for a receiver.
fn send(channel: &Through, number: u64, item: usize) {
    let (token, sleeper) = (Arc::new(Token::new(number)), Sleeper::new());
    match channel.enter_sender(&token, 0, item, sleeper.clone()) {
        Ok(_) => {
            while token.take().is_none() {
                sleeper.sleep();
            }
        }
        Err((Sent::Done(receiver), _)) => wake(receiver),
        Err(_) => panic!("it was neither sent nor did he wait"),
    }
}

/// Receives from the first of two, waiting or not; what comes out too late is given back.
fn choose(channels: &[Through; 2], number: u64, is_patient: bool) -> Option<usize> {
    let (token, sleeper) = (Arc::new(Token::new(number)), Sleeper::new());
    let mut tickets = Vec::new();
    let mut got = None;
    for (case, channel) in channels.iter().enumerate() {
        match channel.enter_receiver(&token, case, sleeper.clone()) {
            Ok(ticket) => tickets.push((case, ticket)),
            Err((Received::Item(item, sender), _)) => {
                wake(sender);
                got = Some(item);
                break;
            }
            Err(_) => break,
        }
    }
    if got.is_none() && is_patient {
        loop {
            if let Some((_, Outcome::Received(item))) = token.take() {
                got = Some(item);
                break;
            }
            sleeper.sleep();
        }
    } else if got.is_none()
        && let Some((case, Outcome::Received(item))) = token.give_up()
    {
        wake(channels[case].give_back(item));
    }
    for (case, ticket) in tickets {
        drop(channels[case].leave_receiver(ticket));
    }
    got
}

/// One chooser gives up at any moment; what was given to him reaches the other, whichever channel it came by.
#[test]
fn loom_no_item_is_lost_with_one_who_gives_up_choosing() {
    loom::model(|| {
        let shared = Arc::new(([Through::new(0), Through::new(0)], AtomicUsize::new(0)));
        let patient = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                choose(&shared.0, 1, true).map(|item| shared.1.fetch_add(item, Ordering::Relaxed))
            })
        };
        let hasty = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                choose(&shared.0, 2, false).map(|item| shared.1.fetch_add(item, Ordering::Relaxed))
            })
        };
        // Whoever does not get it in time leaves it to be found.
        if let Sent::Done(receiver) = shared.0[0].send(1) {
            wake(receiver);
        } else {
            send(&shared.0[1], 3, 1);
        }
        let hasty_got = hasty.join().unwrap().is_some();
        if hasty_got {
            send(&shared.0[0], 4, 2);
        }
        patient.join().unwrap();
        let expected = if hasty_got { 3 } else { 1 };
        assert_eq!(shared.1.load(Ordering::Relaxed), expected);
        assert!(shared.0.iter().all(Channel::is_empty));
    });
}

/// Two offer to one channel and seek at the other, crosswise: exactly one item passes, and both know which.
#[test]
fn loom_of_two_who_choose_crosswise_one_sends_and_one_receives() {
    loom::model(|| {
        let shared = Arc::new([Through::new(0), Through::new(0)]);
        let exchange = |channels: &[Through; 2], offers: usize, number: u64| {
            let (token, sleeper) = (Arc::new(Token::new(number)), Sleeper::new());
            match channels[offers].enter_sender(&token, 0, offers, sleeper.clone()) {
                Ok(_) => {}
                Err((Sent::Done(receiver), _)) => {
                    wake(receiver);
                    return false;
                }
                Err(_) => unreachable!(),
            }
            match channels[1 - offers].enter_receiver(&token, 1, sleeper.clone()) {
                Ok(_) | Err((Received::Over, _)) => {}
                Err((Received::Item(item, sender), _)) => {
                    assert_eq!(item, 1 - offers);
                    wake(sender);
                    return true;
                }
                Err(_) => unreachable!(),
            }
            loop {
                match token.take() {
                    Some((1, Outcome::Received(item))) => {
                        assert_eq!(item, 1 - offers);
                        return true;
                    }
                    Some((0, Outcome::Sent)) => return false,
                    Some(_) => unreachable!(),
                    None => sleeper.sleep(),
                }
            }
        };
        let other = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || exchange(&shared, 1, 2))
        };
        let received = exchange(&shared, 0, 1);
        assert_ne!(received, other.join().unwrap());
    });
}

/// Whoever closes and whoever comes to wait do not miss each other.
#[test]
fn loom_nobody_waits_at_a_closed_channel() {
    loom::model(|| {
        let channel = Arc::new(Through::new(1));
        let receiver = {
            let channel = Arc::clone(&channel);
            thread::spawn(move || {
                let mut got = 0;
                loop {
                    let (token, sleeper) = (Arc::new(Token::new(0)), Sleeper::new());
                    let outcome = match channel.enter_receiver(&token, 0, sleeper.clone()) {
                        Ok(_) => loop {
                            if let Some((_, outcome)) = token.take() {
                                break outcome;
                            }
                            sleeper.sleep();
                        },
                        Err((Received::Item(item, _), _)) => Outcome::Received(item),
                        Err(_) => Outcome::Closed,
                    };
                    match outcome {
                        Outcome::Received(item) => got += item,
                        Outcome::Closed => return got,
                        Outcome::Sent => unreachable!(),
                    }
                }
            })
        };
        let Sent::Done(place) = channel.send(1) else { panic!("there was room") };
        wake(place);
        for place in channel.close() {
            place.waiter.wake();
        }
        assert_eq!(receiver.join().unwrap(), 1);
    });
}
