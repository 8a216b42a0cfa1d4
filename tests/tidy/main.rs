//! The repository checks itself: layering of the crates, lengths, who may spell what. Each rule is
//! one test and its failure names the file, the line and the rule.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a rule that cannot be checked is a failed rule"
)]

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use source::{SourceFile, find_word, line_of, root, rust_files, walk};

/// What each package may depend on inside the workspace, outside its tests.
const LAYERS: [(&str, &[&str]); 7] = [
    ("proto", &[]),
    ("storage", &["firn-proto"]),
    ("coordinator", &["firn-proto"]),
    ("client", &["firn-proto"]),
    (
        "broker",
        &[
            "firn-proto",
            "firn-storage",
            "firn-coordinator",
            "firn-client",
        ],
    ),
    ("tests", &[]),
    (
        "benches",
        &[
            "firn-proto",
            "firn-storage",
            "firn-coordinator",
            "firn",
            "firn-tests",
        ],
    ),
];

/// What a package must not know at all, by the name of the foreign crate.
const BANNED_CRATES: [(&str, &[&str]); 4] = [
    (
        "proto",
        &["tokio", "object_store", "quinn", "axum", "foyer"],
    ),
    (
        "coordinator",
        &["object_store", "quinn", "axum", "parquet", "foyer"],
    ),
    ("storage", &["axum", "quinn", "clap"]),
    ("client", &["object_store", "axum", "foyer"]),
];

/// The machines without IO: events and `now` in, decisions out. So is every file that says it of
/// itself.
const PURE: [&str; 13] = [
    "proto/src/record/",
    "proto/src/kafka/",
    "broker/src/partition/log.rs",
    "broker/src/partition/waiters.rs",
    "coordinator/src/groups/",
    "coordinator/src/state/",
    "storage/src/read/plan.rs",
    "storage/src/state/",
    "storage/src/stream/writer.rs",
    "storage/src/stream/wal_index.rs",
    "storage/src/wal/buffer.rs",
    "storage/src/wal/tokens.rs",
    "proto/src/cluster/",
];

/// Words that a pure machine has no use for.
const IMPURE: [&str; 9] = [
    "async",
    "await",
    "tokio",
    "Mutex",
    "RwLock",
    "HashMap",
    "HashSet",
    "Instant",
    "SystemTime",
];

const FILE_LINES_GOAL: usize = 500;
const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_GOAL: usize = 70;
const FUNCTION_LINES_MAX: usize = 120;

/// What may lie at the top of the repository, build output aside.
const TOP_LEVEL: [&str; 21] = [
    ".cargo",
    ".ci",
    ".clippy.toml",
    ".config",
    ".git",
    ".github",
    ".gitignore",
    ".rustfmt.toml",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "benches",
    "broker",
    "client",
    "coordinator",
    "deploy",
    "proto",
    "rust-toolchain.toml",
    "storage",
    "tests",
];

#[test]
fn crates_depend_only_downwards() {
    let mut faults = Vec::new();
    for (package, allowed) in LAYERS {
        for name in dependencies(package) {
            if (name == "firn" || name.starts_with("firn-")) && !allowed.contains(&name.as_str()) {
                faults.push(format!("{package}/Cargo.toml depends on {name}"));
            }
        }
    }
    for (package, banned) in BANNED_CRATES {
        for name in dependencies(package) {
            if banned.contains(&name.replace('-', "_").as_str()) {
                faults.push(format!("{package}/Cargo.toml depends on {name}"));
            }
        }
    }
    none(
        &faults,
        "a crate knows what it must not know (README, code map)",
    );
}

#[test]
fn files_keep_their_budget() {
    let mut long = Vec::new();
    let mut too_long = Vec::new();
    let files = product_files();
    for file in &files {
        let lines = file.lines();
        if lines > FILE_LINES_MAX {
            too_long.push(format!("{}: {lines} lines", file.path));
        } else if lines > FILE_LINES_GOAL {
            long.push(format!("{}: {lines} lines", file.path));
        }
    }
    none(
        &too_long,
        "no file has more than 800 lines without its tests",
    );
    assert!(
        long.len() * 50 <= files.len().max(50),
        "at most 2 % of the files have more than 500 lines:\n{}",
        long.join("\n")
    );
}

#[test]
fn functions_keep_their_budget() {
    let mut long = Vec::new();
    let mut too_long = Vec::new();
    let mut count = 0;
    for file in product_files() {
        for (name, line, lines) in file.functions() {
            count += 1;
            let found = format!("{}:{line} fn {name}: {lines} lines", file.path);
            if lines > FUNCTION_LINES_MAX {
                too_long.push(found);
            } else if lines > FUNCTION_LINES_GOAL {
                long.push(found);
            }
        }
    }
    none(&too_long, "no function has more than 120 lines");
    assert!(
        long.len() * 50 <= count,
        "at most 2 % of {count} functions have more than 70 lines:\n{}",
        long.join("\n")
    );
}

#[test]
fn bucket_keys_are_spelled_only_in_layout() {
    let mut faults = Vec::new();
    for file in product_files() {
        if file.path == "storage/src/layout.rs" {
            continue;
        }
        for prefix in ["\"wal/", "\"meta/", "\"checkpoint/", "\"tables/"] {
            if let Some(at) = file.without_comments.find(prefix) {
                faults.push(at_line(&file, at, prefix));
            }
        }
    }
    none(
        &faults,
        "only storage/src/layout.rs builds and parses bucket keys",
    );
}

#[test]
fn every_limit_is_kept_by_somebody() {
    let is_of_limits =
        |file: &SourceFile| file.path == "proto/src/limits.rs" || file.path.starts_with(LIMITS);
    let (limits, others): (Vec<_>, Vec<_>) = product_files()
        .into_iter()
        .filter(|file| file.package() != "benches")
        .partition(is_of_limits);
    assert!(limits.len() > 1, "the limits are in several files");
    let stated: String = limits.iter().map(stated).collect();
    let declared: Vec<_> = limits.iter().flat_map(declared).collect();
    assert!(declared.len() > 100, "the limits were found");
    let faults: Vec<_> = declared
        .into_iter()
        .filter(|(_, name)| {
            let keeps = |file: &SourceFile| find_word(&file.code, name, 0).is_some();
            !others.iter().any(keeps) && !builds_on(&stated, name)
        })
        .map(|(path, name)| format!("{path}: {name}"))
        .collect();
    none(
        &faults,
        "a limit that only its own assertions name limits nothing",
    );
}

/// The limits beside those in `limits.rs`.
const LIMITS: &str = "proto/src/limits/";

/// The limits that a file declares, and its path.
fn declared(limits: &SourceFile) -> Vec<(&str, &str)> {
    let lines = limits.code.lines();
    let declared = lines.filter_map(|line| line.strip_prefix("pub const "));
    let declared = declared.map(|line| line.strip_prefix("fn ").unwrap_or(line));
    declared
        .filter_map(|line| Some((&*limits.path, line.split([':', '(']).next()?)))
        .collect()
}

/// What a file of limits states besides its assertions, which come last, and without what it names
/// for them (`use`).
fn stated(limits: &SourceFile) -> String {
    let stated = limits.code.split("const _:").next().unwrap_or_default();
    let items = stated.split_inclusive(';');
    let is_use = |item: &&str| item.split_whitespace().any(|word| word == "use");
    items.filter(|item| !is_use(item)).collect()
}

/// Whether something in `stated` besides its declaration names a limit.
fn builds_on(stated: &str, name: &str) -> bool {
    let first = find_word(stated, name, 0).unwrap();
    find_word(stated, name, first + name.len()).is_some()
}

#[test]
fn only_the_bucket_module_holds_an_object_store() {
    let mut faults = Vec::new();
    for file in product_files() {
        if file.path.starts_with("storage/src/bucket") {
            continue;
        }
        for word in ["ObjectStore", "object_store", "aws_sdk_s3", "aws_config"] {
            if let Some(at) = find_word(&file.code, word, 0) {
                faults.push(at_line(&file, at, word));
            }
        }
    }
    none(&faults, "only storage/src/bucket talks to the store");
}

#[test]
fn state_machines_are_pure() {
    let files = product_files();
    let mut faults = Vec::new();
    for place in PURE {
        let mut seen = false;
        for file in files.iter().filter(|file| file.path.starts_with(place)) {
            seen = true;
            for word in IMPURE {
                if let Some(at) = find_word(&file.code, word, 0) {
                    faults.push(at_line(file, at, word));
                }
            }
        }
        if !seen {
            faults.push(format!("{place}: listed as pure, but not there"));
        }
    }
    let claims = files.iter().filter(|file| file.says_it_is_pure());
    for file in claims.clone() {
        for word in IMPURE {
            if let Some(at) = find_word(&file.code, word, 0) {
                faults.push(at_line(file, at, word));
            }
        }
    }
    assert!(claims.count() > PURE.len(), "most of them say so");
    none(
        &faults,
        "a state machine takes events and `now`, nothing else",
    );
}

#[test]
fn the_coordinator_has_no_socket_and_storage_knows_no_api() {
    let mut faults = Vec::new();
    for file in product_files() {
        let banned: &[&str] = match file.package() {
            "coordinator" => &["TcpListener", "TcpStream", "UdpSocket"],
            "storage" => &["ApiKey", "JoinGroup", "ConsumerGroup"],
            _ => &[],
        };
        for word in banned {
            if let Some(at) = find_word(&file.code, word, 0) {
                faults.push(at_line(&file, at, word));
            }
        }
    }
    none(&faults, "who may know what (README, code map)");
}

#[test]
fn every_module_says_what_it_owns() {
    let faults: Vec<String> = rust_files()
        .iter()
        .filter(|file| !file.path.ends_with("/tests.rs") && !file.text.starts_with("//!"))
        .map(|file| format!("{}: does not open with //!", file.path))
        .collect();
    none(&faults, "a module opens by saying what it owns");
}

#[test]
fn types_have_names_that_mean_something() {
    let mut faults = Vec::new();
    for file in rust_files() {
        for keyword in ["struct", "enum", "trait", "type"] {
            let mut at = 0;
            while let Some(start) = find_word(&file.code, keyword, at) {
                at = start + keyword.len();
                let name: String = file.code[at..]
                    .trim_start()
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                for banned in ["Manager", "Helper", "Util", "Service", "Utils", "Impl"] {
                    if name.ends_with(banned) {
                        faults.push(at_line(&file, start, &name));
                    }
                }
            }
        }
    }
    none(
        &faults,
        "a name says what a thing is, not that it is a thing",
    );
}

#[test]
fn nothing_unfinished_is_left() {
    let mut faults = Vec::new();
    for file in product_files() {
        for word in ["todo", "unimplemented", "dbg"] {
            let mut at = 0;
            while let Some(start) = find_word(&file.code, word, at) {
                at = start + word.len();
                if file.code[at..].starts_with('!') {
                    faults.push(at_line(&file, start, word));
                }
            }
        }
        for word in ["TODO", "FIXME", "XXX"] {
            if let Some(start) = find_word(&file.text, word, 0) {
                faults.push(at_line(&file, start, word));
            }
        }
    }
    none(&faults, "what is not done is in an issue, not in the code");
}

#[test]
fn the_tree_names_no_machine_and_no_private_registry() {
    let mut faults = Vec::new();
    let places = ["/root/", "/home/", "/work/", "/tmp/firn", "/Users/"];
    each_text(|name, text| {
        for place in places {
            if let Some(at) = text.find(place) {
                faults.push(format!("{name}:{}: {place}", line_of(text, at)));
            }
        }
        let builds =
            name.ends_with(".toml") || name.ends_with(".lock") || name.ends_with("pom.xml");
        if !builds && name != ".ci/run" {
            return;
        }
        for (at, _) in text.match_indices("://") {
            let host: String = text[at + 3..]
                .chars()
                .take_while(|c| c.is_alphanumeric() || ".-".contains(*c))
                .collect();
            let known = [
                "github.com",
                "maven.apache.org",
                "www.w3.org",
                "127.0.0.1",
                "localhost",
            ];
            if host.contains('.') && !known.contains(&host.as_str()) {
                faults.push(format!("{name}:{}: {host}", line_of(text, at)));
            }
        }
    });
    none(
        &faults,
        "a clone builds on any machine, from the public registries",
    );
}

#[test]
fn comments_cite_only_what_a_clone_has() {
    // Pages of notes that are not in the repository.
    let notes = [
        "DESIGN",
        "../shared",
        "kafka.md",
        "streams.md",
        "object_store.md",
        "style.md",
        "reliability.md",
        "performance.md",
        "ux.md",
        "analytics.md",
        "peers.md",
    ];
    let format = fs::read_to_string(root().join("storage/FORMAT.md")).unwrap();
    let sections: BTreeSet<&str> = format
        .lines()
        .filter(|line| line.starts_with('#'))
        .filter_map(|line| line.split(' ').nth(1))
        .map(|number| number.trim_end_matches('.'))
        .collect();
    let mut faults = Vec::new();
    each_text(|name, text| {
        for note in notes {
            for (at, _) in text.match_indices(note) {
                faults.push(format!("{name}:{}: {note}", line_of(text, at)));
            }
        }
        for (at, cite) in text.match_indices("FORMAT.md §") {
            let section: String = text[at + cite.len()..]
                .chars()
                .take_while(|c| c.is_ascii_digit() || *c == '.')
                .collect();
            let section = section.trim_end_matches('.');
            if !sections.contains(section) {
                let line = line_of(text, at);
                faults.push(format!("{name}:{line}: FORMAT.md §{section}"));
            }
        }
    });
    none(
        &faults,
        "cite storage/FORMAT.md, an invariant of README, a KIP or an RFC, or say the rule itself",
    );
}

/// The broker reads every variable that begins with `FIRN_` as a setting and refuses what is none, so
/// that whoever exported one of those that steer tests could not start it.
#[test]
fn no_variable_that_steers_tests_is_a_setting_to_the_broker() {
    let mut faults = Vec::new();
    each_text(|name, text| {
        if ["broker/src/", "deploy/", "README.md"]
            .iter()
            .any(|of| name.starts_with(of))
        {
            return;
        }
        for (number, line) in text.lines().enumerate() {
            let is_setting = line.match_indices("FIRN_").any(|(at, prefix)| {
                let before = line[..at].chars().next_back();
                let after = line[at + prefix.len()..].chars().next();
                after.is_some_and(|c| c.is_ascii_uppercase())
                    && !before.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_')
            });
            if is_setting {
                faults.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    });
    none(&faults, "variables of tests begin with CI_FIRN_");
}

#[test]
fn the_top_level_holds_only_what_the_map_names() {
    let ignored = ["target", "firn-data"];
    let faults: Vec<String> = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| !TOP_LEVEL.contains(&name.as_str()) && !ignored.contains(&name.as_str()))
        .collect();
    none(&faults, "the top level is the code map of README");
}

#[test]
fn the_readme_names_only_what_is_there() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let quoted = readme.split('`').skip(1).step_by(2);
    let linked = readme
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    let faults: Vec<&str> = quoted
        .chain(linked)
        .filter(|word| word.contains('/') && !word.contains([' ', '…', ':', '|']))
        .filter(|word| !word.starts_with(['.', '/']) && !root().join(word).exists())
        .filter(|word| !word.starts_with("node"))
        .collect();
    assert!(
        faults.is_empty(),
        "README names files that are not there: {faults:?}"
    );
}

#[test]
fn no_file_is_dead() {
    let files = rust_files();
    let known: BTreeMap<&str, &SourceFile> = files
        .iter()
        .map(|file| (file.path.as_str(), file))
        .collect();
    let mut faults = Vec::new();
    for file in &files {
        let Some((folder, name)) = file.path.rsplit_once('/') else {
            continue;
        };
        if ["lib.rs", "main.rs"].contains(&name) || is_target(&file.path) {
            continue;
        }
        let (module, parents) = if name == "mod.rs" {
            let (above, module) = folder.rsplit_once('/').unwrap();
            (module, parents_of(above))
        } else {
            (name.trim_end_matches(".rs"), parents_of(folder))
        };
        let declared = parents.iter().any(|parent| {
            known.get(parent.as_str()).is_some_and(|parent| {
                let text = &parent.text;
                text.contains(&format!("mod {module};")) || text.contains(&format!("/{name}\""))
            })
        });
        if !declared {
            faults.push(format!("{}: no module declares it", file.path));
        }
    }
    none(&faults, "every file is part of a crate");
}

/// Calls `check` with the name and the text of every text file of the repository but this one.
fn each_text(mut check: impl FnMut(&str, &str)) {
    let root = root();
    walk(&root, &mut |path| {
        let name = path.strip_prefix(&root).unwrap().to_string_lossy();
        let ours = name != "tests/tidy/main.rs" && name != ".git" && !name.starts_with(".git/");
        if ours && let Ok(text) = fs::read_to_string(path) {
            check(&name, &text);
        }
    });
}

/// Files a module in `folder` could be declared in.
fn parents_of(folder: &str) -> [String; 4] {
    [
        format!("{folder}/mod.rs"),
        format!("{folder}/lib.rs"),
        format!("{folder}/main.rs"),
        format!("{folder}.rs"),
    ]
}

/// Whether a Cargo.toml names the file as a target of its own.
fn is_target(path: &str) -> bool {
    let folder = path.split('/').next().unwrap();
    let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
    let inside = path.split_once('/').unwrap().1;
    manifest.contains(&format!("\"{inside}\"")) || inside.starts_with("tests/")
}

/// Files of the product and of the measuring tools, tests left out.
fn product_files() -> Vec<SourceFile> {
    let files: Vec<SourceFile> = rust_files()
        .into_iter()
        .filter(|file| !file.is_test())
        .collect();
    assert!(files.len() > 5, "the walk found the workspace");
    files
}

/// The names of what a package depends on outside its tests.
fn dependencies(package: &str) -> BTreeSet<String> {
    let manifest = fs::read_to_string(root().join(package).join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let mut names = BTreeSet::new();
    for section in ["dependencies", "build-dependencies"] {
        if let Some(table) = manifest.get(section).and_then(toml::Value::as_table) {
            names.extend(table.keys().cloned());
        }
    }
    names
}

fn at_line(file: &SourceFile, at: usize, what: &str) -> String {
    format!("{}:{}: {what}", file.path, line_of(&file.text, at))
}

fn none(faults: &[String], rule: &str) {
    assert!(faults.is_empty(), "{rule}:\n{}", faults.join("\n"));
}
