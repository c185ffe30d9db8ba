//! The blob against a registry whose pieces come when a test lets them.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;

use super::*;

/// A registry whose pieces wait for permits, one for each; it notes what was asked for.
#[derive(Debug)]
struct Fake {
    content: Bytes,
    permits: Arc<Semaphore>,
    asked: Mutex<Vec<Range<u64>>>,
    failures: AtomicUsize,
}

const SIZE: u64 = 1_000_003;
const OFTEN: usize = Semaphore::MAX_PERMITS;

impl Source for Fake {
    fn range<'a>(&'a self, _: &'a Digest, _: u64, range: Range<u64>) -> BoxFuture<'a, Result<Pieces, RegistryError>> {
        self.asked.lock().expect("not poisoned").push(range.clone());
        let fails = self.failures.try_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        let (content, permits) = (self.content.clone(), self.permits.clone());
        Box::pin(async move {
            if fails {
                return Err(RegistryError::Transfer(dockerd_registry::TransportError::ClosedEarly));
            }
            let pieces = stream::unfold((range, content, permits), |(range, content, permits)| async move {
                if range.is_empty() {
                    return None;
                }
                permits.acquire().await.expect("open").forget();
                let end = range.end.min(range.start + 10_000);
                let piece = content.slice(range.start as usize..end as usize);
                Some((Ok(piece), (end..range.end, content, permits)))
            });
            Ok(pieces.boxed())
        })
    }
}

struct Bed {
    _directory: tempfile::TempDir,
    path: std::path::PathBuf,
    fake: Arc<Fake>,
    blob: Arc<SparseBlob>,
}

fn digest() -> Digest {
    Digest::sha256(&[7; 32])
}

fn bed(permits: usize) -> Bed {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("blob");
    let content: Vec<u8> = (0..SIZE).map(|at| (at % 251) as u8 | 1).collect();
    let fake = Arc::new(Fake {
        content: content.into(),
        permits: Arc::new(Semaphore::new(permits)),
        asked: Mutex::default(),
        failures: AtomicUsize::new(0),
    });
    let blob = Arc::new(SparseBlob::open(&path, digest(), SIZE).expect("made"));
    blob.set_source(fake.clone());
    Bed { _directory: directory, path, fake, blob }
}

impl Bed {
    fn asked(&self) -> Vec<Range<u64>> {
        self.fake.asked.lock().expect("not poisoned").clone()
    }

    fn check(&self, range: Range<u64>) {
        let expected = &self.fake.content[range.start as usize..range.end as usize];
        assert!(self.blob.read(range.clone()).expect("read") == expected, "{range:?}");
    }
}

#[tokio::test]
async fn what_is_needed_comes_and_no_byte_twice() {
    let bed = bed(OFTEN);
    bed.blob.need(500_000..500_010).await.expect("fetched");
    bed.check(500_000..500_010);
    // Whole blocks, and a bit ahead.
    assert_eq!((bed.asked().len(), bed.asked()[0].clone()), (1, 499_712..569_344));
    bed.blob.need(510_000..520_000).await.expect("here");
    assert_eq!(bed.asked().len(), 1);
    bed.blob.need(SIZE - 1..SIZE).await.expect("fetched");
    bed.check(SIZE - 1..SIZE);
    assert_ne!(bed.blob.fetched(), SIZE);
    bed.blob.fill(1).await.expect("fetched");
    assert_eq!(bed.blob.fetched(), SIZE);
    bed.check(0..SIZE);
    assert_eq!(bed.asked().iter().map(|range| range.end - range.start).sum::<u64>(), SIZE);
}

#[tokio::test]
async fn who_waits_goes_first_and_the_rest_goes_on_later() {
    let bed = bed(0);
    let blob = bed.blob.clone();
    let filling = tokio::spawn(async move { blob.fill(1).await });
    while bed.asked().is_empty() {
        tokio::task::yield_now().await;
    }
    let blob = bed.blob.clone();
    let needing = tokio::spawn(async move { blob.need(900_000..900_010).await });
    while bed.blob.lock().waiting == 0 {
        tokio::task::yield_now().await;
    }
    // One piece for the one that is under way, which then gives up; seven for what is needed.
    bed.fake.permits.add_permits(8);
    needing.await.expect("joined").expect("fetched");
    bed.check(900_000..900_010);
    assert!(bed.blob.fetched() <= (64 << 10) + 4096 + 10_000, "{}", bed.blob.fetched());
    bed.fake.permits.add_permits(1_000);
    filling.await.expect("joined").expect("fetched");
    bed.check(0..SIZE);
    assert!(bed.asked().iter().all(|range| range.start % BLOCK == 0 && (range.end % BLOCK == 0 || range.end == SIZE)));
}

#[tokio::test]
async fn who_reads_on_gets_more_at_a_time() {
    let bed = bed(OFTEN);
    for start in (100_000..900_000).step_by(20_000) {
        bed.blob.need(start..start + 20_000).await.expect("fetched");
        bed.check(start..start + 20_000);
    }
    let asked = bed.asked();
    assert!(asked.len() <= 5, "{asked:?}");
    assert!(asked.windows(2).all(|pair| pair[0].end == pair[1].start), "{asked:?}");
    // Somewhere else it begins anew.
    bed.blob.need(0..10).await.expect("fetched");
    assert_eq!(bed.asked()[asked.len()], 0..65_536);
}

#[tokio::test]
async fn what_two_need_is_fetched_once() {
    let bed = bed(OFTEN);
    let all = (0..20).map(|_| bed.blob.need(100_000..150_000));
    for result in futures_util::future::join_all(all).await {
        result.expect("fetched");
    }
    assert_eq!(bed.asked().len(), 1);
    bed.check(100_000..150_000);
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_passes_is_not_seen_and_one_that_stays_is() {
    let bed = bed(OFTEN);
    bed.fake.failures.store(4, Ordering::SeqCst);
    bed.blob.need(0..10).await.expect("at the fifth attempt");
    bed.fake.failures.store(5, Ordering::SeqCst);
    bed.blob.need(500_000..500_010).await.expect_err("five failures");
    assert!(bed.blob.lock().under_way == Ranges::default(), "nothing stays claimed");
    assert_eq!(bed.blob.lock().waiting, 0);
    bed.blob.need(500_000..500_010).await.expect("later it works again");
    bed.fake.failures.store(2, Ordering::SeqCst);
    bed.blob.fill(2).await.expect_err("two failures");
    bed.blob.fill(2).await.expect("fetched");
    bed.check(0..SIZE);
}

#[tokio::test(start_paused = true)]
async fn nobody_to_ask_and_nobody_who_wants() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let blob = SparseBlob::open(&directory.path().join("blob"), digest(), SIZE).expect("made");
    assert!(matches!(blob.need(0..1).await, Err(FetchError::NoRegistry)));
    blob.give_up();
    assert!(matches!(blob.need(0..1).await, Err(FetchError::Gone)));
    assert!(matches!(blob.fill(5).await, Err(FetchError::Gone)));
}

#[tokio::test]
async fn a_later_daemon_goes_on_with_what_is_there() {
    let bed = bed(OFTEN);
    bed.blob.need(500_000..600_000).await.expect("fetched");
    bed.blob.put(0, &bed.fake.content[..10_000]).expect("written");
    bed.blob.put(SIZE - 5_000, &bed.fake.content[SIZE as usize - 5_000..]).expect("written");
    let present = bed.blob.lock().present.clone();
    assert!(present.covers(0..8_192) && !present.covers(0..8_193));
    assert!(present.covers(SIZE.next_multiple_of(BLOCK) - BLOCK..SIZE));
    let again = SparseBlob::open(&bed.path, digest(), SIZE).expect("opened");
    assert_eq!(again.lock().present, present);
    again.set_source(bed.fake.clone());
    bed.blob.forget(500_000..500_001);
    assert!(!bed.blob.lock().present.covers(499_712..499_713));
    again.fill(1).await.expect("fetched");
    assert!(again.read(0..SIZE).expect("read") == bed.fake.content);
    // A file of another length is no file of this blob.
    let other = SparseBlob::open(&bed.path, digest(), SIZE - 1).expect("opened");
    assert_eq!(other.fetched(), 0);
}
