//! A writer and sealers as pure machines over a model of a store, driven through random schedules:
//! any order of effects and answers, lost answers, puts that land long after their writer died,
//! pauses of any length, collection below the end. Thousands of schedules a second; a failure
//! prints its seed.

use std::collections::BTreeMap;

use bytes::Bytes;
use firn_proto::env::{Entropy, Mono};
use firn_proto::ids::Slot;

use super::seal::{SealAction, SealSpec, Sealer};
use super::slot::{HEADER_LEN, Nonce, SlotHeader, SlotKind};
use super::testing::{body, name};
use super::writer::{Action, PutAnswer, ReadBack, StreamEvent, StreamSpec, StreamWriter};

const STEPS_MAX: u64 = 20_000;

/// Who asked for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Actor {
    Writer,
    Sealer(usize),
}

/// A request on its way.
#[derive(Clone, Debug)]
struct Request {
    actor: Actor,
    slot: Slot,
    /// The header of the object to create; `None` for a read.
    header: Option<Bytes>,
    /// Whoever asked waits for the answer; otherwise it is a put that floats about after its
    /// answer was lost.
    awaited: bool,
}

struct World {
    seed: u64,
    random: Entropy,
    now: Mono,
    store: BTreeMap<Slot, Bytes>,
    /// Slots below are collected: they were data, and are gone.
    collected: Slot,
    requests: Vec<Request>,
    writer: Option<StreamWriter>,
    submitted: u64,
    /// The end of what the writer was told is durable.
    told: Slot,
    sealers: Vec<Option<Sealer>>,
    ends: Vec<Slot>,
}

impl World {
    fn new(seed: u64) -> Self {
        let spec = StreamSpec {
            stream: name(),
            first_slot: Slot(0),
            prev_nonce: Nonce::NONE,
        };
        Self {
            seed,
            random: Entropy::from_seed(seed),
            now: Mono(0),
            store: BTreeMap::new(),
            collected: Slot(0),
            requests: Vec::new(),
            writer: Some(StreamWriter::new(spec)),
            submitted: 0,
            told: Slot(0),
            sealers: Vec::new(),
            ends: Vec::new(),
        }
    }

    fn roll(&self, of: u64) -> u64 {
        self.random.next_u64() % of
    }

    /// Tries a create at the store. True if it was this one that created the object.
    fn create(&mut self, slot: Slot, header: &Bytes) -> bool {
        if self.store.contains_key(&slot) {
            return false;
        }
        self.store.insert(slot, header.clone());
        true
    }

    /// The effect and the answer of one request, or only one of them.
    fn serve(&mut self, at: usize) {
        let request = self.requests.swap_remove(at);
        let Some(header) = request.header.clone() else {
            let found = match self.roll(10) {
                0 => ReadBack::Failed,
                _ => self
                    .store
                    .get(&request.slot)
                    .map_or(ReadBack::Absent, |bytes| {
                        ReadBack::Found(SlotHeader::decode(bytes).unwrap())
                    }),
            };
            return self.answer_read(&request, found);
        };
        if !request.awaited {
            self.create(request.slot, &header);
            return;
        }
        let answer = match self.roll(12) {
            0 => PutAnswer::Unclear,
            1 => PutAnswer::Congested,
            2 => PutAnswer::Exists,
            3 => PutAnswer::Refused,
            4 => {
                self.create(request.slot, &header);
                PutAnswer::Congested
            }
            5 => {
                // The answer comes first; the effect may come at any time, or never.
                self.requests.push(Request {
                    awaited: false,
                    ..request.clone()
                });
                PutAnswer::Congested
            }
            _ if self.create(request.slot, &header) => PutAnswer::Created,
            _ => PutAnswer::Exists,
        };
        self.answer_put(&request, answer);
    }

    fn answer_put(&mut self, request: &Request, answer: PutAnswer) {
        let luck = self.random.next_u64();
        match request.actor {
            Actor::Writer => {
                if let Some(writer) = &mut self.writer {
                    writer.on_put(request.slot, answer, self.now, luck);
                }
            }
            Actor::Sealer(index) => {
                if let Some(sealer) = &mut self.sealers[index] {
                    sealer.on_put(request.slot, answer, self.now, luck);
                }
            }
        }
    }

    fn answer_read(&mut self, request: &Request, found: ReadBack) {
        let luck = self.random.next_u64();
        match request.actor {
            Actor::Writer => {
                if let Some(writer) = &mut self.writer {
                    writer.on_read_back(request.slot, found, self.now, luck);
                }
            }
            Actor::Sealer(index) => {
                if let Some(sealer) = &mut self.sealers[index] {
                    sealer.on_read(request.slot, found, self.now, luck);
                }
            }
        }
    }

    fn poll_writer(&mut self) {
        while let Some(action) = self
            .writer
            .as_mut()
            .and_then(|writer| writer.poll(self.now))
        {
            let (slot, header) = match action {
                Action::Put { slot, object } => (slot, Some(object[0].clone())),
                Action::ReadBack { slot } => (slot, None),
                Action::Tell(StreamEvent::Durable { slot, .. }) => {
                    self.on_durable(slot);
                    continue;
                }
                Action::Tell(StreamEvent::Fenced { at, .. }) => {
                    assert_eq!(at, self.told, "seed {}: I2", self.seed);
                    continue;
                }
            };
            self.requests.push(Request {
                actor: Actor::Writer,
                slot,
                header,
                awaited: true,
            });
        }
    }

    fn on_durable(&mut self, slot: Slot) {
        assert_eq!(slot, self.told, "seed {}: I2, slots in order", self.seed);
        if slot >= self.collected {
            let there = SlotHeader::decode(&self.store[&slot]).unwrap();
            assert_eq!(
                there.kind,
                SlotKind::Data,
                "seed {}: I2 at {slot}",
                self.seed
            );
        }
        self.told = slot.next();
    }

    fn poll_sealer(&mut self, index: usize) {
        while let Some(action) = self.sealers[index].as_mut().and_then(Sealer::poll) {
            let (slot, header) = match action {
                SealAction::Put { slot, object } => (slot, Some(object)),
                SealAction::Read { slot } => (slot, None),
                SealAction::Done(outcome) => {
                    // A store that stays silent for long makes it give up; nothing else may.
                    if let Ok(sealed) = outcome {
                        self.on_end(sealed.end);
                    }
                    self.sealers[index] = None;
                    return;
                }
            };
            self.requests.push(Request {
                actor: Actor::Sealer(index),
                slot,
                header,
                awaited: true,
            });
        }
    }

    fn on_end(&mut self, end: Slot) {
        if let Some(first) = self.ends.first() {
            assert_eq!(*first, end, "seed {}: two sealers, two ends", self.seed);
        }
        let seal = SlotHeader::decode(&self.store[&end]).unwrap();
        assert_eq!(seal.kind, SlotKind::Seal, "seed {}", self.seed);
        self.ends.push(end);
    }

    /// One random thing happens.
    fn step(&mut self) {
        let pending = self.requests.len() as u64;
        match self.roll(20) {
            0..=11 if pending > 0 => {
                let at = usize::try_from(self.roll(pending)).unwrap();
                self.serve(at);
            }
            0..=14 => self.submit(),
            15 if self.roll(12) == 0 && self.sealers.len() < 3 => self.start_sealer(),
            16 if self.roll(200) == 0 => self.writer = None,
            17 if self.roll(4) == 0 => self.collect(),
            _ => self.pass_time(),
        }
        self.poll_writer();
        for index in 0..self.sealers.len() {
            self.poll_sealer(index);
        }
    }

    fn submit(&mut self) {
        let nonce = Nonce::from_random(self.random.next_u128());
        let text = self.submitted.to_string();
        if let Some(writer) = &mut self.writer
            && writer.has_room()
            && writer.submit(body(&text), nonce, self.now).is_ok()
        {
            self.submitted += 1;
        }
    }

    fn start_sealer(&mut self) {
        // What was reported may be older than what is durable, never newer.
        let from = self.collected.0 + self.roll(self.told.0 - self.collected.0 + 1);
        let spec = SealSpec {
            stream: name(),
            floor: self.collected,
            from: Slot(from),
        };
        let nonce = Nonce::from_random(self.random.next_u128());
        self.sealers.push(Some(Sealer::new(spec, nonce)));
    }

    /// Deletes data below the end, once it is decided and nobody walks there, seals never.
    fn collect(&mut self) {
        let Some(end) = self.ends.first().copied() else {
            return;
        };
        if self.sealers.iter().all(Option::is_none) {
            let floor = Slot(self.roll(end.0 + 1)).max(self.collected);
            self.collected = floor;
            self.store = self.store.split_off(&floor);
        }
    }

    fn pass_time(&mut self) {
        self.now = Mono(self.now.0 + self.roll(3_000_000));
        if let Some(writer) = &mut self.writer {
            writer.on_timeout(self.now);
        }
        for sealer in self.sealers.iter_mut().flatten() {
            sealer.on_timeout(self.now);
        }
    }

    /// Whether the stream has ended and everybody knows.
    fn is_over(&self) -> bool {
        let fenced = self
            .writer
            .as_ref()
            .is_none_or(StreamWriter::is_fenced_for_good);
        !self.ends.is_empty() && fenced && self.sealers.iter().all(Option::is_none)
    }
}

fn run(seed: u64) -> (Slot, Slot) {
    let mut world = World::new(seed);
    let mut steps = 0;
    while !world.is_over() {
        world.step();
        steps += 1;
        if steps % 300 == 0 && world.ends.is_empty() && world.sealers.iter().all(Option::is_none) {
            world.start_sealer();
        }
        assert!(steps < STEPS_MAX, "seed {seed}: no end after {steps} steps");
    }
    let end = world.ends[0];
    assert!(
        world.told <= end,
        "seed {seed}: I3: told {} beyond the end {end}",
        world.told
    );
    for slot in (world.collected.0..end.0).map(Slot) {
        let header = SlotHeader::decode(&world.store[&slot][..HEADER_LEN]).unwrap();
        assert_eq!(header.kind, SlotKind::Data, "seed {seed}: slot {slot}");
    }
    (world.told, end)
}

#[test]
fn whatever_the_schedule_there_is_one_end_and_nothing_acknowledged_beyond_it() {
    let (mut lost, mut long) = (0, 0);
    for seed in 0..2_000 {
        let (told, end) = run(seed);
        lost += u64::from(told < end);
        long += u64::from(end > Slot(20));
    }
    assert!(
        lost > 0,
        "schedules in which the writer died before it was told"
    );
    assert!(long > 100, "schedules in which the writer came far: {long}");
}
