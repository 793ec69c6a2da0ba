//! The threads that serve connections.
//!
//! Each has a runtime of its own, and a connection stays with the thread that it was given to. So nothing is stolen,
//! no lock is taken for a task that is woken where it runs, and each thread has a [courier] to the shards,
//! and an [outbox] for what it sends.
//!
//! [courier]: crate::shard::courier

use std::io;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::outbox;
use crate::cores::{Cores, SERVING};
use crate::shard::courier;

/// Threads that serve connections; they end when this is dropped, and cut off what they still serve.
#[derive(Debug)]
pub struct Threads {
    threads: Vec<Thread>,
    next: usize,
}

#[derive(Debug)]
struct Thread {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Threads {
    /// Starts so many, at least one, on the cores that serve.
    ///
    /// # Errors
    /// If the system gives none.
    pub fn start(count: usize, cores: Cores) -> io::Result<Threads> {
        let threads = (0..count.max(1)).map(|_| Thread::start(cores)).collect::<Result<_, _>>()?;
        Ok(Threads { threads, next: 0 })
    }

    /// The one whose turn it is.
    pub(super) fn next(&mut self) -> &Handle {
        self.next = (self.next + 1) % self.threads.len();
        &self.threads[self.next].handle
    }
}

impl Thread {
    fn start(cores: Cores) -> io::Result<Thread> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name(SERVING.into()).spawn(move || {
            cores.serve();
            runtime.block_on(async {
                tokio::spawn(outbox::run());
                tokio::select! {
                    () = courier::run() => {}
                    // An error: whoever would stop it is gone.
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Thread { handle, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic was told where it happened.
            let _ = thread.join();
        }
    }
}
