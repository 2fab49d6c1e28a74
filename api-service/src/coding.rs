//! Content codings: which one a client prefers, and the bytes in it. Compressing is CPU work: never call it on the event loop.

use std::io::Write;

use axum::http::{HeaderMap, HeaderValue, header};

/// Bodies below this are left as they are: they fit one packet either way, and would hardly shrink.
pub const COMPRESS_BYTES_MIN: usize = 1024;

/// Of 0 to 11; 5 makes a page of posts about 15 % smaller than gzip 6, in about the same time.
const BROTLI_QUALITY: u32 = 5;

/// The logarithm of the window; bodies are far smaller than its 4 MiB.
const BROTLI_WINDOW: u32 = 22;

/// zstd's own default.
const ZSTD_LEVEL: i32 = 3;

/// The form in which a body is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// As it is.
    Identity,
    /// RFC 1952.
    Gzip,
    /// RFC 7932.
    Brotli,
    /// RFC 8878.
    Zstd,
}

impl Coding {
    /// Every coding that compresses, from the one that we like best.
    pub const COMPRESSED: [Self; 3] = [Self::Brotli, Self::Zstd, Self::Gzip];

    /// Its name in `Content-Encoding`; nothing for identity, which has none.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some("gzip"),
            Self::Brotli => Some("br"),
            Self::Zstd => Some("zstd"),
        }
    }

    /// The entity tag of a body in this coding, when `tag` is that of the body as it is: what a strong tag stands for are the
    /// bytes that are sent (RFC 9110, section 8.8.3.3).
    pub fn tag(self, tag: &str) -> String {
        self.name().map_or_else(|| tag.to_owned(), |name| format!("{tag}-{name}"))
    }

    /// The tag of the body as it is, of which `tag` is that of some coding.
    pub fn strip_from_tag(tag: &str) -> &str {
        let bare = |coding: &Self| tag.strip_suffix(coding.name()?)?.strip_suffix('-');
        Self::COMPRESSED.iter().find_map(bare).unwrap_or(tag)
    }

    /// The coding that the client prefers by its `Accept-Encoding`; among equals, the best of ours.
    ///
    /// Identity when it accepts none of them, even when it refuses identity too: an answer helps more than a 406
    /// (RFC 9110, section 12.5.3, allows either).
    pub fn negotiate(headers: &HeaderMap) -> Self {
        let mut quality = Qualities::default();
        for value in headers.get_all(header::ACCEPT_ENCODING) {
            quality.read(value);
        }
        let mut best = (Self::Identity, quality.of(Self::Identity).unwrap_or(IDENTITY_UNSAID));
        // From the least liked to the best, so that equals go to the best.
        for coding in Self::COMPRESSED.into_iter().rev() {
            match quality.of(coding) {
                Some(said) if said > 0 && said >= best.1 => best = (coding, said),
                _ => {}
            }
        }
        best.0
    }

    /// `body` in this coding.
    ///
    /// # Errors
    /// Never for bytes in memory, unless the memory runs out.
    pub fn encode(self, body: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut coded = Vec::with_capacity(body.len() / 2);
        match self {
            Self::Identity => coded.extend_from_slice(body),
            Self::Gzip => {
                let mut gzip = flate2::write::GzEncoder::new(coded, flate2::Compression::default());
                gzip.write_all(body)?;
                coded = gzip.finish()?;
            }
            Self::Brotli => {
                let mut brotli =
                    brotli::CompressorWriter::new(&mut coded, 4096, BROTLI_QUALITY, BROTLI_WINDOW);
                brotli.write_all(body)?;
                brotli.flush()?;
                drop(brotli);
            }
            Self::Zstd => zstd::stream::copy_encode(body, &mut coded, ZSTD_LEVEL)?,
        }
        Ok(coded)
    }
}

/// What identity is worth when the client says nothing of it: anything that it names with a higher quality wins.
const IDENTITY_UNSAID: u16 = 0;

/// The qualities that a client gave, in thousandths.
#[derive(Debug, Default)]
struct Qualities {
    identity: Option<u16>,
    gzip: Option<u16>,
    brotli: Option<u16>,
    zstd: Option<u16>,
    rest: Option<u16>,
}

impl Qualities {
    /// Takes in one header; members that make no sense are as if they were not there.
    fn read(&mut self, value: &HeaderValue) {
        let Ok(text) = value.to_str() else { return };
        for member in text.split(',') {
            let mut parts = member.split(';');
            let name = parts.next().unwrap_or_default().trim();
            let Some(quality) = parts.next().map_or(Some(1000), quality) else { continue };
            let place = match name {
                _ if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") => {
                    &mut self.gzip
                }
                _ if name.eq_ignore_ascii_case("br") => &mut self.brotli,
                _ if name.eq_ignore_ascii_case("zstd") => &mut self.zstd,
                _ if name.eq_ignore_ascii_case("identity") => &mut self.identity,
                "*" => &mut self.rest,
                _ => continue,
            };
            *place = Some(quality);
        }
    }

    fn of(&self, coding: Coding) -> Option<u16> {
        match coding {
            Coding::Identity => self.identity,
            Coding::Gzip => self.gzip.or(self.rest),
            Coding::Brotli => self.brotli.or(self.rest),
            Coding::Zstd => self.zstd.or(self.rest),
        }
    }
}

/// `q=0.5` in thousandths; nothing for what is no quality (RFC 9110, section 12.4.2).
fn quality(parameter: &str) -> Option<u16> {
    let number = parameter.trim().strip_prefix(['q', 'Q'])?.trim_start().strip_prefix('=')?.trim();
    let plain = number.len() <= 5 && number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let quality: f64 = number.parse().ok().filter(|_| plain)?;
    (quality <= 1.0).then(|| (quality * 1000.0).round() as u16)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    fn negotiate(accept: &str) -> Coding {
        let value = HeaderValue::from_bytes(accept.as_bytes()).unwrap();
        Coding::negotiate(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, value)]))
    }

    #[test]
    fn the_clients_quality_decides_and_then_ours() {
        assert_eq!(Coding::negotiate(&HeaderMap::new()), Coding::Identity);
        for (accept, coding) in [
            ("", Coding::Identity),
            ("gzip", Coding::Gzip),
            ("GZIP", Coding::Gzip),
            ("x-gzip", Coding::Gzip),
            ("gzip, deflate, br, zstd", Coding::Brotli),
            ("gzip, zstd", Coding::Zstd),
            ("br;q=0.5, gzip;q=0.8", Coding::Gzip),
            ("br; q = 0.5 , gzip ; q=0.5", Coding::Brotli),
            ("*", Coding::Brotli),
            ("br;q=0, *", Coding::Zstd),
            ("*;q=0", Coding::Identity),
            ("gzip;q=0", Coding::Identity),
            ("identity;q=0, deflate", Coding::Identity),
            ("identity, gzip;q=0.5", Coding::Identity),
            ("identity;q=0.5, gzip;q=0.5", Coding::Gzip),
            ("gzip;q=2", Coding::Identity),
            ("gzip;q=nan", Coding::Identity),
            ("deflate", Coding::Identity),
        ] {
            assert_eq!(negotiate(accept), coding, "{accept:?}");
        }
    }

    #[test]
    fn a_tag_in_any_coding_leads_back_to_its_own() {
        for coding in [Coding::Identity, Coding::Gzip, Coding::Brotli, Coding::Zstd] {
            assert_eq!(Coding::strip_from_tag(&coding.tag("v3")), "v3", "{coding:?}");
        }
        assert_eq!(Coding::strip_from_tag("v3-lzma"), "v3-lzma");
    }

    #[test]
    fn several_headers_are_one_list() {
        let mut headers = HeaderMap::new();
        headers.append(header::ACCEPT_ENCODING, HeaderValue::from_static("br;q=0"));
        headers.append(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        assert_eq!(Coding::negotiate(&headers), Coding::Gzip);
    }

    fn decode(coding: Coding, coded: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        match coding {
            Coding::Identity => body.extend_from_slice(coded),
            Coding::Gzip => _ = flate2::read::GzDecoder::new(coded).read_to_end(&mut body).unwrap(),
            Coding::Brotli => _ = brotli::Decompressor::new(coded, 4096).read_to_end(&mut body).unwrap(),
            Coding::Zstd => zstd::stream::copy_decode(coded, &mut body).unwrap(),
        }
        body
    }

    proptest! {
        #[test]
        fn every_coding_gives_the_body_back(body in proptest::collection::vec(any::<u8>(), 0..4096)) {
            for coding in [Coding::Identity, Coding::Gzip, Coding::Brotli, Coding::Zstd] {
                prop_assert_eq!(decode(coding, &coding.encode(&body).unwrap()), body.clone());
            }
        }

        #[test]
        fn no_header_is_too_strange(accept in "[ -~]{0,60}", bytes in proptest::collection::vec(128..=255_u8, 0..8)) {
            negotiate(&accept);
            let value = HeaderValue::from_bytes(&[accept.as_bytes(), &bytes].concat()).unwrap();
            Coding::negotiate(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, value)]));
        }
    }
}
