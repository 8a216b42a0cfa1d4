//! Fetch sessions, rule by rule.

use super::*;

fn wanted(partition: i32) -> Wanted {
    Wanted {
        topic: TopicKey::Name("t".into()),
        partition,
        fetch_offset: 0,
        max_bytes: 1024,
        current_leader_epoch: -1,
        last_fetched_epoch: -1,
    }
}

fn request(id: i32, epoch: i32, partitions: &[i32]) -> SessionRequest {
    let wanted = partitions
        .iter()
        .map(|&partition| wanted(partition))
        .collect();
    SessionRequest {
        id,
        epoch,
        uses_ids: false,
        wanted,
        forgotten: Vec::new(),
    }
}

fn found(high_watermark: i64, has_records: bool) -> Found {
    let marks = Marks {
        high_watermark,
        last_stable_offset: high_watermark,
        log_start_offset: 0,
    };
    Found {
        marks,
        has_records,
        has_error: false,
    }
}

fn partitions(turn: &SessionTurn) -> Vec<i32> {
    turn.wanted.iter().map(|wanted| wanted.partition).collect()
}

const NOW: Mono = Mono(0);

#[test]
fn a_request_without_session_leaves_nothing_behind() {
    let mut sessions = FetchSessions::new();
    let turn = sessions.begin(request(0, -1, &[0, 1]), NOW, 7).unwrap();
    assert_eq!((turn.id, turn.incremental), (0, false));
    assert!(sessions.is_empty());
}

#[test]
fn an_incremental_request_reads_the_whole_session() {
    let mut sessions = FetchSessions::new();
    let id = sessions.begin(request(0, 0, &[0, 1]), NOW, 7).unwrap().id;
    assert!(id > 0);
    let mut next = request(id, 1, &[2]);
    next.forgotten.push((TopicKey::Name("t".into()), 0));
    let turn = sessions.begin(next, NOW, 8).unwrap();
    assert_eq!((turn.id, turn.incremental), (id, true));
    assert_eq!(partitions(&turn), [1, 2]);
}

#[test]
fn an_incremental_answer_holds_only_news() {
    let mut sessions = FetchSessions::new();
    let turn = sessions.begin(request(0, 0, &[0]), NOW, 7).unwrap();
    assert!(
        sessions.include(&turn, 0, &found(5, false)),
        "a full answer holds everything"
    );
    let turn = sessions.begin(request(turn.id, 1, &[]), NOW, 0).unwrap();
    assert!(
        !sessions.include(&turn, 0, &found(5, false)),
        "nothing has moved"
    );
    let turn = sessions.begin(request(turn.id, 2, &[]), NOW, 0).unwrap();
    assert!(
        sessions.include(&turn, 0, &found(6, false)),
        "the high watermark has moved"
    );
    let turn = sessions.begin(request(turn.id, 3, &[]), NOW, 0).unwrap();
    assert!(
        sessions.include(&turn, 0, &found(6, true)),
        "records are news"
    );
}

#[test]
fn an_error_is_news_and_so_is_its_end() {
    let mut sessions = FetchSessions::new();
    let turn = sessions.begin(request(0, 0, &[0]), NOW, 7).unwrap();
    sessions.include(&turn, 0, &found(5, false));
    let turn = sessions.begin(request(turn.id, 1, &[]), NOW, 0).unwrap();
    assert!(sessions.include(
        &turn,
        0,
        &Found {
            has_error: true,
            ..found(5, false)
        }
    ));
    let turn = sessions.begin(request(turn.id, 2, &[]), NOW, 0).unwrap();
    assert!(sessions.include(&turn, 0, &found(5, false)));
}

#[test]
fn a_partition_that_was_served_goes_to_the_end_of_the_turns() {
    let mut sessions = FetchSessions::new();
    let turn = sessions.begin(request(0, 0, &[0, 1, 2]), NOW, 7).unwrap();
    sessions.include(&turn, 0, &found(5, true));
    let turn = sessions.begin(request(turn.id, 1, &[]), NOW, 0).unwrap();
    assert_eq!(partitions(&turn), [1, 2, 0]);
}

#[test]
fn a_wrong_id_epoch_or_naming_is_refused() {
    let mut sessions = FetchSessions::new();
    let id = sessions.begin(request(0, 0, &[0]), NOW, 7).unwrap().id;
    assert_eq!(
        sessions.begin(request(id + 1, 1, &[]), NOW, 0),
        Err(SessionError::IdNotFound)
    );
    assert_eq!(
        sessions.begin(request(id, 2, &[]), NOW, 0),
        Err(SessionError::InvalidEpoch)
    );
    let by_id = SessionRequest {
        uses_ids: true,
        ..request(id, 1, &[])
    };
    assert_eq!(sessions.begin(by_id, NOW, 0), Err(SessionError::TopicIdMix));
    assert!(
        sessions.begin(request(id, 1, &[]), NOW, 0).is_ok(),
        "refusals use no epoch up"
    );
}

#[test]
fn a_final_epoch_ends_the_session_and_an_initial_one_replaces_it() {
    let mut sessions = FetchSessions::new();
    let first = sessions.begin(request(0, 0, &[0]), NOW, 7).unwrap().id;
    let second = sessions.begin(request(first, 0, &[0]), NOW, 7).unwrap().id;
    assert_eq!(sessions.len(), 1);
    let turn = sessions.begin(request(second, -1, &[0]), NOW, 7).unwrap();
    assert_eq!(turn.id, 0);
    assert!(sessions.is_empty());
}

#[test]
fn a_full_cache_evicts_only_what_was_idle_long_enough() {
    let mut sessions = FetchSessions::new();
    for n in 0..FETCH_SESSIONS_MAX {
        assert_ne!(
            sessions
                .begin(request(0, 0, &[0]), NOW, n as u64)
                .unwrap()
                .id,
            0
        );
    }
    assert_eq!(sessions.begin(request(0, 0, &[0]), NOW, 1).unwrap().id, 0);
    let later = NOW.after(EVICTABLE_AFTER);
    assert_ne!(sessions.begin(request(0, 0, &[0]), later, 1).unwrap().id, 0);
    assert_eq!(sessions.len(), FETCH_SESSIONS_MAX);
}

#[test]
fn a_session_that_outgrows_the_cache_is_answered_without_one() {
    let mut sessions = FetchSessions::new();
    let each = FETCH_SESSION_ENTRY_BYTES + "t".len();
    let most = FETCH_SESSIONS_BYTES_MAX / each;
    let all: Vec<i32> = (0..i32::try_from(most).unwrap()).collect();
    let id = sessions.begin(request(0, 0, &all), NOW, 7).unwrap().id;
    assert_ne!(id, 0);
    let turn = sessions.begin(request(id, 1, &[-1]), NOW, 7).unwrap();
    assert_eq!((turn.id, turn.wanted.len()), (0, most + 1));
    assert!(sessions.is_empty());
    assert_eq!(sessions.bytes, 0);
}

#[test]
fn names_count_as_much_as_they_take() {
    let mut sessions = FetchSessions::new();
    let named = |partition| Wanted {
        topic: TopicKey::Name("t".repeat(249).into()),
        ..wanted(partition)
    };
    let many = FETCH_SESSIONS_BYTES_MAX / (FETCH_SESSION_ENTRY_BYTES + 249) + 1;
    let full = SessionRequest {
        wanted: (0..i32::try_from(many).unwrap()).map(named).collect(),
        ..request(0, 0, &[])
    };
    assert_eq!(sessions.begin(full, NOW, 7).unwrap().id, 0);
}

#[test]
fn a_forgotten_partition_makes_room() {
    let mut sessions = FetchSessions::new();
    let id = sessions.begin(request(0, 0, &[0, 1]), NOW, 7).unwrap().id;
    let two = sessions.bytes;
    let mut next = request(id, 1, &[1]);
    next.forgotten.push((TopicKey::Name("t".into()), 0));
    sessions.begin(next, NOW, 8).unwrap();
    assert_eq!(sessions.bytes * 2, two);
}
