//! The request headers that mean something here, read strictly: a header that changes what is done is refused
//! when it cannot be understood; one that only saves work is passed over.

use std::net::Ipv6Addr;
use std::sync::LazyLock;

use hyper::header::{
    ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH, ORIGIN,
    TRANSFER_ENCODING, UPGRADE,
};
use hyper::{HeaderMap, Uri};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use super::problem::{Code, Place, Problem};
use super::wire::write::digits;

/// The longest request id that is taken from a client, in characters. It is kept with each refusal that has
/// a key, so it costs disk.
const REQUEST_ID_CHARACTERS_MAX: usize = 128;

/// The media type of a change to a resource (RFC 7396).
pub(super) const MERGE_PATCH: &str = "application/merge-patch+json";

pub(super) static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub(super) static ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");
pub(super) static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The headers of a request, with those that most requests are asked for found in one pass: each look-up in
/// the map hashes a name, and a deposit took nine of them, 1,100 instructions.
#[derive(Debug)]
pub(super) struct Headers<'a> {
    /// All of them.
    pub(super) all: &'a HeaderMap,
    host: Sent<'a>,
    content_type: Sent<'a>,
    content_encoding: Sent<'a>,
    transfer_encoding: Sent<'a>,
    pub(super) idempotency_key: Sent<'a>,
    pub(super) if_match: Sent<'a>,
    if_none_match: Sent<'a>,
    request_id: Sent<'a>,
    are_from_another_site: bool,
    offer_upgrade: bool,
}

/// How often a header was sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sent<'a> {
    Never,
    Once(&'a HeaderValue),
    /// With the first value.
    Repeatedly(&'a HeaderValue),
}

impl<'a> Sent<'a> {
    pub(super) fn first(self) -> Option<&'a HeaderValue> {
        match self {
            Sent::Never => None,
            Sent::Once(value) | Sent::Repeatedly(value) => Some(value),
        }
    }
}

impl<'a> Headers<'a> {
    pub(super) fn of(all: &'a HeaderMap) -> Headers<'a> {
        let mut headers = Headers {
            all,
            host: Sent::Never,
            content_type: Sent::Never,
            content_encoding: Sent::Never,
            transfer_encoding: Sent::Never,
            idempotency_key: Sent::Never,
            if_match: Sent::Never,
            if_none_match: Sent::Never,
            request_id: Sent::Never,
            are_from_another_site: false,
            offer_upgrade: false,
        };
        let mut origin = Sent::Never;
        let mut site_is_own = None;
        for (name, value) in all {
            let sent = match *name {
                HOST => &mut headers.host,
                CONTENT_TYPE => &mut headers.content_type,
                CONTENT_ENCODING => &mut headers.content_encoding,
                TRANSFER_ENCODING => &mut headers.transfer_encoding,
                IF_MATCH => &mut headers.if_match,
                IF_NONE_MATCH => &mut headers.if_none_match,
                ORIGIN => &mut origin,
                UPGRADE => {
                    headers.offer_upgrade = true;
                    continue;
                }
                _ if *name == IDEMPOTENCY_KEY => &mut headers.idempotency_key,
                _ if *name == X_REQUEST_ID => &mut headers.request_id,
                _ if *name == SEC_FETCH_SITE => {
                    let is_own = matches!(value.as_bytes(), b"same-origin" | b"none");
                    site_is_own = Some(is_own && site_is_own != Some(false));
                    continue;
                }
                _ => continue,
            };
            *sent = sent.first().map_or(Sent::Once(value), Sent::Repeatedly);
        }
        headers.are_from_another_site = match (site_is_own, origin) {
            (Some(is_own), _) => !is_own,
            (None, Sent::Never) => false,
            (None, Sent::Once(origin)) => {
                !headers.host.first().is_some_and(|host| is_origin_of(origin.as_bytes(), host.as_bytes()))
            }
            (None, Sent::Repeatedly(_)) => true,
        };
        headers
    }

    /// Whether there is an `If-Match`, of whatever kind.
    pub(super) fn has_if_match(&self) -> bool {
        self.if_match.first().is_some()
    }

    /// Whether there is an `If-None-Match`, of whatever kind.
    pub(super) fn has_if_none_match(&self) -> bool {
        self.if_none_match.first().is_some()
    }

    /// Whether the client would speak another protocol from here on.
    pub(super) fn offer_upgrade(&self) -> bool {
        self.offer_upgrade
    }

    /// Whether a browser sends this for a page that is not from here. It says so with `Sec-Fetch-Site` (Fetch Metadata
    /// Request Headers, W3C), but only to where nobody can listen in: to this machine, and by `https`. To any other
    /// address of the service it says with each change where the page is from (`Origin`; RFC 6454, 7.3, and the
    /// Fetch standard). No page can take either header away, and programs that are no browser need not send them.
    ///
    /// The first is believed where both are there, for a proxy may have put another name into `Host`.
    pub(super) fn are_from_another_site(&self) -> bool {
        self.are_from_another_site
    }

    /// Whether the body comes in any other way than as it is or in chunks. In chunks of chunks, for example.
    pub(super) fn has_transfer_coding(&self) -> bool {
        match self.transfer_encoding {
            Sent::Never => false,
            Sent::Once(coding) => !coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
            Sent::Repeatedly(_) => true,
        }
    }
}

/// The id of a request: the client's, or one of ours.
#[derive(Clone, Debug)]
pub(super) enum RequestId {
    Sent(HeaderValue),
    /// Its text stands here, so that it takes nothing from the heap while the request waits.
    MadeUp([u8; Hyphenated::LENGTH]),
}

impl RequestId {
    /// Takes the client's id if it sent one that is fit for logs, else makes one.
    pub(super) fn of(headers: &Headers<'_>) -> RequestId {
        match headers.request_id.first() {
            Some(value) if is_visible(value.as_bytes(), REQUEST_ID_CHARACTERS_MAX) => {
                RequestId::Sent(value.clone())
            }
            _ => RequestId::made_up(),
        }
    }

    /// A new one.
    #[expect(clippy::disallowed_methods, reason = "this is the edge: a request gets its id here")]
    pub(super) fn made_up() -> RequestId {
        let mut text = [0; Hyphenated::LENGTH];
        Uuid::new_v4().hyphenated().encode_lower(&mut text);
        RequestId::MadeUp(text)
    }

    pub(super) fn as_str(&self) -> &str {
        match self {
            RequestId::Sent(value) => value.to_str().expect("a request id is visible ASCII"),
            RequestId::MadeUp(text) => std::str::from_utf8(text).expect("digits and dashes are ASCII"),
        }
    }

    pub(super) fn into_header(self) -> HeaderValue {
        match self {
            RequestId::Sent(value) => value,
            RequestId::MadeUp(text) => {
                HeaderValue::from_bytes(&text).expect("digits and dashes fit in a header")
            }
        }
    }
}

fn is_visible(bytes: &[u8], count_max: usize) -> bool {
    (1..=count_max).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
}

/// Whether a page from this origin, `null` or a scheme with a host and perhaps a port, is one of this host's. A port
/// that is the scheme's own may be left away in either.
fn is_origin_of(origin: &[u8], host: &[u8]) -> bool {
    [(&b"http://"[..], &b":80"[..]), (b"https://", b":443")].iter().any(|(scheme, port)| {
        let without_port =
            |authority: &[u8]| authority.strip_suffix(*port).unwrap_or(authority).to_ascii_lowercase();
        origin.strip_prefix(*scheme).is_some_and(|from| without_port(from) == without_port(host))
    })
}

/// HTTP/1.1 wants to know whom the client thinks it talks to, exactly once, and HTTP/1.0 at most once (RFC 9112, 3.2).
/// Nothing here depends on it; but what is refused here cannot be taken for another host by a proxy before us. Where the
/// target of the request names a host, too, that is the one that counts (3.2.2), so it has to be one as well.
pub(super) fn check_host(
    headers: &Headers<'_>,
    target: &Uri,
    version: hyper::Version,
) -> Result<(), Problem> {
    let is_target_valid = target.authority().is_none_or(|authority| is_host(authority.as_str().as_bytes()));
    let is_valid = is_target_valid
        && match headers.host {
            Sent::Once(host) => is_host(host.as_bytes()),
            Sent::Never => version < hyper::Version::HTTP_11,
            Sent::Repeatedly(_) => false,
        };
    if is_valid { Ok(()) } else { Err(Problem::plain(Code::InvalidHost)) }
}

/// Whether this is a host and perhaps a port, as an authority of RFC 3986, 3.2 has them; a host may be empty. Every
/// request has one, so it is not made a value of, as `http::uri::Authority` would be, which also takes any port.
fn is_host(value: &[u8]) -> bool {
    let (is_name, port) = match value.strip_prefix(b"[") {
        None => {
            let end = value.iter().position(|byte| !IS_IN_NAME[usize::from(*byte)]).unwrap_or(value.len());
            (true, &value[end..])
        }
        Some(rest) => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
            let address = std::str::from_utf8(&rest[..end]).ok();
            (address.is_some_and(|text| text.parse::<Ipv6Addr>().is_ok()), &rest[end + 1..])
        }
    };
    let is_port = match port {
        [] => true,
        [b':', digits @ ..] => {
            let add = |port: u32, digit: &u8| match digit {
                b'0'..=b'9' => Some(10 * port + u32::from(digit - b'0')).filter(|port| *port <= 0xffff),
                _ => None,
            };
            digits.iter().try_fold(0, add).is_some()
        }
        _ => false,
    };
    is_name && is_port
}

/// Which bytes the name of a host may have: a table, for that is asked of each byte of each request's.
static IS_IN_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let others = b"-._~%!$&'()*+,;=";
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut place = 0;
    while place < others.len() {
        table[others[place] as usize] = true;
        place += 1;
    }
    table
};

/// Refuses a body that is not written as JSON, as far as the headers tell. Version 1 never looked at
/// Content-Type, and `curl -d` sends a form's, so only version 2 does (`strict`). Other kinds of JSON than those that the
/// operation takes mean something else than the same text does here: a patch of RFC 6902 is a list of things to do.
pub(super) fn check_media_type(
    headers: &Headers<'_>,
    strict: bool,
    mut taken: impl Iterator<Item = &'static str> + Clone,
) -> Result<(), Problem> {
    let once = |name, sent| match sent {
        Sent::Repeatedly(_) => Err(Problem::at(Code::InvalidBody, Place::Header(name), "must be sent once")),
        sent => Ok(sent.first()),
    };
    if let Some(encoding) = once("Content-Encoding", headers.content_encoding)?
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        let place = Place::Header("Content-Encoding");
        return Err(Problem::at(
            Code::UnsupportedMediaType,
            place,
            "is not supported: send the body as it is",
        ));
    }
    if !strict {
        return Ok(());
    }
    let Some(media_type) = once("Content-Type", headers.content_type)? else {
        return Ok(());
    };
    if media_type.as_bytes() == b"application/json" {
        // Nearly always.
        return Ok(());
    }
    let essence = essence(media_type);
    let names = taken.clone();
    if taken.any(|media_type| essence.eq_ignore_ascii_case(media_type)) {
        return Ok(());
    }
    let names = names.collect::<Vec<_>>().join(" or ");
    let place = Place::Header("Content-Type");
    Err(Problem::at(Code::UnsupportedMediaType, place, format!("must be {names}")))
}

/// Whether the body is of this media type.
pub(super) fn is_media_type(headers: &Headers<'_>, media_type: &str) -> bool {
    headers.content_type.first().is_some_and(|value| essence(value).eq_ignore_ascii_case(media_type))
}

/// A media type without its parameters; empty if it is no text.
fn essence(media_type: &HeaderValue) -> &str {
    media_type.to_str().ok().and_then(|text| text.split(';').next()).unwrap_or_default().trim()
}

/// The version that the account has to be at, if the client cares: `If-Match: "7"`. `*` asks that the account
/// exists, which every change does anyway. Lists and weak tags are refused: no account is at two versions, and
/// a weak tag matches nothing here. So is what can be no version's: tags are compared character by character (RFC 9110,
/// 8.8.3.2), and `"07"` is not the seventh's.
pub(super) fn if_match(headers: &Headers<'_>) -> Result<Option<u64>, Problem> {
    let invalid = |detail| Problem::at(Code::InvalidIfMatch, Place::Header("If-Match"), detail);
    let value = match headers.if_match {
        Sent::Never => return Ok(None),
        Sent::Once(value) => value,
        Sent::Repeatedly(_) => return Err(invalid("must be sent once")),
    };
    if value.as_bytes() == b"*" {
        return Ok(None);
    }
    value
        .to_str()
        .ok()
        .and_then(|text| text.strip_prefix('"')?.strip_suffix('"'))
        .filter(|digits| !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|digits| digits.parse().ok())
        .map(Some)
        .ok_or_else(|| invalid("must be one ETag of an account, such as \"7\", or *"))
}

/// Whether the client has this very representation already. What cannot be read matches nothing: then the
/// client gets the whole reply, which is never wrong.
pub(super) fn if_none_match(headers: &Headers<'_>, etag: &HeaderValue) -> bool {
    if headers.if_none_match.first().is_none() {
        return false;
    }
    let Ok(etag) = etag.to_str() else { return false };
    headers.all.get_all(IF_NONE_MATCH).iter().any(|value| {
        let Ok(mut rest) = value.to_str() else {
            return false;
        };
        loop {
            rest = rest.trim_start_matches([' ', '\t', ',']);
            if rest == "*" {
                return true;
            }
            let quoted = rest.strip_prefix("W/").unwrap_or(rest);
            let Some((tag, behind)) = quoted.strip_prefix('"').and_then(|text| text.split_once('"')) else {
                return false;
            };
            if etag.strip_prefix('"').and_then(|etag| etag.strip_suffix('"')) == Some(tag) {
                return true;
            }
            rest = behind;
        }
    })
}

/// Which of several media types the client likes best: the place of one in `offered`, where the first is best if the
/// client does not care. `None` if it wants none of them.
pub(super) fn preferred(headers: &Headers<'_>, offered: &[&str]) -> Option<usize> {
    let mut ranges = Vec::new();
    for value in headers.all.get_all(ACCEPT) {
        let text = value.to_str().unwrap_or_default();
        ranges.extend(text.split(',').filter_map(media_range));
        if text.split(',').any(|range| !range.trim().is_empty() && media_range(range).is_none()) {
            // What cannot be read is wanted by nobody; but then the client did say something.
            ranges.push((String::new(), 0));
        }
    }
    if ranges.is_empty() {
        return Some(0);
    }
    let quality_of = |media_type: &str| {
        let (major, _) = media_type.split_once('/').unwrap_or((media_type, ""));
        // The most precise range counts.
        let any_minor = format!("{major}/*");
        [(media_type, 2), (&any_minor, 1), ("*/*", 0)].iter().find_map(|(wanted, precision)| {
            let qualities = ranges.iter().filter(|(range, _)| range == wanted).map(|(_, quality)| *quality);
            qualities.max().map(|quality| (quality, *precision))
        })
    };
    // Of those that it likes alike, the one that it names most precisely.
    let rated =
        offered.iter().enumerate().map(|(place, offered)| (place, quality_of(offered).unwrap_or((0, 0))));
    let (place, (quality, _)) = rated.rev().max_by_key(|(_, rating)| *rating)?;
    (quality > 0).then_some(place)
}

/// A media range without its parameters, and its quality in thousandths.
fn media_range(text: &str) -> Option<(String, u16)> {
    let mut parts = text.split(';').map(str::trim);
    let range = parts.next().filter(|range| range.split('/').count() == 2)?.to_ascii_lowercase();
    let mut quality = 1000;
    for parameter in parts {
        if let Some(weight) = parameter.strip_prefix("q=").or_else(|| parameter.strip_prefix("Q=")) {
            let (whole, fraction) = weight.split_once('.').unwrap_or((weight, ""));
            let is_digits = fraction.len() <= 3 && fraction.bytes().all(|byte| byte.is_ascii_digit());
            let thousandths = format!("{fraction:0<3}").parse::<u16>().ok().filter(|_| is_digits)?;
            quality = match whole {
                "0" => thousandths,
                "1" if thousandths == 0 => 1000,
                _ => return None,
            };
        }
    }
    Some((range, quality))
}

/// The tag of an account at a version.
pub(super) fn etag_of_version(version: u64) -> HeaderValue {
    /// Most accounts that are read have few events; their tags are not built anew.
    static SMALL: LazyLock<Vec<HeaderValue>> = LazyLock::new(|| (0..256).map(quoted_number).collect());
    usize::try_from(version)
        .ok()
        .and_then(|index| SMALL.get(index))
        .cloned()
        .unwrap_or_else(|| quoted_number(version))
}

fn quoted_number(number: u64) -> HeaderValue {
    let mut quoted = vec![b'"'];
    digits(&mut quoted, number);
    quoted.push(b'"');
    HeaderValue::try_from(quoted).expect("quotes and digits fit in a header")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn one_pass_finds_what_a_look_up_would() {
        let names = [HOST, CONTENT_TYPE, CONTENT_ENCODING, TRANSFER_ENCODING, IF_MATCH, IF_NONE_MATCH];
        for name in names.iter().chain([&IDEMPOTENCY_KEY, &X_REQUEST_ID]) {
            for values in [&[][..], &["a"], &["a", "b"]] {
                let mut pairs: Vec<_> = values.iter().map(|value| (name, *value)).collect();
                pairs.push((&ACCEPT, "x"));
                let map = map(&pairs);
                let headers = Headers::of(&map);
                let Headers { all: _, host, content_type, content_encoding, transfer_encoding, .. } = headers;
                let Headers { idempotency_key, if_match, if_none_match, request_id, .. } = headers;
                let standard =
                    [host, content_type, content_encoding, transfer_encoding, if_match, if_none_match];
                let found = names.iter().chain([&IDEMPOTENCY_KEY, &X_REQUEST_ID]);
                for (known, sent) in found.zip(standard.into_iter().chain([idempotency_key, request_id])) {
                    assert_eq!(sent.first(), map.get(known), "{known}");
                    assert_eq!(matches!(sent, Sent::Repeatedly(_)), known == name && values.len() > 1);
                }
            }
        }
    }

    /// Anything was taken for a host, if only it was there once.
    #[test]
    fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
        let check = |values: &[&str], version| {
            let map = map(&values.iter().map(|value| (&HOST, *value)).collect::<Vec<_>>());
            let uri = Uri::from_static("/");
            check_host(&Headers::of(&map), &uri, version).is_ok()
        };
        let (old, new) = (hyper::Version::HTTP_10, hyper::Version::HTTP_11);
        for good in [
            "",
            ":",
            "x",
            "localhost:8080",
            "127.0.0.1:1",
            "a_b.example",
            "x:",
            "x:065535",
            "[::1]",
            "[::ffff:1.2.3.4]:80",
            "%7E",
        ] {
            assert!(check(&[good], old) && check(&[good], new), "{good}");
        }
        for bad in [
            "a b", "x/y", "user@x", "x:99999", "x:+1", "x:y", "x:1:2", "::1", "[::1", "[x]", "[::1]x", "é",
            "x?y",
        ] {
            assert!(!check(&[bad], old) && !check(&[bad], new), "{bad}");
        }
        assert!(check(&[], old) && !check(&[], new));
        for (target, is_valid) in [
            ("http://x/accounts", true),
            ("http://x:80/accounts", true),
            ("http://[::1]:3000/", true),
            ("http://e@x/", false),
            ("http://x:99999/", false),
            ("http://x:y/", false),
            ("http://[zz]/", false),
        ] {
            let map = map(&[(&HOST, "x")]);
            let checked = target.parse().map(|uri| check_host(&Headers::of(&map), &uri, new).is_ok());
            assert_eq!(checked.unwrap_or(false), is_valid, "{target}");
        }
        assert!(!check(&["x", "x"], old) && !check(&["x", "x"], new));
    }

    #[test]
    fn request_ids_are_taken_only_if_they_are_fit_for_logs() {
        let id =
            |value: &str| RequestId::of(&Headers::of(&map(&[(&X_REQUEST_ID, value)]))).as_str().to_owned();
        assert_eq!(id("abc-1"), "abc-1");
        assert_eq!(id(&"x".repeat(128)), "x".repeat(128));
        for bad in ["", "a b", "é", &"x".repeat(129)] {
            assert_eq!(id(bad).len(), 36, "{bad}");
        }
    }

    #[test]
    fn the_media_type_that_the_client_likes_best_is_chosen() {
        let offered = ["application/json", "text/csv", "text/plain"];
        for (accept, expected) in [
            ("", Some(0)),
            ("*/*", Some(0)),
            ("text/csv", Some(1)),
            ("TEXT/CSV; header=present", Some(1)),
            ("text/*", Some(1)),
            ("text/plain, text/csv", Some(1)),
            ("text/plain, text/csv;q=0.9", Some(2)),
            ("text/*;q=0.5, text/csv;q=0, */*;q=0.1", Some(2)),
            ("text/html, application/xhtml+xml, */*;q=0.8", Some(0)),
            ("application/json;q=0.1, text/csv;q=0.101", Some(1)),
            ("application/json;q=0", None),
            ("*/*;q=0", None),
            ("image/png", None),
            ("nonsense", None),
            ("text/csv;q=2", None),
            ("text/csv;q=0.1234", None),
            ("text/csv;q=x, text/plain", Some(2)),
        ] {
            assert_eq!(preferred(&Headers::of(&map(&[(&ACCEPT, accept)])), &offered), expected, "{accept}");
        }
        assert_eq!(preferred(&Headers::of(&HeaderMap::new()), &offered), Some(0));
    }

    #[test]
    fn if_match_names_one_version() {
        let parse = |value: &str| if_match(&Headers::of(&map(&[(&IF_MATCH, value)])));
        assert_eq!(parse("\"7\"").unwrap(), Some(7));
        assert_eq!(parse("*").unwrap(), None);
        assert_eq!(if_match(&Headers::of(&HeaderMap::new())).unwrap(), None);
        for bad in
            ["7", "\"\"", "W/\"7\"", "\"7\", \"8\"", "\"-1\"", "\"+7\"", "\"99999999999999999999\"", ""]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
        // It was taken for the seventh version's.
        for bad in ["\"07\"", "\"0\"", "\"00\""] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let two = map(&[(&IF_MATCH, "\"1\""), (&IF_MATCH, "\"2\"")]);
        assert!(if_match(&Headers::of(&two)).is_err());
    }

    #[test]
    fn if_none_match_is_a_list_of_weak_comparisons() {
        let etag = HeaderValue::from_static("\"7\"");
        let matches = |value: &str| if_none_match(&Headers::of(&map(&[(&IF_NONE_MATCH, value)])), &etag);
        for yes in ["\"7\"", "W/\"7\"", "*", "\"1\", \"7\"", "\"1\",W/\"7\" ,\"9\"", ",, \"7\""] {
            assert!(matches(yes), "{yes}");
        }
        for no in ["", "7", "\"8\"", "\"77\"", "\"07\"", "\"7", "\"1\" x \"2\""] {
            assert!(!matches(no), "{no}");
        }
        let two = map(&[(&IF_NONE_MATCH, "\"1\""), (&IF_NONE_MATCH, "\"7\"")]);
        assert!(if_none_match(&Headers::of(&two), &etag));
    }

    /// `Chunked` was taken for a coding that is not understood; RFC 9112, 7 has their names in any case.
    #[test]
    fn a_transfer_coding_is_chunked_in_any_case() {
        for (coding, is_other) in [
            ("chunked", false),
            ("Chunked", false),
            ("CHUNKED", false),
            ("gzip", true),
            ("gzip, chunked", true),
            ("chunke", true),
        ] {
            let headers = map(&[(&TRANSFER_ENCODING, coding)]);
            assert_eq!(Headers::of(&headers).has_transfer_coding(), is_other, "{coding}");
        }
        assert!(!Headers::of(&HeaderMap::new()).has_transfer_coding());
        // The same as `chunked, chunked`, which RFC 9112, 6.1 forbids.
        let twice = map(&[(&TRANSFER_ENCODING, "chunked"), (&TRANSFER_ENCODING, "chunked")]);
        assert!(Headers::of(&twice).has_transfer_coding());
    }

    /// To an address that is neither this machine's nor `https` a browser says nothing of the site, but where the page is
    /// from.
    #[test]
    fn where_a_page_is_from_is_told_by_its_origin_if_by_nothing_else() {
        let is_other = |host: &str, origin: &str, site: Option<&str>| {
            let mut headers = map(&[(&HOST, host), (&ORIGIN, origin)]);
            if let Some(site) = site {
                headers.insert(SEC_FETCH_SITE.clone(), HeaderValue::from_str(site).expect("visible"));
            }
            Headers::of(&headers).are_from_another_site()
        };
        for (host, origin) in [
            ("10.0.0.7:3000", "http://10.0.0.7:3000"),
            ("Bank.example", "http://bank.example"),
            ("bank.example:80", "http://bank.example"),
            ("bank.example", "https://bank.example:443"),
            ("[::1]:3000", "http://[::1]:3000"),
        ] {
            assert!(!is_other(host, origin, None), "{host} {origin}");
            assert!(is_other(host, origin, Some("cross-site")), "{host} {origin}");
        }
        for (host, origin) in [
            ("10.0.0.7:3000", "http://10.0.0.7"),
            ("10.0.0.7:3000", "http://10.0.0.7:3001"),
            ("bank.example", "http://evil.example"),
            ("bank.example", "http://bank.example.evil"),
            ("bank.example", "https://bank.example:80"),
            ("bank.example", "ftp://bank.example"),
            ("bank.example", "bank.example"),
            ("bank.example", "null"),
            ("bank.example", ""),
        ] {
            assert!(is_other(host, origin, None), "{host} {origin}");
            // A proxy has put its own name for the service into `Host`.
            assert!(!is_other(host, origin, Some("same-origin")), "{host} {origin}");
        }
        let two = map(&[(&HOST, "a"), (&ORIGIN, "http://a"), (&ORIGIN, "http://a")]);
        assert!(Headers::of(&two).are_from_another_site());
        assert!(Headers::of(&map(&[(&ORIGIN, "http://a")])).are_from_another_site());
        assert!(!Headers::of(&map(&[(&HOST, "a")])).are_from_another_site());
    }

    #[test]
    fn only_version_two_looks_at_the_media_type() {
        let check = |headers: &Headers<'_>, strict: bool| {
            check_media_type(headers, strict, ["application/json", MERGE_PATCH].into_iter())
        };
        for (value, allowed) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/merge-patch+json", true),
            ("application/json-patch+json", false),
            ("application/problem+json", false),
            ("application/x-www-form-urlencoded", false),
            ("text/plain", false),
            ("", false),
        ] {
            let headers = map(&[(&CONTENT_TYPE, value)]);
            let headers = Headers::of(&headers);
            assert_eq!(check(&headers, true).is_ok(), allowed, "{value}");
            assert!(check(&headers, false).is_ok());
        }
        assert!(check(&Headers::of(&map(&[(&CONTENT_ENCODING, "gzip")])), false).is_err());
        // The first of several was looked at, and another program could have gone by the last.
        for (name, value) in [(&CONTENT_TYPE, "application/json"), (&CONTENT_ENCODING, "identity")] {
            let headers = map(&[(name, value), (name, value)]);
            let refused = |strict| check(&Headers::of(&headers), strict).err();
            assert_eq!(refused(true).map(|problem| problem.code), Some(Code::InvalidBody));
            assert_eq!(refused(false).is_none(), *name == CONTENT_TYPE, "version 1 never looked at it");
        }
    }
}
