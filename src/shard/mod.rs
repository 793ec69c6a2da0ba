//! A shard: the single-threaded owner of some accounts, and the group commit that makes its work durable.
//!
//! Two threads serve a shard. The *worker* drains the inbox, decides and applies each request in memory, and
//! gets what it recorded committed, with the replies that depend on it: append, sync, and only then let the replies go
//! (P1). It does so itself where the batch is small, the shard the only one and nothing else on its way; otherwise the
//! *committer* does, and the worker decides the next batch meanwhile ([`commit`]). The longer a sync takes, the more
//! requests share the next.
//!
//! What always holds:
//!
//! - a reply leaves only when the last event that it depends on is durable; a read of an account that has
//!   nothing unsynced leaves at once;
//! - the state in memory is ahead of the log by what is being committed, what waits for that, and what the worker
//!   has in hand, never by more, and nobody outside sees that part;
//! - inbox and hand-over are bounded: a full inbox refuses at once (P7);
//! - an error of the log ends the process: its state is ahead of the disk by an unknown amount (P1, P6).
//!
//! What concerns accounts of several shards is a [`work`]: its essay tells how shards agree.
//!
//! [`batch`] is the shard without threads or disks, which the simulation drives; [`request`] is what it is
//! asked and answers; [`worker`] is the threads; [`handle`] is all that the rest of the service sees,
//! [`courier`] carries what it sends and gets in bundles, and [`figures`] are for those who watch.

pub mod batch;
pub mod commit;
pub mod courier;
pub mod figures;
pub mod handle;
mod locks;
mod queue;
pub mod request;
pub mod work;
pub mod worker;
