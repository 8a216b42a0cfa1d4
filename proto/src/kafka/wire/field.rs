//! The types of Kafka's fields and how each is written, by version.

use bytes::Bytes;

use super::{DecodeError, Reader, Writer};
use crate::error_code::ErrorCode;
use crate::ids::TopicId;

/// How a message is written: its version, and whether that is a flexible one (KIP-482: compact
/// lengths, tagged fields).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// The version of the API.
    pub version: i16,
    /// Whether lengths are compact and structures end in tagged fields.
    pub flexible: bool,
}

/// A type that stands in a message.
pub trait Field: Sized {
    /// The least number of bytes it takes.
    fn least_len(form: Form) -> usize;

    /// Reads it.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are not one; never reads or allocates beyond what the frame
    /// can hold.
    fn read(reader: &mut Reader, form: Form) -> Result<Self, DecodeError>;

    /// Writes it.
    fn write(&self, writer: &mut Writer, form: Form);

    /// Whether it is null.
    fn is_null(&self) -> bool {
        false
    }

    /// Writes it in a version that knows no null there: null is written as empty.
    fn write_filled(&self, writer: &mut Writer, form: Form) {
        self.write(writer, form);
    }
}

/// A [`Field`] that has a length and may therefore be null.
pub trait Nullable: Field + Default {
    /// Reads it or null.
    ///
    /// # Errors
    /// As [`Field::read`].
    fn read_nullable(reader: &mut Reader, form: Form) -> Result<Option<Self>, DecodeError>;

    /// Writes null.
    fn write_null(writer: &mut Writer, form: Form);

    /// Writes it where null might stand.
    fn write_present(&self, writer: &mut Writer, form: Form) {
        self.write(writer, form);
    }

    /// The least number of bytes it takes where null might stand.
    fn least_len_nullable(form: Form) -> usize {
        Self::least_len(form)
    }
}

impl<T: Nullable> Field for Option<T> {
    fn least_len(form: Form) -> usize {
        T::least_len_nullable(form)
    }

    fn read(reader: &mut Reader, form: Form) -> Result<Self, DecodeError> {
        T::read_nullable(reader, form)
    }

    fn write(&self, writer: &mut Writer, form: Form) {
        match self {
            Some(value) => value.write_present(writer, form),
            None => T::write_null(writer, form),
        }
    }

    fn is_null(&self) -> bool {
        self.is_none()
    }

    fn write_filled(&self, writer: &mut Writer, form: Form) {
        match self {
            Some(value) => value.write_present(writer, form),
            None => T::default().write_present(writer, form),
        }
    }
}

macro_rules! number_fields {
    ($($number:ty),*) => {$(
        impl Field for $number {
            #[inline]
            fn least_len(_: Form) -> usize {
                size_of::<$number>()
            }

            #[inline]
            fn read(reader: &mut Reader, _: Form) -> Result<Self, DecodeError> {
                Ok(Self::from_be_bytes(reader.array()?))
            }

            #[inline]
            fn write(&self, writer: &mut Writer, _: Form) {
                writer.put(&self.to_be_bytes());
            }
        }
    )*};
}

number_fields!(i8, u16, i16, i32, i64);

impl Field for bool {
    fn least_len(_: Form) -> usize {
        1
    }

    fn read(reader: &mut Reader, _: Form) -> Result<Self, DecodeError> {
        let [byte] = reader.array()?;
        Ok(byte != 0)
    }

    fn write(&self, writer: &mut Writer, _: Form) {
        writer.put(&[u8::from(*self)]);
    }
}

/// Ids other than topic ids, say of directories.
impl Field for [u8; 16] {
    fn least_len(_: Form) -> usize {
        16
    }

    fn read(reader: &mut Reader, _: Form) -> Result<Self, DecodeError> {
        reader.array()
    }

    fn write(&self, writer: &mut Writer, _: Form) {
        writer.put(self);
    }
}

impl Field for TopicId {
    fn least_len(_: Form) -> usize {
        16
    }

    fn read(reader: &mut Reader, _: Form) -> Result<Self, DecodeError> {
        Ok(Self(reader.array()?))
    }

    fn write(&self, writer: &mut Writer, _: Form) {
        writer.put(&self.0);
    }
}

/// A code that this build does not know reads as `UNKNOWN_SERVER_ERROR`, as Kafka's clients do.
impl Field for ErrorCode {
    fn least_len(_: Form) -> usize {
        2
    }

    fn read(reader: &mut Reader, _: Form) -> Result<Self, DecodeError> {
        let code = i16::from_be_bytes(reader.array()?);
        Ok(Self::from_code(code).unwrap_or(Self::UnknownServerError))
    }

    fn write(&self, writer: &mut Writer, _: Form) {
        writer.put(&self.code().to_be_bytes());
    }
}

fn not_null<T: Nullable>(reader: &mut Reader, form: Form) -> Result<T, DecodeError> {
    let at = reader.position();
    T::read_nullable(reader, form)?.ok_or(DecodeError::Null { at })
}

impl Nullable for String {
    fn read_nullable(reader: &mut Reader, form: Form) -> Result<Option<Self>, DecodeError> {
        let length = if form.flexible {
            reader.compact_length()?
        } else {
            let length = i16::from_be_bytes(reader.array()?);
            reader.plain_length(length.into())?
        };
        length.map(|length| reader.text(length)).transpose()
    }

    fn write_null(writer: &mut Writer, form: Form) {
        if form.flexible {
            writer.compact_length(None);
        } else {
            writer.put(&(-1_i16).to_be_bytes());
        }
    }
}

impl Field for String {
    fn least_len(form: Form) -> usize {
        if form.flexible { 1 } else { 2 }
    }

    fn read(reader: &mut Reader, form: Form) -> Result<Self, DecodeError> {
        not_null(reader, form)
    }

    /// Text beyond the 32,767 bytes that an old version can carry is cut there.
    fn write(&self, writer: &mut Writer, form: Form) {
        if form.flexible {
            writer.compact_length(Some(self.len()));
            writer.put(self.as_bytes());
            return;
        }
        let end = self.floor_char_boundary(i16::MAX as usize);
        let text = self.get(..end).unwrap_or_default();
        writer.put(&(text.len() as i16).to_be_bytes());
        writer.put(text.as_bytes());
    }
}

/// Reads the length that bytes, records and arrays begin with.
pub(super) fn read_length(reader: &mut Reader, form: Form) -> Result<Option<usize>, DecodeError> {
    if form.flexible {
        return reader.compact_length();
    }
    let length = i32::from_be_bytes(reader.array()?);
    reader.plain_length(length)
}

/// Writes the length that bytes, records and arrays begin with.
pub(super) fn write_length(writer: &mut Writer, form: Form, length: Option<usize>) {
    if form.flexible {
        writer.compact_length(length);
        return;
    }
    let length = length.map_or(-1, |length| i32::try_from(length).unwrap_or(i32::MAX));
    writer.put(&length.to_be_bytes());
}

/// What [`read_length`] takes at least.
pub(super) fn least_len_of_length(form: Form) -> usize {
    if form.flexible { 1 } else { 4 }
}

/// Reads as a slice of the frame.
impl Nullable for Bytes {
    fn read_nullable(reader: &mut Reader, form: Form) -> Result<Option<Self>, DecodeError> {
        let length = read_length(reader, form)?;
        length.map(|length| reader.slice(length)).transpose()
    }

    fn write_null(writer: &mut Writer, form: Form) {
        write_length(writer, form, None);
    }
}

impl Field for Bytes {
    fn least_len(form: Form) -> usize {
        least_len_of_length(form)
    }

    fn read(reader: &mut Reader, form: Form) -> Result<Self, DecodeError> {
        not_null(reader, form)
    }

    fn write(&self, writer: &mut Writer, form: Form) {
        write_length(writer, form, Some(self.len()));
        writer.put_shared(self);
    }
}

impl<T: Field> Nullable for Vec<T> {
    fn read_nullable(reader: &mut Reader, form: Form) -> Result<Option<Self>, DecodeError> {
        let Some(count) = read_length(reader, form)? else {
            return Ok(None);
        };
        let mut elements = reader.room(count, T::least_len(form))?;
        for _ in 0..count {
            elements.push(T::read(reader, form)?);
        }
        Ok(Some(elements))
    }

    fn write_null(writer: &mut Writer, form: Form) {
        write_length(writer, form, None);
    }
}

impl<T: Field> Field for Vec<T> {
    fn least_len(form: Form) -> usize {
        least_len_of_length(form)
    }

    fn read(reader: &mut Reader, form: Form) -> Result<Self, DecodeError> {
        not_null(reader, form)
    }

    fn write(&self, writer: &mut Writer, form: Form) {
        write_length(writer, form, Some(self.len()));
        for element in self {
            element.write(writer, form);
        }
    }
}
