//! Whose figures a measurement is of.

/// Which broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// This one.
    Firn,
    /// Apache Kafka, to compare with.
    Kafka,
}

impl Kind {
    /// As folders are called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Firn => "firn",
            Self::Kafka => "kafka",
        }
    }
}
