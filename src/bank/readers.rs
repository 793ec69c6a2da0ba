//! The threads that read history, and may wait for the disk.
//!
//! What always holds:
//!
//! - they are there before the first request: the system may refuse a thread when it has no process numbers to spare, and
//!   reading history does not depend on that;
//! - as many read at one time as there are threads, [`WAITING_MAX`] more wait for one of them to be done, and none
//!   waits for longer than [`WAIT_TIME_MAX`]; all others are refused at once;
//! - a client that goes away does not free the place of a thread that works on.
//!
//! A reading that has begun is not broken off: each is bounded by how many entries it looks at.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use tokio::sync::{Semaphore, oneshot};

use super::Refusal;
use crate::storage::StorageError;

/// How many threads there are.
const READERS_MAX: usize = 16;

/// How many readings wait for one of them to be done.
const WAITING_MAX: usize = 256;

/// How long one of those waits, before it is refused too.
const WAIT_TIME_MAX: Duration = Duration::from_secs(2);

/// The threads; they end when this is dropped, after what they are reading.
#[derive(Debug)]
pub struct Readers {
    /// One for each reading that is under way or waits.
    places: Arc<Semaphore>,
    /// One for each thread that has nothing to do.
    free: Arc<Semaphore>,
    work: Sender<Work>,
}

type Work = Box<dyn FnOnce() + Send>;

impl Readers {
    /// Starts them.
    ///
    /// # Errors
    /// If the system does not give so many threads.
    pub fn start() -> io::Result<Readers> {
        let (work, given) = bounded::<Work>(READERS_MAX);
        for _ in 0..READERS_MAX {
            let given = given.clone();
            thread::Builder::new()
                .name("history".into())
                .spawn(move || given.iter().for_each(|work| work()))?;
        }
        let places = |count| Arc::new(Semaphore::new(count));
        Ok(Readers { places: places(READERS_MAX + WAITING_MAX), free: places(READERS_MAX), work })
    }

    /// How many readings are under way or wait.
    pub(super) fn readings(&self) -> usize {
        READERS_MAX + WAITING_MAX - self.places.available_permits()
    }

    /// Has one of them read.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Refusal::Overloaded)?;
        let reader = tokio::time::timeout(WAIT_TIME_MAX, Arc::clone(&self.free).acquire_owned()).await;
        let reader = reader.map_err(|_| Refusal::Overloaded)?.map_err(|_| Refusal::Ended)?;
        let (told, result) = oneshot::channel();
        let work = move || {
            let _held = (place, reader);
            // Whoever asked may have gone.
            let _ = told.send(read());
        };
        // There is room: no more is given than there are readers.
        self.work.try_send(Box::new(work)).map_err(|_| Refusal::Ended)?;
        result.await.map_err(|_| Refusal::Ended)?.map_err(Refusal::Storage)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    use std::time::Instant;

    use super::*;

    #[test]
    fn so_many_readings_wait_and_who_goes_away_frees_no_thread() {
        // For the time limit, which is not waited for.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let _entered = runtime.enter();
        let mut context = Context::from_waker(Waker::noop());
        let readers = Readers::start().expect("threads");
        let (open, gate) = bounded::<()>(0);
        let read = || {
            let gate = gate.clone();
            readers.read(move || {
                let _ = gate.recv();
                Ok(())
            })
        };
        let mut waiting: Vec<_> = (0..READERS_MAX + WAITING_MAX).map(|_| Box::pin(read())).collect();
        assert!(waiting.iter_mut().all(|reading| reading.as_mut().poll(&mut context).is_pending()));
        assert_eq!(readers.readings(), 272);
        let refused = pin!(read()).poll(&mut context);
        assert!(matches!(refused, Poll::Ready(Err(Refusal::Overloaded))), "{refused:?}");
        drop(waiting);
        assert_eq!(readers.readings(), 16, "the threads read on");
        drop(open);
        let until = Instant::now() + Duration::from_secs(60);
        while readers.readings() > 0 {
            assert!(Instant::now() < until, "a place is not free again");
            thread::yield_now();
        }
    }
}
