//! How small and how quick: idle memory, start to first acknowledged record, ten thousand
//! partitions.

use std::net::SocketAddr;
use std::time::Duration;

use firn_benches::kind::Kind;
use firn_tests::client::{Client, code};
use firn_tests::records::{ProducerFields, Record, encode_batch};
use firn_tests::wait::{self, PATIENCE, Stopwatch};
use kafka_protocol::messages::CreateTopicsRequest;
use kafka_protocol::messages::create_topics_request::CreatableTopic;

use crate::contender::{Contender, Settings};
use crate::report::{Report, Row};

const TOPIC: &str = "first";
/// Kafka refuses to create 10,000 partitions in one call.
const CREATE_CALLS: i32 = 4;
const PARTITIONS_PER_CALL: i32 = 2500;
const SETTLE: Duration = Duration::from_secs(5);
const MEBIBYTE: f64 = (1_u64 << 20) as f64;

/// Start to first acknowledged record on an empty folder, after a clean stop and after a kill;
/// then memory at rest.
pub(crate) fn measure(contender: &Contender, kind: Kind, report: &mut Report) {
    let folder = contender.fresh_folder(kind);
    match kind {
        Kind::Firn => {
            let plan = contender.firn_plan(&folder);
            let mut start = |row| {
                let watch = Stopwatch::start();
                let node = plan.launch();
                first_acknowledged(node.kafka());
                report.add(row, kind, watch.elapsed().as_secs_f64() * 1000.0);
                node
            };
            start(Row::StartEmpty).stop();
            start(Row::StartStopped).kill();
            let node = start(Row::StartKilled);
            wait::pause(SETTLE);
            let resident = node.process.resident_bytes() as f64;
            report.add(Row::IdleMemory, kind, resident / MEBIBYTE);
        }
        Kind::Kafka => {
            let watch = Stopwatch::start();
            let kafka = contender.launch_kafka(&folder);
            let formatted = watch.elapsed();
            first_acknowledged(kafka.address);
            // Formatting the folder is a process of its own and is not counted.
            let taken = watch.elapsed().saturating_sub(formatted);
            report.add(Row::StartEmpty, kind, taken.as_secs_f64() * 1000.0);
            wait::pause(SETTLE);
            let resident = kafka.process.resident_bytes() as f64;
            report.add(Row::IdleMemory, kind, resident / MEBIBYTE);
        }
    }
}

/// Connects and produces until a record is acknowledged, asking every millisecond or so.
fn first_acknowledged(address: SocketAddr) {
    wait::until("a first acknowledged record", PATIENCE, || {
        let mut client = Client::connect(address).ok()?;
        create(&mut client, TOPIC, 1)?;
        wait::until("the record", PATIENCE, || {
            let batch = encode_batch(&[Record::new("k", "v")], ProducerFields::NONE);
            let produced = client.produce(TOPIC, 0, batch).ok()?;
            (produced.error == code::NONE).then_some(())
        });
        Some(())
    });
}

fn create(client: &mut Client, name: &str, partitions: i32) -> Option<()> {
    let topic = CreatableTopic::default()
        .with_name(firn_tests::client::topic_name(name))
        .with_num_partitions(partitions)
        .with_replication_factor(1);
    let request = CreateTopicsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(60_000);
    let response = client.connection.call(7, &request).ok()?;
    let error = response.topics[0].error_code;
    [code::NONE, code::TOPIC_ALREADY_EXISTS]
        .contains(&error)
        .then_some(())
}

/// Time to create 10,000 partitions in four calls until each has a leader, and memory that holds
/// them.
pub(crate) fn measure_partitions(contender: &Contender, kind: Kind, report: &mut Report) {
    let folder = contender.fresh_folder(kind);
    let broker = contender.start(kind, &folder, &Settings::NONE);
    let mut client = broker.client();
    let watch = Stopwatch::start();
    for call in 0..CREATE_CALLS {
        let created = create(&mut client, &format!("many-{call}"), PARTITIONS_PER_CALL);
        created.expect("the broker creates the topic");
    }
    for call in 0..CREATE_CALLS {
        client.wait_leaders(&format!("many-{call}"), PARTITIONS_PER_CALL);
    }
    report.add(
        Row::PartitionsTime,
        kind,
        watch.elapsed().as_secs_f64() * 1000.0,
    );
    wait::pause(SETTLE);
    let resident = broker.process().resident_bytes() as f64;
    report.add(Row::PartitionsMemory, kind, resident / MEBIBYTE);
}
