//! Record batches in a message, as slices of wherever they already are.

use bytes::Bytes;

use super::field::{least_len_of_length, read_length, write_length};
use super::{DecodeError, Field, Form, Nullable, Reader, Writer};

/// Record batches one behind the other, in one or more slices.
///
/// Two are equal if they hold the same bytes, however they are cut.
#[derive(Clone, Debug, Default)]
pub struct Records {
    slices: Vec<Bytes>,
}

impl Records {
    /// The slices in order.
    pub fn slices(&self) -> &[Bytes] {
        &self.slices
    }

    /// Length of all slices in bytes.
    pub fn len(&self) -> usize {
        self.slices.iter().map(Bytes::len).sum()
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.slices.iter().all(Bytes::is_empty)
    }

    /// All bytes in one piece; copies unless there is only one slice.
    pub fn to_bytes(&self) -> Bytes {
        match self.slices.as_slice() {
            [] => Bytes::new(),
            [one] => one.clone(),
            many => many.concat().into(),
        }
    }
}

impl From<Vec<Bytes>> for Records {
    fn from(slices: Vec<Bytes>) -> Self {
        Self { slices }
    }
}

impl From<Bytes> for Records {
    fn from(bytes: Bytes) -> Self {
        Self {
            slices: vec![bytes],
        }
    }
}

impl PartialEq for Records {
    fn eq(&self, other: &Self) -> bool {
        let bytes = |records: &Self| records.slices.clone().into_iter().flatten();
        self.len() == other.len() && bytes(self).eq(bytes(other))
    }
}

impl Eq for Records {}

/// Reads as one slice of the frame.
impl Nullable for Records {
    fn read_nullable(reader: &mut Reader, form: Form) -> Result<Option<Self>, DecodeError> {
        let Some(length) = read_length(reader, form)? else {
            return Ok(None);
        };
        Ok(Some(Self::from(reader.slice(length)?)))
    }

    fn write_null(writer: &mut Writer, form: Form) {
        write_length(writer, form, None);
    }
}

impl Field for Records {
    fn least_len(form: Form) -> usize {
        least_len_of_length(form)
    }

    fn read(reader: &mut Reader, form: Form) -> Result<Self, DecodeError> {
        let at = reader.position();
        Self::read_nullable(reader, form)?.ok_or(DecodeError::Null { at })
    }

    fn write(&self, writer: &mut Writer, form: Form) {
        write_length(writer, form, Some(self.len()));
        for slice in &self.slices {
            writer.put_shared(slice);
        }
    }
}
