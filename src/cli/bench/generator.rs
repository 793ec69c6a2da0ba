//! The load generator: a few threads with an epoll each, and no work but a write and a read a request.
//!
//! It shares the cores with the server that it measures, so what it costs is missing there. A thread keeps its
//! connections, one request under way in each; requests are in memory before they are due, replies are read into one
//! buffer a thread and are not copied. Nothing is allocated a request. The clock is read once a reply.
//!
//! # What counts
//! - *Closed loop*: a connection sends the next request when it has its reply. *Open loop*: request k is due
//!   k / rate after the start, goes out on the next idle connection, and its latency counts from when it was due,
//!   waiting for a connection included (no coordinated omission). What was due and never sent counts with the time
//!   that it had waited: less than it would have taken, but not nothing.
//! - A run has a lead, which does not count, and a window. The throughput is what was answered in the window, the
//!   latencies are those of all requests that were due in it. At its end nothing more is sent, and replies are waited
//!   for, up to [`REPLY_TIME_MAX`].
//! - A reply that is not as it should be is counted by what is wrong with it, and never as throughput. A connection
//!   on which bytes came that are no reply is given up.
//! - Open loop only: a request that went out a millisecond after it could have is the generator's own fault, and is
//!   counted as late; and so is one that never went out, though a connection was idle when it was due.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use super::histogram::Histogram;
use super::load::{Action, Load, Request};
use super::reply::{HEAD_BYTES_MAX, Head, Malformed};
use crate::random::Random;

/// How long a reply may take after the last request was sent. Longer than any wait of the server's own.
const REPLY_TIME_MAX: Duration = Duration::from_secs(20);
/// How long connecting may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// How often a thread looks whether it shall end.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// What is read at once: any reply but a batch's with thousands of refusals.
const READ_BYTES: usize = 64 * 1024;
/// Of a body, what is kept to be looked at.
const BODY_BYTES_KEPT: usize = 128;
/// How much later than it could a request may go out without being called late.
const LATE_NS: u64 = 1_000_000;
/// The token of the open loop's timer; connections have theirs from 0.
const TIMER: u64 = u64::MAX;

/// One run of a load.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) address: SocketAddr,
    pub(super) load: Arc<Load>,
    pub(super) connections: usize,
    pub(super) threads: usize,
    /// Requests a second, in open loop.
    pub(super) rate: Option<u64>,
    pub(super) lead: Duration,
    pub(super) window: Duration,
    pub(super) seed: u64,
}

/// What came of a run.
#[derive(Clone)]
pub(super) struct Measured {
    /// The latencies of all requests that were due in the window.
    pub(super) latencies: Histogram,
    /// Operations that were answered, as they should be, in the window.
    pub(super) operations: u64,
    /// For how long that was.
    pub(super) window: Duration,
    /// What the whole run did, lead and end included.
    pub(super) totals: Totals,
    /// Replies that were not as they should be, by what was wrong.
    pub(super) errors: BTreeMap<String, u64>,
    /// Open loop: requests that were due in the window and never sent, for want of an idle connection.
    pub(super) unsent: u64,
    /// Open loop: requests that were due in the window and went out late or never though a connection was idle.
    pub(super) late: u64,
}

/// Operations that were answered as they should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(super) struct Totals {
    pub(super) reads: u64,
    pub(super) deposits: u64,
    pub(super) withdrawals: u64,
    pub(super) transfers: u64,
}

impl Totals {
    pub(super) fn add(&mut self, other: &Totals) {
        self.reads += other.reads;
        self.deposits += other.deposits;
        self.withdrawals += other.withdrawals;
        self.transfers += other.transfers;
    }

    pub(super) fn count(&mut self, action: Action, operations: u64) {
        let count = match action {
            Action::Read => &mut self.reads,
            Action::Deposit => &mut self.deposits,
            Action::Withdraw => &mut self.withdrawals,
            Action::Transfer => &mut self.transfers,
        };
        *count += operations;
    }
}

impl Measured {
    fn merge(&mut self, other: Measured) {
        self.latencies.merge(&other.latencies);
        self.operations += other.operations;
        self.totals.add(&other.totals);
        for (what, count) in other.errors {
            *self.errors.entry(what).or_default() += count;
        }
        self.unsent += other.unsent;
        self.late += other.late;
    }

    /// Operations a second.
    pub(super) fn per_second(&self) -> u64 {
        let per_second = u128::from(self.operations) * 1_000_000_000 / self.window.as_nanos().max(1);
        u64::try_from(per_second).unwrap_or(u64::MAX)
    }
}

/// Runs a load. Ends early, with what there is, once `stop` is set.
///
/// # Errors
/// If there is no connection, or the system gives no thread or timer.
pub(super) fn run(run: &Run, stop: &AtomicBool) -> io::Result<Measured> {
    let mut lanes = Vec::new();
    for number in 0..run.threads {
        lanes.push(Lane::new(run, number)?);
    }
    // All begin at one time, when all are connected.
    let started = Instant::now();
    let measured: Vec<io::Result<Measured>> = thread::scope(|scope| {
        let threads: Vec<_> = lanes
            .into_iter()
            .map(|lane| {
                thread::Builder::new()
                    .name("load".into())
                    .spawn_scoped(scope, move || lane.run(started, stop))
            })
            .collect();
        let end = |thread: io::Result<thread::ScopedJoinHandle<'_, io::Result<Measured>>>| {
            thread?.join().expect("the load does not panic")
        };
        threads.into_iter().map(end).collect()
    });
    let mut all: Option<Measured> = None;
    for measured in measured {
        match &mut all {
            None => all = Some(measured?),
            Some(all) => all.merge(measured?),
        }
    }
    Ok(all.expect("there is a thread"))
}

/// What one thread does.
struct Lane<'a> {
    load: &'a Load,
    epoll: rustix::fd::OwnedFd,
    timer: Option<rustix::fd::OwnedFd>,
    connections: Vec<Connection>,
    /// Which have no request under way, and since when.
    idle: Vec<(usize, u64)>,
    random: Random,
    schedule: Schedule,
    begin_ns: u64,
    end_ns: u64,
    under_way: usize,
    replies: Vec<u64>,
    refused_items: u64,
    malformed: u64,
    lost: u64,
    measured: Measured,
}

/// When requests are due.
enum Schedule {
    /// Whenever there is a connection for one.
    Closed,
    /// At fixed times: when the next one is due, and how far two lie apart, in nanoseconds times `1 << 16`.
    Open { next: u128, interval: u128 },
}

struct Connection {
    stream: TcpStream,
    request: Request,
    written: usize,
    due_ns: u64,
    busy: bool,
    /// The begin of a head that has not come whole.
    partial: Vec<u8>,
    head: Option<Head>,
    body_left: usize,
    body: [u8; BODY_BYTES_KEPT],
    body_kept: usize,
}

/// What bytes from the server came to.
enum Fed {
    More,
    Whole(Head),
}

impl<'a> Lane<'a> {
    fn new(run: &'a Run, number: usize) -> io::Result<Lane<'a>> {
        let share = run.connections / run.threads + usize::from(number < run.connections % run.threads);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut connections = Vec::with_capacity(share);
        for index in 0..share {
            let stream = TcpStream::connect_timeout(&run.address, CONNECT_TIME_MAX)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let wanted = epoll::EventFlags::IN
                | epoll::EventFlags::OUT
                | epoll::EventFlags::RDHUP
                | epoll::EventFlags::ET;
            epoll::add(&epoll, &stream, epoll::EventData::new_u64(index as u64), wanted)?;
            connections.push(Connection::new(stream));
        }
        let timer = match run.rate {
            None => None,
            Some(_) => {
                let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
                let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
                let wanted = epoll::EventFlags::IN | epoll::EventFlags::ET;
                epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), wanted)?;
                Some(timer)
            }
        };
        let schedule = run.rate.map_or(Schedule::Closed, |rate| Schedule::open(rate, number, run.threads));
        let begin_ns = run.lead.as_nanos() as u64;
        Ok(Lane {
            load: &run.load,
            epoll,
            timer,
            idle: (0..share).rev().map(|index| (index, 0)).collect(),
            connections,
            random: Random::new(run.seed ^ (number as u64) << 48),
            schedule,
            begin_ns,
            end_ns: begin_ns + run.window.as_nanos() as u64,
            under_way: 0,
            replies: vec![0; 600],
            refused_items: 0,
            malformed: 0,
            lost: 0,
            measured: Measured {
                latencies: Histogram::new(),
                operations: 0,
                window: run.window,
                totals: Totals::default(),
                errors: BTreeMap::new(),
                unsent: 0,
                late: 0,
            },
        })
    }

    fn run(mut self, started: Instant, stop: &AtomicBool) -> io::Result<Measured> {
        let now = || started.elapsed().as_nanos() as u64;
        let give_up = self.end_ns + REPLY_TIME_MAX.as_nanos() as u64;
        let mut buffer = vec![0; READ_BYTES];
        let mut events = Vec::with_capacity(256);
        let mut last = 0;
        self.send_due(now());
        while !stop.load(Ordering::Relaxed) {
            last = now();
            if (last >= self.end_ns && self.under_way == 0) || last >= give_up {
                break;
            }
            if self.lost as usize == self.connections.len() {
                break;
            }
            self.set_timer(last)?;
            let wait = Timespec { tv_sec: 0, tv_nsec: LOOK_INTERVAL.as_nanos() as _ };
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in events.drain(..) {
                let token = event.data.u64();
                if token != TIMER {
                    self.serve(token as usize, event.flags, &mut buffer, &now);
                }
            }
            if self.timer.is_some() {
                self.send_due(now());
            }
        }
        Ok(self.finish(last))
    }

    /// A connection is ready for something.
    fn serve(&mut self, index: usize, flags: epoll::EventFlags, buffer: &mut [u8], now: &impl Fn() -> u64) {
        let connection = &mut self.connections[index];
        if flags.contains(epoll::EventFlags::OUT) && connection.is_writing() && connection.write().is_err() {
            return self.lose(index);
        }
        if !flags.intersects(
            epoll::EventFlags::IN
                | epoll::EventFlags::RDHUP
                | epoll::EventFlags::HUP
                | epoll::EventFlags::ERR,
        ) {
            return;
        }
        loop {
            let connection = &mut self.connections[index];
            let read = match connection.stream.read(buffer) {
                Ok(0) => return self.lose(index),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return self.lose(index),
            };
            match connection.feed(self.load, &buffer[..read]) {
                Ok(Fed::More) => {}
                Ok(Fed::Whole(head)) => {
                    let now = now();
                    self.answered(index, head, now);
                    self.idle.push((index, now));
                    if matches!(self.schedule, Schedule::Closed) {
                        self.send_due(now);
                    }
                }
                Err(Malformed) => {
                    self.malformed += 1;
                    return self.lose(index);
                }
            }
            // Less than there was room for: the next bytes come with an event of their own.
            if read < buffer.len() {
                return;
            }
        }
    }

    fn answered(&mut self, index: usize, head: Head, now: u64) {
        let connection = &mut self.connections[index];
        let template = &self.load.templates[connection.request.template.expect("it has sent one")];
        let body = &connection.body[..connection.body_kept];
        if connection.due_ns >= self.begin_ns && connection.due_ns < self.end_ns {
            self.measured.latencies.record(now.saturating_sub(connection.due_ns));
        }
        if head.status != template.status {
            self.replies[usize::from(head.status)] += 1;
        } else if !body.starts_with(&template.body_begin) {
            self.refused_items += 1;
        } else {
            self.measured.totals.count(template.action, template.operations);
            if now >= self.begin_ns && now < self.end_ns {
                self.measured.operations += template.operations;
            }
        }
        connection.busy = false;
        self.under_way -= 1;
    }

    /// Sends what is due, as far as there are connections for it.
    fn send_due(&mut self, now: u64) {
        if now >= self.end_ns {
            return;
        }
        while let Some(&(index, idle_since)) = self.idle.last() {
            let Some(due_ns) = self.schedule.due(now) else { return };
            self.idle.pop();
            self.schedule.sent();
            if due_ns >= self.begin_ns && now > due_ns.max(idle_since) + LATE_NS {
                self.measured.late += 1;
            }
            let connection = &mut self.connections[index];
            self.load.prepare(&mut connection.request, &mut self.random);
            connection.due_ns = due_ns;
            connection.written = 0;
            connection.body_kept = 0;
            connection.busy = true;
            self.under_way += 1;
            if connection.write().is_err() {
                self.lose(index);
            }
        }
    }

    /// Has the open loop woken when the next request is due.
    fn set_timer(&mut self, now: u64) -> io::Result<()> {
        let (Some(timer), Some(due_ns)) = (&self.timer, self.schedule.next_ns()) else { return Ok(()) };
        if self.idle.is_empty() || now.max(due_ns) >= self.end_ns {
            return Ok(());
        }
        let wait = Duration::from_nanos(due_ns.saturating_sub(now).max(1));
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Timespec { tv_sec: wait.as_secs() as _, tv_nsec: wait.subsec_nanos().into() };
        let setting = Itimerspec { it_interval: never, it_value: once };
        timerfd_settime(timer, TimerfdTimerFlags::empty(), &setting)?;
        Ok(())
    }

    fn lose(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        self.lost += 1;
        if std::mem::take(&mut connection.busy) {
            self.under_way -= 1;
        }
        self.idle.retain(|(idle, _)| *idle != index);
        let _ = epoll::delete(&self.epoll, &connection.stream);
        let _ = connection.stream.shutdown(std::net::Shutdown::Both);
    }

    fn finish(mut self, now: u64) -> Measured {
        if let Schedule::Open { .. } = self.schedule {
            let idle_since = self.idle.iter().map(|(_, since)| *since).min();
            while let Some(due) = self.schedule.due(self.end_ns).filter(|due| *due < self.end_ns) {
                self.schedule.sent();
                if due >= self.begin_ns {
                    // What became idle only later could not have taken it.
                    match idle_since.is_some_and(|since| since <= due) {
                        true => self.measured.late += 1,
                        false => self.measured.unsent += 1,
                    }
                    self.measured.latencies.record(now.min(self.end_ns).saturating_sub(due));
                }
            }
        }
        let mut measured = self.measured;
        let statuses = self.replies.iter().enumerate();
        measured.errors = statuses.map(|(status, count)| (format!("status {status}"), *count)).collect();
        measured.errors.extend([
            ("batches with refused items".to_owned(), self.refused_items),
            ("malformed replies".to_owned(), self.malformed),
            // A connection that is given up for what came on it is told as that.
            ("lost connections".to_owned(), self.lost - self.malformed),
            ("no reply in time".to_owned(), self.under_way as u64),
        ]);
        measured.errors.retain(|_, count| *count > 0);
        measured
    }
}

impl Schedule {
    /// One thread's share of a rate. The threads take turns: each has its own times, between those of the others.
    fn open(rate: u64, thread: usize, threads: usize) -> Schedule {
        let apart = |requests: usize| (1_000_000_000_u128 << 16) * requests as u128 / u128::from(rate);
        Schedule::Open { next: apart(thread), interval: apart(threads) }
    }

    /// When the next request was due, if it was by now.
    fn due(&self, now: u64) -> Option<u64> {
        match self.next_ns() {
            None => Some(now),
            next => next.filter(|due| *due <= now),
        }
    }

    /// When the next request is due; none if that is whenever it can be sent.
    fn next_ns(&self) -> Option<u64> {
        match self {
            Schedule::Closed => None,
            Schedule::Open { next, .. } => Some((next >> 16) as u64),
        }
    }

    fn sent(&mut self) {
        if let Schedule::Open { next, interval } = self {
            *next += *interval;
        }
    }
}

impl Connection {
    fn new(stream: TcpStream) -> Connection {
        Connection {
            stream,
            request: Request::default(),
            written: 0,
            due_ns: 0,
            busy: false,
            partial: Vec::new(),
            head: None,
            body_left: 0,
            body: [0; BODY_BYTES_KEPT],
            body_kept: 0,
        }
    }

    fn is_writing(&self) -> bool {
        self.busy && self.written < self.request.bytes.len()
    }

    /// Writes as much of the request as the socket takes.
    fn write(&mut self) -> io::Result<()> {
        while self.written < self.request.bytes.len() {
            match self.stream.write(&self.request.bytes[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => self.written += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes bytes of a reply. Bytes behind its end, or without a request, are nobody's reply.
    fn feed(&mut self, load: &Load, bytes: &[u8]) -> Result<Fed, Malformed> {
        if !self.busy || self.is_writing() {
            return Err(Malformed);
        }
        let Some(head) = self.head else {
            if self.partial.is_empty() {
                return self.begin(load, bytes);
            }
            let mut all = std::mem::take(&mut self.partial);
            all.extend_from_slice(bytes);
            return self.begin(load, &all);
        };
        self.take_body(head, bytes)
    }

    fn begin(&mut self, load: &Load, bytes: &[u8]) -> Result<Fed, Malformed> {
        match load.protocol.head(bytes)? {
            Some(head) => {
                self.body_left = head.body_bytes;
                self.take_body(head, &bytes[head.bytes..])
            }
            None => {
                debug_assert!(bytes.len() < HEAD_BYTES_MAX, "the parser bounds the head");
                self.partial.extend_from_slice(bytes);
                Ok(Fed::More)
            }
        }
    }

    fn take_body(&mut self, head: Head, bytes: &[u8]) -> Result<Fed, Malformed> {
        self.body_left = self.body_left.checked_sub(bytes.len()).ok_or(Malformed)?;
        let kept = bytes.len().min(BODY_BYTES_KEPT - self.body_kept);
        self.body[self.body_kept..][..kept].copy_from_slice(&bytes[..kept]);
        self.body_kept += kept;
        if self.body_left > 0 {
            self.head = Some(head);
            return Ok(Fed::More);
        }
        self.head = None;
        Ok(Fed::Whole(head))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::super::load::{Shape, Spec, Workload};
    use super::*;

    /// What was due in a round and not sent by its end was sent behind it, for as long as replies are waited for: a rate
    /// that the server does not keep up with was told as replies that are missing.
    #[test]
    fn past_the_end_nothing_is_sent_however_much_was_due() {
        const PAUSE: Duration = Duration::from_millis(10);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let (mut asked, mut request) = (0, [0; 1024]);
            while stream.read(&mut request).is_ok_and(|bytes| bytes > 0) {
                asked += 1;
                thread::sleep(PAUSE);
                stream.write_all(b":1\r\n").expect("it listens");
            }
            asked
        });
        let spec = Spec::new(Workload::Deposit, &Shape::default(), 1).expect("valid");
        let window = Duration::from_millis(200);
        let setting = Run {
            address,
            load: Arc::new(Load::to_redis(&spec, "0")),
            connections: 1,
            threads: 1,
            rate: Some(1000),
            lead: Duration::ZERO,
            window,
            seed: 1,
        };
        let measured = run(&setting, &AtomicBool::new(false)).expect("it runs");
        let asked: u64 = server.join().expect("it served");
        assert_eq!(measured.errors, BTreeMap::new());
        assert!(u128::from(asked) <= 1 + window.as_nanos() / PAUSE.as_nanos(), "{asked} requests");
        assert_eq!((measured.unsent, measured.latencies.count()), (200 - asked, 200));
    }

    #[test]
    fn threads_take_turns_in_an_even_schedule() {
        let mut lanes = [0, 1, 2].map(|thread| Schedule::open(1_000, thread, 3));
        let mut due: Vec<Option<u64>> = Vec::new();
        for _ in 0..4 {
            for lane in &mut lanes {
                due.push(lane.next_ns());
                lane.sent();
            }
        }
        let even: Vec<Option<u64>> = (0..12).map(|request| Some(request * 1_000_000)).collect();
        assert_eq!(due, even);
    }

    #[test]
    fn what_went_out_late_before_the_window_does_not_count_as_late() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let spec = Spec::new(Workload::Deposit, &Shape::default(), 1).expect("valid");
        let setting = Run {
            address: listener.local_addr().expect("an address"),
            load: Arc::new(Load::to_redis(&spec, "0")),
            connections: 2,
            threads: 1,
            rate: Some(10),
            lead: Duration::from_millis(50),
            window: Duration::from_secs(1),
            seed: 1,
        };
        let mut lane = Lane::new(&setting, 0).expect("connected");
        lane.send_due(10_000_000);
        assert_eq!((lane.under_way, lane.measured.late), (1, 0), "due at 0, before the window");
        lane.send_due(110_000_000);
        assert_eq!((lane.under_way, lane.measured.late), (2, 1), "due at 100 ms, sent 10 ms later");
    }

    /// It was told as two: one that is malformed, and a connection that is lost.
    #[test]
    fn a_reply_that_is_none_counts_once() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let asked = stream.read(&mut [0; 1024]).expect("a request");
            assert!(asked > 0);
            stream.write_all(b"good morning\r\n").expect("it listens");
        });
        let spec = Spec::new(Workload::Deposit, &Shape::default(), 1).expect("valid");
        let setting = Run {
            address,
            load: Arc::new(Load::to_redis(&spec, "0")),
            connections: 1,
            threads: 1,
            rate: None,
            lead: Duration::ZERO,
            window: Duration::from_secs(10),
            seed: 1,
        };
        let measured = run(&setting, &AtomicBool::new(false)).expect("it runs");
        server.join().expect("it served");
        assert_eq!(measured.errors, BTreeMap::from([("malformed replies".to_owned(), 1)]));
    }

    /// A thread that got no core before the end was told as a server that did not keep up with the rate.
    #[test]
    fn what_was_never_sent_though_a_connection_was_idle_is_late() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let spec = Spec::new(Workload::Deposit, &Shape::default(), 1).expect("valid");
        let setting = Run {
            address: listener.local_addr().expect("an address"),
            load: Arc::new(Load::to_redis(&spec, "0")),
            connections: 1,
            threads: 1,
            rate: Some(10),
            lead: Duration::from_millis(50),
            window: Duration::from_secs(1),
            seed: 1,
        };
        // Due in the window are those at 100, 200 and so on to 1000 ms.
        for (idle_since, late) in [(Some(0), 10), (Some(250_000_000), 8), (Some(1_100_000_000), 0), (None, 0)]
        {
            let mut lane = Lane::new(&setting, 0).expect("connected");
            lane.idle = idle_since.map(|since| (0, since)).into_iter().collect();
            let measured = lane.finish(1_200_000_000);
            assert_eq!((measured.late, measured.unsent), (late, 10 - late), "{idle_since:?}");
            assert_eq!(measured.latencies.count(), 10);
        }
    }
}
