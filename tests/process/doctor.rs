//! `firn doctor` and the probe at start: a store proves itself, or is refused with the reason.

use std::process::{Command, Output};
use std::time::Duration;

use firn_tests::careless_store::CarelessStore;
use firn_tests::node::{NodePlan, quiet_command};

use crate::{FIRN, folder, minio_for};

fn with_keys(command: &mut Command) -> &mut Command {
    command
        .env("AWS_ACCESS_KEY_ID", "minioadmin")
        .env("AWS_SECRET_ACCESS_KEY", "minioadmin")
}

fn doctor(url: &str) -> Output {
    let binary = std::env::var("CI_FIRN_BIN").unwrap_or_else(|_| FIRN.to_owned());
    let mut command = quiet_command(binary.as_ref());
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

#[test]
fn the_doctor_says_what_to_do_about_a_bucket_url_that_is_none() {
    let answer = doctor("ftp://somewhere");
    assert!(!answer.status.success());
    let said = text(&answer);
    assert!(said.contains("s3://"), "what a URL looks like:\n{said}");
}
