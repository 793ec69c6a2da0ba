//! Requests and replies in bundles, for a thread that asks for many clients at once.
//!
//! A thread of the HTTP front end serves hundreds of connections. If each request woke the shard by itself, and each
//! reply the thread, waking would cost more than the work. So such a thread has a courier, a task of its runtime:
//! what the tasks of one turn ask of a shard is handed over by it at the end of the turn, with one wake-up, and all
//! replies of a commit come back to it, with one wake-up.
//!
//! What always holds:
//!
//! - a request waits for no more than the tasks that were ready before it, or for `BUNDLE_REQUESTS_MAX` requests;
//! - requests of one thread to one shard arrive in the order in which they were made;
//! - a courier that has ended hands on what it had, and drops the replies that still come: nobody waits for them.
//!
//! A thread without a courier asks and is answered one by one: tests, and whoever asks little.
//!
//! What it buys, durable deposits over HTTP against the same without it: see "One wake-up a turn" in
//! `benches/README.md`.

use std::cell::RefCell;
use std::future::poll_fn;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::handle::{Mail, ShardError};
use super::queue::Sender;
use super::request::{Reply, Request};

/// After how many requests to one shard they are handed over at once: it has something to do, and more come
/// meanwhile.
const BUNDLE_REQUESTS_MAX: usize = 16;

thread_local! {
    static COURIER: RefCell<Option<Courier>> = const { RefCell::new(None) };
}

/// Where a shard's reply goes.
#[derive(Debug)]
pub(super) struct ReplyTo {
    asker: oneshot::Sender<Reply>,
    /// The letterbox of the thread that asks, if it has a courier.
    letterbox: Option<Arc<Letterbox>>,
}

type Letter = (oneshot::Sender<Reply>, Reply);

/// What comes back to one thread.
#[derive(Debug, Default)]
struct Letterbox(Mutex<Letters>);

#[derive(Debug, Default)]
struct Letters {
    replies: Vec<Letter>,
    /// The courier, if it does not know yet that there is something.
    waker: Option<Waker>,
    closed: bool,
}

impl Letterbox {
    fn put(&self, replies: &mut Vec<Letter>) {
        let mut letters = self.0.lock();
        if letters.closed {
            drop(letters);
            return replies.clear();
        }
        letters.replies.append(replies);
        let waker = letters.waker.take();
        drop(letters);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Swaps what has come for the empty `replies`.
    fn empty_into(&self, replies: &mut Vec<Letter>, cx: &Context<'_>) {
        let mut letters = self.0.lock();
        mem::swap(&mut letters.replies, replies);
        letters.waker = Some(cx.waker().clone());
    }

    fn close(&self) {
        let mut letters = self.0.lock();
        letters.closed = true;
        let dropped = mem::take(&mut letters.replies);
        drop(letters);
        drop(dropped);
    }
}

/// Replies that leave a shard together, by the thread that they go to.
#[derive(Debug, Default)]
pub(super) struct Replies {
    bundles: Vec<(Arc<Letterbox>, Vec<Letter>)>,
}

impl Replies {
    /// Adds a reply, which leaves with [`Replies::send`], or at once if nobody fetches it.
    pub(super) fn add(&mut self, to: ReplyTo, reply: Reply) {
        let Some(letterbox) = to.letterbox else {
            // The asker may have gone; that is its affair.
            let _ = to.asker.send(reply);
            return;
        };
        match self.bundles.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &letterbox)) {
            Some((_, replies)) => replies.push((to.asker, reply)),
            None => self.bundles.push((letterbox, vec![(to.asker, reply)])),
        }
    }

    /// Sends all.
    pub(super) fn send(&mut self) {
        for (letterbox, replies) in &mut self.bundles {
            if !replies.is_empty() {
                letterbox.put(replies);
            }
        }
    }
}

/// What one thread has for the shards.
struct Courier {
    letterbox: Arc<Letterbox>,
    bundles: Vec<Bundle>,
    /// How it is called when there is something to hand over; there once it has been polled.
    waker: Option<Waker>,
}

struct Bundle {
    inbox: Arc<Sender<Mail>>,
    requests: Vec<(Request, ReplyTo)>,
}

impl Courier {
    fn take(
        &mut self,
        inbox: &Arc<Sender<Mail>>,
        request: Request,
        asker: oneshot::Sender<Reply>,
    ) -> Result<(), ShardError> {
        let place = match self.bundles.iter().position(|bundle| Arc::ptr_eq(&bundle.inbox, inbox)) {
            Some(place) => place,
            None => {
                self.bundles.push(Bundle { inbox: Arc::clone(inbox), requests: Vec::new() });
                self.bundles.len() - 1
            }
        };
        let bundle = &mut self.bundles[place];
        bundle.requests.push((request, ReplyTo { asker, letterbox: Some(Arc::clone(&self.letterbox)) }));
        if bundle.requests.len() >= BUNDLE_REQUESTS_MAX {
            return bundle.hand_over();
        }
        if bundle.requests.len() == 1
            && let Some(waker) = &self.waker
        {
            waker.wake_by_ref();
        }
        Ok(())
    }

    fn hand_over_all(&mut self, cx: &Context<'_>) {
        for bundle in self.bundles.iter_mut().filter(|bundle| !bundle.requests.is_empty()) {
            // Who asked a shard that has ended hears it: the way to the reply is dropped.
            let _ = bundle.hand_over();
        }
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }
}

impl Bundle {
    fn hand_over(&mut self) -> Result<(), ShardError> {
        let requests = mem::replace(&mut self.requests, Vec::with_capacity(BUNDLE_REQUESTS_MAX));
        self.inbox.send(Mail::Requests(requests)).map_err(|_| ShardError::Ended)
    }
}

/// Sends a request to a shard, by this thread's courier if it has one. Its reply comes out of what is returned.
pub(super) fn send(
    inbox: &Arc<Sender<Mail>>,
    request: Request,
) -> Result<oneshot::Receiver<Reply>, ShardError> {
    let (asker, reply) = oneshot::channel();
    COURIER.with_borrow_mut(|courier| match courier {
        Some(courier) => courier.take(inbox, request, asker),
        None => {
            let to = ReplyTo { asker, letterbox: None };
            inbox.send(Mail::Requests(vec![(request, to)])).map_err(|_| ShardError::Ended)
        }
    })?;
    Ok(reply)
}

/// Is this thread's courier, for as long as it is polled.
///
/// # Panics
/// If the thread has one already.
pub async fn run() {
    let installed = Installed::new();
    let mut replies = Vec::new();
    poll_fn(|cx| {
        installed.0.empty_into(&mut replies, cx);
        for (asker, reply) in replies.drain(..) {
            // The asker may have gone; that is its affair.
            let _ = asker.send(reply);
        }
        COURIER.with_borrow_mut(|courier| courier.as_mut().map(|courier| courier.hand_over_all(cx)));
        Poll::<()>::Pending
    })
    .await;
}

/// A thread has its courier as long as this is there.
struct Installed(Arc<Letterbox>);

impl Installed {
    fn new() -> Installed {
        let letterbox = Arc::<Letterbox>::default();
        let courier = Courier { letterbox: Arc::clone(&letterbox), bundles: Vec::new(), waker: None };
        let before = COURIER.replace(Some(courier));
        assert!(before.is_none(), "a thread has one courier");
        Installed(letterbox)
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        for bundle in COURIER.take().iter_mut().flat_map(|courier| &mut courier.bundles) {
            let _ = bundle.hand_over();
        }
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;
    use tokio::task::JoinSet;

    use super::*;
    use crate::shard::queue::{Receiver, unbounded};

    fn asked(inbox: &Receiver<Mail>) -> Option<Vec<(Request, ReplyTo)>> {
        inbox.try_take().map(|mail| match mail {
            Mail::Requests(requests) => requests,
            other => panic!("{other:?}"),
        })
    }

    fn ask(inbox: &Arc<Sender<Mail>>) -> oneshot::Receiver<Reply> {
        send(inbox, Request::TrialBalance).expect("somebody takes it")
    }

    /// Runs a task for each number beside a courier, until all have ended.
    fn beside_a_courier<F: Future<Output = ()> + Send + 'static>(count: usize, task: impl Fn(usize) -> F) {
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            (0..count).for_each(|number| drop(tasks.spawn(task(number))));
            let all = async { while tasks.join_next().await.is_some() {} };
            tokio::select! {
                () = all => {}
                () = run() => unreachable!("a courier does not end by itself"),
            }
        });
    }

    #[test]
    fn what_is_asked_in_one_turn_is_handed_over_together_and_answered_together() {
        let (inbox, end) = unbounded();
        let inbox = Arc::new(inbox);
        let shard = std::thread::spawn(move || {
            let Ok(Mail::Requests(requests)) = end.take(None) else { panic!("requests come") };
            assert_eq!(requests.len(), 3);
            let mut replies = Replies::default();
            requests.into_iter().for_each(|(_, to)| replies.add(to, Reply::Overloaded));
            assert_eq!(replies.bundles.len(), 1, "they go to one thread");
            replies.send();
        });
        beside_a_courier(3, |_| {
            let inbox = Arc::clone(&inbox);
            async move { assert_eq!(ask(&inbox).await, Ok(Reply::Overloaded)) }
        });
        shard.join().expect("no panic");
    }

    #[test]
    fn a_full_bundle_does_not_wait_and_the_order_is_kept() {
        let (inbox, end) = unbounded();
        let inbox = Arc::new(inbox);
        let end = Arc::new(end);
        beside_a_courier(1, |_| {
            let (inbox, end) = (Arc::clone(&inbox), Arc::clone(&end));
            async move {
                let mut waiting = Vec::new();
                for number in 0..BUNDLE_REQUESTS_MAX + 1 {
                    assert_eq!(end.len(), number / BUNDLE_REQUESTS_MAX);
                    waiting.push(ask(&inbox));
                }
                let requests = asked(&end).expect("a bundle");
                assert_eq!(requests.len(), BUNDLE_REQUESTS_MAX);
                for (number, (_, to)) in requests.into_iter().enumerate() {
                    drop(to);
                    assert!(
                        waiting[number]
                            .try_recv()
                            .is_err_and(|why| why == oneshot::error::TryRecvError::Closed)
                    );
                }
            }
        });
        assert_eq!(asked(&end).expect("what was left is handed over at the end").len(), 1);
    }

    #[test]
    fn a_courier_that_has_ended_drops_what_still_comes() {
        let (inbox, end) = unbounded();
        let inbox = Arc::new(inbox);
        let (tell, told) = std::sync::mpsc::channel();
        beside_a_courier(1, |_| {
            let (inbox, tell) = (Arc::clone(&inbox), tell.clone());
            async move { drop(tell.send(ask(&inbox))) }
        });
        let mut reply = told.recv().expect("it was asked");
        let mut replies = Replies::default();
        for (_, to) in asked(&end).expect("handed over at the end") {
            replies.add(to, Reply::Overloaded);
        }
        replies.send();
        assert!(reply.try_recv().is_err_and(|why| why == oneshot::error::TryRecvError::Closed));
    }

    #[test]
    fn without_a_courier_each_is_asked_and_answered_by_itself() {
        let (inbox, end) = unbounded();
        let inbox = Arc::new(inbox);
        let mut reply = ask(&inbox);
        let [(_, to)] = <[_; 1]>::try_from(asked(&end).expect("at once")).expect("one");
        Replies::default().add(to, Reply::Overloaded);
        assert_eq!(reply.try_recv(), Ok(Reply::Overloaded));
    }
}
