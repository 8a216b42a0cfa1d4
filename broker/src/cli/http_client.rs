//! One request to the HTTP door of a broker, over HTTP/1.0: the answer ends with the connection.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// What the broker answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HttpAnswer {
    pub(super) status: u16,
    pub(super) body: String,
}

/// Asks the broker at `address`. It may say nothing for no longer than `patience`.
pub(super) fn ask(
    address: &str,
    method: &str,
    path: &str,
    patience: Duration,
) -> io::Result<HttpAnswer> {
    let address = host_and_port(address);
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(patience))?;
    socket.set_write_timeout(Some(patience))?;
    let request =
        format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n");
    socket.write_all(request.as_bytes())?;
    let mut answer = String::new();
    socket.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    if answer.is_empty() {
        let reason = "it closed the connection without an answer; its /readyz and its log say why";
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason));
    }
    parse(&answer).ok_or_else(|| {
        let reason = "it does not speak HTTP";
        io::Error::new(io::ErrorKind::InvalidData, reason)
    })
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

/// Longest answer: a hundred thousand partitions.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

#[cfg(test)]
mod tests {
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
