//! Reads single values of the configuration: sizes, durations, counts, switches; and finds the
//! name a misspelt one was meant to be. Pure.

use std::time::Duration;

/// Reads a size in bytes: a plain number, or one with a unit. `k`, `kB`, `M`, `MB`, `G`, `GB` count
/// by 1000, `KiB`, `MiB`, `GiB`, `TiB` by 1024.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split_unit(text);
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "t" | "tb" => 1_000_000_000_000,
        "ki" | "kib" => 1 << 10,
        "mi" | "mib" => 1 << 20,
        "gi" | "gib" => 1 << 30,
        "ti" | "tib" => 1 << 40,
        _ => return Err(not(text, "a size, such as 1048576, 64MiB or 1GB")),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| not(text, "a size, such as 1048576, 64MiB or 1GB"))?;
    number
        .checked_mul(factor)
        .ok_or_else(|| format!("`{text}` is larger than any machine"))
}

/// Reads a duration: a plain number of milliseconds, or one with a unit (`us`, `ms`, `s`, `m`, `h`, `d`).
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    let micros: u64 = match unit {
        "us" | "µs" => 1,
        "" | "ms" => 1_000,
        "s" => 1_000_000,
        "m" | "min" => 60 * 1_000_000,
        "h" => 3_600 * 1_000_000,
        "d" => 86_400 * 1_000_000,
        _ => return Err(not(text, "a duration, such as 500 (ms), 5s, 10m or 7d")),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| not(text, "a duration, such as 500 (ms), 5s, 10m or 7d"))?;
    number
        .checked_mul(micros)
        .map(Duration::from_micros)
        .ok_or_else(|| format!("`{text}` is longer than anybody waits"))
}

/// Reads a whole number that must lie in `range`.
pub(crate) fn number(text: &str, range: std::ops::RangeInclusive<u64>) -> Result<u64, String> {
    let value: u64 = text
        .replace('_', "")
        .parse()
        .map_err(|_| not(text, "a whole number"))?;
    if range.contains(&value) {
        return Ok(value);
    }
    Err(format!(
        "`{text}` is out of range: {} to {}",
        range.start(),
        range.end()
    ))
}

/// Reads a switch.
pub(crate) fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "on" | "yes" | "1" => Ok(true),
        "false" | "off" | "no" | "0" => Ok(false),
        _ => Err(not(text, "true or false")),
    }
}

/// The value of the key `name` as Kafka's tools read it. The unit is the end of the key's name.
pub(crate) fn canonical(name: &str, text: &str) -> String {
    let plain = if name.ends_with(".ms") {
        duration(text)
            .ok()
            .map(|duration| duration.as_millis().to_string())
    } else if name.ends_with(".bytes") {
        size(text).ok().map(|bytes| bytes.to_string())
    } else {
        None
    };
    plain.unwrap_or_else(|| text.to_owned())
}

/// The candidate nearest to `word`, if one is near enough to be what was meant.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let near_enough = (word.chars().count() / 3).max(2);
    candidates
        .map(|candidate| (edits(word, candidate), candidate))
        .min()
        .filter(|(distance, _)| *distance <= near_enough)
        .map(|(_, candidate)| candidate)
}

/// How many single-character edits (insert, delete, replace, swap of neighbours) lie between two words.
fn edits(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(WORD_CHARS_MAX).collect();
    let b: Vec<char> = b.chars().take(WORD_CHARS_MAX).collect();
    let mut before_last = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut row = vec![i + 1; b.len() + 1];
        for (j, to) in b.iter().enumerate() {
            let replaced = last[j] + usize::from(from != to);
            row[j + 1] = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *from == b[j - 1] && a[i - 1] == *to {
                row[j + 1] = row[j + 1].min(before_last[j - 1] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

fn split_unit(text: &str) -> (String, &str) {
    let at = text
        .find(|c: char| !c.is_ascii_digit() && c != '_')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    (number.replace('_', ""), unit.trim())
}

fn not(text: &str, wanted: &str) -> String {
    format!("`{text}` is not {wanted}")
}

/// A longer word is not compared beyond this: nobody meant it.
const WORD_CHARS_MAX: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("1_048_576", 1 << 20),
            ("64MiB", 64 << 20),
            ("64 MiB", 64 << 20),
            ("1k", 1_000),
            ("2GB", 2_000_000_000),
            ("8Gi", 8 << 30),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5GiB", "5 parsecs", "99999999999999TiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, millis) in [
            ("0", 0),
            ("500", 500),
            ("250ms", 250),
            ("5s", 5_000),
            ("10m", 600_000),
            ("7d", 604_800_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(duration("50us"), Ok(Duration::from_micros(50)));
        for text in ["", "s", "-5s", "5 fortnights", "99999999999999999d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_number_out_of_range_is_refused() {
        assert_eq!(number("3", 1..=5), Ok(3));
        assert!(number("0", 1..=5).is_err());
        assert!(number("6", 1..=5).is_err());
        assert!(number("x", 1..=5).is_err());
    }

    #[test]
    fn the_nearest_name_is_offered_only_when_it_is_near() {
        let names = ["num.partitions", "message.max.bytes", "bucket"];
        let near = |word| nearest(word, names.into_iter());
        assert_eq!(near("num.partition"), Some("num.partitions"));
        assert_eq!(near("mesage.max.byte"), Some("message.max.bytes"));
        assert_eq!(near("bcuket"), Some("bucket"));
        assert_eq!(near("zookeeper.connect"), None);
    }
}
