//! Which client a request is counted for. Trusts a header no further than the setting says.

use std::{fmt, net::IpAddr};

use axum::http::HeaderMap;

use crate::auth::Subject;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// The address at the other end of the connection, as the server saw it; an extension of each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub IpAddr);

/// Who is counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Caller {
    /// A token's subject.
    Subject(String),
    /// An address: of IPv6 the first 64 bits, which is what one customer gets.
    Address(IpAddr),
    /// Nothing is known: all such requests are counted together.
    Unknown,
}

impl Caller {
    /// The token's subject, else the client's address.
    pub fn of(subject: Option<&Subject>, headers: &HeaderMap, peer: Option<Peer>, trusted_hops: u8) -> Self {
        if let Some(Subject(subject)) = subject {
            return Self::Subject(subject.as_ref().to_owned());
        }
        let address = forwarded(headers, trusted_hops).or(peer.map(|Peer(address)| address));
        address.map_or(Self::Unknown, |address| Self::Address(network(address)))
    }
}

/// The key in Redis, without the prefix.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subject(subject) => write!(f, "subject:{subject}"),
            Self::Address(address) => write!(f, "address:{address}"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// The address that the outermost trusted proxy saw: each of the `hops` proxies adds one at the end, and what is before
/// those may be the client's invention. Nothing when there are fewer, or it is no address.
fn forwarded(headers: &HeaderMap, hops: u8) -> Option<IpAddr> {
    let back = usize::from(hops).checked_sub(1)?;
    let lines = headers.get_all(FORWARDED_FOR).iter();
    // Values that are not text still count as one entry, so that nobody can shift the count.
    let entries: Vec<&str> =
        lines.flat_map(|line| line.to_str().unwrap_or("?").split(',')).map(str::trim).collect();
    address(entries.into_iter().rev().nth(back)?)
}

/// An address as proxies write it: bare, or with a port, or in brackets.
fn address(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    if let Ok(with_port) = text.parse::<std::net::SocketAddr>() {
        return Some(with_port.ip());
    }
    text.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let prefix = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(prefix.into())
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn headers(lines: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(HeaderName::from_static(FORWARDED_FOR), HeaderValue::from_bytes(line).unwrap());
        }
        headers
    }

    fn caller(lines: &[&[u8]], hops: u8) -> String {
        let peer = Peer("10.0.0.9".parse().unwrap());
        Caller::of(None, &headers(lines), Some(peer), hops).to_string()
    }

    #[test]
    fn a_header_counts_only_as_far_as_proxies_are_trusted() {
        let lines: &[&[u8]] = &[b"6.6.6.6, 1.2.3.4", b"10.0.0.1"];
        assert_eq!(caller(lines, 0), "address:10.0.0.9");
        assert_eq!(caller(lines, 1), "address:10.0.0.1");
        assert_eq!(caller(lines, 2), "address:1.2.3.4");
        assert_eq!(caller(lines, 3), "address:6.6.6.6");
        assert_eq!(caller(lines, 4), "address:10.0.0.9", "a request that came around the proxies");
        assert_eq!(caller(&[], 1), "address:10.0.0.9");
        assert_eq!(caller(&[b"1.2.3.4, unknown"], 1), "address:10.0.0.9");
        assert_eq!(caller(&[b"\xff, 1.2.3.4"], 1), "address:10.0.0.9", "not text: not trusted");
    }

    #[test]
    fn addresses_are_read_in_every_form_and_ipv6_by_its_network() {
        for (text, key) in [
            ("1.2.3.4:5678", "address:1.2.3.4"),
            ("2001:db8:1:2:3:4:5:6", "address:2001:db8:1:2::"),
            ("[2001:db8:1:2::9]", "address:2001:db8:1:2::"),
            ("[2001:db8:1:2::9]:443", "address:2001:db8:1:2::"),
            ("::ffff:1.2.3.4", "address:1.2.3.4"),
        ] {
            assert_eq!(caller(&[text.as_bytes()], 1), key, "{text}");
        }
    }

    #[test]
    fn a_subject_goes_before_any_address() {
        let subject = Subject("ada".into());
        let caller = Caller::of(Some(&subject), &headers(&[b"1.2.3.4"]), None, 1);
        assert_eq!(caller.to_string(), "subject:ada");
        assert_eq!(Caller::of(None, &HeaderMap::new(), None, 0), Caller::Unknown);
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(lines in proptest::collection::vec("[ -~]{0,60}", 0..4), hops in 0_u8..6) {
            let lines: Vec<&[u8]> = lines.iter().map(String::as_bytes).collect();
            caller(&lines, hops);
        }

        /// What a client puts before the entries of the trusted proxies never changes who is counted.
        #[test]
        fn a_client_cannot_choose_its_address(invented in "[0-9a-f.:, ]{0,60}") {
            prop_assert_eq!(caller(&[invented.as_bytes(), b"1.2.3.4", b"10.0.0.1"], 2), "address:1.2.3.4");
        }
    }
}
