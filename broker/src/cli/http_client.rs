//! One request to the HTTP door of a broker, over HTTP/1.0: the answer ends with the connection.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use clap::Args;

use crate::error::FirnError;

/// Which broker is asked, and how its answer is printed.
#[derive(Debug, Args)]
pub(super) struct BrokerArgs {
    /// The broker's HTTP address
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "FIRN_HTTP",
        default_value = "127.0.0.1:8080"
    )]
    http: String,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl BrokerArgs {
    /// Asks the broker; `on_sign` hears of each empty line that comes while there is no answer.
    ///
    /// # Errors
    /// Nobody answers there, or says no: with the reason.
    pub(super) fn ask(
        &self,
        method: &str,
        path: &str,
        on_sign: impl FnMut(),
    ) -> Result<HttpAnswer, FirnError> {
        let request = HttpRequest {
            method,
            path,
            body: "",
        };
        self.send(&request, on_sign)
    }

    /// Gives the broker an order, with a body.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(super) fn post(&self, path: &str, body: &str) -> Result<HttpAnswer, FirnError> {
        let request = HttpRequest {
            method: "POST",
            path,
            body,
        };
        self.send(&request, || {})
    }

    fn send(
        &self,
        request: &HttpRequest<'_>,
        on_sign: impl FnMut(),
    ) -> Result<HttpAnswer, FirnError> {
        let answer = ask(&self.http, request, PATIENCE, on_sign);
        let answer = answer.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.failed(error),
            _ => self.failed(format!(
                "{error}; name its HTTP address, HOST:PORT, with --http"
            )),
        })?;
        match answer.status {
            200 => Ok(answer),
            404 if answer.body.trim().is_empty() => {
                Err(self.failed("this is not the HTTP door of firn"))
            }
            _ => Err(self.failed(answer.body.trim())),
        }
    }

    /// What an answer says.
    ///
    /// # Errors
    /// It says something else.
    pub(super) fn parse<T: serde::de::DeserializeOwned>(
        &self,
        answer: &HttpAnswer,
    ) -> Result<T, FirnError> {
        serde_json::from_str(&answer.body)
            .map_err(|error| self.failed(format!("it said what cannot be understood: {error}")))
    }

    fn failed(&self, reason: impl fmt::Display) -> FirnError {
        FirnError::failed(format!("asking the broker at {}", self.http), reason)
    }
}

/// What the broker is asked.
struct HttpRequest<'a> {
    method: &'a str,
    path: &'a str,
    body: &'a str,
}

/// What the broker answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HttpAnswer {
    pub(super) status: u16,
    pub(super) body: String,
}

/// Asks the broker at `address`. It may say nothing for no longer than `patience`; `on_sign` hears of
/// each empty line that comes while there is no answer.
fn ask(
    address: &str,
    request: &HttpRequest<'_>,
    patience: Duration,
    mut on_sign: impl FnMut(),
) -> io::Result<HttpAnswer> {
    let address = host_and_port(address);
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(patience))?;
    socket.set_write_timeout(Some(patience))?;
    let HttpRequest { method, path, body } = request;
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut socket = socket.take(ANSWER_BYTES_MAX);
    let mut piece = [0; 16 * 1024];
    let mut heard = 0;
    loop {
        match socket.read(&mut piece) {
            Ok(0) => break,
            Ok(len) => {
                answer.extend_from_slice(piece.get(..len).unwrap_or_default());
                let lines = empty_lines(&answer);
                (heard..lines).for_each(|_| on_sign());
                heard = heard.max(lines);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let answer = String::from_utf8(answer)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    if answer.is_empty() {
        let reason = "it closed the connection without an answer; its /readyz and its log say why";
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason));
    }
    parse(&answer).ok_or_else(|| {
        let reason = "it does not speak HTTP";
        io::Error::new(io::ErrorKind::InvalidData, reason)
    })
}

/// How many empty lines are all that has come behind the head.
fn empty_lines(answer: &[u8]) -> usize {
    let end = b"\r\n\r\n";
    let head = answer.windows(end.len()).position(|four| four == end);
    let body = head.and_then(|head| answer.get(head + end.len()..));
    let is_empty = |body: &&[u8]| body.iter().all(|byte| *byte == b'\n');
    body.filter(is_empty).map_or(0, <[u8]>::len)
}

/// The address in what may be a URL, as a broker shows it when it starts.
fn host_and_port(address: &str) -> &str {
    let address = address.strip_prefix("http://").unwrap_or(address);
    address.split('/').next().unwrap_or(address)
}

fn parse(answer: &str) -> Option<HttpAnswer> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let (version, rest) = head.split_once(' ')?;
    let status = rest.get(..3)?.parse().ok()?;
    version.starts_with("HTTP/1.").then(|| HttpAnswer {
        status,
        body: body.to_owned(),
    })
}

/// How long a broker may say nothing.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest answer: a hundred thousand partitions.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, TcpListener};
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn an_address_may_be_pasted_as_a_url() {
        for address in [
            "[::1]:8080",
            "http://[::1]:8080",
            "http://[::1]:8080/metrics",
        ] {
            assert_eq!(host_and_port(address), "[::1]:8080");
        }
    }

    #[test]
    fn whoever_waits_hears_of_each_empty_line() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (heard, signs) = mpsc::channel();
        let broker = thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            socket.set_nodelay(true).unwrap();
            let mut request = [0; 8];
            socket.read_exact(&mut request).unwrap();
            socket.write_all(b"HTTP/1.0 200 OK\r\n\r\n").unwrap();
            for _ in 0..2 {
                socket.write_all(b"\n").unwrap();
                signs.recv().unwrap();
            }
            socket.write_all(b"{}\n").unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
            // what it sent and nobody read would reset the connection
            io::copy(&mut socket, &mut io::sink()).unwrap();
        });
        let on_sign = || heard.send(()).unwrap();
        let patience = Duration::from_secs(60);
        let request = HttpRequest {
            method: "POST",
            path: "/",
            body: "",
        };
        let answer = ask(&address, &request, patience, on_sign).unwrap();
        assert_eq!(answer.body, "\n\n{}\n");
        broker.join().unwrap();
    }

    #[test]
    fn status_and_body_are_told_apart() {
        let answer = parse("HTTP/1.0 404 Not Found\r\ncontent-type: x\r\n\r\na\r\n\r\nb").unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (404, "a\r\n\r\nb"));
        for other in [
            "",
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 x\r\n\r\n",
            "HTTP/1.1 200 OK\r\n",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
