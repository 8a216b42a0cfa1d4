//! What stands in front of every request and response.

use super::api::ApiKey;
use super::wire::{DecodeError, Field, Form, Reader, Writer};

/// The header of a request: v1, and from an API's flexible versions on v2, which ends in tagged
/// fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// The API as the client numbered it, known or not.
    pub api_key: i16,
    /// The version of the API, served or not.
    pub api_version: i16,
    /// Returned with the response.
    pub correlation_id: i32,
    /// What the client calls itself. Nullable, and with a 16-bit length even in v2.
    pub client_id: Option<String>,
}

/// The form of the header's own fields, whatever the body's.
const PLAIN: Form = Form {
    version: 1,
    flexible: false,
};

impl RequestHeader {
    /// Reads the header; of an API or version that is not served, only the part that every
    /// version has.
    ///
    /// # Errors
    /// [`DecodeError`] if the frame is no request.
    pub fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        let header = Self {
            api_key: Field::read(reader, PLAIN)?,
            api_version: Field::read(reader, PLAIN)?,
            correlation_id: Field::read(reader, PLAIN)?,
            client_id: Field::read(reader, PLAIN)?,
        };
        let flexible = ApiKey::from_code(header.api_key).is_some_and(|api| {
            api.form(header.api_version).flexible && api.serves(header.api_version)
        });
        if flexible {
            reader.tagged(|_, _| Ok(false))?;
        }
        Ok(header)
    }

    /// Writes the header in front of a body of the same version.
    pub fn write(&self, writer: &mut Writer) {
        self.api_key.write(writer, PLAIN);
        self.api_version.write(writer, PLAIN);
        self.correlation_id.write(writer, PLAIN);
        self.client_id.write(writer, PLAIN);
        let flexible =
            ApiKey::from_code(self.api_key).is_some_and(|api| api.form(self.api_version).flexible);
        if flexible {
            writer.tagged_count(0);
        }
    }
}

/// Whether the response header of this API and version ends in tagged fields (v1). That of
/// ApiVersions never does: a client that does not know the version asked for must still find the
/// error code behind it.
fn response_is_tagged(api: ApiKey, version: i16) -> bool {
    api.form(version).flexible && api != ApiKey::ApiVersions
}

/// Writes the header of a response.
pub(super) fn write_response_header(
    writer: &mut Writer,
    api: ApiKey,
    version: i16,
    correlation_id: i32,
) {
    correlation_id.write(writer, PLAIN);
    if response_is_tagged(api, version) {
        writer.tagged_count(0);
    }
}

/// Reads the header of a response and returns its correlation id.
///
/// # Errors
/// [`DecodeError`] if the frame is no response.
pub fn read_response_header(
    reader: &mut Reader,
    api: ApiKey,
    version: i16,
) -> Result<i32, DecodeError> {
    let correlation_id = Field::read(reader, PLAIN)?;
    if response_is_tagged(api, version) {
        reader.tagged(|_, _| Ok(false))?;
    }
    Ok(correlation_id)
}
