//! The harness's own client against Apache Kafka: what it takes for right is what Kafka does.

use firn_tests::client::{Client, EARLIEST, LATEST, code};
use firn_tests::group::GroupMember;
use firn_tests::kafka::Kafka;
use firn_tests::producer::IdempotentProducer;
use firn_tests::records::{ProducerFields, Record, encode_batch};

use crate::jars_for;

#[test]
fn the_oracle_client_and_apache_kafka_agree() {
    let Some(jars) = jars_for("the_oracle_client_and_apache_kafka_agree") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let kafka = Kafka::start(&jars, folder.path(), &[], "512m", &[]);
    let mut client = Client::connect(kafka.address).unwrap();
    client.create_topic("oracle", 2, &[]);

    let mut producer = IdempotentProducer::new(kafka.address, "oracle", 2);
    for at in 0..40 {
        let record = Record::new("k", format!("{at}"));
        assert!(producer.send(at % 2, &[record]));
        if at < 2 {
            // A partition that Kafka has just created may refuse its first batch and then take
            // the second, whose sequence it cannot judge: the first is settled alone.
            assert!(producer.flush());
        }
    }
    assert!(producer.flush());
    for partition in 0..2 {
        let log = client.read("oracle", partition, 0);
        assert_eq!(log.len(), 20);
        assert_eq!(
            producer.history.faults(partition, &log),
            Vec::<String>::new()
        );
    }
    assert_eq!(client.list_offset("oracle", 0, EARLIEST), 0);
    assert_eq!(client.list_offset("oracle", 0, LATEST), 20);

    let mut damaged = encode_batch(&[Record::new("k", "v")], ProducerFields::NONE).to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let refused = client.produce("oracle", 0, damaged.into()).unwrap();
    assert_eq!(refused.error, code::CORRUPT_MESSAGE);

    let mut member = GroupMember::new(kafka.address, "oracle-group", "oracle");
    member.ask_to_join();
    let members = member.joined();
    assert_eq!(members, [member.id()]);
    member.ask_to_sync(&[(member.id().to_owned(), vec![0, 1])]);
    assert_eq!(member.synced(), [0, 1]);
    member.commit(0, 7);
    assert_eq!(member.committed(0), 7);
    member.leave();
}
