use super::*;

fn reason(text: &str) -> String {
    match BucketUrl::parse(text) {
        Err(BucketError::Url { reason, .. }) => reason,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn a_directory_may_be_relative_or_absolute() {
    for (text, path) in [
        ("file://./firn-data", "./firn-data"),
        ("file://data", "data"),
        ("file:///var/lib/firn", "/var/lib/firn"),
        ("file://with space/%41", "with space/%41"),
    ] {
        assert_eq!(
            BucketUrl::parse(text).unwrap(),
            BucketUrl::File(path.into())
        );
    }
}

#[test]
fn every_part_of_an_s3_url_arrives() {
    let url = "s3://logs/a/b/?endpoint=http://127.0.0.1:9000/&region=eu-north-1&path_style=false\
               &profile=work";
    let BucketUrl::S3(s3) = BucketUrl::parse(url).unwrap() else {
        panic!("not s3")
    };
    assert_eq!(
        s3,
        S3Url {
            bucket: "logs".to_owned(),
            prefix: "a/b".to_owned(),
            endpoint: Some("http://127.0.0.1:9000".to_owned()),
            region: Some("eu-north-1".to_owned()),
            path_style: false,
            profile: Some("work".to_owned()),
        }
    );
}

#[test]
fn an_endpoint_implies_the_bucket_in_the_path() {
    for (url, path_style) in [
        ("s3://b", false),
        ("s3://b?endpoint=http://localhost:1", true),
    ] {
        let BucketUrl::S3(s3) = BucketUrl::parse(url).unwrap() else {
            panic!("not s3")
        };
        assert_eq!(s3.path_style, path_style, "{url}");
    }
}

#[test]
fn a_mistyped_key_is_an_error_with_a_suggestion() {
    assert_eq!(
        reason("s3://b?endpiont=http://x"),
        "'endpiont' is not known, did you mean 'endpoint'?"
    );
    assert!(reason("s3://b?colour=blue").contains("known are endpoint, region"));
    assert!(reason("s3://b?path_style=yes").contains("neither true nor false"));
    assert!(reason("s3://b?endpoint=localhost:9000").contains("http://"));
}

#[test]
fn an_unusable_url_says_what_would_be_right() {
    assert!(reason("firn-data").contains("file://DIR"));
    assert!(reason("gs://b").contains("not known"));
    assert!(reason("file://").contains("directory is missing"));
    assert!(reason("file://x?fsync=false").contains("no options"));
    assert!(reason("memory://x").contains("nothing after it"));
    assert!(reason("s3:///prefix").contains("missing") || reason("s3:///prefix").contains("host"));
}

#[test]
fn a_secret_in_a_url_is_refused_and_not_repeated() {
    for url in [
        "s3://AKIA:hunter2@b/p",
        "s3://b?secret_access_key=hunter2",
        "s3://b?endpoint=http://u:hunter2@h",
    ] {
        let error = BucketUrl::parse(url).unwrap_err().to_string();
        assert!(error.contains("do not belong"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
