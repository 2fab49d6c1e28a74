//! The trace that a request is part of (W3C Trace Context, level 1 and 2). Reads and makes ids; sends nothing anywhere.
//!
//! An answer carries no header of it: `traceresponse` is still a draft, and `x-request-id` is there, which is the trace's
//! id unless the client chose another.

use std::fmt;

use axum::http::{HeaderMap, HeaderName};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Bytes of a version 0 header: `00-` TRACE `-` PARENT `-` FLAGS.
const BYTES: usize = 55;

/// A request's place in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace, never 0.
    pub trace: TraceId,
    /// The caller's span; absent when this service begins the trace.
    pub parent: Option<SpanId>,
    /// This request's own span, never 0.
    pub span: SpanId,
    /// Whether the caller records this trace.
    pub sampled: bool,
}

/// 128 bits, written as 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(pub u128);

/// 64 bits, written as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanId(pub u64);

impl TraceId {
    /// The digits, in ASCII. Each answer bears them, and the formatter takes several times as long.
    pub fn digits(self) -> [u8; 32] {
        let mut digits = [0; 32];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(self.0.to_be_bytes()) {
            pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
            pair[1] = b"0123456789abcdef"[usize::from(byte & 0xf)];
        }
        digits
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.digits()))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl TraceContext {
    /// The caller's trace, or a new one when there is none that can be read.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut lines = headers.get_all(TRACEPARENT).iter();
        // Two of them say nothing: there is no telling which to believe.
        let only = lines.next().filter(|_| lines.next().is_none());
        let read = only.and_then(|line| parse(line.as_bytes()));
        let span = SpanId(rand::random::<u64>().max(1));
        match read {
            Some((trace, parent, sampled)) => Self { trace, parent: Some(parent), span, sampled },
            None => {
                Self { trace: TraceId(rand::random::<u128>().max(1)), parent: None, span, sampled: false }
            }
        }
    }
}

fn parse(line: &[u8]) -> Option<(TraceId, SpanId, bool)> {
    let (known, more) = line.split_at_checked(BYTES)?;
    let [v1, v2, b'-', rest @ ..] = known else { return None };
    let version = hex(&[*v1, *v2])?;
    // Version 0 ends there; a later one may go on behind another dash; ff is forbidden.
    if version == 0xff || !(more.is_empty() || version > 0 && more[0] == b'-') {
        return None;
    }
    let (trace, rest) = rest.split_at_checked(32)?;
    let (parent, rest) = rest.strip_prefix(b"-")?.split_at_checked(16)?;
    let flags = hex(rest.strip_prefix(b"-")?)?;
    let (trace, parent) = (hex(trace)?, hex(parent)? as u64);
    (trace != 0 && parent != 0).then_some((TraceId(trace), SpanId(parent), flags & 1 == 1))
}

/// A number of lower-case hexadecimal digits, at most 32 of them; upper case is not in the standard.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number: u128, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn context(lines: &[&[u8]]) -> TraceContext {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(TRACEPARENT, HeaderValue::from_bytes(line).unwrap());
        }
        TraceContext::of(&headers)
    }

    #[test]
    fn goes_on_with_the_callers_trace() {
        let context = context(&[GOOD.as_bytes()]);
        assert_eq!(context.trace.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(context.parent.unwrap().to_string(), "b7ad6b7169203331");
        assert!(context.sampled && Some(context.span) != context.parent);
    }

    #[test]
    fn reads_what_it_knows_of_a_later_version() {
        let later = GOOD.replacen("00", "cc", 1);
        assert!(context(&[later.as_bytes()]).parent.is_some());
        assert!(context(&[format!("{later}-more").as_bytes()]).parent.is_some());
        assert!(context(&[format!("{later}.more").as_bytes()]).parent.is_none());
    }

    #[test]
    fn begins_a_trace_in_place_of_one_that_cannot_be_read() {
        let zero_trace = GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32));
        let zero_parent = GOOD.replace("b7ad6b7169203331", &"0".repeat(16));
        let bad = [
            b"\xff".to_vec(),
            b"00".to_vec(),
            GOOD.to_uppercase().into_bytes(),
            GOOD.replacen("00", "ff", 1).into_bytes(),
            format!("{GOOD}-more").into_bytes(),
            GOOD.replacen('-', "_", 3).into_bytes(),
            GOOD.as_bytes()[..BYTES - 1].to_vec(),
            zero_trace.into_bytes(),
            zero_parent.into_bytes(),
            Vec::new(),
        ];
        for line in bad {
            let context = context(&[&line]);
            assert_eq!(context.parent, None, "{:?}", String::from_utf8_lossy(&line));
            assert!(context.trace.0 != 0 && !context.sampled);
        }
        assert_eq!(context(&[GOOD.as_bytes(), GOOD.as_bytes()]).parent, None, "twice");
        assert_ne!(context(&[]).trace, context(&[]).trace);
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic_and_ids_are_never_zero(line in "[ -~]{0,80}") {
            let context = context(&[line.as_bytes()]);
            prop_assert!(context.trace.0 != 0 && context.span.0 != 0);
        }

        #[test]
        fn what_was_written_is_read(trace in 1_u128.., parent in 1_u64.., flags in any::<u8>()) {
            let line = format!("00-{}-{}-{flags:02x}", TraceId(trace), SpanId(parent));
            let context = context(&[line.as_bytes()]);
            prop_assert_eq!((context.trace.0, context.parent), (trace, Some(SpanId(parent))));
        }
    }
}
