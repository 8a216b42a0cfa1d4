//! Rust source text as the tidy rules see it: comments, strings and test code set aside. A plain
//! scanner, no parser: it need only be right about this repository, and says where it looked.

use std::fs;
use std::path::{Path, PathBuf};

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests package lies in the workspace")
        .to_path_buf()
}

/// One Rust file of the workspace.
pub(crate) struct SourceFile {
    /// Path from the root, with `/`.
    pub(crate) path: String,
    /// As it stands.
    pub(crate) text: String,
    /// Comments replaced by blanks, line by line; string literals are kept.
    pub(crate) without_comments: String,
    /// Comments, string and character literals and `#[cfg(test)]` modules replaced by blanks.
    pub(crate) code: String,
}

impl SourceFile {
    fn read(root: &Path, path: &Path) -> Self {
        let text = fs::read_to_string(path).expect("a source file is readable UTF-8");
        let relative = path.strip_prefix(root).expect("a file below the root");
        Self::new(relative.to_string_lossy().into_owned(), text)
    }

    fn new(path: String, text: String) -> Self {
        let (without_comments, code) = blank(&text);
        let code = blank_test_modules(&code);
        Self {
            without_comments: blank_where_marked(&without_comments, &code),
            path,
            text,
            code,
        }
    }

    /// The crate (top-level folder) this file belongs to.
    pub(crate) fn package(&self) -> &str {
        self.path.split('/').next().unwrap_or_default()
    }

    /// Whether the file holds nothing but tests.
    pub(crate) fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs")
            || self.path.contains("/tests/")
            || self.path.starts_with("tests/")
            || self.path.ends_with("_test.rs")
    }

    /// Whether its first comment claims that there is no IO, clock or lock in it.
    pub(crate) fn says_it_is_pure(&self) -> bool {
        let opening = self.text.lines().take_while(|line| line.starts_with("//!"));
        let mut claims =
            opening.map(|line| find_word(line, "Pure", 0).is_some() || line.contains("No IO"));
        claims.any(|claims| claims)
    }

    /// Lines that are not test code, up to the last one that holds anything.
    pub(crate) fn lines(&self) -> usize {
        let test_lines = self
            .text
            .lines()
            .zip(self.code.lines())
            .filter(|(text, code)| !text.trim().is_empty() && code.contains('\u{1}'))
            .count();
        self.text.lines().count() - test_lines
    }

    /// Every function with its name, first line (from 1) and length in lines.
    pub(crate) fn functions(&self) -> Vec<(String, usize, usize)> {
        let mut found = Vec::new();
        let code = self.code.as_bytes();
        let mut at = 0;
        while let Some(next) = find_word(&self.code, "fn", at) {
            at = next + 2;
            let name: String = self.code[at..]
                .trim_start()
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            if name.is_empty() {
                continue;
            }
            let Some(open) = body_start(code, at) else {
                continue;
            };
            let Some(close) = matching_brace(code, open) else {
                continue;
            };
            let first = line_of(&self.code, next);
            found.push((name, first, line_of(&self.code, close) - first + 1));
        }
        found
    }
}

/// Every Rust file of the workspace's packages, in order of path.
pub(crate) fn rust_files() -> Vec<SourceFile> {
    let root = root();
    let mut paths = Vec::new();
    for package in [
        "proto",
        "storage",
        "coordinator",
        "client",
        "broker",
        "benches",
        "tests",
    ] {
        walk(&root.join(package), &mut |path| {
            if path.extension().is_some_and(|e| e == "rs") {
                paths.push(path.to_path_buf());
            }
        });
    }
    paths.sort();
    paths
        .iter()
        .map(|path| SourceFile::read(&root, path))
        .collect()
}

/// Calls `each` for every file below `folder`, build output left out.
pub(crate) fn walk(folder: &Path, each: &mut dyn FnMut(&Path)) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() {
            if name != "target" && name != ".git" && name != "firn-data" {
                walk(&path, each);
            }
        } else {
            each(&path);
        }
    }
}

/// Where `word` stands as a word of its own in `code`, from byte `from` on.
pub(crate) fn find_word(code: &str, word: &str, from: usize) -> Option<usize> {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let mut at = from;
    while let Some(offset) = code.get(at..)?.find(word) {
        let start = at + offset;
        let before = code[..start].chars().next_back();
        let after = code[start + word.len()..].chars().next();
        if !is_part(before) && !is_part(after) {
            return Some(start);
        }
        at = start + word.len();
    }
    None
}

/// The line, from 1, of byte `at`.
pub(crate) fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
        + 1
}

/// The `{` that opens the body of a function whose name starts at or after `from`, if it has one.
fn body_start(code: &[u8], from: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (at, byte) in code.iter().enumerate().skip(from) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'{' if depth == 0 => return Some(at),
            b';' if depth == 0 => return None,
            _ => {}
        }
        if depth < 0 {
            return None;
        }
    }
    None
}

fn matching_brace(code: &[u8], open: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (at, byte) in code.iter().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// Marks `#[cfg(test)] mod name { .. }` by the byte 1, so that its lines can be told from blanks.
fn blank_test_modules(code: &str) -> String {
    let mut bytes = code.as_bytes().to_vec();
    let mut at = 0;
    while let Some(offset) = code[at..].find("#[cfg(test)]") {
        let start = at + offset;
        at = start + 12;
        let Some(open) = body_start(code.as_bytes(), at) else {
            continue;
        };
        let Some(close) = matching_brace(code.as_bytes(), open) else {
            continue;
        };
        for byte in &mut bytes[start..=close] {
            if *byte != b'\n' {
                *byte = 1;
            }
        }
        at = close;
    }
    String::from_utf8(bytes).expect("whole characters were replaced")
}

/// `text` without what lies in test modules, which `marked` marks by the byte 1.
fn blank_where_marked(text: &str, marked: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for (byte, mark) in bytes.iter_mut().zip(marked.as_bytes()) {
        if *mark == 1 {
            *byte = b' ';
        }
    }
    String::from_utf8(bytes).expect("whole characters were blanked")
}

/// (text without comments, text without comments and literals); same byte positions as the text.
fn blank(text: &str) -> (String, String) {
    let source = text.as_bytes();
    let mut no_comments = source.to_vec();
    let mut code = source.to_vec();
    let mut at = 0;
    while at < source.len() {
        let (end, comment) = match source[at] {
            b'/' if source.get(at + 1) == Some(&b'/') => (end_of_line(source, at), true),
            b'/' if source.get(at + 1) == Some(&b'*') => (end_of_block(source, at), true),
            b'"' => (end_of_string(source, at), false),
            b'r' if !is_word_byte(source, at) => match end_of_raw(source, at) {
                Some(end) => (end, false),
                None => (at, false),
            },
            b'\'' => (end_of_char(source, at), false),
            _ => (at, false),
        };
        if end == at {
            at += 1;
            continue;
        }
        for position in at..end {
            if source[position] != b'\n' {
                code[position] = b' ';
                if comment {
                    no_comments[position] = b' ';
                }
            }
        }
        at = end;
    }
    let whole = |bytes: Vec<u8>| String::from_utf8(bytes).expect("whole characters were blanked");
    (whole(no_comments), whole(code))
}

fn is_word_byte(source: &[u8], at: usize) -> bool {
    at > 0
        && (source[at - 1].is_ascii_alphanumeric() || source[at - 1] == b'_')
        && source[at - 1] != b'b'
}

fn end_of_line(source: &[u8], at: usize) -> usize {
    source[at..]
        .iter()
        .position(|byte| *byte == b'\n')
        .map_or(source.len(), |offset| at + offset)
}

fn end_of_block(source: &[u8], at: usize) -> usize {
    source[at..]
        .windows(2)
        .position(|pair| pair == b"*/")
        .map_or(source.len(), |offset| at + offset + 2)
}

fn end_of_string(source: &[u8], at: usize) -> usize {
    let mut position = at + 1;
    while position < source.len() {
        match source[position] {
            b'\\' => position += 2,
            b'"' => return position + 1,
            _ => position += 1,
        }
    }
    source.len()
}

fn end_of_raw(source: &[u8], at: usize) -> Option<usize> {
    let hashes = source[at + 1..].iter().take_while(|b| **b == b'#').count();
    if source.get(at + 1 + hashes) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.extend(std::iter::repeat_n(b'#', hashes));
    let from = at + 2 + hashes;
    let offset = source[from..]
        .windows(close.len())
        .position(|window| window == close)?;
    Some(from + offset + close.len())
}

/// The end of a character literal, or `at` itself for a lifetime.
fn end_of_char(source: &[u8], at: usize) -> usize {
    if source.get(at + 1) == Some(&b'\\') {
        return source[at + 3..]
            .iter()
            .position(|byte| *byte == b'\'')
            .map_or(at, |offset| at + 3 + offset + 1);
    }
    let length = std::str::from_utf8(&source[at + 1..])
        .ok()
        .and_then(|rest| rest.chars().next())
        .map_or(1, char::len_utf8);
    if source.get(at + 1 + length) == Some(&b'\'') {
        at + length + 2
    } else {
        at
    }
}

#[cfg(test)]
mod tests {
    use super::SourceFile;

    fn file(text: &str) -> SourceFile {
        SourceFile::new("proto/src/x.rs".to_owned(), text.to_owned())
    }

    #[test]
    fn braces_in_text_do_not_end_a_function() {
        let text = "fn a<'l>(x: &'l str) -> char {\n  let s = \"}\"; // }\n  let r = r#\"}\"#;\n  '}'\n}\nfn b() {}\n";
        let found = file(text).functions();
        assert_eq!(found, [("a".to_owned(), 1, 5), ("b".to_owned(), 6, 1)]);
    }

    #[test]
    fn test_modules_are_no_product_code() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() { \"wal/\"; }\n}\n";
        let file = file(text);
        assert_eq!(file.functions().len(), 1);
        assert_eq!(file.lines(), 1);
        assert!(!file.without_comments.contains("wal/"));
    }

    #[test]
    fn a_file_claims_purity_in_its_first_comment_only() {
        assert!(file("//! Bytes of a slot. Pure.\nfn a() {}\n").says_it_is_pure());
        assert!(file("//! The machine.\n//!\n//! No IO, no lock.\n").says_it_is_pure());
        assert!(!file("//! The driver.\n\n/// Pure.\nfn a() {}\n").says_it_is_pure());
    }

    #[test]
    fn what_a_literal_spells_is_found_and_what_a_comment_says_is_not() {
        let file = file("// \"meta/x\"\nconst K: &str = \"wal/\";\n");
        assert!(file.without_comments.contains("\"wal/"));
        assert!(!file.without_comments.contains("meta/"));
        assert!(!file.code.contains("wal/"));
    }
}
