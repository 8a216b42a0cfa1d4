//! Random messages with every field set, for the tests of this and other crates (feature
//! `samples`).

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore};

use super::wire::{Form, Records};
use crate::error_code::ErrorCode;
use crate::ids::TopicId;

/// A type of which there are random values.
pub trait Sample: Sized {
    /// A random value for the wire in `form`: fields which that version lacks have their default.
    fn sample(random: &mut SmallRng, form: Form) -> Self;

    /// As [`Sample::sample`], but not null.
    fn sample_filled(random: &mut SmallRng, form: Form) -> Self {
        Self::sample(random, form)
    }
}

macro_rules! number_samples {
    ($($number:ty),*) => {$(
        impl Sample for $number {
            fn sample(random: &mut SmallRng, _: Form) -> Self {
                match random.random_range(0..8) {
                    0 => <$number>::MAX,
                    1 => <$number>::MIN,
                    _ => random.random(),
                }
            }
        }
    )*};
}

number_samples!(i8, u16, i16, i32, i64);

impl Sample for bool {
    fn sample(random: &mut SmallRng, _: Form) -> Self {
        random.random()
    }
}

impl Sample for [u8; 16] {
    fn sample(random: &mut SmallRng, _: Form) -> Self {
        random.random()
    }
}

impl Sample for TopicId {
    fn sample(random: &mut SmallRng, _: Form) -> Self {
        Self::from_random(random.random())
    }
}

impl Sample for ErrorCode {
    fn sample(random: &mut SmallRng, _: Form) -> Self {
        let at = random.random_range(0..Self::ALL.len());
        Self::ALL[at]
    }
}

impl Sample for String {
    fn sample(random: &mut SmallRng, _: Form) -> Self {
        let letters = ['a', 'Z', '0', '.', '_', 'ä', '雪', '\u{10ffff}'];
        let length = random.random_range(1..20);
        (0..length)
            .map(|_| letters[random.random_range(0..letters.len())])
            .collect()
    }
}

impl Sample for Bytes {
    fn sample(random: &mut SmallRng, _: Form) -> Self {
        let mut bytes = vec![0; random.random_range(1..40)];
        random.fill_bytes(&mut bytes);
        bytes.into()
    }
}

/// Long enough, now and then, to be spliced.
impl Sample for Records {
    fn sample(random: &mut SmallRng, _: Form) -> Self {
        let mut slices = Vec::new();
        for _ in 0..random.random_range(1..4) {
            let mut bytes = vec![0; random.random_range(1..5000)];
            random.fill_bytes(&mut bytes);
            slices.push(Bytes::from(bytes));
        }
        slices.into()
    }
}

impl<T: Sample> Sample for Vec<T> {
    fn sample(random: &mut SmallRng, form: Form) -> Self {
        let count = random.random_range(0..4);
        (0..count).map(|_| T::sample(random, form)).collect()
    }
}

impl<T: Sample> Sample for Option<T> {
    fn sample(random: &mut SmallRng, form: Form) -> Self {
        random.random_ratio(3, 4).then(|| T::sample(random, form))
    }

    fn sample_filled(random: &mut SmallRng, form: Form) -> Self {
        Some(T::sample(random, form))
    }
}
