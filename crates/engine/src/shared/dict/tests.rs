use std::cell::Cell;
use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// So much memory, of which a part is there.
struct Heap {
    words: Vec<AtomicU64>,
    there: Cell<usize>,
}

impl Heap {
    fn new(most: usize) -> Self {
        let words: Vec<_> = (0..most).map(|_| AtomicU64::new(0)).collect();
        initialise(&words[..LEAST], 42);
        Self { words, there: Cell::new(LEAST) }
    }

    fn dict(&self) -> Dict<'_, Self> {
        Dict::new(self).unwrap()
    }
}

impl Memory for Heap {
    type Error = ();

    fn words(&self, end: usize) -> Option<&[AtomicU64]> {
        (end <= self.there.get()).then(|| &self.words[..self.there.get()])
    }

    fn grow(&self, end: usize) -> Result<(), ()> {
        if end > self.words.len() {
            return Err(());
        }
        self.there.set(self.there.get().max(end));
        Ok(())
    }
}

fn value() -> impl Strategy<Value = Value<Vec<u8>>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200).prop_map(Value::Bytes),
        any::<i64>().prop_map(Value::Int),
        (-1e9..1e9).prop_map(Value::Float),
    ]
}

fn lent(value: &Value<Vec<u8>>) -> Value<&[u8]> {
    match value {
        Value::Bytes(bytes) => Value::Bytes(bytes),
        Value::Int(number) => Value::Int(*number),
        Value::Float(number) => Value::Float(*number),
    }
}

#[derive(Debug, Clone)]
enum Step {
    Set(Vec<u8>, Value<Vec<u8>>),
    Remove(Vec<u8>),
    Add(Vec<u8>, i64),
    Clear,
    Recover,
}

fn step() -> impl Strategy<Value = Step> {
    let key = || prop::collection::vec(0..3_u8, 0..12);
    prop_oneof![
        8 => (key(), value()).prop_map(|(key, value)| Step::Set(key, value)),
        3 => key().prop_map(Step::Remove),
        3 => (key(), -1000..1000_i64).prop_map(|(key, number)| Step::Add(key, number)),
        1 => Just(Step::Clear),
        1 => Just(Step::Recover),
    ]
}

proptest! {
    #[test]
    fn it_is_a_map(steps in prop::collection::vec(step(), 0..300)) {
        let heap = Heap::new(1 << 20);
        let dict = heap.dict();
        let mut model: HashMap<Vec<u8>, Value<Vec<u8>>> = HashMap::new();
        for step in steps {
            match step {
                Step::Set(key, value) => {
                    dict.set(&key, &lent(&value)).unwrap();
                    model.insert(key, value);
                }
                Step::Remove(key) => {
                    prop_assert_eq!(dict.remove(&key), Ok(model.remove(&key).is_some()));
                }
                Step::Add(key, number) => {
                    let expected = match model.get(&key) {
                        None => Ok(Value::Int(number)),
                        Some(Value::Int(old)) => old.checked_add(number).map(Value::Int).ok_or(Failure::Overflow),
                        Some(Value::Float(old)) => Ok(Value::Float(old + number as f64)),
                        Some(Value::Bytes(_)) => Err(Failure::NoNumber),
                    };
                    let found = dict.add(&key, &Value::Int(number));
                    prop_assert_eq!(&found, &expected.clone().map(|value: Value<&[u8]>| value));
                    if let Ok(value) = found {
                        model.insert(key, match value {
                            Value::Int(number) => Value::Int(number),
                            Value::Float(number) => Value::Float(number),
                            Value::Bytes(_) => unreachable!(),
                        });
                    }
                }
                Step::Clear => {
                    dict.clear().unwrap();
                    model.clear();
                }
                Step::Recover => recover(&dict).unwrap(),
            }
            prop_assert_eq!(dict.len(), model.len() as u64);
        }
        for (key, value) in &model {
            prop_assert_eq!(dict.get(key), Ok(Some(value.clone())));
            prop_assert_eq!(dict.peek(key), Some(Some(value.clone())));
            prop_assert_eq!(dict.peek_contains(key), Some(true));
        }
        prop_assert_eq!(dict.peek(b"not there"), Some(None));
        let entries = dict.entries().unwrap();
        prop_assert_eq!(entries.len(), model.len());
        prop_assert_eq!(dict.keys().unwrap(), entries.iter().map(|entry| entry.0.clone()).collect::<Vec<_>>());
        prop_assert_eq!(entries.into_iter().collect::<HashMap<_, _>>(), model);
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn nonsense_ends_every_step(junk in prop::collection::vec(any::<(usize, u64)>(), 1..30), small: bool) {
        let heap = Heap::new(1 << 14);
        let dict = heap.dict();
        for number in 0..40_i64 {
            dict.set(&number.to_le_bytes(), &Value::Int(number)).unwrap();
        }
        for (index, word) in junk {
            let index = if small { index % 64 } else { index % heap.there.get() };
            heap.words[index].store(if small { word % 1024 } else { word }, Ordering::Relaxed);
            for number in 0..4_i64 {
                let key = number.to_le_bytes();
                let _ = (dict.get(&key), dict.peek(&key), dict.set(&key, &Value::Bytes(b"value")));
                let _ = (dict.add(&key, &Value::Int(1)), dict.remove(&key), dict.entries());
            }
            let _ = (recover(&dict), dict.clear(), dict.keys());
        }
    }
}

#[test]
fn a_lack_of_memory_changes_nothing() {
    let heap = Heap::new(4 * LEAST);
    let dict = heap.dict();
    let mut count = 0_u64;
    while dict.set(&count.to_le_bytes(), &Value::Bytes(&[7; 100])).is_ok() {
        count += 1;
    }
    assert!(count > 20);
    assert_eq!(dict.set(b"one more", &Value::Bytes(&[7; 100])), Err(Failure::Memory(())));
    assert_eq!((dict.len(), dict.keys().unwrap().len() as u64), (count, count));
    assert_eq!(dict.get(&0_u64.to_le_bytes()), Ok(Some(Value::Bytes(vec![7; 100]))));
    assert_eq!(dict.remove(&0_u64.to_le_bytes()), Ok(true));
}

#[test]
fn what_is_overwritten_and_taken_away_does_not_fill_the_memory() {
    let heap = Heap::new(8 * LEAST);
    let dict = heap.dict();
    for number in 0..10_000_u32 {
        dict.set(b"the same", &Value::Bytes(&number.to_le_bytes())).unwrap();
        dict.set(&number.to_le_bytes(), &Value::Int(1)).unwrap();
        assert_eq!(dict.remove(&number.to_le_bytes()), Ok(true));
    }
    assert_eq!(dict.get(b"the same"), Ok(Some(Value::Bytes(9_999_u32.to_le_bytes().to_vec()))));
    assert_eq!(dict.len(), 1);
}

#[test]
fn a_number_becomes_another_in_place() {
    let heap = Heap::new(LEAST);
    let dict = heap.dict();
    for number in 0..10_000 {
        dict.set(b"int", &Value::Int(number)).unwrap();
        dict.set(b"float", &Value::Float(0.5)).unwrap();
        assert_eq!(dict.add(b"sum", &Value::Int(1)), Ok(Value::Int(number + 1)));
    }
    assert_eq!(dict.add(b"int", &Value::Float(0.5)), Ok(Value::Float(9999.5)));
    assert_eq!(dict.add(b"sum", &Value::Int(i64::MAX)), Err(Failure::Overflow));
}

#[test]
fn who_takes_over_mends_what_a_dead_writer_left() {
    let heap = Heap::new(1 << 16);
    let dict = heap.dict();
    dict.set(b"a", &Value::Int(1)).unwrap();
    dict.set(b"b", &Value::Int(2)).unwrap();
    // Killed before the counts were right, in the middle of writing.
    heap.words[VERSION].store(7, Ordering::Relaxed);
    heap.words[COUNT].store(99, Ordering::Relaxed);
    assert_eq!(dict.peek(b"a"), None, "has to ask for the guard");
    recover(&dict).unwrap();
    assert_eq!((dict.len(), dict.peek(b"a")), (2, Some(Some(Value::Int(1)))));
}

#[test]
#[expect(clippy::disallowed_methods, reason = "two who really run at once")]
fn readers_see_only_whole_values_while_a_writer_writes() {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    struct Fixed(Vec<AtomicU64>);
    impl Memory for Fixed {
        type Error = ();
        fn words(&self, end: usize) -> Option<&[AtomicU64]> {
            (end <= self.0.len()).then_some(&self.0[..])
        }
        fn grow(&self, end: usize) -> Result<(), ()> {
            if end <= self.0.len() { Ok(()) } else { Err(()) }
        }
    }

    let memory = Arc::new(Fixed((0..1 << 16).map(|_| AtomicU64::new(0)).collect()));
    initialise(&memory.0[..LEAST], 1);
    Dict::new(&*memory).unwrap().set(b"key", &Value::Bytes(&[0; 300])).unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let reader = {
        let (memory, is_over) = (Arc::clone(&memory), Arc::clone(&is_over));
        std::thread::spawn(move || {
            let dict = Dict::new(&*memory).unwrap();
            let mut seen = 0;
            while !is_over.load(Ordering::Relaxed) || seen == 0 {
                if let Some(found) = dict.peek(b"key") {
                    let Some(Value::Bytes(bytes)) = found else { panic!("{found:?}") };
                    assert!(bytes.iter().all(|byte| *byte == bytes[0]) && bytes.len() >= 300);
                    seen += 1;
                }
            }
        })
    };
    let dict = Dict::new(&*memory).unwrap();
    for number in 0..5_000_usize {
        let byte = u8::try_from(number % 251).unwrap();
        dict.set(b"key", &Value::Bytes(&vec![byte; 300 + number % 100])).unwrap();
        dict.set(&number.to_le_bytes(), &Value::Int(1)).unwrap();
        dict.remove(&number.to_le_bytes()).unwrap();
    }
    is_over.store(true, Ordering::Relaxed);
    reader.join().unwrap();
}
