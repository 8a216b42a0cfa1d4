//! The main job: real flights through a broker whose only durable store is a bucket.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use firn_tests::client::Client;
use firn_tests::flights::{self, Flight};
use firn_tests::node::NodePlan;
use firn_tests::producer::IdempotentProducer;
use firn_tests::records::{Record, StoredRecord};

use crate::{FIRN, folder, forget_local_files, minio_for, node_on};

pub(crate) const TOPIC: &str = "flights";
pub(crate) const PARTITIONS: i32 = 6;
const BATCH: usize = 100;

#[test]
fn flights_come_back_from_a_directory_after_every_local_file_is_gone() {
    let folder = folder();
    let plan = NodePlan::on_directory(FIRN, folder.path());
    flights_come_back(&plan, || forget_local_files(folder.path()));
}

#[test]
fn flights_come_back_from_s3_after_every_local_file_is_gone() {
    let folder = folder();
    let test = "flights_come_back_from_s3_after_every_local_file_is_gone";
    let Some(minio) = minio_for(test, folder.path()) else {
        return;
    };
    let plan = node_on(&minio, folder.path());
    flights_come_back(&plan, || forget_local_files(folder.path()));
}

fn flights_come_back(plan: &NodePlan, forget: impl Fn()) {
    let expected = by_partition();
    let node = plan.start();
    let mut client = Client::connect(node.kafka()).unwrap();
    client.create_topic(TOPIC, PARTITIONS, &[]);
    produce(node.kafka(), &expected);
    assert_holds(
        &mut client,
        &expected,
        "hot, from the broker that took them",
    );
    node.stop();

    forget();
    let node = plan.start();
    let mut client = Client::connect(node.kafka()).unwrap();
    client.wait_leaders(TOPIC, PARTITIONS);
    assert_holds(&mut client, &expected, "cold, from the bucket alone");
    assert_holds(&mut client, &expected, "cached, a second time");
    node.stop();
}

/// All flights, each under the partition that it goes to.
pub(crate) fn by_partition() -> BTreeMap<i32, Vec<Flight>> {
    let mut parts: BTreeMap<i32, Vec<Flight>> = BTreeMap::new();
    for flight in flights::load() {
        let partition = flights::partition(&flight.origin, PARTITIONS);
        parts.entry(partition).or_default().push(flight);
    }
    parts
}

/// Produces them as one idempotent producer, and has every answer at the end.
pub(crate) fn produce(address: SocketAddr, flights: &BTreeMap<i32, Vec<Flight>>) {
    let mut producer = IdempotentProducer::new(address, TOPIC, PARTITIONS);
    for (partition, flights) in flights {
        for batch in flights.chunks(BATCH) {
            let records: Vec<Record> = batch
                .iter()
                .map(|flight| Record::new(flight.origin.clone(), flight.line.clone()))
                .collect();
            assert!(producer.send(*partition, &records), "the broker stays up");
        }
    }
    assert!(producer.flush(), "the broker stays up");
}

pub(crate) fn assert_holds(client: &mut Client, expected: &BTreeMap<i32, Vec<Flight>>, read: &str) {
    for partition in 0..PARTITIONS {
        let log = client.read(TOPIC, partition, 0);
        assert_are(partition, &log, expected, read);
    }
}

/// Asserts that `log` is what was produced to the partition: each flight once, in order, from
/// offset 0 on.
pub(crate) fn assert_are(
    partition: i32,
    log: &[StoredRecord],
    expected: &BTreeMap<i32, Vec<Flight>>,
    read: &str,
) {
    let wanted = expected.get(&partition).map_or(&[][..], Vec::as_slice);
    assert_eq!(
        log.len(),
        wanted.len(),
        "records of partition {partition}, read {read}"
    );
    for (at, (stored, flight)) in log.iter().zip(wanted).enumerate() {
        assert_eq!(
            stored.offset,
            i64::try_from(at).unwrap(),
            "offset, read {read}"
        );
        let record = Record::new(flight.origin.clone(), flight.line.clone());
        assert_eq!(
            stored.record, record,
            "record {at} of {partition}, read {read}"
        );
    }
}
