use super::*;

fn rule(prefix: &str) -> RuleView {
    RuleView {
        id: "r".to_owned(),
        enabled: true,
        prefix: prefix.to_owned(),
        needs_tag: false,
        expires: true,
        moves: false,
    }
}

fn verdict(rule: RuleView, root: &str) -> Option<&'static str> {
    first_dangerous(&[rule], root).map(|(_, what)| what)
}

#[test]
fn a_rule_that_expires_or_moves_records_is_dangerous() {
    for prefix in ["", "firn", "firn/", "firn/wal/"] {
        assert_eq!(verdict(rule(prefix), "firn"), Some("expires"), "{prefix}");
    }
    let moves = RuleView {
        expires: false,
        moves: true,
        ..rule("")
    };
    assert_eq!(verdict(moves, ""), Some("moves"));
}

#[test]
fn a_rule_that_cannot_touch_records_is_not() {
    assert_eq!(verdict(rule("logs/"), "firn"), None);
    assert_eq!(
        verdict(
            RuleView {
                enabled: false,
                ..rule("")
            },
            ""
        ),
        None
    );
    assert_eq!(
        verdict(
            RuleView {
                needs_tag: true,
                ..rule("")
            },
            ""
        ),
        None
    );
    assert_eq!(
        verdict(
            RuleView {
                expires: false,
                ..rule("")
            },
            ""
        ),
        None
    );
}

#[test]
fn a_rule_of_the_sdk_is_seen_as_what_it_does() {
    use aws_sdk_s3::types::{LifecycleExpiration, LifecycleRuleAndOperator, Tag};
    let tag = Tag::builder().key("a").value("b").build().unwrap();
    let both = LifecycleRuleAndOperator::builder()
        .prefix("p/")
        .tags(tag)
        .build();
    let rule = LifecycleRule::builder()
        .id("x")
        .status(ExpirationStatus::Enabled)
        .filter(LifecycleRuleFilter::builder().and(both).build())
        .expiration(LifecycleExpiration::builder().days(3).build())
        .build()
        .unwrap();
    let expected = RuleView {
        id: "x".to_owned(),
        enabled: true,
        prefix: "p/".to_owned(),
        needs_tag: true,
        expires: true,
        moves: false,
    };
    assert_eq!(view(&rule), expected);
    let markers = LifecycleExpiration::builder()
        .expired_object_delete_marker(true)
        .build();
    let rule = LifecycleRule::builder()
        .status(ExpirationStatus::Enabled)
        .expiration(markers)
        .build()
        .unwrap();
    assert!(!view(&rule).expires);
}
