//! The command line as a script meets it: exit codes, stdout, stderr, environment.

mod process;

use std::fs;

use process::{Ran, program, run};

fn teller(arguments: &[&str], variables: &[(&str, &str)]) -> Ran {
    let mut command = program(arguments);
    command.envs(variables.iter().copied());
    run(command)
}

#[test]
fn help_and_version_go_to_stdout_and_exit_0() {
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["help", "serve"],
        &["import", "--help"],
        &["export", "-h"],
        &["verify", "--help"],
        &["bench", "--help"],
        &["bench", "deposit", "--help"],
        &["help", "bench", "restart"],
    ] {
        let ran = teller(arguments, &[]);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(!ran.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn wrong_usage_exits_2_and_names_the_flag_or_the_variable() {
    for (arguments, variables, told) in [
        (&["--port=x"][..], &[][..], "'--port <PORT>'"),
        (&["serve", "--db-name=../x"], &[], "'--db-name <NAME>'"),
        (&["serve"], &[("MZ_PORT", "70000")], "MZ_PORT: must be a whole number from 0 to 65535"),
        (&[], &[("MZ_LOG", "loud")], "MZ_LOG: "),
        (&["verify"], &[("MZ_DB_NAME", "a/b")], "MZ_DB_NAME: "),
        (&["frobnicate"], &[], "frobnicate"),
        (&["import"], &[], "<FILE>"),
        (&["import", "x.csv", "--url=https://bank"], &[], "https is not spoken here"),
        (&["import", "x.csv", "--connections=0"], &[], "from 1 to 64"),
        (&["export", "--what=accounts", "--account=alice"], &[], "--account"),
        (&["export", "--what=accounts", "--format=hledger"], &[], "--what accounts"),
        (&["export", "--what=accounts", "--format=hledger"], &[], "Usage: teller export"),
        (&["export", "--what=accounts", "--format=beancount"], &[], "--what accounts"),
        (&["export", "--account="], &[], "must not be empty"),
        (&["bench"], &[], "Usage: teller bench"),
        (&["bench", "sleep"], &[], "sleep"),
        (&["bench", "deposit", "--data-dir="], &[], "must be the path of a directory"),
        (&["bench", "deposit", "--accounts=1"], &[], "from 2 to 1000000000"),
        (&["bench", "deposit", "--duration=0"], &[], "'--duration <SECONDS>'"),
        (&["bench", "deposit", "--pairs=hot"], &[], "--pairs means nothing for deposit"),
        (&["bench", "read", "--compare=barely"], &[], "is not bare, redis, a workload"),
        (&["bench", "read", "--compare=accounts=x"], &[], "from 2 to 1000000000"),
        (&["bench", "read", "--compare=redis"], &[], "compare it with deposit"),
        (&["bench", "mixed", "--compare=bare"], &[], "mixed has several"),
        (&["bench", "transfer", "--pairs=cross-shard", "--shards=1"], &[], "no two accounts"),
        (&["bench", "read", "--url=http://192.0.2.1"], &[], "on this machine"),
        (&["bench", "read", "--url=http://127.0.0.1", "--", "--port=1"], &[], "runs already"),
        (&["bench", "read", "--", "--port=1"], &[], "a port that nobody else uses"),
        (&["bench", "idle", "--", "--host", "::1"], &[], "it listens on 127.0.0.1"),
        (&["bench", "idle", "--", "--data-dir=/tmp"], &[], "--data-dir before -- says on which disk"),
        (&["bench", "memory", "--", "--db-name=x"], &[], "its ledger is a temporary one"),
        (&["bench", "restart", "--", "--cores=shared", "--shards", "2"], &[], "--shards before -- says"),
        (&["bench", "snapshot", "--", "--log=info"], &[], "--log before -- is for what the bench logs"),
    ] {
        let ran = teller(arguments, variables);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{arguments:?} {variables:?}");
        assert!(ran.stderr.contains(told), "{arguments:?} {variables:?}: {}", ran.stderr);
    }
}

#[test]
fn bootstrap_creates_the_data_directory_once_and_again_and_exits_0() {
    let root = tempfile::tempdir().expect("a directory");
    let data = root.path().join("a/b");
    let flag = format!("--data-dir={}", data.display());
    for (arguments, variables) in [
        (&["--bootstrap=1", &flag][..], &[("MZ_DB_NAME", "x")][..]),
        (&["serve", &flag, "--db-name=x"], &[("MZ_BOOTSTRAP", "1")]),
    ] {
        let ran = teller(arguments, variables);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert!(data.join("x").is_dir());
    }
}

#[test]
fn an_error_exits_1_and_is_told_on_stderr() {
    let root = tempfile::tempdir().expect("a directory");
    let path = root.path().join("x.csv");
    let path = path.to_str().expect("UTF-8");
    let ran = teller(&["import", path], &[]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
    assert_eq!(
        ran.stderr,
        format!("teller: {path}: cannot be read: No such file or directory (os error 2)\n")
    );
    fs::write(path, "id,account,type,amount\n1,a,deposit,0\n").expect("written");
    let ran = teller(&["import", path], &[]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
    assert_eq!(ran.stderr, format!("teller: {path}: line 2: the amount \"0\" is not more than 0\n"));
}
