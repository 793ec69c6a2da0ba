//! With which cases a property is tried: from a seed that is printed, so that a failure replays. For the unit tests, and for
//! `tests/ledger.rs`.

use std::{env, process};

use proptest::test_runner::{Config, RngSeed};

/// As many as proptest is set to, from `TELLER_LEDGER_SEED` or another seed each time. Failures leave no file behind.
pub(crate) fn cases() -> Config {
    let seed = env::var("TELLER_LEDGER_SEED").map_or_else(
        |_| u64::from(process::id()),
        |text| text.parse().unwrap_or_else(|_| panic!("TELLER_LEDGER_SEED is not a number")),
    );
    let config = Config { failure_persistence: None, rng_seed: RngSeed::Fixed(seed), ..Config::default() };
    // Shown where the test fails.
    println!("TELLER_LEDGER_SEED={seed} PROPTEST_CASES={}", config.cases);
    config
}
