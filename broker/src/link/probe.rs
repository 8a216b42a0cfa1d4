//! Whether a process lives, asked over TCP on its Kafka listener: the kernel answers at once for a
//! process that is gone, and takes connections for one that stands still, so that only an answer of
//! the process itself shows that it runs.

use std::io::ErrorKind;

use bytes::BufMut;
use firn_coordinator::Probed;
use firn_proto::cluster::{Listener, SecurityProtocol};
use firn_proto::kafka::ApiKey;
use firn_proto::limits::LINK_PROBE_MAX;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Asks the process that listens there. Bounded in time.
pub(super) async fn probe(listener: &Listener) -> Probed {
    let asked = async {
        let stream = TcpStream::connect((listener.host.as_str(), listener.port)).await;
        let mut stream = match stream {
            Ok(stream) => stream,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Probed::Refused,
            Err(_) => return Probed::Silent,
        };
        match listener.security {
            SecurityProtocol::Plaintext => {}
            // These begin with another handshake, whose answer would say as much.
            SecurityProtocol::SaslPlaintext | SecurityProtocol::SaslSsl | SecurityProtocol::Ssl => {
                return Probed::Silent;
            }
        }
        match answers(&mut stream).await {
            Ok(()) => Probed::Answers,
            Err(_) => Probed::Silent,
        }
    };
    timeout(LINK_PROBE_MAX, asked)
        .await
        .unwrap_or(Probed::Silent)
}

/// Resolves, with true, as soon as it is known that nobody listens there.
pub(super) async fn is_refused(listener: Option<&Listener>) -> bool {
    let Some(listener) = listener else {
        return false;
    };
    let stream = TcpStream::connect((listener.host.as_str(), listener.port));
    match timeout(LINK_PROBE_MAX, stream).await {
        Ok(Err(error)) => error.kind() == ErrorKind::ConnectionRefused,
        Ok(Ok(_)) | Err(_) => false,
    }
}

/// Asks for the versions of the APIs, and waits for the beginning of an answer.
async fn answers(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut header = Vec::with_capacity(16);
    header.put_i16(ApiKey::ApiVersions.code());
    header.put_i16(0);
    header.put_i32(CORRELATION_ID);
    header.put_i16(-1);
    let length = i32::try_from(header.len()).unwrap_or(i32::MAX);
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(&header).await?;
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).await?;
    match answer.last_chunk() == Some(&CORRELATION_ID.to_be_bytes()) {
        true => Ok(()),
        false => Err(ErrorKind::InvalidData.into()),
    }
}

/// Any number: the answer repeats it.
const CORRELATION_ID: i32 = 1;

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn listener(port: u16) -> Listener {
        Listener {
            name: "KAFKA".to_owned(),
            security: SecurityProtocol::Plaintext,
            host: "127.0.0.1".to_owned(),
            port,
        }
    }

    #[tokio::test]
    async fn a_process_that_answers_lives_and_one_whose_kernel_answers_is_silent() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        // Nobody accepts: the process stands still.
        assert_eq!(probe(&listener(port)).await, Probed::Silent);
        assert!(!is_refused(Some(&listener(port))).await);

        let asked = listener(port);
        let answer = async {
            // The two connections before.
            drop(socket.accept().await.unwrap());
            drop(socket.accept().await.unwrap());
            let (mut stream, _) = socket.accept().await.unwrap();
            let mut request = [0; 14];
            stream.read_exact(&mut request).await.unwrap();
            assert_eq!(request[..8], [0, 0, 0, 10, 0, 18, 0, 0]);
            let answer = [&10_i32.to_be_bytes()[..], &request[8..12], &[0; 6]].concat();
            stream.write_all(&answer).await.unwrap();
        };
        let (probed, ()) = tokio::join!(probe(&asked), answer);
        assert_eq!(probed, Probed::Answers);
        drop(socket);
        assert_eq!(probe(&listener(port)).await, Probed::Refused);
        assert!(is_refused(Some(&listener(port))).await);
    }
}
