//! A queue from many threads to one, which sleeps while there is nothing.
//!
//! crossbeam's channels spin and yield before they sleep, which pays where cores are idle. Here the other side of each
//! queue needs the core: durable deposits over HTTP made 6 calls of `sched_yield` a commit, and as many switches.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// A queue that holds so many; who adds one more waits.
pub(super) fn bounded<T>(room: usize) -> (Sender<T>, Receiver<T>) {
    let state = Mutex::new(State { waiting: VecDeque::new(), closed: false });
    let queue = Arc::new(Queue { state, filled: Condvar::new(), emptied: Condvar::new(), room });
    (Sender(Arc::clone(&queue)), Receiver(queue))
}

/// A queue whose users see to its bound.
pub(super) fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    bounded(usize::MAX)
}

/// The side that adds. When it is dropped, nothing more comes.
#[derive(Debug)]
pub(super) struct Sender<T>(Arc<Queue<T>>);

/// The side that takes. When it is dropped, so is what it has not taken.
#[derive(Debug)]
pub(super) struct Receiver<T>(Arc<Queue<T>>);

#[derive(Debug)]
struct Queue<T> {
    state: Mutex<State<T>>,
    /// Called when something has come, or nothing more will.
    filled: Condvar,
    /// Called when there is room again, or nothing more is taken.
    emptied: Condvar,
    room: usize,
}

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<T>,
    closed: bool,
}

/// Why there is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nothing {
    /// It was waited for as long as was asked.
    TimedOut,
    /// Nothing more comes.
    Closed,
}

impl<T> Sender<T> {
    /// Adds one, as soon as there is room.
    ///
    /// # Errors
    /// Gives it back if nobody takes it any more.
    pub(super) fn send(&self, item: T) -> Result<(), T> {
        let mut state = self.0.state.lock();
        while state.waiting.len() >= self.0.room && !state.closed {
            self.0.emptied.wait(&mut state);
        }
        if state.closed {
            return Err(item);
        }
        state.waiting.push_back(item);
        drop(state);
        self.0.filled.notify_one();
        Ok(())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.state.lock().closed = true;
        self.0.filled.notify_one();
    }
}

impl<T> Receiver<T> {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.state.lock().waiting.len()
    }

    /// Takes the oldest, if there is one.
    pub(super) fn try_take(&self) -> Option<T> {
        let item = self.0.state.lock().waiting.pop_front();
        self.told_of_room(item)
    }

    /// Takes the oldest as soon as there is one, but waits no longer than it is asked to.
    ///
    /// # Errors
    /// See [`Nothing`]. What was added before comes first.
    pub(super) fn take(&self, wait_max: Option<Duration>) -> Result<T, Nothing> {
        let until = wait_max.map(|wait| Instant::now() + wait);
        let mut state = self.0.state.lock();
        loop {
            if let Some(item) = state.waiting.pop_front() {
                drop(state);
                return Ok(self.told_of_room(Some(item)).expect("it is there"));
            }
            if state.closed {
                return Err(Nothing::Closed);
            }
            match until {
                None => self.0.filled.wait(&mut state),
                Some(until) if self.0.filled.wait_until(&mut state, until).timed_out() => {
                    let item = state.waiting.pop_front();
                    drop(state);
                    return self.told_of_room(item).ok_or(Nothing::TimedOut);
                }
                Some(_) => {}
            }
        }
    }

    fn told_of_room(&self, item: Option<T>) -> Option<T> {
        if self.0.room < usize::MAX && item.is_some() {
            self.0.emptied.notify_one();
        }
        item
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.closed = true;
        let dropped = std::mem::take(&mut state.waiting);
        drop(state);
        drop(dropped);
        self.0.emptied.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn what_is_sent_comes_in_order_and_then_the_end() {
        let (sender, receiver) = unbounded();
        assert_eq!(receiver.try_take(), None);
        assert_eq!(receiver.take(Some(Duration::ZERO)), Err(Nothing::TimedOut));
        for item in 0..3 {
            assert_eq!(sender.send(item), Ok(()));
        }
        assert_eq!(receiver.len(), 3);
        drop(sender);
        assert_eq!(receiver.take(None), Ok(0));
        assert_eq!(receiver.try_take(), Some(1));
        assert_eq!(receiver.take(Some(Duration::ZERO)), Ok(2));
        assert_eq!(receiver.take(None), Err(Nothing::Closed));
    }

    #[test]
    fn who_finds_no_room_waits_for_it() {
        let (sender, receiver) = bounded(1);
        thread::scope(|scope| {
            scope.spawn(move || (0..1000).for_each(|item| sender.send(item).expect("it is taken")));
            for item in 0..1000 {
                assert!(receiver.len() <= 1);
                assert_eq!(receiver.take(None), Ok(item));
            }
            assert_eq!(receiver.take(None), Err(Nothing::Closed));
        });
    }

    #[test]
    fn who_waits_for_room_that_never_comes_is_told() {
        let (sender, receiver) = bounded(1);
        let item = Arc::new(());
        assert!(sender.send(Arc::clone(&item)).is_ok());
        thread::scope(|scope| {
            let waiting = scope.spawn(|| sender.send(Arc::clone(&item)));
            drop(receiver);
            assert!(waiting.join().expect("no panic").is_err());
        });
        assert_eq!(Arc::strong_count(&item), 1, "what was not taken is dropped");
    }
}
