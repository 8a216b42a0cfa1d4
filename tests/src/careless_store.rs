//! An S3 server in this process that takes every PUT, whatever `If-None-Match` says: the store on
//! which a log must not be kept (I11).

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

type Objects = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// A running server; its thread ends with the process.
#[derive(Debug)]
pub struct CarelessStore {
    address: SocketAddr,
}

struct Request {
    method: String,
    path: String,
    query: String,
    range: Option<(usize, usize)>,
    body: Vec<u8>,
}

impl CarelessStore {
    /// Starts it on a free port.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let objects = Objects::default();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let objects = objects.clone();
                std::thread::spawn(move || serve(&stream, &objects));
            }
        });
        Self { address }
    }

    /// Its bucket's URL.
    pub fn url(&self) -> String {
        format!(
            "s3://careless/log?endpoint=http://{}&region=us-east-1&path_style=true",
            self.address
        )
    }
}

/// Answers the requests of one connection.
fn serve(stream: &TcpStream, objects: &Objects) {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    while let Some(request) = read_request(&mut reader) {
        let mut objects = objects.lock().expect("no thread panics with the objects");
        let (status, headers, body) = answer(&request, &mut objects);
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n");
        let body = if request.method == "HEAD" {
            &[]
        } else {
            body.as_slice()
        };
        if writer.write_all(head.as_bytes()).is_err() || writer.write_all(body).is_err() {
            return;
        }
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_ascii_whitespace();
    let method = words.next()?.to_owned();
    let target = words.next()?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request {
        method,
        path: path.to_owned(),
        query: query.to_owned(),
        range: None,
        body: Vec::new(),
    };
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(':') else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => request.body.resize(value.trim().parse().ok()?, 0),
            "range" => request.range = byte_range(value.trim()),
            _ => {}
        }
    }
    reader.read_exact(&mut request.body).ok()?;
    Some(request)
}

/// First and last byte of `bytes=first-last`.
fn byte_range(value: &str) -> Option<(usize, usize)> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().unwrap_or(usize::MAX)))
}

fn answer(
    request: &Request,
    objects: &mut BTreeMap<String, Vec<u8>>,
) -> (&'static str, String, Vec<u8>) {
    let key = request
        .path
        .trim_start_matches("/careless")
        .trim_start_matches('/');
    let dated = "ETag: \"1\"\r\nLast-Modified: Sat, 21 Nov 2026 10:00:00 GMT\r\n".to_owned();
    match request.method.as_str() {
        "PUT" if !key.is_empty() => {
            objects.insert(key.to_owned(), request.body.clone());
            ("200 OK", dated, Vec::new())
        }
        "DELETE" => {
            objects.remove(key);
            ("204 No Content", String::new(), Vec::new())
        }
        "POST" => ("200 OK", String::new(), b"<DeleteResult/>".to_vec()),
        "GET" | "HEAD" if key.is_empty() => of_bucket(request, objects),
        "GET" | "HEAD" => match objects.get(key) {
            Some(body) => part_of(body, request.range, dated),
            None => missing("NoSuchKey"),
        },
        _ => ("200 OK", String::new(), Vec::new()),
    }
}

fn part_of(
    body: &[u8],
    range: Option<(usize, usize)>,
    dated: String,
) -> (&'static str, String, Vec<u8>) {
    let Some((first, last)) = range else {
        return ("200 OK", dated, body.to_vec());
    };
    if first >= body.len() {
        return ("416 Range Not Satisfiable", String::new(), Vec::new());
    }
    let last = last.min(body.len() - 1);
    let headers = format!(
        "{dated}Content-Range: bytes {first}-{last}/{}\r\n",
        body.len()
    );
    ("206 Partial Content", headers, body[first..=last].to_vec())
}

fn of_bucket(
    request: &Request,
    objects: &BTreeMap<String, Vec<u8>>,
) -> (&'static str, String, Vec<u8>) {
    if request.query.contains("lifecycle") {
        return missing("NoSuchLifecycleConfiguration");
    }
    if request.query.contains("versioning") {
        return (
            "200 OK",
            String::new(),
            b"<VersioningConfiguration/>".to_vec(),
        );
    }
    let parameter = |name: &str| {
        request
            .query
            .split('&')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
            .unwrap_or_default()
            .replace("%2F", "/")
            .replace("%2f", "/")
    };
    let (prefix, after) = (parameter("prefix"), parameter("start-after"));
    let contents: String = objects
        .iter()
        .filter(|(key, _)| key.starts_with(&prefix) && **key > after)
        .map(|(key, body)| {
            format!(
                "<Contents><Key>{key}</Key><Size>{}</Size><ETag>\"1\"</ETag>\
                 <LastModified>2026-11-21T10:00:00.000Z</LastModified></Contents>",
                body.len()
            )
        })
        .collect();
    let listing =
        format!("<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>");
    ("200 OK", String::new(), listing.into_bytes())
}

fn missing(code: &str) -> (&'static str, String, Vec<u8>) {
    let body = format!("<Error><Code>{code}</Code><Message>none</Message></Error>");
    ("404 Not Found", String::new(), body.into_bytes())
}
