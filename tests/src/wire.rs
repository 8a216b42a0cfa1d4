//! One connection of the oracle client: frames out, frames in, messages by the `kafka-protocol`
//! crate, which the product does not use.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};

/// How long a single read may take: longer than any long poll of the tests.
const READ_PATIENCE: Duration = Duration::from_secs(40);

/// A connection to a Kafka door. Requests may be pipelined: each [`Self::send`] is answered, in
/// order, by one [`Self::receive`].
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    sent: i32,
    received: i32,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        Self::open_within(address, READ_PATIENCE)
    }

    /// Connects; a read that takes longer than `patience` fails.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn open_within(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        Ok(Self {
            stream,
            sent: 0,
            received: 0,
        })
    }

    /// Our side of it, as the other one names it.
    ///
    /// # Panics
    /// When the connection is gone.
    pub fn local(&self) -> SocketAddr {
        self.stream.local_addr().expect("the connection stands")
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn call<R: Request>(&mut self, version: i16, request: &R) -> io::Result<R::Response> {
        self.send(version, request)?;
        self.receive::<R>(version)
    }

    /// Sends a request.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn send<R: Request>(&mut self, version: i16, request: &R) -> io::Result<()> {
        let frame = encode(version, self.sent, request);
        self.sent += 1;
        self.send_bytes(&frame)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Fails a write that makes no way for `patience`.
    ///
    /// # Panics
    /// When the connection is gone.
    pub fn give_up_writing_after(&mut self, patience: Duration) {
        let set = self.stream.set_write_timeout(Some(patience));
        set.expect("the connection stands");
    }

    /// Waits for the answer to the oldest request that has none.
    ///
    /// # Errors
    /// When the connection breaks.
    ///
    /// # Panics
    /// When the answer is to another request, or is no answer at all.
    pub fn receive<R: Request>(&mut self, version: i16) -> io::Result<R::Response> {
        let mut frame = self.receive_frame()?;
        let header = ResponseHeader::decode(&mut frame, R::Response::header_version(version))
            .expect("a response header");
        assert_eq!(
            header.correlation_id, self.received,
            "answers come in the order of their requests"
        );
        self.received += 1;
        let response = R::Response::decode(&mut frame, version)
            .unwrap_or_else(|e| panic!("API {} v{version}: undecodable answer: {e:#}", R::KEY));
        assert!(
            !frame.has_remaining(),
            "API {} v{version}: {} bytes behind the answer",
            R::KEY,
            frame.remaining()
        );
        Ok(response)
    }

    /// Waits for one frame, without its length.
    ///
    /// # Errors
    /// When the connection breaks or is closed.
    pub fn receive_frame(&mut self) -> io::Result<Bytes> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = usize::try_from(i32::from_be_bytes(length)).expect("a length is not negative");
        let mut frame = vec![0; length];
        self.stream.read_exact(&mut frame)?;
        Ok(Bytes::from(frame))
    }

    /// Sends nothing more and waits until the other side, which has dealt with everything then,
    /// closes too.
    ///
    /// # Errors
    /// When it does not within the time a read may take.
    pub fn finish(mut self) -> io::Result<()> {
        // A connection that the other side has closed already cannot be shut down again.
        let _ = self.stream.shutdown(Shutdown::Write);
        self.wait_closed()
    }

    /// Waits until the other side closes.
    ///
    /// # Errors
    /// When it does not within the time a read may take.
    pub fn wait_closed(&mut self) -> io::Result<()> {
        let mut rest = [0; 4096];
        loop {
            match self.stream.read(&mut rest) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// A whole request frame, its length in front.
pub fn encode<R: Request>(version: i16, correlation: i32, request: &R) -> Bytes {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation)
        .with_client_id(Some(StrBytes::from_static_str("firn-tests")));
    let mut body = BytesMut::new();
    header
        .encode(&mut body, R::header_version(version))
        .expect("the header can be written");
    request
        .encode(&mut body, version)
        .unwrap_or_else(|e| panic!("API {} v{version}: cannot be written: {e:#}", R::KEY));
    let mut frame = BytesMut::with_capacity(body.len() + 4);
    frame.put_i32(i32::try_from(body.len()).expect("a request fits a frame"));
    frame.extend_from_slice(&body);
    frame.freeze()
}
