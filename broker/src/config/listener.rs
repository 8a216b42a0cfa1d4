//! Where the broker listens and how clients are told to reach it: `NAME=PROTO://ADDR[,advertise=HOST:PORT]`.
//! Pure: nothing is resolved or bound here.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Kafka's protocol on plain TCP, without authentication.
    Plaintext,
}

/// A host name or address with a port, as clients write it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// A name, an IPv4 literal, or an IPv6 literal without brackets.
    pub host: String,
    /// The port; 0 lets the system choose when it is listened on.
    pub port: u16,
}

/// One listener of the Kafka door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSpec {
    /// How the operator calls it; upper case, unique.
    pub name: String,
    /// What is spoken there.
    pub protocol: Protocol,
    /// Where it is bound.
    pub bind: SocketAddr,
    /// What Metadata answers to clients that came in here. Without it: the bound address.
    pub advertise: Option<HostPort>,
}

impl ListenerSpec {
    /// The listener that `--kafka ADDR` stands for.
    pub fn kafka(bind: SocketAddr) -> Self {
        Self {
            name: "KAFKA".to_owned(),
            protocol: Protocol::Plaintext,
            bind,
            advertise: None,
        }
    }

    /// Whether only processes of this machine can reach it.
    pub fn is_loopback(&self) -> bool {
        self.bind.ip().is_loopback()
    }

    /// What clients are told, once the listener is bound to `bound` (which has the real port).
    ///
    /// An unspecified address (`0.0.0.0`, `[::]`) is nothing a client can connect to; without
    /// `advertise` it becomes the loopback address of its family, and the start of the log says so.
    pub fn advertised(&self, bound: SocketAddr) -> HostPort {
        if let Some(advertise) = &self.advertise {
            let port = if advertise.port == 0 {
                bound.port()
            } else {
                advertise.port
            };
            return HostPort {
                host: advertise.host.clone(),
                port,
            };
        }
        let ip = match bound.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        HostPort {
            host: ip.to_string(),
            port: bound.port(),
        }
    }
}

impl FromStr for ListenerSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "NAME=PROTO://ADDR[,advertise=HOST:PORT]";
        let (name, rest) = text
            .split_once('=')
            .filter(|(name, _)| !name.contains(':'))
            .ok_or_else(|| format!("listener `{text}` has no name; write {form}"))?;
        let name = listener_name(name)?;
        let (protocol, rest) = rest
            .split_once("://")
            .ok_or_else(|| format!("listener `{text}` has no protocol; write {form}"))?;
        let protocol = protocol.parse()?;
        let mut parts = rest.split(',');
        let bind = bind_address(parts.next().unwrap_or_default())?;
        let mut advertise = None;
        for option in parts {
            match option.split_once('=') {
                Some(("advertise", address)) => advertise = Some(address.parse()?),
                _ => {
                    return Err(format!(
                        "listener option `{option}` is unknown; the only one is advertise=HOST:PORT"
                    ));
                }
            }
        }
        Ok(Self {
            name,
            protocol,
            bind,
            advertise,
        })
    }
}

impl fmt::Display for ListenerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}://{}", self.name, self.protocol, self.bind)?;
        if let Some(advertise) = &self.advertise {
            write!(f, ",advertise={advertise}")?;
        }
        Ok(())
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "plaintext" | "kafka" | "tcp" => Ok(Self::Plaintext),
            "ssl" | "tls" | "sasl_plaintext" | "sasl_ssl" => Err(format!(
                "protocol `{text}` is not built yet: this version speaks plaintext only, so keep the \
                 listener on a trusted network"
            )),
            _ => Err(format!("protocol `{text}` is unknown; write plaintext")),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plaintext => f.write_str("plaintext"),
        }
    }
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not HOST:PORT (IPv6 literals in brackets: [::1]:9092)");
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once("]:").ok_or_else(wrong)?;
                let ip: std::net::Ipv6Addr = host.parse().map_err(|_| wrong())?;
                (ip.to_string(), port)
            }
            None => {
                let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
                let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
                if host.is_empty() || host.len() > HOST_BYTES_MAX || !host.chars().all(legal) {
                    return Err(wrong());
                }
                (host.to_owned(), port)
            }
        };
        let port = port.parse().map_err(|_| wrong())?;
        Ok(Self { host, port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Reads an address to bind: an IP literal (IPv6 in brackets) with a port, `localhost:PORT`,
/// `*:PORT` or `:PORT` for every interface.
pub(crate) fn bind_address(text: &str) -> Result<SocketAddr, String> {
    let wrong = || {
        format!(
            "`{text}` is not an address to listen on; write IP:PORT, such as 127.0.0.1:9092 or [::1]:9092"
        )
    };
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let ip = match host {
        "localhost" => Ipv4Addr::LOCALHOST,
        "" | "*" => Ipv4Addr::UNSPECIFIED,
        _ => return Err(wrong()),
    };
    Ok(SocketAddr::new(
        IpAddr::V4(ip),
        port.parse().map_err(|_| wrong())?,
    ))
}

fn listener_name(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.chars().all(legal) {
        return Err(format!(
            "listener name `{text}` is not 1 to {NAME_BYTES_MAX} letters, digits, _ or -"
        ));
    }
    Ok(text.to_ascii_uppercase())
}

const HOST_BYTES_MAX: usize = 253;
const NAME_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn advertised(text: &str) -> String {
        let spec: ListenerSpec = text.parse().unwrap();
        spec.advertised(spec.bind).to_string()
    }

    #[test]
    fn a_listener_reads_back_what_it_prints() {
        for text in [
            "A=plaintext://127.0.0.1:9092",
            "INTERNAL=plaintext://10.0.0.1:9092,advertise=broker-1.svc:9092",
            "V6=plaintext://[::1]:9092",
            "V6=plaintext://[::]:9092,advertise=[2001:db8::7]:19092",
        ] {
            let spec: ListenerSpec = text.parse().unwrap();
            assert_eq!(spec.to_string(), text);
        }
    }

    #[test]
    fn a_listener_that_means_nothing_is_refused() {
        for text in [
            "",
            "9092",
            "127.0.0.1:9092",
            "plaintext://127.0.0.1:9092",
            "A=127.0.0.1:9092",
            "A=gopher://127.0.0.1:9092",
            "A=ssl://127.0.0.1:9092",
            "A B=plaintext://127.0.0.1:9092",
            "A=plaintext://::1:9092",
            "A=plaintext://[::1]",
            "A=plaintext://127.0.0.1:70000",
            "A=plaintext://127.0.0.1:9092,advertise=",
            "A=plaintext://127.0.0.1:9092,advertise=host",
            "A=plaintext://127.0.0.1:9092,advertise=ho st:1",
            "A=plaintext://127.0.0.1:9092,color=red",
        ] {
            assert!(text.parse::<ListenerSpec>().is_err(), "{text}");
        }
    }

    #[test]
    fn clients_are_told_something_they_can_reach() {
        assert_eq!(advertised("A=plaintext://127.0.0.1:9092"), "127.0.0.1:9092");
        assert_eq!(advertised("A=plaintext://[::1]:9092"), "[::1]:9092");
        assert_eq!(advertised("A=plaintext://0.0.0.0:9092"), "127.0.0.1:9092");
        assert_eq!(advertised("A=plaintext://[::]:9092"), "[::1]:9092");
        assert_eq!(
            advertised("A=plaintext://*:9092,advertise=kafka.example:1"),
            "kafka.example:1"
        );
    }

    #[test]
    fn an_advertised_port_of_zero_becomes_the_bound_port() {
        let spec: ListenerSpec = "A=plaintext://127.0.0.1:0,advertise=host:0"
            .parse()
            .unwrap();
        let bound = "127.0.0.1:4711".parse().unwrap();
        assert_eq!(spec.advertised(bound).to_string(), "host:4711");
    }

    #[test]
    fn only_loopback_counts_as_loopback() {
        for (text, loopback) in [
            ("A=plaintext://127.0.0.1:1", true),
            ("A=plaintext://127.8.9.1:1", true),
            ("A=plaintext://[::1]:1", true),
            ("A=plaintext://localhost:1", true),
            ("A=plaintext://0.0.0.0:1", false),
            ("A=plaintext://[::]:1", false),
            ("A=plaintext://10.0.0.1:1", false),
        ] {
            assert_eq!(
                text.parse::<ListenerSpec>().unwrap().is_loopback(),
                loopback,
                "{text}"
            );
        }
    }
}
