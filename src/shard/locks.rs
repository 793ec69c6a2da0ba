//! Who may look at what, while several shards decide about it together.
//!
//! Each resource has a queue of tickets; the one at its head has it. A ticket joins all its queues at once, in the
//! order of arrival, so two tickets wait for one another never within a shard, and nobody is overtaken for ever.
//! Between shards, works visit them in ascending order, which keeps circles out too.
//!
//! Left out: shared locks. What only reads waits like what writes; it has the resource for an instant, a list while it
//! waits for the last of its accounts.

use std::collections::VecDeque;

use hashbrown::HashMap;
use hashbrown::hash_map::{Entry, EntryRef};
use smallvec::SmallVec;

use crate::ledger::{AccountName, AccountNumber, KeyDigest, Sequence};

/// What can be locked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Resource {
    /// The next number of an account. It is locked with every name that is to be opened.
    Openings,
    /// An account.
    Account(AccountNumber),
    /// A name that no account has.
    Name(AccountName),
    /// An idempotency key.
    Key(KeyDigest),
    /// A transfer that was decided here, and whether it has been reversed.
    Transfer(Sequence),
    /// The turn of a work among those of one list.
    Turn(u64),
}

/// Some of them. Most requests and works ask a shard for one or two.
pub(super) type Resources = SmallVec<[Resource; 2]>;

/// A place in some queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(u64);

/// The queues, and what waits in them.
#[derive(Debug)]
pub(super) struct Locks<T> {
    queues: HashMap<Resource, Queue>,
    tickets: HashMap<Ticket, Place<T>>,
    waiting: usize,
    /// How many places in queues those that wait have.
    places_waiting: usize,
    /// How many of the queues are for turns.
    turns: usize,
    last: u64,
}

/// Who has a resource, and who comes then. Mostly nobody does, which takes nothing from the heap.
#[derive(Debug)]
struct Queue {
    head: Ticket,
    behind: VecDeque<Ticket>,
}

#[derive(Debug)]
struct Place<T> {
    /// Each once.
    resources: Resources,
    /// In how many of its queues others are before it.
    blocked: usize,
    /// What waits, until it has everything.
    item: Option<T>,
}

impl<T> Default for Locks<T> {
    fn default() -> Self {
        let (queues, tickets) = (HashMap::new(), HashMap::new());
        Locks { queues, tickets, waiting: 0, places_waiting: 0, turns: 0, last: 0 }
    }
}

impl<T> Locks<T> {
    /// Whether nothing is locked.
    pub(super) fn is_empty(&self) -> bool {
        self.tickets.is_empty()
    }

    /// Whether nobody has one of these accounts. While works only wait for turns, none is looked for.
    pub(super) fn are_free(&self, mut accounts: impl Iterator<Item = AccountNumber>) -> bool {
        self.queues.len() == self.turns || accounts.all(|account| self.is_free(&Resource::Account(account)))
    }

    /// Whether nobody has a resource.
    pub(super) fn is_free(&self, resource: &Resource) -> bool {
        !self.queues.contains_key(resource)
    }

    /// Whether nobody has any of these.
    pub(super) fn are_all_free(&self, resources: &[Resource]) -> bool {
        resources.iter().all(|resource| self.is_free(resource))
    }

    /// How many tickets wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many resources those tickets wait for or have, in all.
    pub(super) fn places_waiting(&self) -> usize {
        self.places_waiting
    }

    /// Asks for resources; the same one may be among them more than once. What asks comes back if it has them at once;
    /// else it waits, and comes from [`Locks::release`].
    pub(super) fn acquire(&mut self, mut resources: Resources, item: T) -> (Ticket, Option<T>) {
        self.last += 1;
        let ticket = Ticket(self.last);
        let mut blocked = 0;
        self.queues.reserve(resources.len());
        resources.retain(|resource| match self.queues.entry_ref(&*resource) {
            EntryRef::Vacant(entry) => {
                entry.insert(Queue { head: ticket, behind: VecDeque::new() });
                self.turns += usize::from(matches!(resource, Resource::Turn(_)));
                true
            }
            EntryRef::Occupied(mut entry) => {
                let queue = entry.get_mut();
                let is_new = *queue.behind.back().unwrap_or(&queue.head) != ticket;
                if is_new {
                    queue.behind.push_back(ticket);
                    blocked += 1;
                }
                is_new
            }
        });
        let (item, granted) = if blocked > 0 { (Some(item), None) } else { (None, Some(item)) };
        if blocked > 0 {
            self.waiting += 1;
            self.places_waiting += resources.len();
        }
        self.tickets.insert(ticket, Place { resources, blocked, item });
        (ticket, granted)
    }

    /// Whether a ticket has all of these.
    pub(super) fn has_all(&self, ticket: Ticket, resources: &[Resource]) -> bool {
        resources.iter().all(|resource| self.queues.get(resource).is_some_and(|queue| queue.head == ticket))
    }

    /// Whether nobody but a ticket has any of these. That is enough for who is done with them before anybody can ask.
    pub(super) fn has_or_are_free(&self, ticket: Ticket, resources: &[Resource]) -> bool {
        resources.iter().all(|resource| self.queues.get(resource).is_none_or(|queue| queue.head == ticket))
    }

    /// The resources that a ticket has, each once.
    pub(super) fn resources(&self, ticket: Ticket) -> &[Resource] {
        &self.tickets[&ticket].resources
    }

    /// Gives everything back, and adds to `granted` who has everything now.
    pub(super) fn release(&mut self, ticket: Ticket, granted: &mut VecDeque<(Ticket, T)>) {
        let place = self.tickets.remove(&ticket).expect("a ticket is released once");
        assert!(place.item.is_none(), "only what was granted is released");
        for resource in place.resources {
            let Entry::Occupied(mut entry) = self.queues.entry(resource) else {
                unreachable!("a ticket stands in its queues");
            };
            let queue = entry.get_mut();
            assert_eq!(queue.head, ticket, "who has a resource is at the head of its queue");
            let Some(next) = queue.behind.pop_front() else {
                let (resource, _) = entry.remove_entry();
                self.turns -= usize::from(matches!(resource, Resource::Turn(_)));
                continue;
            };
            queue.head = next;
            let place = self.tickets.get_mut(&next).expect("who waits is known");
            place.blocked -= 1;
            if place.blocked == 0 {
                self.waiting -= 1;
                self.places_waiting -= place.resources.len();
                granted.push_back((next, place.item.take().expect("it waited")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts(numbers: &[u32]) -> Resources {
        numbers.iter().map(|&number| Resource::Account(AccountNumber::new(number))).collect()
    }

    #[test]
    fn an_account_is_free_whatever_turns_are_taken() {
        let mut locks = Locks::default();
        let is_free = |locks: &Locks<u32>| locks.are_free([1, 2].map(AccountNumber::new).into_iter());
        let (turn, _) = locks.acquire([Resource::Turn(7)].into_iter().collect(), 0);
        assert!(is_free(&locks));
        let (other, _) = locks.acquire(accounts(&[3]), 1);
        assert!(is_free(&locks));
        let (ticket, _) = locks.acquire(accounts(&[2]), 2);
        assert!(!is_free(&locks));
        release(&mut locks, turn);
        assert!(!is_free(&locks));
        release(&mut locks, ticket);
        assert!(is_free(&locks));
        release(&mut locks, other);
        assert!(is_free(&locks) && locks.is_empty() && locks.queues.is_empty());
    }

    fn release(locks: &mut Locks<u32>, ticket: Ticket) -> Vec<(Ticket, u32)> {
        let mut granted = VecDeque::new();
        locks.release(ticket, &mut granted);
        granted.into()
    }

    #[test]
    fn what_a_ticket_has_not_asked_for_is_open_to_it_while_nobody_else_has_it() {
        let mut locks = Locks::default();
        let (first, _) = locks.acquire(accounts(&[1]), 1);
        assert!(
            locks.has_or_are_free(first, &accounts(&[1, 2])) && !locks.has_all(first, &accounts(&[1, 2]))
        );
        locks.acquire(accounts(&[2]), 2);
        assert!(!locks.has_or_are_free(first, &accounts(&[1, 2])));
        locks.acquire(accounts(&[1]), 3);
        assert!(locks.has_or_are_free(first, &accounts(&[1, 3])), "who waits behind it is no matter");
    }

    #[test]
    fn everyone_comes_in_the_order_of_arrival_and_nobody_is_overtaken() {
        let mut locks = Locks::default();
        let (first, got) = locks.acquire(accounts(&[1, 2]), 1);
        assert_eq!(got, Some(1));
        let (second, got) = locks.acquire(accounts(&[2, 3]), 2);
        assert_eq!(got, None);
        let (third, got) = locks.acquire(accounts(&[3]), 3);
        assert_eq!(got, None, "it would overtake the second");
        let (fourth, got) = locks.acquire(accounts(&[4]), 4);
        assert_eq!((got, locks.waiting(), locks.places_waiting()), (Some(4), 2, 3));
        assert_eq!(release(&mut locks, first), [(second, 2)]);
        assert_eq!((locks.waiting(), locks.places_waiting()), (1, 1));
        assert!(locks.is_free(&Resource::Account(AccountNumber::new(1))));
        assert_eq!(release(&mut locks, second), [(third, 3)]);
        assert!(release(&mut locks, third).is_empty() && release(&mut locks, fourth).is_empty());
        assert!(locks.is_empty());
        assert_eq!((locks.waiting(), locks.places_waiting()), (0, 0));
    }
}
