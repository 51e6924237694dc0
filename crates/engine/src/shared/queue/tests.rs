use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const ME: Owner = Owner::new(7, 1);
const DEAD: Owner = Owner::new(8, 1);

/// So much memory, of which a part is there.
struct Heap {
    words: Vec<AtomicU64>,
    there: Cell<usize>,
    /// What the memory was each time that somebody asked for it, if anybody wants to know.
    instants: Option<RefCell<Vec<Vec<u64>>>>,
}

impl Heap {
    fn new(pages: usize, limit: u64) -> Self {
        let words: Vec<_> = (0..pages::words(pages)).map(|_| AtomicU64::new(0)).collect();
        initialise(&words[..LEAST], ME, limit);
        Self { words, there: Cell::new(LEAST), instants: None }
    }

    fn of(words: &[u64]) -> Self {
        let words: Vec<_> = words.iter().map(|word| AtomicU64::new(*word)).collect();
        Self { there: Cell::new(words.len()), words, instants: None }
    }

    fn look(&self) -> Vec<u64> {
        self.words[..self.there.get()].iter().map(|word| word.load(Ordering::Relaxed)).collect()
    }

    fn queue(&self) -> Queue<'_, Self> {
        Queue::new(self).unwrap()
    }
}

impl Memory for Heap {
    type Error = ();

    fn words(&self, end: usize) -> Option<&[AtomicU64]> {
        if let Some(instants) = &self.instants {
            instants.borrow_mut().push(self.look());
        }
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

type Outcome<T> = Result<T, Failure<()>>;

/// Puts an item, with more memory if that is needed.
fn put(queue: &Queue<'_, Heap>, me: Owner, bytes: &[u8]) -> Outcome<Put> {
    let make_room = |len| queue.make_room(me, len, |owner| owner != DEAD);
    let mut draft = if bytes.len() <= SHORT {
        Draft::Short(bytes)
    } else {
        loop {
            let fill = |cursor: &mut Cursor<'_, '_, Heap>| cursor.write(bytes).ok_or(());
            match queue.store(me, bytes.len(), fill).map_err(Failure::Memory)? {
                Some(long) => break Draft::Long(long),
                None => make_room(bytes.len())?,
            }
        }
    };
    loop {
        match queue.put(me, 5, &mut draft)? {
            Put::NoPage => make_room(1)?,
            put => return Ok(put),
        }
    }
}

fn take(queue: &Queue<'_, Heap>, me: Owner) -> Outcome<Option<Vec<u8>>> {
    Ok(match queue.take(me)? {
        Take::Short(_, bytes) => Some(bytes),
        Take::Long(_, long) => {
            let mut bytes = vec![0; long.len()];
            long.cursor().read(&mut bytes).ok_or(Failure::Corrupt)?;
            Some(bytes)
        }
        Take::Empty | Take::Shut => None,
    })
}

fn content(queue: &Queue<'_, Heap>) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| take(queue, ME).unwrap()).collect()
}

/// How many pages nobody has.
fn free(heap: &Heap) -> usize {
    let queue = heap.queue();
    let taken: Vec<_> = std::iter::from_fn(|| queue.pages.take(ME, 1)).collect();
    taken.len()
}

fn item(number: usize) -> Vec<u8> {
    let len = [0, 1, 13, 2000, 500, 5000, 20_000][number % 7] + number % 5;
    (0..len).map(|at| u8::try_from((at + number) % 251).unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn it_is_a_queue(steps in prop::collection::vec((any::<bool>(), 0..50_usize), 0..300), limit in 0..20_u64) {
        let heap = Heap::new(500, limit);
        let queue = heap.queue();
        let mut model = VecDeque::new();
        for (is_put, number) in steps {
            if is_put {
                let has_room = limit == 0 || (model.len() as u64) < limit;
                let expected = if has_room { Put::Done } else { Put::Full };
                prop_assert_eq!(put(&queue, ME, &item(number)), Ok(expected));
                if has_room {
                    model.push_back(item(number));
                }
            } else {
                prop_assert_eq!(take(&queue, ME), Ok(model.pop_front()));
            }
            prop_assert_eq!(queue.len(), model.len() as u64);
            prop_assert_eq!(queue.is_empty(), model.is_empty());
        }
        prop_assert_eq!(content(&queue), Vec::from(model));
        // One is left for head and tail.
        prop_assert_eq!(free(&heap), queue.pages.count() - 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn nonsense_ends_every_step(junk in prop::collection::vec(any::<(usize, u64)>(), 1..30), small: bool) {
        let heap = Heap::new(60, 0);
        let queue = heap.queue();
        for number in 0..20 {
            put(&queue, ME, &item(number)).unwrap();
        }
        for (index, word) in junk {
            let head = [TAIL, HEAD, HEAD_SEEN, TAIL_SEEN, DONE, LIMIT, PAGES, HINT, FIRST, FIRST + 300];
            let index = if small { head[index % head.len()] } else { index % heap.there.get() };
            heap.words[index].store(if small { word % (1 << 20) } else { word }, Ordering::Relaxed);
            let _ = (take(&queue, ME), queue.make_room(ME, 9000, |owner| owner == ME), queue.len());
            if let Some(long) = queue.reserve(ME, 5000) {
                let _ = (long.cursor().write(&[1; 5000]), queue.put(ME, 5, &mut Draft::Long(long)));
            }
            let _ = (queue.put(ME, 5, &mut Draft::Short(&[2; 100])), queue.unfinished(), queue.finish());
        }
    }
}

/// What somebody leaves who is killed at any instant of a step: the items of before or of after it, and no page that
/// could not be used again.
fn died_at_any_instant(mut heap: Heap, step: impl FnOnce(&Queue<'_, Heap>)) {
    let total = 60;
    let before = content(&Heap::of(&heap.look()).queue());
    heap.instants = Some(RefCell::default());
    step(&heap.queue());
    let instants = heap.instants.take().unwrap().into_inner();
    let after = content(&Heap::of(&heap.look()).queue());
    assert!(!instants.is_empty() && before != after);
    for instant in instants {
        let mut left = Heap::of(&instant);
        left.words.resize_with(pages::words(total), || AtomicU64::new(0));
        let queue = left.queue();
        queue.make_room(ME, PAGE_BYTES, |owner| owner != DEAD).unwrap();
        put(&queue, ME, b"one more").unwrap();
        let mut found = content(&queue);
        assert_eq!(found.pop().unwrap(), b"one more");
        assert!(found == before || found == after);
        assert_eq!(free(&left), queue.pages.count() - 1);
    }
}

fn filled(numbers: std::ops::Range<usize>) -> Heap {
    let heap = Heap::new(60, 0);
    let queue = heap.queue();
    for number in numbers {
        put(&queue, ME, &item(number)).unwrap();
    }
    heap
}

#[test]
fn who_dies_while_he_puts_has_put_all_or_nothing() {
    for number in 0..14 {
        died_at_any_instant(filled(0..number), |queue| {
            put(queue, DEAD, &item(number)).unwrap();
        });
    }
}

#[test]
fn who_dies_while_he_takes_has_taken_one_or_none() {
    for number in 0..14 {
        died_at_any_instant(filled(number..15), |queue| {
            take(queue, DEAD).unwrap();
        });
    }
}

#[test]
fn who_dies_while_he_clears_it_leaves_the_newest() {
    let heap = filled(0..12);
    let items = content(&Heap::of(&heap.look()).queue());
    let heap = Heap { instants: Some(RefCell::default()), ..heap };
    heap.queue().shut(true);
    heap.queue().clear(DEAD).unwrap();
    for instant in heap.instants.as_ref().unwrap().take() {
        let left = Heap::of(&instant);
        left.words[SHUT].store(0, Ordering::Relaxed);
        assert!(items.ends_with(&content(&left.queue())));
    }
}

#[test]
fn memory_that_is_used_again_is_not_more() {
    let heap = Heap::new(40, 0);
    let queue = heap.queue();
    for number in 0..1000 {
        put(&queue, ME, &item(number)).unwrap();
        put(&queue, ME, &item(number + 3)).unwrap();
        assert_eq!(
            (take(&queue, ME), take(&queue, ME)),
            (Ok(Some(item(number))), Ok(Some(item(number + 3))))
        );
    }
}

#[test]
fn a_lack_of_memory_changes_nothing() {
    let heap = Heap::new(30, 0);
    let queue = heap.queue();
    let count = (0..100).take_while(|_| put(&queue, ME, &[7; 9000]).is_ok()).count();
    assert!((6..99).contains(&count));
    assert_eq!(put(&queue, ME, &[7; 9000]), Err(Failure::Memory(())));
    assert_eq!((queue.len(), content(&queue)), (count as u64, vec![vec![7; 9000]; count]));
    assert_eq!(put(&queue, ME, &[7; 9000]), Ok(Put::Done));
}

#[test]
fn an_item_keeps_its_tag() {
    let heap = Heap::new(30, 0);
    let queue = heap.queue();
    queue.put(ME, MOST_TAG, &mut Draft::Short(b"short")).unwrap();
    let long = queue.reserve(ME, 5000).unwrap();
    queue.put(ME, 1, &mut Draft::Long(long)).unwrap();
    assert!(matches!(queue.take(ME), Ok(Take::Short(MOST_TAG, bytes)) if bytes == b"short"));
    assert!(matches!(queue.take(ME), Ok(Take::Long(1, long)) if long.len() == 5000));
}

#[test]
fn numbers_begin_anew() {
    let heap = Heap::new(30, 3);
    let queue = heap.queue();
    let place = Place { page: 0, offset: 0, number: MOST - 1 };
    for word in [HEAD, TAIL] {
        heap.words[word].store(place.word(), Ordering::Relaxed);
    }
    heap.words[DONE].store(MOST - 1, Ordering::Relaxed);
    for number in 0..3 {
        assert_eq!(put(&queue, ME, &item(number)), Ok(Put::Done));
    }
    assert_eq!(put(&queue, ME, &item(3)), Ok(Put::Full));
    assert_eq!((queue.len(), queue.is_full(), queue.unfinished()), (3, true, 3));
    assert_eq!(content(&queue), (0..3).map(item).collect::<Vec<_>>());
    assert_eq!([0; 4].map(|_| queue.finish()), [Some(2), Some(1), Some(0), None]);
}

#[test]
fn what_is_put_before_it_is_shut_can_be_taken() {
    let heap = Heap::new(30, 0);
    let queue = heap.queue();
    put(&queue, ME, b"one").unwrap();
    put(&queue, ME, b"two").unwrap();
    assert_eq!(queue.finish(), Some(1));
    queue.shut(false);
    assert_eq!(put(&queue, ME, b"three"), Ok(Put::Shut));
    assert_eq!(take(&queue, ME), Ok(Some(b"one".to_vec())));
    queue.shut(true);
    assert!(matches!(queue.take(ME), Ok(Take::Shut)) && queue.is_shut());
    queue.clear(ME).unwrap();
    assert_eq!((queue.len(), queue.unfinished()), (0, 0));
}
