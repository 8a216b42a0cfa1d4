//! What tests of a whole node in their own process share: its configuration and its figures.

use std::fmt::Debug;
use std::str::FromStr;
use std::sync::Arc;

use firn_broker::config::{Config, Pair, Profile, Source};
use firn_broker::node::Node;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A configuration with the Kafka door on a free port and `pairs`.
pub(crate) fn config(pairs: &[(&str, &str)]) -> Arc<Config> {
    let door = Pair::new("kafka", "127.0.0.1:0", Source::Default);
    let pairs = pairs.iter();
    let pairs = pairs.map(|(key, value)| Pair::new(key, value, Source::Override));
    let pairs = std::iter::once(door).chain(pairs);
    Arc::new(Config::new(Profile::Dev, pairs.collect()).unwrap())
}

/// What the HTTP door answers, with its status.
pub(crate) async fn http_get(node: &Node, path: &str) -> String {
    let mut socket = TcpStream::connect(node.http().unwrap()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}

/// A figure of `/metrics`.
pub(crate) async fn figure<T: FromStr<Err: Debug>>(node: &Node, name: &str) -> T {
    let answer = http_get(node, "/metrics").await;
    let mut lines = answer.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap().parse().unwrap()
}
