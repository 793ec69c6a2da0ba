//! Idempotency keys as clients send them (`draft-ietf-httpapi-idempotency-key-header`): read, bound to a request, and made
//! the hashes that the ledger knows them by.
//!
//! What always holds:
//!
//! - a key is unique within a [scope](Scope), which is the resource that it is sent to, so that clients who share nothing
//!   else need not share a way to make keys;
//! - it belongs to one request to the byte: method, route, body and `If-Match`; an item's key to the item. With another one
//!   it is refused, by its fingerprint;
//! - what cannot be read is refused before anything is done.
//!
//! Left out: what becomes of a key. The ledger remembers its digest, and the reply is made anew from the event.

use std::borrow::Cow;

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};

use super::headers::{Headers, Sent};
use super::problem::{Code, Place, Problem};
use crate::ledger::{AccountName, IdempotencyKey, KeyDigest};

/// The longest idempotency key, in characters.
const KEY_CHARACTERS_MAX: usize = 255;

/// What the hash of a key is keyed with, so that it is no other hash. The digests are in logs: these bytes, and
/// what is hashed in which order, stay as they are.
const KEY_DIGEST_DOMAIN: &[u8; 32] = b"teller idempotency key digest  1";

/// The same for the hash of a request.
const FINGERPRINT_DOMAIN: &[u8; 32] = b"teller idempotency fingerprint 1";

static IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Says that the reply is an earlier one's.
pub(super) fn mark_replayed(headers: &mut HeaderMap) {
    headers.insert(IDEMPOTENT_REPLAYED.clone(), HeaderValue::from_static("true"));
}

/// What an idempotency key is bound to: the place that the request was sent to, and the request itself.
pub(super) struct KeyBinding<'a> {
    /// What a key is unique within.
    pub(super) scope: Scope<'a>,
    /// The request's method.
    pub(super) method: &'a str,
    /// The pattern of its route, which tells the versions of the wire apart.
    pub(super) route: &'a str,
    /// Its body, byte for byte.
    pub(super) body: &'a [u8],
}

/// What an idempotency key is unique within.
#[derive(Clone, Copy)]
pub(super) enum Scope<'a> {
    /// All accounts: requests that open one.
    Accounts,
    /// The account with this name.
    Account(&'a AccountName),
    /// A collection: requests that make something in it.
    Collection(&'static str),
    /// The hold with this id.
    Hold(&'a str),
    /// The transfer with this id.
    Transfer(&'a str),
}

impl Scope<'_> {
    fn tag_and_text(&self) -> (u8, &[u8]) {
        match self {
            Scope::Accounts => (0, b"accounts"),
            Scope::Account(name) => (1, name.as_bytes()),
            Scope::Collection(name) => (2, name.as_bytes()),
            Scope::Hold(id) => (3, id.as_bytes()),
            Scope::Transfer(id) => (4, id.as_bytes()),
        }
    }
}

/// Reads the idempotency key, if there is one, and binds it to its scope and to the request.
pub(super) fn key_of(
    headers: &Headers<'_>,
    binding: &KeyBinding<'_>,
) -> Result<Option<IdempotencyKey>, Problem> {
    let Some(key) = sent_key(headers)? else {
        return Ok(None);
    };
    let (tag, scope) = binding.scope.tag_and_text();
    let digest = hash(KEY_DIGEST_DOMAIN, &[&[tag], scope, &key]);
    let request = [binding.method.as_bytes(), binding.route.as_bytes(), &[tag], scope, binding.body];
    // With another version to match it is another request: a refusal of the first must not be its answer.
    let fingerprint = match headers.if_match.first() {
        None => hash(FINGERPRINT_DOMAIN, &request),
        Some(version) => {
            let [method, route, tag, scope, body] = request;
            hash(FINGERPRINT_DOMAIN, &[method, route, tag, scope, body, version.as_bytes()])
        }
    };
    Ok(Some(IdempotencyKey { digest: KeyDigest(digest), fingerprint }))
}

/// Whether there is an idempotency key.
pub(super) fn is_sent(headers: &Headers<'_>) -> bool {
    headers.idempotency_key.first().is_some()
}

/// The key of an item in a batch, bound to the collection of batches and to the item.
pub(super) fn item_key(key: &str, item: &str) -> IdempotencyKey {
    let scope = Scope::Collection("batch-items");
    let (tag, name) = scope.tag_and_text();
    IdempotencyKey {
        digest: KeyDigest(hash(KEY_DIGEST_DOMAIN, &[&[tag], name, key.as_bytes()])),
        fingerprint: hash(FINGERPRINT_DOMAIN, &[&[tag], name, item.as_bytes()]),
    }
}

/// Checks the header without the request's body, which may not have arrived yet.
pub(super) fn check(headers: &Headers<'_>) -> Result<(), Problem> {
    sent_key(headers).map(drop)
}

fn sent_key<'a>(headers: &Headers<'a>) -> Result<Option<Cow<'a, [u8]>>, Problem> {
    match headers.idempotency_key {
        Sent::Never => Ok(None),
        Sent::Once(value) => parse_key(value.as_bytes()).map(Some).map_err(invalid_key),
        Sent::Repeatedly(_) => Err(invalid_key("must be sent once")),
    }
}

fn invalid_key(detail: &'static str) -> Problem {
    Problem::at(Code::InvalidIdempotencyKey, Place::Header("Idempotency-Key"), detail)
}

/// A key is a string of RFC 8941 (quoted, with `\"` and `\\`) or the same characters bare; both spell one key.
fn parse_key(value: &[u8]) -> Result<Cow<'_, [u8]>, &'static str> {
    let key = match value.strip_prefix(b"\"") {
        None => Cow::Borrowed(value),
        Some(rest) => {
            let inner = rest.strip_suffix(b"\"").ok_or("has no closing quote")?;
            if inner.contains(&b'\\') || inner.contains(&b'"') {
                Cow::Owned(unescape(inner)?)
            } else {
                Cow::Borrowed(inner)
            }
        }
    };
    if key.is_empty() {
        return Err("must not be empty");
    }
    if key.len() > KEY_CHARACTERS_MAX {
        return Err("has more than 255 characters");
    }
    if !key.iter().all(|&byte| byte == b' ' || byte.is_ascii_graphic()) {
        return Err("has a character that is not printable ASCII");
    }
    Ok(key)
}

fn unescape(inner: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut key = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(&byte) = bytes.next() {
        key.push(match byte {
            b'"' => return Err("has a quote that is not escaped"),
            b'\\' => match bytes.next() {
                Some(&escaped @ (b'"' | b'\\')) => escaped,
                _ => return Err("has a backslash that escapes nothing"),
            },
            other => other,
        });
    }
    Ok(key)
}

/// The first 16 bytes of a hash over parts that cannot run into one another: each is led by its length.
fn hash(domain: &[u8; 32], parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_keyed(domain);
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut short = [0; 16];
    short.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    short
}

#[cfg(test)]
mod tests {
    use super::super::headers::IDEMPOTENCY_KEY;
    use super::*;

    fn key(value: &str, scope: Scope<'_>, route: &str, body: &[u8]) -> IdempotencyKey {
        let binding = KeyBinding { scope, method: "POST", route, body };
        let headers = HeaderMap::from_iter([(IDEMPOTENCY_KEY.clone(), value.parse().unwrap())]);
        key_of(&Headers::of(&headers), &binding).unwrap().unwrap()
    }

    #[test]
    fn quoted_and_bare_spell_one_key() {
        assert_eq!(parse_key(b"abc").unwrap(), parse_key(b"\"abc\"").unwrap());
        assert_eq!(parse_key(br#""a\"b\\c""#).unwrap().as_ref(), br#"a"b\c"#);
        assert_eq!(parse_key(b"a b").unwrap().as_ref(), b"a b");
        assert!(parse_key(&[b'x'; 255]).is_ok());
        for bad in [
            &b""[..],
            b"\"",
            b"\"\"",
            b"\"abc",
            b"\"a\"b\"",
            b"\"a\\\"",
            b"\"a\\n\"",
            b"a\tb",
            "ключ".as_bytes(),
            &[b'x'; 256],
        ] {
            assert!(parse_key(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_key_is_bound_to_its_scope_and_to_the_request() {
        let [alice, bob] = ["alice", "bob"].map(|name| AccountName::parse(name).unwrap());
        let first = key("k", Scope::Account(&alice), "/r", b"{}");
        assert_eq!(key("\"k\"", Scope::Account(&alice), "/r", b"{}"), first);
        let other_scope = key("k", Scope::Account(&bob), "/r", b"{}");
        assert_ne!(other_scope.digest, first.digest);
        let other_body = key("k", Scope::Account(&alice), "/r", b"{ }");
        assert_eq!(other_body.digest, first.digest);
        assert_ne!(other_body.fingerprint, first.fingerprint);
        let other_route = key("k", Scope::Account(&alice), "/s", b"{}");
        assert_ne!(other_route.fingerprint, first.fingerprint);
        // Parts do not run into one another.
        assert_ne!(hash(KEY_DIGEST_DOMAIN, &[b"a", b"bc"]), hash(KEY_DIGEST_DOMAIN, &[b"ab", b"c"]));
    }

    /// Keys that clients hold were written to logs with these digests. A change here applies retries twice.
    #[test]
    fn the_digests_are_pinned() {
        let alice = AccountName::parse("alice").unwrap();
        let key = key("k-1", Scope::Account(&alice), "/accounts/{name}/deposit", b"{\"amount\":1}");
        let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
        assert_eq!(
            (hex(&key.digest.0).as_str(), hex(&key.fingerprint).as_str()),
            ("ba89798138bfc627e9d289d5846c4ff3", "2f452b30c3e4f797432f63773b8626cc")
        );
    }
}
