//! The table from which a message's structure, decoding and encoding follow.

/// Defines the structures of a message.
///
/// Each field is one line: `name: type, versions` and then, as needed and in this order,
/// `null versions` (the versions in which an `Option` may be null, if not all), `tag number` (a
/// tagged field, KIP-482), `default value` (what it is in versions without it, if not Rust's
/// default). Versions are ranges: `3..`, `..=12`, `7..=12`, `..`.
///
/// A field that a version lacks reads as its default and is left out when written; a null that a
/// version lacks is written as empty.
macro_rules! messages {
    ($(
        $(#[$doc:meta])*
        struct $name:ident {$(
            $(#[$field_doc:meta])*
            $field:ident: $type:ty, $versions:expr
                $(, null $null:expr)?
                $(, tag $tag:literal)?
                $(, default $default:expr)?;
        )*}
    )*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {$(
            $(#[$field_doc])*
            pub $field: $type,
        )*}

        impl Default for $name {
            fn default() -> Self {
                Self {$(
                    $field: $crate::kafka::message::default_of!($($default)?),
                )*}
            }
        }

        #[allow(clippy::match_single_binding, unused_variables, unused_mut)]
        impl $crate::kafka::wire::Field for $name {
            fn least_len(form: $crate::kafka::wire::Form) -> usize {
                let mut least = usize::from(form.flexible);
                $(
                    if !$crate::kafka::message::is_tagged!($($tag)?)
                        && $crate::kafka::message::within(form.version, $versions)
                    {
                        least += <$type as $crate::kafka::wire::Field>::least_len(form);
                    }
                )*
                least
            }

            fn read(
                reader: &mut $crate::kafka::wire::Reader,
                form: $crate::kafka::wire::Form,
            ) -> Result<Self, $crate::kafka::wire::DecodeError> {
                let mut message = Self::default();
                $(
                    if !$crate::kafka::message::is_tagged!($($tag)?)
                        && $crate::kafka::message::within(form.version, $versions)
                    {
                        message.$field = $crate::kafka::wire::Field::read(reader, form)?;
                        $(
                            if $crate::kafka::wire::Field::is_null(&message.$field)
                                && !$crate::kafka::message::within(form.version, $null)
                            {
                                return Err($crate::kafka::wire::DecodeError::Null {
                                    at: reader.position(),
                                });
                            }
                        )?
                    }
                )*
                if form.flexible {
                    reader.tagged(|reader, tag| {
                        Ok(match tag {
                            $($(
                                $tag if $crate::kafka::message::within(form.version, $versions) => {
                                    message.$field =
                                        $crate::kafka::wire::Field::read(reader, form)?;
                                    true
                                }
                            )?)*
                            _ => false,
                        })
                    })?;
                }
                Ok(message)
            }

            fn write(
                &self,
                writer: &mut $crate::kafka::wire::Writer,
                form: $crate::kafka::wire::Form,
            ) {
                $(
                    if !$crate::kafka::message::is_tagged!($($tag)?)
                        && $crate::kafka::message::within(form.version, $versions)
                    {
                        if true $(&& $crate::kafka::message::within(form.version, $null))? {
                            $crate::kafka::wire::Field::write(&self.$field, writer, form);
                        } else {
                            $crate::kafka::wire::Field::write_filled(&self.$field, writer, form);
                        }
                    }
                )*
                if form.flexible {
                    let mut count = 0;
                    $($(
                        let _: u32 = $tag;
                        if $crate::kafka::message::within(form.version, $versions)
                            && self.$field != Self::default().$field
                        {
                            count += 1;
                        }
                    )?)*
                    writer.tagged_count(count);
                    $($(
                        if $crate::kafka::message::within(form.version, $versions)
                            && self.$field != Self::default().$field
                        {
                            writer.tagged($tag, |writer| {
                                $crate::kafka::wire::Field::write(&self.$field, writer, form);
                            });
                        }
                    )?)*
                }
            }
        }

        #[cfg(feature = "samples")]
        impl $crate::kafka::sample::Sample for $name {
            #[allow(unused_variables, unused_mut)]
            fn sample(
                random: &mut rand::rngs::SmallRng,
                form: $crate::kafka::wire::Form,
            ) -> Self {
                let mut message = Self::default();
                $(
                    if $crate::kafka::message::within(form.version, $versions) {
                        message.$field =
                            if true $(&& $crate::kafka::message::within(form.version, $null))? {
                                $crate::kafka::sample::Sample::sample(random, form)
                            } else {
                                $crate::kafka::sample::Sample::sample_filled(random, form)
                            };
                    }
                )*
                message
            }
        }
    )*};
}

/// Lets structures stand where null may: a byte says whether one is there.
macro_rules! nullable {
    ($name:ident) => {
        impl $crate::kafka::wire::Nullable for $name {
            fn read_nullable(
                reader: &mut $crate::kafka::wire::Reader,
                form: $crate::kafka::wire::Form,
            ) -> Result<Option<Self>, $crate::kafka::wire::DecodeError> {
                let there: i8 = $crate::kafka::wire::Field::read(reader, form)?;
                if there < 0 {
                    return Ok(None);
                }
                $crate::kafka::wire::Field::read(reader, form).map(Some)
            }

            fn write_null(
                writer: &mut $crate::kafka::wire::Writer,
                form: $crate::kafka::wire::Form,
            ) {
                $crate::kafka::wire::Field::write(&-1_i8, writer, form);
            }

            fn write_present(
                &self,
                writer: &mut $crate::kafka::wire::Writer,
                form: $crate::kafka::wire::Form,
            ) {
                $crate::kafka::wire::Field::write(&1_i8, writer, form);
                $crate::kafka::wire::Field::write(self, writer, form);
            }

            fn least_len_nullable(_: $crate::kafka::wire::Form) -> usize {
                1
            }
        }
    };
}

macro_rules! default_of {
    () => {
        Default::default()
    };
    ($default:expr) => {
        $default
    };
}

macro_rules! is_tagged {
    () => {
        false
    };
    ($tag:literal) => {
        true
    };
}

pub(crate) use {default_of, is_tagged, messages, nullable};

/// Whether a version lies in a range of versions.
#[inline(always)]
pub(crate) fn within(version: i16, versions: impl std::ops::RangeBounds<i16>) -> bool {
    versions.contains(&version)
}
