//! An import against a scripted server, which notes what it is asked and answers as it is told.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::pending;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::*;
use crate::client::BaseUrl;
use crate::ledger::AccountName;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    path: String,
    key: String,
    body: String,
}

/// An answer: status, headers, body.
type Answer = (u16, Vec<(&'static str, &'static str)>, &'static str);

const CREATED: Answer = (201, Vec::new(), "{}");

struct Server {
    url: BaseUrl,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    /// Starts a server that answers a request, and how many times its key was seen before, by a script.
    async fn start(script: impl Fn(&Asked, usize) -> Answer + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (script, notes) = (Arc::new(script), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let (script, notes) = (Arc::clone(&script), Arc::clone(&notes));
                let service =
                    service_fn(move |request| answer(request, Arc::clone(&script), Arc::clone(&notes)));
                let serve = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(connection), service);
                tokio::spawn(async move { drop(serve.await) });
            }
        });
        Server { url: BaseUrl::parse(&url).expect("valid"), asked }
    }

    fn paths(&self) -> Vec<String> {
        self.asked.lock().iter().map(|asked| asked.path.clone()).collect()
    }
}

async fn answer<S: Fn(&Asked, usize) -> Answer>(
    request: hyper::Request<Incoming>,
    script: Arc<S>,
    notes: Arc<Mutex<Vec<Asked>>>,
) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let key = request.headers()["idempotency-key"].to_str().expect("printable").to_owned();
    let body = request.into_body().collect().await.expect("a whole body").to_bytes();
    let body = String::from_utf8(body.to_vec()).expect("UTF-8");
    let asked = Asked { path, key, body };
    let before = {
        let mut notes = notes.lock();
        notes.push(asked.clone());
        notes.iter().filter(|note| note.key == asked.key).count() - 1
    };
    let (status, headers, body) = script(&asked, before);
    let mut response = hyper::Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    Ok(response.body(Full::from(body)).expect("valid"))
}

fn stream(account: &str, rows: &[(&str, i128)]) -> Stream {
    let rows = rows.iter().enumerate().map(|(index, (id, cents))| Row {
        line: index as u64 + 2,
        id: (*id).into(),
        direction: if *cents < 0 { Direction::Withdrawal } else { Direction::Deposit },
        amount: Amount::from_minor_units(cents.abs()).expect("in range"),
    });
    Stream { account: AccountName::parse(account).expect("valid"), rows: rows.collect() }
}

async fn play_with(
    url: BaseUrl,
    streams: Vec<Stream>,
    limit: Option<Amount>,
    patience: Duration,
) -> (Tally, Result<(), PlayError>) {
    let board = Arc::new(Board::default());
    let client = Client::new(url, 8, Duration::from_secs(5));
    let player = Player::new(client, streams, limit, patience, Arc::clone(&board));
    let result = player.play(8, pending).await;
    (board.tally(), result)
}

async fn play(server: &Server, streams: Vec<Stream>) -> (Tally, Result<(), PlayError>) {
    play_with(server.url.clone(), streams, None, Duration::from_secs(20)).await
}

#[tokio::test]
async fn requests_say_what_the_file_says() {
    let server = Server::start(|_, _| CREATED).await;
    let limit = Amount::from_minor_units(1_000_050);
    let streams = vec![stream("Bob / ..", &[("t1", 1205), ("t 2", -5)])];
    let (tally, result) = play_with(server.url.clone(), streams, limit, Duration::from_secs(20)).await;
    result.expect("played");
    let asked = server.asked.lock().clone();
    assert_eq!(asked.len(), 3);
    assert_eq!(asked[0].path, "/v2/accounts");
    assert_eq!(asked[0].body, r#"{"name":"Bob / ..","overdraft_limit":"10000.50"}"#);
    let account_key = format!("import-account-{}", blake3::hash(asked[0].body.as_bytes()).to_hex());
    assert_eq!(asked[0].key, account_key);
    assert_eq!(asked[1].path, "/accounts/Bob%20%2F%20%2E%2E/deposit");
    assert_eq!((asked[1].key.as_str(), asked[1].body.as_str()), ("import-t1", r#"{"amount":12.05}"#));
    assert_eq!(asked[2].path, "/accounts/Bob%20%2F%20%2E%2E/withdraw");
    assert_eq!(
        (asked[2].key.as_str(), asked[2].body.as_str()),
        (key("t 2", 0).as_str(), r#"{"amount":0.05}"#)
    );
    assert_eq!(tally.total.minor_units(), 1200);
}

#[tokio::test]
async fn each_accounts_transactions_come_in_the_files_order() {
    let accounts = 20;
    let server = Server::start(|asked, before| {
        // Every third key meets a server that is busy once.
        match before == 0 && asked.key.ends_with(['0', '3', '6', '9']) {
            true => (503, vec![], r#"{"code":"overloaded","detail":"busy"}"#),
            false => CREATED,
        }
    })
    .await;
    let ids: Vec<String> = (0..accounts * 10).map(|id| id.to_string()).collect();
    let streams = ids.chunks(10).enumerate().map(|(account, ids)| {
        let rows: Vec<(&str, i128)> = ids.iter().map(|id| (id.as_str(), 100)).collect();
        stream(&format!("a{account}"), &rows)
    });
    let (tally, result) = play(&server, streams.collect()).await;
    result.expect("played");
    assert_eq!((tally.accounts_opened, tally.deposits.applied), (accounts, accounts * 10));
    let mut order: HashMap<String, Vec<u64>> = HashMap::new();
    for asked in server.asked.lock().iter().filter(|asked| asked.path.ends_with("/deposit")) {
        let id = asked.key.trim_start_matches("import-").parse().expect("a number");
        order.entry(asked.path.clone()).or_default().push(id);
    }
    assert_eq!(order.len(), accounts as usize);
    for (path, ids) in order {
        assert!(ids.is_sorted() && ids.len() > 10, "{path}: {ids:?}");
    }
}

#[tokio::test]
async fn what_can_pass_is_waited_for_with_the_same_key() {
    let server = Server::start(|asked, before| match (asked.key.as_str(), before) {
        ("import-1", 0) => (503, vec![("retry-after", "1")], "overloaded"),
        ("import-1", 1) => (409, vec![], r#"{"code":"idempotency-key-in-flight","retryable":true}"#),
        ("import-1", 2) => (429, vec![], ""),
        ("import-1", 3) => (502, vec![], ""),
        _ => CREATED,
    })
    .await;
    let started = Instant::now();
    let (tally, result) = play(&server, vec![stream("a", &[("1", 100)])]).await;
    result.expect("played");
    assert!(started.elapsed() >= Duration::from_secs(1), "Retry-After is honoured");
    assert_eq!(tally.deposits, Count { applied: 1, replayed: 0 });
    let asked = server.asked.lock().clone();
    assert_eq!(asked.len(), 6);
    assert!(asked[1..].iter().all(|one| *one == asked[1]), "{asked:?}");
}

#[tokio::test]
async fn a_refusal_stops_the_import_and_tells_line_and_reason() {
    let server = Server::start(|asked, _| match asked.key.as_str() {
        "import-2" => (
            422,
            vec![],
            r#"{"code":"insufficient-funds","detail":"only 1.00 is there","errors":[{"pointer":"/amount","detail":"is too much"}]}"#,
        ),
        _ => CREATED,
    })
    .await;
    let (tally, result) = play(&server, vec![stream("a", &[("1", 100), ("2", -300), ("3", 100)])]).await;
    assert_eq!(
        result.expect_err("refused").to_string(),
        "line 3: the withdrawal of 3.00 for the account \"a\" was refused: \
         422 insufficient-funds only 1.00 is there (/amount is too much)"
    );
    assert_eq!(tally.transactions(), 1);
    assert_eq!(server.paths(), ["/v2/accounts", "/accounts/a/deposit", "/accounts/a/withdraw"]);
}

#[tokio::test]
async fn a_server_that_can_never_do_it_is_not_waited_for() {
    let answer = r#"{"code":"accounts-exhausted","detail":"no number is left","retryable":false}"#;
    let server = Server::start(move |_, _| (503, vec![], answer)).await;
    let (_, result) = play(&server, vec![stream("a", &[("1", 100)])]).await;
    let error = result.expect_err("refused").to_string();
    assert!(error.ends_with("was refused: 503 accounts-exhausted no number is left"), "{error}");
    assert_eq!(server.paths().len(), 1);
}

#[tokio::test]
async fn a_server_of_another_kind_is_a_refusal_too() {
    let server = Server::start(|_, _| (404, vec![], "<h1>Not here</h1>")).await;
    let (_, result) = play(&server, vec![stream("a", &[("1", 100)])]).await;
    assert_eq!(
        result.expect_err("refused").to_string(),
        "line 2: opening the account \"a\" was refused: 404 <h1>Not here</h1>"
    );
}

#[tokio::test]
async fn what_is_there_already_is_counted_as_that() {
    let server = Server::start(|asked, _| match (asked.path.as_str(), asked.body.contains("old")) {
        ("/v2/accounts", true) => (409, vec![], r#"{"code":"account-exists","detail":"taken"}"#),
        _ => (201, vec![("idempotent-replayed", "true")], "{}"),
    })
    .await;
    let streams = vec![stream("old", &[("1", 100), ("2", -40)]), stream("new", &[("3", 100)])];
    let (tally, result) = play(&server, streams).await;
    result.expect("played");
    assert_eq!((tally.accounts_opened, tally.accounts_existing), (0, 2));
    assert_eq!(tally.deposits, Count { applied: 0, replayed: 2 });
    assert_eq!(tally.withdrawals, Count { applied: 0, replayed: 1 });
    assert_eq!(tally.total.minor_units(), 160);
}

#[tokio::test]
async fn a_refusal_of_an_earlier_run_is_left_behind() {
    let server = Server::start(|asked, _| match asked.key.as_str() {
        "import-1" => (422, vec![("idempotent-replayed", "true")], r#"{"code":"insufficient-funds"}"#),
        _ => CREATED,
    })
    .await;
    let (tally, result) = play(&server, vec![stream("a", &[("1", -100)])]).await;
    result.expect("played");
    assert_eq!(tally.withdrawals, Count { applied: 1, replayed: 0 });
    let keys: Vec<String> = server.asked.lock().iter().skip(1).map(|asked| asked.key.clone()).collect();
    assert_eq!(keys, ["import-1".to_owned(), key("1", 1)]);
}

#[tokio::test]
async fn a_server_that_stays_away_is_given_up_with_advice() {
    let gone = BaseUrl::parse("http://127.0.0.1:1").expect("valid");
    let streams = vec![stream("a", &[("1", 100)]), stream("b", &[("2", 100)])];
    let (tally, result) = play_with(gone, streams, None, Duration::from_millis(300)).await;
    let error = result.expect_err("gone").to_string();
    assert!(error.contains("http://127.0.0.1:1 cannot be reached: "), "{error}");
    assert!(error.ends_with("run the same command again: nothing is applied twice"), "{error}");
    assert_eq!(tally, Tally::default());
}

#[tokio::test]
async fn an_interrupt_lets_the_request_under_way_end() {
    let server = Server::start(|_, _| CREATED).await;
    let ids: Vec<String> = (0..100_000).map(|id| id.to_string()).collect();
    let rows: Vec<(&str, i128)> = ids.iter().map(|id| (id.as_str(), 1)).collect();
    let board = Arc::new(Board::default());
    let client = Client::new(server.url.clone(), 1, Duration::from_secs(5));
    let patience = Duration::from_secs(20);
    let player = Player::new(client, vec![stream("a", &rows)], None, patience, Arc::clone(&board));
    let calls = AtomicUsize::new(0);
    let interrupt = || {
        let first = calls.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            match first {
                true => tokio::time::sleep(Duration::from_millis(50)).await,
                false => pending().await,
            }
        }
    };
    let result = player.play(1, interrupt).await;
    assert!(matches!(result, Err(PlayError::Interrupted)), "{result:?}");
    let done = board.tally().transactions();
    assert!(done < 100_000);
    assert_eq!(server.paths().len() as u64, done + 1, "every request that was sent has been counted");
}

#[test]
fn keys_fit_the_wire_and_differ() {
    assert_eq!(key("232960", 0), "import-232960");
    let long = "x".repeat(KEY_BYTES_MAX - "import-".len());
    assert_eq!(key(&long, 0).len(), KEY_BYTES_MAX);
    let hashed = [
        key(&(long + "x"), 0),
        key("a b", 0),
        key("a b ", 0),
        key("\"a\"", 0),
        key("é", 0),
        key("1", 1),
        key("1", 2),
    ];
    for (index, one) in hashed.iter().enumerate() {
        assert!(one.starts_with("import-blake3-") && one.len() == 78, "{one}");
        assert!(!hashed[..index].contains(one), "{one}");
    }
}
