//! The randomness of tests: from a seed that is printed, so that a failure replays.

#![allow(dead_code, unused_imports, reason = "no test uses all of it")]

pub(crate) use teller::random::Random;

/// The number in an environment variable, which overrides a test's default.
pub(crate) fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}
