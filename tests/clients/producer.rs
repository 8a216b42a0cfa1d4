//! The flights, produced by librdkafka with idempotence and acks=all: what it was told of each
//! record, and the log that follows from that.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use firn_tests::cluster::Brokers;
use firn_tests::flights::Flight;
use serde_json::{Value, json};

use crate::python::{Script, Scripts, number, partition};

pub(crate) const TOPIC: &str = "flights";
pub(crate) const PARTITIONS: i32 = 6;
/// How many batches the records fill at least.
const BATCHES: usize = 400;
/// How long the producer may go on after its last report.
const PATIENCE: Duration = Duration::from_secs(60);

/// A producer at work on the topic [`TOPIC`].
pub(crate) struct Production<'a> {
    scripts: &'a Scripts,
    script: Script,
    flights: &'a [Flight],
    /// How many records there were: the flights in order, over and over. Known when it has been
    /// told to stop, and has.
    produced: Option<usize>,
    /// Where each record lies that was acknowledged.
    places: BTreeMap<(i32, i64), usize>,
}

impl<'a> Production<'a> {
    /// Creates the topic and starts to produce to it: `count` records, and more until
    /// [`Self::finish`]; files go to `folder`.
    pub(crate) fn start(
        scripts: &'a Scripts,
        brokers: &Brokers,
        flights: &'a [Flight],
        count: usize,
        folder: &Path,
    ) -> Self {
        brokers.any().create_topic(TOPIC, PARTITIONS, &[]);
        let lines: String = flights
            .iter()
            .map(|flight| format!("{}\t{}\n", flight.origin, flight.line))
            .collect();
        let file = folder.join("flights.tsv");
        fs::write(&file, lines).unwrap();
        let file = file.display().to_string();
        let batch = (count / BATCHES).max(1).to_string();
        let count_argument = count.to_string();
        let bootstrap = brokers.bootstrap();
        let arguments = [&bootstrap, TOPIC, &file, &count_argument, &batch];
        Self {
            scripts,
            script: scripts.start(0, "produce.py", &arguments),
            flights,
            produced: None,
            places: BTreeMap::new(),
        }
    }

    /// Waits until so many more records are acknowledged.
    pub(crate) fn wait_acknowledged(&mut self, more: usize) {
        let count = self.places.len() + more;
        while self.places.len() < count {
            self.hear().expect("it has more to produce");
        }
    }

    /// Waits until it has lost its connection. Returns how many records had no answer then.
    pub(crate) fn wait_disconnected(&mut self) -> i64 {
        loop {
            let told = self.hear().expect("it has more to produce");
            if !told["disconnected"].is_null() {
                return number(&told, "disconnected");
            }
        }
    }

    /// Lets it stop at the count that it was started with, or now if it is beyond that, and waits
    /// until everything is answered.
    ///
    /// # Panics
    /// When what it was told cannot be: see [`Log`].
    pub(crate) fn finish(mut self) -> Log {
        self.script.tell(&json!("stop"));
        while self.hear().is_some() {}
        let status = self.script.process.wait(PATIENCE);
        let (known, produced) = (self.places.len(), self.produced);
        assert!(
            status.success(),
            "the producer ended with {status} after {known} of {produced:?} reports"
        );
        let count = produced.expect("it tells how many records there were");
        Log::of(&self.places, self.flights, count)
    }

    /// Takes one line of what it tells; nothing when it has ended.
    fn hear(&mut self) -> Option<Value> {
        let (_, told) = self.scripts.hear("the producer's next report");
        let told = told?;
        assert!(told["error"].is_null(), "refused for good: {told}");
        if !told["produced"].is_null() {
            let produced = usize::try_from(number(&told, "produced"));
            self.produced = Some(produced.expect("a number of records"));
        } else if told["disconnected"].is_null() {
            let record = usize::try_from(number(&told, "record")).expect("a record's number");
            let place = (partition(&told, "partition"), number(&told, "offset"));
            if let Some(other) = self.places.insert(place, record) {
                panic!("{place:?} was given to record {other} and to record {record}");
            }
        }
        Some(told)
    }
}

/// What lies in each partition when every record lies once, where its report said.
pub(crate) struct Log(BTreeMap<i32, Vec<Flight>>);

impl Log {
    /// # Panics
    /// When a record was not acknowledged, or twice; when a partition has offsets between them that
    /// were given to none, or the records in another order than they were sent in; when an airport
    /// is in two partitions.
    fn of(places: &BTreeMap<(i32, i64), usize>, flights: &[Flight], count: usize) -> Self {
        let mut acknowledged: Vec<usize> = places.values().copied().collect();
        acknowledged.sort_unstable();
        assert!(
            acknowledged.iter().copied().eq(0..count),
            "each of {count} records is acknowledged once; {} are",
            acknowledged.len()
        );
        let mut partitions: BTreeMap<i32, Vec<Flight>> = BTreeMap::new();
        let mut homes: BTreeMap<&str, i32> = BTreeMap::new();
        let mut last: BTreeMap<i32, usize> = BTreeMap::new();
        for (&(partition, offset), &record) in places {
            let log = partitions.entry(partition).or_default();
            let next = i64::try_from(log.len()).unwrap();
            assert_eq!(
                offset, next,
                "partition {partition}: offset {next} was given to no record"
            );
            if let Some(before) = last.insert(partition, record) {
                assert!(
                    before < record,
                    "partition {partition}: record {record} lies behind record {before}"
                );
            }
            let flight = &flights[record % flights.len()];
            let home = *homes.entry(&flight.origin).or_insert(partition);
            assert_eq!(home, partition, "{} is in one partition", flight.origin);
            log.push(flight.clone());
        }
        assert_eq!(partitions.len(), PARTITIONS as usize, "all are used");
        Self(partitions)
    }

    /// What lies in a partition, from offset 0 on.
    pub(crate) fn partition(&self, partition: i32) -> &[Flight] {
        &self.0[&partition]
    }

    /// Asserts that the brokers hold this and nothing else.
    pub(crate) fn assert_held_by(&self, brokers: &Brokers, read: &str) {
        for (partition, told) in &self.0 {
            let stored = brokers.read(TOPIC, *partition);
            for (at, (stored, flight)) in stored.iter().zip(told).enumerate() {
                let place = format!("{at} of partition {partition}, read {read}");
                assert_eq!(stored.offset, i64::try_from(at).unwrap(), "offset {place}");
                let (key, value) = (&stored.record.key, &stored.record.value);
                assert_eq!(
                    key.as_deref(),
                    Some(flight.origin.as_bytes()),
                    "key {place}"
                );
                assert_eq!(
                    value.as_deref(),
                    Some(flight.line.as_bytes()),
                    "value {place}"
                );
            }
            assert_eq!(
                stored.len(),
                told.len(),
                "partition {partition}, read {read}: acknowledged records are missing, or there \
                 are more than were acknowledged"
            );
        }
    }
}
