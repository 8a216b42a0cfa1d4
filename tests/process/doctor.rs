//! `firn doctor` and the probe at start: a store proves itself, or is refused with the reason.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use firn_tests::careless_store::CarelessStore;
use firn_tests::node::{NodePlan, quiet_command};
use firn_tests::wait;

use crate::{FIRN, folder, minio_for};

fn with_keys(command: &mut Command) -> &mut Command {
    command
        .env("AWS_ACCESS_KEY_ID", "minioadmin")
        .env("AWS_SECRET_ACCESS_KEY", "minioadmin")
}

fn binary() -> PathBuf {
    std::env::var_os("CI_FIRN_BIN").map_or_else(|| PathBuf::from(FIRN), PathBuf::from)
}

fn doctor(url: &str) -> Output {
    let mut command = quiet_command(&binary());
    with_keys(&mut command)
        .args(["doctor", "--bucket", url])
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

#[test]
fn the_doctor_finds_nothing_wrong_with_a_directory() {
    let folder = folder();
    let answer = doctor(&format!("file://{}", folder.path().display()));
    assert_finds_nothing(&answer);
}

/// The check that matters most was made, and none failed or was left with a warning.
fn assert_finds_nothing(answer: &Output) {
    let said = text(answer);
    assert!(answer.status.success(), "{said}");
    let made = said
        .lines()
        .find(|line| line.contains("second create refused"));
    assert!(made.is_some_and(|line| line.starts_with("ok")), "{said}");
    assert!(
        !said.contains("FAILED") && !said.contains("warning"),
        "{said}"
    );
}

#[test]
fn the_doctor_finds_nothing_wrong_with_minio() {
    let folder = folder();
    let Some(minio) = minio_for("the_doctor_finds_nothing_wrong_with_minio", folder.path()) else {
        return;
    };
    let answer = doctor(&minio.url("examined"));
    assert_finds_nothing(&answer);
}

#[test]
fn the_doctor_names_a_store_that_ignores_if_none_match() {
    let store = CarelessStore::start();
    let answer = doctor(&store.url());
    assert!(!answer.status.success(), "{}", text(&answer));
    let said = text(&answer);
    assert!(
        said.contains("If-None-Match"),
        "the reason is missing:\n{said}"
    );
}

#[test]
fn a_store_that_ignores_if_none_match_is_refused_at_start() {
    let folder = folder();
    let store = CarelessStore::start();
    let plan = NodePlan::on_bucket(FIRN, folder.path(), &store.url())
        .with_environment("AWS_ACCESS_KEY_ID", "any")
        .with_environment("AWS_SECRET_ACCESS_KEY", "any");
    let mut node = plan.launch();
    let status = node.process.wait(Duration::from_secs(30));
    assert!(!status.success());
    let said = node.process.output();
    assert!(
        said.contains("If-None-Match"),
        "the reason is missing:\n{said}"
    );
    assert!(!said.contains("panicked"), "{said}");
}

/// A typo in a path, or a disk that is not mounted, must not become a new empty log.
#[test]
fn a_missing_directory_is_made_only_if_that_is_asked_for() {
    let folder = folder();
    let directory = folder.path().join("typo");
    let url = format!("file://{}", directory.display());
    let answer = doctor(&url);
    assert!(!answer.status.success());
    let said = text(&answer);
    assert!(
        said.contains(&url) && said.contains("--create-bucket"),
        "{said}"
    );
    let plan = NodePlan::on_bucket(FIRN, folder.path(), &url);
    let mut node = plan.launch();
    assert!(!node.process.wait(wait::PATIENCE).success());
    let said = node.process.output();
    assert!(
        said.contains(&url) && said.contains("--create-bucket"),
        "{said}"
    );
    assert!(!directory.exists(), "nobody asked for it");
    plan.with_argument("--create-bucket").start().stop();
    assert!(directory.is_dir());
}

/// What `serve` is told, `doctor` can be told the same way.
#[test]
fn the_doctor_takes_its_bucket_from_where_a_broker_does() {
    let folder = folder();
    let url = format!("file://{}", folder.path().display());
    let file = folder.path().join("firn.toml");
    std::fs::write(&file, format!("bucket = '{url}'\nnum.partitions = 3\n")).unwrap();
    let file = file.display().to_string();
    let setting = format!("bucket={url}");
    for arguments in [["--config", &file], ["-X", &setting]] {
        let mut command = quiet_command(&binary());
        let answer = command.arg("doctor").args(arguments).output().unwrap();
        assert_finds_nothing(&answer);
    }
    let mut command = quiet_command(&binary());
    let answer = command.arg("doctor").output().unwrap();
    assert_eq!(answer.status.code(), Some(2));
    assert!(text(&answer).contains("--bucket URL"), "{}", text(&answer));
}

/// It takes connections, and that is all.
#[test]
fn a_store_that_answers_nobody_is_named_while_it_is_waited_for() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let url = format!("s3://b/p?endpoint={endpoint}");
    let folder = folder();
    let plan = NodePlan::on_bucket(FIRN, folder.path(), &url)
        .with_environment("AWS_ACCESS_KEY_ID", "any")
        .with_environment("AWS_SECRET_ACCESS_KEY", "any")
        // Long enough for one attempt (5 s) on a busy machine, and too short for a second line,
        // which is due 5 s after the first.
        .with_setting("bucket.start.timeout.ms=9s");
    let mut node = plan.launch();
    let status = node.process.wait(wait::PATIENCE);
    assert_eq!(status.code(), Some(1));
    let said = node.process.output();
    let waiting = said.lines().filter(|line| line.contains("the start waits"));
    assert_eq!(waiting.count(), 1, "one line, not one per attempt:\n{said}");
    let last = said.lines().last().unwrap_or_default();
    for word in [&endpoint, "does not answer", "no answer within 5000 ms"] {
        assert!(last.contains(word), "no {word:?} in {last}");
    }
    let said = text(&doctor(&url));
    assert!(
        said.contains(&endpoint) && said.contains("no answer within"),
        "{said}"
    );
}

#[test]
fn a_bucket_that_is_not_there_ends_a_start_at_once() {
    let folder = folder();
    let test = "a_bucket_that_is_not_there_ends_a_start_at_once";
    let Some(minio) = minio_for(test, folder.path()) else {
        return;
    };
    let here = minio.url("log");
    for (name, reason) in [
        ("nobodys", "does not exist"),
        ("Not_A_Name", "InvalidBucketName"),
    ] {
        let url = here.replace("firn-test", name);
        let answer = doctor(&url);
        let said = text(&answer);
        assert!(!answer.status.success(), "{said}");
        assert!(said.contains(&url) && said.contains(reason), "{said}");
        let plan = NodePlan::on_bucket(FIRN, folder.path(), &url)
            .with_environment("AWS_ACCESS_KEY_ID", "minioadmin")
            .with_environment("AWS_SECRET_ACCESS_KEY", "minioadmin");
        let mut node = plan.launch();
        assert_eq!(node.process.wait(wait::PATIENCE).code(), Some(1));
        let said = node.process.output();
        assert!(
            said.contains(reason) && !said.contains("the start waits"),
            "{said}"
        );
    }
}

#[test]
fn the_doctor_says_what_to_do_about_a_bucket_url_that_is_none() {
    let answer = doctor("ftp://somewhere");
    assert!(!answer.status.success());
    let said = text(&answer);
    assert!(said.contains("s3://"), "what a URL looks like:\n{said}");
}
