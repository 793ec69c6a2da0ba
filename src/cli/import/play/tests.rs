//! An import against a scripted server, which notes the items that it is asked for and answers as it is told.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::pending;
use std::sync::atomic::AtomicUsize;

use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;
use crate::cli::import::file;
use crate::client::BaseUrl;
use crate::config::IDEMPOTENCY_HOURS_DEFAULT;
use crate::ledger::ExcessDecimals;

/// An item, and the batch that it came in.
#[derive(Clone, Debug)]
struct Asked {
    batch: usize,
    atomic: bool,
    item: Value,
}

impl Asked {
    fn text(&self, member: &str) -> &str {
        self.item[member].as_str().unwrap_or_default()
    }

    /// What it is, in short.
    fn told(&self) -> String {
        let account = [self.text("name"), self.text("account")].concat();
        [self.text("type"), &account, self.text("amount")].join(" ").trim_end().to_owned()
    }
}

/// What an item is answered.
#[derive(Clone, Copy)]
enum Answer {
    Done,
    Replayed,
    /// A status and the members of its problem.
    Refused(u16, &'static str),
    /// The whole batch is answered this: status, Retry-After, body.
    Reply(u16, &'static str, &'static str),
}

struct Server {
    url: BaseUrl,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    /// Starts a server that answers an item, and how many times its key was seen before, by a script.
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

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().clone()
    }

    /// What was asked for, by batch.
    fn batches(&self) -> Vec<Vec<String>> {
        let asked = self.asked();
        let batches = asked.chunk_by(|one, next| one.batch == next.batch);
        batches.map(|items| items.iter().map(Asked::told).collect()).collect()
    }
}

async fn answer<S: Fn(&Asked, usize) -> Answer>(
    request: hyper::Request<Incoming>,
    script: Arc<S>,
    notes: Arc<Mutex<Vec<Asked>>>,
) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
    let uri = request.uri().clone();
    if uri.path().starts_with("/v2/accounts/name%3A") {
        return Ok(hyper::Response::new(Full::from(r#"{"currency":"EUR"}"#)));
    }
    assert_eq!(
        (uri.path(), &request.headers()["content-type"]),
        ("/v2/batches", &"application/x-ndjson".parse().unwrap())
    );
    let atomic = uri.query() == Some("atomic=true");
    let body = request.into_body().collect().await.expect("a whole body").to_bytes();
    let answers: Vec<Answer> = {
        let mut notes = notes.lock();
        let batch = notes.last().map_or(0, |note| note.batch + 1);
        let items = body.split_inclusive(|byte| *byte == b'\n');
        let items: Vec<Value> = items.map(|line| serde_json::from_slice(line).expect("JSON lines")).collect();
        let asked: Vec<Asked> = items.into_iter().map(|item| Asked { batch, atomic, item }).collect();
        let answers = asked.iter().map(|asked| {
            let before = notes.iter().filter(|note| note.text("key") == asked.text("key")).count();
            script(asked, before)
        });
        let answers = answers.collect();
        notes.extend(asked);
        answers
    };
    let cause = answers.iter().position(|answer| matches!(answer, Answer::Refused(..))).filter(|_| atomic);
    let mut results = Vec::new();
    for (index, answer) in answers.into_iter().enumerate() {
        let problem = |status: u16, members: &str| {
            let problem: Value = serde_json::from_str(members).expect("JSON");
            json!({ "index": index, "status": status, "replayed": false, "problem": problem })
        };
        let done = |replayed| json!({ "index": index, "status": 201, "replayed": replayed, "result": {} });
        results.push(match answer {
            Answer::Reply(status, retry_after, body) => {
                let response = hyper::Response::builder().status(status).header("retry-after", retry_after);
                return Ok(response.body(Full::from(body)).expect("valid"));
            }
            Answer::Refused(status, members) if cause.is_none_or(|cause| cause == index) => {
                problem(status, members)
            }
            _ if cause.is_some() => problem(424, r#"{"code":"not-attempted","retryable":false}"#),
            Answer::Done | Answer::Refused(..) => done(false),
            Answer::Replayed => done(true),
        });
    }
    Ok(hyper::Response::new(Full::from(json!({ "results": results }).to_string())))
}

fn quantity(text: &str) -> Quantity {
    Quantity::parse(text, ExcessDecimals::Refuse).expect("valid")
}

/// A file of rows: account, id, amount, which is below zero for a withdrawal. The first is on line 2.
fn rows(rows: &[(&str, &str, &str)]) -> Transactions {
    let mut transactions = Transactions::default();
    for (index, (account, id, amount)) in rows.iter().enumerate() {
        let (line, amount) = (index as u64 + 2, quantity(amount));
        let name = AccountName::parse(account).expect("valid");
        let digest = file::digest(&name, id);
        let known = transactions.accounts.iter().position(|account| account.name == name);
        let account = known.unwrap_or(transactions.accounts.len());
        match known {
            Some(account) => transactions.accounts[account].rows += 1,
            None => transactions.accounts.push(Account { name, currency: None, line, rows: 1 }),
        }
        let direction = if amount.is_positive() { Direction::Deposit } else { Direction::Withdrawal };
        transactions.rows.push(Row {
            line,
            account,
            digest,
            direction,
            amount: amount.magnitude(),
            reference: None,
        });
    }
    transactions
}

/// A refusal of which nothing particular is known, with the way to go on.
fn go_on(refusal: &str) -> String {
    format!("{refusal}; when its cause is gone, {AGAIN}")
}

async fn play_with(
    url: BaseUrl,
    transactions: Transactions,
    limit: Option<Quantity>,
    patience: Duration,
) -> (Tally, Result<(), PlayError>) {
    let board = Arc::new(Board::default());
    let client = Client::new(url, 4, Duration::from_secs(5));
    let player = Player::new(client, transactions, limit, patience, Arc::clone(&board));
    let result = player.play(4, pending).await;
    (board.tally(), result)
}

async fn play(server: &Server, transactions: Transactions) -> (Tally, Result<(), PlayError>) {
    play_with(server.url.clone(), transactions, None, Duration::from_secs(20)).await
}

#[tokio::test]
async fn items_say_what_the_file_says() {
    let server = Server::start(|_, _| Answer::Done).await;
    let mut transactions = rows(&[("Bob \"..", "t1", "12.05"), ("Bob \"..", "t 2", "-1234567.5")]);
    transactions.rows[1].reference = Some(crate::ledger::Reference::parse("rent \\ 7").expect("valid"));
    let limit = Some(quantity("10000.5"));
    let (tally, result) = play_with(server.url.clone(), transactions, limit, Duration::from_secs(20)).await;
    result.expect("played");
    let asked = server.asked();
    let [opening, deposit, withdrawal] = &asked[..] else { panic!("{asked:?}") };
    assert!(opening.text("key").starts_with("import-account-"), "{opening:?}");
    let key = |id: &str| {
        let digest = file::digest(&AccountName::parse("Bob \"..").expect("valid"), id);
        format!("import-{}", HEXLOWER.encode(&digest))
    };
    assert_eq!(
        opening.item,
        json!({ "type": "open", "key": opening.text("key"), "name": "Bob \"..", "overdraft_limit": "10000.50" })
    );
    assert_eq!(
        deposit.item,
        json!({ "type": "deposit", "key": key("t1"), "account": "name:Bob \"..", "amount": "12.05" })
    );
    assert_eq!(
        withdrawal.item,
        json!({ "type": "withdraw", "key": key("t 2"), "account": "name:Bob \"..", "amount": "1234567.50",
            "reference": "rent \\ 7" })
    );
    assert_eq!((opening.batch, deposit.batch, withdrawal.batch), (0, 1, 1));
    assert_eq!((opening.atomic, deposit.atomic), (false, true));
    assert_eq!(tally.totals, BTreeMap::from([(None, quantity("-1234555.45").into())]));
}

#[tokio::test]
async fn amounts_are_of_the_accounts_currency() {
    let server = Server::start(|_, _| Answer::Done).await;
    let mut transactions = rows(&[("yen", "1", "12"), ("dinar", "1", "12"), ("yen", "2", "-2")]);
    transactions.accounts[0].currency = Currency::from_code(b"JPY");
    transactions.accounts[1].currency = Currency::from_code(b"KWD");
    let (tally, result) =
        play_with(server.url.clone(), transactions, Some(quantity("5")), Duration::from_secs(20)).await;
    result.expect("played");
    let mut told: Vec<String> = server
        .asked()
        .iter()
        .map(|asked| {
            [&asked.told(), asked.text("currency"), asked.text("overdraft_limit")]
                .join(" ")
                .trim_end()
                .to_owned()
        })
        .collect();
    told.sort();
    assert_eq!(
        told,
        [
            "deposit name:dinar 12.000",
            "deposit name:yen 12",
            "open dinar KWD 5.000",
            "open yen JPY 5",
            "withdraw name:yen 2"
        ]
    );
    let totals = [
        (Currency::from_code(b"JPY"), quantity("10").into()),
        (Currency::from_code(b"KWD"), quantity("12").into()),
    ];
    assert_eq!(tally.totals, BTreeMap::from(totals));
}

#[tokio::test]
async fn each_accounts_transactions_come_in_the_files_order() {
    let (accounts, each) = (20, 300);
    let server = Server::start(|asked, before| {
        // Some batches meet a server that is busy once, some an item that another request is being worked on with.
        match (before, asked.batch % 5) {
            (0, 3) => Answer::Reply(503, "0", r#"{"code":"overloaded","detail":"busy"}"#),
            (0, 4) => Answer::Refused(409, r#"{"code":"idempotency-key-in-flight","retryable":true}"#),
            _ => Answer::Done,
        }
    })
    .await;
    let names: Vec<String> = (0..accounts).map(|account| format!("a{account}")).collect();
    let amounts: Vec<String> = (1..=each).map(|amount| amount.to_string()).collect();
    let file: Vec<(&str, &str, &str)> = amounts
        .iter()
        .flat_map(|amount| names.iter().map(|name| (name.as_str(), amount.as_str(), amount.as_str())))
        .collect();
    let (tally, result) = play(&server, rows(&file)).await;
    result.expect("played");
    assert_eq!((tally.accounts_opened, tally.deposits.applied), (accounts, accounts * each));
    let mut order: HashMap<String, Vec<u64>> = HashMap::new();
    let mut batches: HashMap<usize, usize> = HashMap::new();
    for asked in server.asked().iter().filter(|asked| asked.atomic) {
        *batches.entry(asked.batch).or_default() += 1;
        let amount = asked.text("amount").trim_end_matches(".00").parse().expect("a number");
        order.entry(asked.text("account").to_owned()).or_default().push(amount);
    }
    assert!(batches.values().all(|items| *items <= BATCH_ITEMS_MAX), "{batches:?}");
    assert_eq!(order.len(), accounts as usize);
    for (account, mut amounts) in order {
        // What is sent again begins where a batch began; beyond that each follows the one before.
        let mut reached = 0;
        for amount in &amounts {
            assert!(*amount <= reached + 1, "{account}: {amounts:?}");
            reached = reached.max(*amount);
        }
        amounts.dedup();
        assert_eq!(reached, each, "{account}");
    }
}

#[tokio::test]
async fn what_can_pass_is_waited_for_with_the_same_items() {
    let server = Server::start(|asked, before| match (asked.text("type"), before) {
        ("deposit", 0) => Answer::Reply(503, "1", "overloaded"),
        ("deposit", 1) => Answer::Refused(409, r#"{"code":"idempotency-key-in-flight","retryable":true}"#),
        ("deposit", 2) => Answer::Reply(429, "", ""),
        ("deposit", 3) => Answer::Reply(502, "", ""),
        _ => Answer::Done,
    })
    .await;
    let started = Instant::now();
    let (tally, result) = play(&server, rows(&[("a", "1", "1")])).await;
    result.expect("played");
    assert!(started.elapsed() >= Duration::from_secs(1), "Retry-After is honoured");
    assert_eq!(tally.deposits, Count { applied: 1, replayed: 0 });
    let asked = server.asked();
    assert_eq!(asked.len(), 6);
    assert!(asked[1..].iter().all(|one| one.item == asked[1].item), "{asked:?}");
}

/// P7: a server, or a proxy before it, does not have an import wait for years.
#[test]
fn what_a_server_asks_for_is_waited_for_half_a_minute_at_most() {
    let asked = |text: Option<&str>| {
        let mut headers = hyper::HeaderMap::new();
        headers.extend(text.map(|text| (RETRY_AFTER, text.parse().expect("a value"))));
        retry_after(&Response { status: hyper::StatusCode::SERVICE_UNAVAILABLE, headers, body: Bytes::new() })
    };
    for (text, seconds) in [
        (None, 0),
        (Some("0"), 0),
        (Some("29"), 29),
        (Some("30"), 30),
        (Some("31"), 30),
        (Some("99999999"), 30),
        (Some("Wed, 21 Oct 2115 07:28:00 GMT"), 0),
    ] {
        assert_eq!(asked(text), Duration::from_secs(seconds), "{text:?}");
    }
}

#[tokio::test]
async fn an_opening_that_has_to_wait_does_not_hold_up_the_others() {
    let server = Server::start(|asked, before| match (asked.text("name"), before) {
        ("a", 0) => Answer::Refused(409, r#"{"code":"idempotency-key-in-flight","retryable":true}"#),
        _ => Answer::Done,
    })
    .await;
    let board = Arc::new(Board::default());
    let client = Client::new(server.url.clone(), 1, Duration::from_secs(5));
    let file = rows(&[("a", "1", "1"), ("b", "1", "1")]);
    let player = Player::new(client, file, None, Duration::from_secs(20), Arc::clone(&board));
    player.play(1, pending).await.expect("played");
    assert_eq!(
        server.batches(),
        [&["open a", "open b"][..], &["open a"], &["deposit name:a 1.00", "deposit name:b 1.00"]]
    );
    assert_eq!(board.tally().accounts_opened, 2);
}

/// Behind a refused row nothing of its account may be applied; what stands before it is in the ledger.
#[tokio::test]
async fn a_refusal_stops_the_import_behind_the_rows_before_it() {
    let server = Server::start(|asked, _| match asked.text("amount") {
        "3.00" => Answer::Refused(
            422,
            r#"{"code":"insufficient-funds","detail":"only 1.00 is there","errors":[{"pointer":"/amount","detail":"is too much"}]}"#,
        ),
        _ => Answer::Done,
    })
    .await;
    let (tally, result) = play(&server, rows(&[("a", "1", "1"), ("a", "2", "-3"), ("a", "3", "1")])).await;
    assert_eq!(
        result.expect_err("refused").to_string(),
        "line 3: the withdrawal of 3.00 for the account \"a\" was refused: \
         422 insufficient-funds only 1.00 is there (/amount is too much); \
         an account that is there keeps its limit whatever --overdraft-limit says: \
         import into a new ledger with one that is large enough to cover the lowest balance that any account has on \
         the way, \
         or change the account's own with PATCH /v2/accounts/{account}, member overdraft_limit, \
         and run the same command again before the server's --idempotency-hours (24 by default) have passed since \
         the first run: \
         nothing is applied twice; later everything is"
    );
    assert_eq!(tally.transactions(), 1);
    assert_eq!(
        server.batches(),
        [
            &["open a"][..],
            &["deposit name:a 1.00", "withdraw name:a 3.00", "deposit name:a 1.00"],
            &["deposit name:a 1.00"]
        ]
    );
}

#[tokio::test]
async fn a_refusal_of_the_first_row_leaves_nothing_to_send_again() {
    let server = Server::start(|asked, _| match asked.atomic {
        true => Answer::Refused(404, r#"{"code":"account-not-found"}"#),
        false => Answer::Done,
    })
    .await;
    let (tally, result) = play(&server, rows(&[("a", "1", "1"), ("a", "2", "1")])).await;
    let error = result.expect_err("refused").to_string();
    let go_on = format!("was refused: 404 account-not-found; {} {AGAIN}", advice(ACCOUNT_NOT_FOUND));
    assert!(error.starts_with("line 2: ") && error.ends_with(&go_on), "{error}");
    assert_eq!((tally.transactions(), server.batches().len()), (0, 2));
}

#[tokio::test]
async fn a_server_that_can_never_do_it_is_not_waited_for() {
    let exhausted = r#"{"code":"accounts-exhausted","detail":"no number is left","retryable":false}"#;
    for (answer, told) in [
        (Answer::Refused(503, exhausted), "no number is left"),
        (Answer::Reply(503, "", exhausted), "no number is left"),
        (
            Answer::Refused(503, r#"{"code":"idempotency-keys-exhausted","retryable":true}"#),
            "start the server with more --idempotency-keys-max",
        ),
    ] {
        let server = Server::start(move |_, _| answer).await;
        let (_, result) = play(&server, rows(&[("a", "1", "1")])).await;
        let error = result.expect_err("refused").to_string();
        assert!(
            error.contains("opening the account \"a\"") && error.contains("was refused: 503 "),
            "{error}"
        );
        assert!(error.contains(told), "{error}");
        assert_eq!(server.batches().len(), 1);
    }
}

#[tokio::test]
async fn a_server_of_another_kind_is_a_refusal_too() {
    let server = Server::start(|_, _| Answer::Reply(404, "", "<h1>Not here</h1>")).await;
    let (_, result) = play(&server, rows(&[("a", "1", "1")])).await;
    assert_eq!(
        result.expect_err("refused").to_string(),
        go_on("line 2: a batch from opening the account \"a\" on was refused: 404 <h1>Not here</h1>")
    );
    let server = Server::start(|_, _| Answer::Reply(200, "", r#"{"results":[]}"#)).await;
    let (_, result) = play(&server, rows(&[("a", "1", "1")])).await;
    let error = result.expect_err("unreadable").to_string();
    assert!(error.ends_with("cannot be understood: 1 items have 0 results"), "{error}");
}

#[tokio::test]
async fn what_is_there_already_is_counted_as_that() {
    let server = Server::start(|asked, _| match asked.text("name") {
        "old" => Answer::Refused(409, r#"{"code":"account-exists","detail":"taken"}"#),
        _ if asked.text("amount") == "3.00" => Answer::Done,
        _ => Answer::Replayed,
    })
    .await;
    let file = rows(&[("old", "1", "1"), ("old", "2", "-0.4"), ("new", "3", "1"), ("new", "4", "3")]);
    let (tally, result) = play(&server, file).await;
    result.expect("played");
    assert_eq!((tally.accounts_opened, tally.accounts_existing), (0, 2));
    assert_eq!(tally.deposits, Count { applied: 1, replayed: 2 });
    assert_eq!(tally.withdrawals, Count { applied: 0, replayed: 1 });
    assert_eq!(tally.totals, BTreeMap::from([(None, quantity("4.6").into())]));
}

/// Amounts would mean other money.
#[tokio::test]
async fn an_account_that_is_there_in_another_currency_is_refused() {
    let server = Server::start(|asked, _| match asked.text("type") {
        "open" => Answer::Refused(409, r#"{"code":"account-exists"}"#),
        _ => Answer::Done,
    })
    .await;
    let mut transactions = rows(&[("a", "1", "1")]);
    transactions.accounts[0].currency = Some(Currency::USD);
    let (_, result) = play(&server, transactions).await;
    assert_eq!(
        result.expect_err("refused").to_string(),
        go_on("line 2: opening the account \"a\" was refused: the file has it in USD, it is there in EUR")
    );
    assert_eq!(server.batches(), [["open a"]]);
    let mut transactions = rows(&[("a", "1", "1")]);
    transactions.accounts[0].currency = Currency::from_code(b"EUR");
    play(&server, transactions).await.1.expect("played");
}

#[tokio::test]
async fn a_server_that_stays_away_is_given_up_with_advice() {
    let gone = BaseUrl::parse("http://127.0.0.1:1").expect("valid");
    let file = rows(&[("a", "1", "1"), ("b", "2", "1")]);
    let (tally, result) = play_with(gone, file, None, Duration::from_millis(300)).await;
    let error = result.expect_err("gone").to_string();
    assert!(error.contains("http://127.0.0.1:1 cannot be reached: "), "{error}");
    assert!(error.ends_with(&format!("; to go on, {AGAIN}")), "{error}");
    assert_eq!(tally, Tally::default());
}

#[tokio::test]
async fn an_interrupt_lets_the_batch_under_way_end() {
    let server = Server::start(|_, _| Answer::Done).await;
    let ids: Vec<String> = (0..50_000).map(|id| id.to_string()).collect();
    let file: Vec<(&str, &str, &str)> = ids.iter().map(|id| ("a", id.as_str(), "1")).collect();
    let board = Arc::new(Board::default());
    let client = Client::new(server.url.clone(), 1, Duration::from_secs(5));
    let patience = Duration::from_secs(20);
    let player = Player::new(client, rows(&file), None, patience, Arc::clone(&board));
    let calls = AtomicUsize::new(0);
    let interrupt = || {
        let first = calls.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            match first {
                true => tokio::time::sleep(Duration::from_millis(50)).await,
                false => pending().await,
            }
            EndSignal::Interrupt
        }
    };
    let result = player.play(1, interrupt).await;
    let error = result.expect_err("interrupted").to_string();
    assert_eq!(error, format!("interrupted; to go on, {AGAIN}"));
    let done = board.tally().transactions();
    assert!(done < 50_000);
    assert_eq!(server.asked().len() as u64, done + 1, "every item that was sent has been counted");
}

/// Whoever repeats an import later applies all of it a second time: the texts have to name the limit that there is. They
/// had promised 24 hours of a server that was told to remember keys for one.
#[test]
fn the_way_to_go_on_names_the_time_limit_of_keys() {
    let limit = format!("--idempotency-hours ({IDEMPOTENCY_HOURS_DEFAULT} by default)");
    for text in [AGAIN, crate::cli::import::LONG_ABOUT] {
        assert!(text.contains(&limit) && !text.contains("24 hours"), "{text}");
    }
}

#[test]
fn accounts_are_dealt_so_that_lanes_have_about_the_same() {
    let account =
        |rows: u64| Account { name: AccountName::parse("a").expect("valid"), currency: None, line: 2, rows };
    let accounts: Vec<Account> = [1, 1, 9, 1, 4, 4, 1].into_iter().map(account).collect();
    let lanes = deal(&accounts, 2);
    let rows_of = |lane| {
        accounts.iter().zip(&lanes).filter(|(_, of)| **of == lane).map(|(account, _)| account.rows).sum()
    };
    let sums: [u64; 2] = [rows_of(0), rows_of(1)];
    assert_eq!(sums.iter().sum::<u64>(), 21);
    assert!(sums[0].abs_diff(sums[1]) <= 1, "{sums:?}");
}
