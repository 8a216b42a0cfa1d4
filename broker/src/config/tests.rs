use super::sources::{from_env, from_toml};
use super::*;

fn over(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let pairs = pairs
        .iter()
        .map(|(key, value)| Pair::new(key, value, Source::Override));
    Config::new(Profile::Dev, pairs.collect())
}

fn env(variables: &[(&str, &str)]) -> Result<Vec<Pair>, ConfigError> {
    from_env(
        variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    )
}

#[test]
fn every_default_is_a_legal_value() {
    let config = over(&[]).unwrap();
    assert_eq!(config.bucket.url, "file://./firn-data");
    assert_eq!(
        config.listeners[0].to_string(),
        "KAFKA=plaintext://127.0.0.1:9092"
    );
    assert_eq!(config.settings().count(), KEYS.len());
}

#[test]
fn keys_stand_in_the_order_of_their_names() {
    assert!(KEYS.is_sorted_by_key(|key| key.name));
}

#[test]
fn serving_needs_a_bucket() {
    let error = Config::new(Profile::Serve, Vec::new())
        .unwrap_err()
        .to_string();
    assert!(error.contains("--bucket"), "{error}");
}

#[test]
fn later_sources_win() {
    let mut pairs = from_toml(
        "firn.toml",
        "num.partitions = 2\nmessage.max.bytes = '2MiB'",
    )
    .unwrap();
    pairs.extend(env(&[("FIRN_NUM_PARTITIONS", "3")]).unwrap());
    pairs.push(Pair::from_override("num.partitions=4").unwrap());
    let config = Config::new(Profile::Dev, pairs).unwrap();
    assert_eq!(config.topics.partitions, 4);
    assert_eq!(config.topics.message_max_bytes, 2 << 20);
}

#[test]
fn tables_and_dotted_keys_of_toml_are_the_same() {
    let dotted = from_toml("f", "group.initial.rebalance.delay.ms = '5s'").unwrap();
    let tables = from_toml("f", "[group.initial.rebalance]\ndelay.ms = '5s'").unwrap();
    let quoted = from_toml("f", "'group.initial.rebalance.delay.ms' = '5s'").unwrap();
    assert_eq!(dotted, tables);
    assert_eq!(dotted, quoted);
}

#[test]
fn listeners_of_a_file_are_an_array() {
    let pairs = from_toml(
        "f",
        "listeners = ['IN=plaintext://127.0.0.1:1', 'V6=plaintext://[::1]:2,advertise=[::1]:3']",
    )
    .unwrap();
    let config = Config::new(Profile::Dev, pairs).unwrap();
    let names: Vec<_> = config
        .listeners
        .iter()
        .map(|listener| listener.name.as_str())
        .collect();
    assert_eq!(names, ["IN", "V6"]);
}

#[test]
fn listeners_take_the_place_of_the_default_kafka_address_and_not_of_a_written_one() {
    for (listeners, count) in [
        ("IN=plaintext://127.0.0.1:1", 1),
        (
            "KAFKA=plaintext://127.0.0.1:1;IN=plaintext://127.0.0.1:2",
            2,
        ),
    ] {
        let config = over(&[("listeners", listeners)]).unwrap();
        assert_eq!(config.listeners.len(), count);
    }
    let mut pairs = from_toml("firn.toml", "kafka = '127.0.0.1:7'").unwrap();
    let listeners = "IN=plaintext://127.0.0.1:1";
    pairs.push(Pair::new("listeners", listeners, Source::Flag("listener")));
    let error = Config::new(Profile::Dev, pairs).unwrap_err().to_string();
    for word in [
        "kafka = 127.0.0.1:7 (firn.toml)",
        "listeners = IN=plaintext://127.0.0.1:1 (--listener)",
        "add KAFKA=plaintext://ADDR to the listeners",
    ] {
        assert!(error.contains(word), "no {word:?} in: {error}");
    }
}

#[test]
fn one_source_says_one_thing_of_a_key() {
    let twice = over(&[("num.partitions", "3"), ("num.partitions", "4")]);
    assert_eq!(
        twice.unwrap_err().to_string(),
        "num.partitions is set twice: 3 (-X) and 4 (-X); leave one out"
    );
    let spellings = [("FIRN_NUM_PARTITIONS", "3"), ("FIRN_NUM__PARTITIONS", "4")];
    let error = Config::new(Profile::Dev, env(&spellings).unwrap()).unwrap_err();
    assert!(
        error.to_string().contains("FIRN_NUM__PARTITIONS"),
        "{error}"
    );
}

#[test]
fn limits_that_do_not_fit_are_named_with_who_set_them_and_what_to_set() {
    let error = over(&[("wal.memory.bytes", "256MB")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "wal.memory.bytes = 256MB (-X) must be at least queued.max.produce.bytes = 256MiB (default): \
         what is taken from clients must fit the wal, which shares it out fairly; set \
         queued.max.produce.bytes to 256000000 or less, or wal.memory.bytes to 268435456 or more"
    );
}

/// What an error tells to set is taken, alone.
#[test]
fn the_remedy_of_a_contradiction_is_one() {
    let broken = [
        ("wal.memory.bytes", "256MB"),
        ("socket.request.max.bytes", "1MB"),
        ("queued.max.produce.bytes", "150MiB"),
        ("fetch.max.bytes", "100MiB"),
        ("group.min.session.timeout.ms", "1h"),
    ];
    for set in broken {
        let error = over(&[set]).unwrap_err().to_string();
        let (_, remedy) = error.split_once("; set ").unwrap();
        let mut words = remedy.split_ascii_whitespace();
        let (key, value) = (words.next().unwrap(), words.nth(1).unwrap());
        if key == set.0 {
            over(&[(key, value)]).unwrap();
        } else {
            over(&[set, (key, value)]).unwrap();
        }
    }
}

#[test]
fn an_unknown_key_names_its_source_and_the_nearest_key() {
    let error = over(&[("num.partition", "3")]).unwrap_err().to_string();
    assert_eq!(
        error,
        "-X: unknown key `num.partition`; did you mean `num.partitions`?"
    );
    let error = env(&[("FIRN_BUKET", "x")]).unwrap_err().to_string();
    assert_eq!(
        error,
        "environment FIRN_BUKET: unknown key `buket`; did you mean `bucket`?"
    );
    let error = Config::new(
        Profile::Dev,
        from_toml("f.toml", "zookeeper = 'x'").unwrap(),
    );
    assert_eq!(
        error.unwrap_err().to_string(),
        "f.toml: unknown key `zookeeper`"
    );
}

#[test]
fn variables_of_kubernetes_services_are_left_alone() {
    let pairs = env(&[
        ("FIRN_SERVICE_HOST", "10.0.0.1"),
        ("FIRN_SERVICE_PORT", "9092"),
        ("FIRN_SERVICE_PORT_KAFKA", "9092"),
        ("FIRN_PORT", "tcp://10.0.0.1:9092"),
        ("FIRN_PORT_9092_TCP_ADDR", "10.0.0.1"),
        ("FIRN_CONSOLE_SERVICE_HOST", "10.0.0.2"),
        ("FIRN_CONSOLE_PORT_80_TCP", "tcp://10.0.0.2:80"),
        ("FIRN_CONFIG", "/etc/firn.toml"),
        ("PATH", "/bin"),
    ]);
    assert_eq!(pairs.unwrap(), []);
}

#[test]
fn every_key_can_come_from_the_environment() {
    for key in KEYS {
        let name = format!("FIRN_{}", key.name.to_ascii_uppercase().replace('.', "_"));
        let pairs = env(&[(&name, key.default)]).unwrap();
        assert_eq!(pairs[0].key, key.name);
    }
}

#[test]
fn values_that_make_no_sense_are_refused() {
    for (key, value) in [
        ("num.partitions", "0"),
        ("num.partitions", "many"),
        ("auto.create.topics.enable", "maybe"),
        ("message.max.bytes", "1TiB"),
        ("socket.request.max.bytes", "1GiB"),
        ("bucket", "gs://x"),
        ("bucket", "/var/data"),
        ("kafka", "9092"),
        ("log.format", "xml"),
        ("wal.memory.bytes", "1MiB"),
        ("producer.memory.bytes", "1MiB"),
        ("producer.id.expiration.ms", "179999"),
        ("max.connections", "0"),
        ("connections.max.idle.ms", "soon"),
    ] {
        let error = over(&[(key, value)]).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("-X: {key}: ")),
            "{key}={value}: {error}"
        );
    }
}

#[test]
fn what_must_hold_two_says_how_large_it_must_be_and_why() {
    let error = over(&[("wal.memory.bytes", "1MiB")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "-X: wal.memory.bytes: `1MiB` is too small: it must be at least 128MiB: twice the largest \
         batch any topic may allow"
    );
    let mut keys = KEYS.iter();
    let key = keys.find(|key| key.name == "wal.memory.bytes").unwrap();
    assert!(key.about.contains("at least 128MiB"), "{}", key.about);
}

#[test]
fn no_producer_expires_while_it_may_send_a_batch_again() {
    let error = over(&[("producer.id.expiration.ms", "2m")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "-X: producer.id.expiration.ms: `2m` is too short: it must be at least 180s, for a producer \
         may send a batch again for so long, and were it forgotten by then, the batch would be \
         stored twice"
    );
    let least = over(&[("producer.id.expiration.ms", "180s")]).unwrap();
    assert_eq!(least.producer_id_expiration, limits::PRODUCER_RETRY_WINDOW);
}

#[test]
fn values_that_contradict_each_other_are_refused() {
    for (pairs, word) in [
        (vec![("kafka", "0.0.0.0:9092")], "--insecure"),
        (vec![("kafka", "[::]:9092")], "--insecure"),
        (vec![("http", "0.0.0.0:80")], "--insecure"),
        (
            vec![(
                "listeners",
                "A=plaintext://127.0.0.1:1;A=plaintext://127.0.0.1:2",
            )],
            "two listeners",
        ),
        (
            vec![("socket.request.max.bytes", "1MB")],
            "message.max.bytes",
        ),
        (
            vec![("queued.max.request.bytes", "90MiB")],
            "queued.max.request.bytes",
        ),
        (
            vec![("queued.max.produce.bytes", "100MiB")],
            "must be at least twice socket.request.max.bytes",
        ),
        (
            vec![("queued.max.produce.bytes", "257MiB")],
            "wal.memory.bytes = 256MiB (default) must be at least",
        ),
        (
            vec![("queued.max.fetch.bytes", "64MiB")],
            "must be at least three times fetch.max.bytes",
        ),
        (
            vec![("group.min.session.timeout.ms", "1h")],
            "group.min.session",
        ),
    ] {
        let error = over(&pairs).unwrap_err().to_string();
        assert!(error.contains(word), "{pairs:?}: {error}");
    }
    assert!(over(&[("kafka", "0.0.0.0:9092"), ("insecure", "true")]).is_ok());
}

#[test]
fn a_process_has_both_roles_unless_it_is_told_otherwise() {
    let roles = |pairs: &[(&str, &str)]| {
        let config = over(&[&[("bucket", "file://./x")], pairs].concat());
        config.map(|config| (config.roles.broker, config.roles.coordinator))
    };
    assert_eq!(roles(&[]).unwrap(), (true, true));
    assert_eq!(roles(&[("roles", "coordinator")]).unwrap(), (false, true));
    assert_eq!(roles(&[("roles", "broker")]).unwrap(), (true, false));
    assert_eq!(
        roles(&[("roles", "coordinator, broker")]).unwrap(),
        (true, true)
    );
    for wrong in ["", "controller", "broker,broker", "broker,"] {
        assert!(roles(&[("roles", wrong)]).is_err(), "{wrong}");
    }
    let alone = over(&[("bucket", "memory://"), ("roles", "broker")]);
    assert!(
        matches!(alone, Err(ConfigError::Contradiction(_))),
        "{alone:?}"
    );
}

#[test]
fn the_local_wal_is_on_for_s3_only() {
    assert_eq!(over(&[]).unwrap().wal_dir(), None);
    assert_eq!(over(&[("bucket", "memory://")]).unwrap().wal_dir(), None);
    let s3 = [("bucket", "s3://b/p")];
    assert_eq!(
        over(&s3).unwrap().wal_dir(),
        Some(PathBuf::from("firn-wal"))
    );
    assert_eq!(over(&[s3[0], ("wal", "none")]).unwrap().wal_dir(), None);
    assert_eq!(
        over(&[("wal", "/w")]).unwrap().wal_dir(),
        Some(PathBuf::from("/w"))
    );
}

#[test]
fn the_broker_link_is_where_the_first_listener_is_unless_it_is_written() {
    assert_eq!(over(&[]).unwrap().link, None);
    let written = over(&[("link.listener", "localhost:7000")]).unwrap();
    assert_eq!(written.link, Some(([127, 0, 0, 1], 7000).into()));
    assert!(over(&[("link.listener", "somewhere")]).is_err());

    assert_eq!(over(&[]).unwrap().link_advertise, None);
    let told = over(&[("link.advertise", "broker-1.svc:7001")]).unwrap();
    let told = told.link_advertise.map(|told| told.to_string());
    assert_eq!(told.as_deref(), Some("broker-1.svc:7001"));
    assert!(over(&[("link.advertise", "somewhere")]).is_err());
}

#[test]
fn settings_are_shown_as_kafka_tools_read_them() {
    let config = over(&[("message.max.bytes", "2MiB"), ("bucket", "memory://")]).unwrap();
    let shown = |key| {
        config
            .settings()
            .find(|(name, _)| *name == key)
            .unwrap()
            .1
            .text
            .clone()
    };
    assert_eq!(shown("message.max.bytes"), "2097152");
    assert_eq!(shown("connections.max.idle.ms"), "600000");
    assert_eq!(shown("bucket"), "memory://");
}
