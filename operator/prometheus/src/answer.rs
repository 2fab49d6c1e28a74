//! Reads what a server answered to a query: the result, or why there is none, in the server's own words.

use std::fmt;
use std::marker::PhantomData;

use hyper::StatusCode;
use serde::Deserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, IgnoredAny, MapAccess, Visitor};

use crate::fetch::{Head, Response};

/// Characters of a text that is repeated in an error.
const SHOWN_CHARACTERS: usize = 300;

/// What is looked at for them.
const SHOWN_BYTES: usize = 4 << 10;

/// What came back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer<T> {
    /// The result, in the form of its type.
    pub result: T,
    /// What the server wants to be known, such as that a part of its data could not be read.
    pub warnings: Vec<String>,
}

/// Why there is no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It sends elsewhere.
    #[error("it sends to {0}")]
    Redirect(String),
    /// Prometheus says why.
    #[error("Prometheus says ({}, {error_type}): {error}", status.as_u16())]
    Said {
        /// The answer's status.
        status: StatusCode,
        /// Prometheus' name for the kind of error, such as `bad_data`.
        error_type: String,
        /// Its words.
        error: String,
    },
    /// Something else says why.
    #[error("it answers {status}: {text:?}")]
    Status {
        /// The answer's status.
        status: StatusCode,
        /// The answer.
        text: String,
    },
    /// It answers well, but not as Prometheus does.
    #[error(
        "the answer is none of Prometheus: {0:?}; is that its address, with the path that it may be served under?"
    )]
    NotPrometheus(String),
}

/// Reads an answer.
///
/// # Errors
/// [`Refusal`], when there is no result.
pub fn parse<T: DeserializeOwned>(response: &Response) -> Result<Answer<T>, Refusal> {
    parse_seed(response, PhantomData)
}

/// Reads an answer whose result is taken by a seed, which need not hold it whole.
///
/// # Errors
/// As [`parse`].
pub fn parse_seed<'r, S: DeserializeSeed<'r>>(
    response: &'r Response,
    seed: S,
) -> Result<Answer<S::Value>, Refusal> {
    let Head { status, location } = &response.head;
    let status = *status;
    if let Some(location) = location {
        return Err(Refusal::Redirect(plain(location)));
    }
    match body(&response.body, seed) {
        Ok(Body { status: said, data: Some(result), warnings, .. }) if said == "success" => {
            Ok(Answer { result, warnings: warnings.iter().map(|warning| plain(warning)).collect() })
        }
        Ok(Body { status: said, error: Some(error), error_type, .. }) if said == "error" => {
            Err(Refusal::Said {
                status,
                error_type: plain(&error_type.unwrap_or_default()),
                error: plain(&error),
            })
        }
        Ok(_) | Err(_) => {
            let beginning = &response.body[..response.body.len().min(SHOWN_BYTES)];
            let text = plain(&String::from_utf8_lossy(beginning));
            Err(if status.is_success() {
                Refusal::NotPrometheus(text)
            } else {
                Refusal::Status { status, text }
            })
        }
    }
}

/// What all answers have, and the result.
struct Body<T> {
    status: String,
    data: Option<T>,
    error_type: Option<String>,
    error: Option<String>,
    warnings: Vec<String>,
}

fn body<'r, S: DeserializeSeed<'r>>(text: &'r [u8], seed: S) -> Result<Body<S::Value>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let body = deserializer.deserialize_map(BodyVisitor(seed))?;
    deserializer.end()?;
    Ok(body)
}

struct BodyVisitor<S>(S);

impl<'de, S: DeserializeSeed<'de>> Visitor<'de> for BodyVisitor<S> {
    type Value = Body<S::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an answer of Prometheus")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut seed = Some(self.0);
        let mut body =
            Body { status: String::new(), data: None, error_type: None, error: None, warnings: Vec::new() };
        while let Some(key) = map.next_key::<String>()? {
            match (key.as_str(), seed.take()) {
                ("data", Some(seed)) => body.data = map.next_value_seed(DataSeed(seed))?,
                (key, kept) => {
                    seed = kept;
                    match key {
                        "status" => body.status = map.next_value()?,
                        "errorType" => body.error_type = map.next_value()?,
                        "error" => body.error = map.next_value()?,
                        "warnings" => body.warnings = map.next_value()?,
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
            }
        }
        Ok(body)
    }
}

/// Takes the result out of `data`, which may be null beside an error.
struct DataSeed<S>(S);

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for DataSeed<S> {
    type Value = Option<S::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, S: DeserializeSeed<'de>> Visitor<'de> for DataSeed<S> {
    type Value = Option<S::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the data of an answer of Prometheus")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut seed = Some(self.0);
        let mut result = None;
        while let Some(key) = map.next_key::<String>()? {
            match seed.take() {
                Some(seed) if key == "result" => result = Some(map.next_value_seed(seed)?),
                kept => {
                    seed = kept;
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(result)
    }
}

/// A text of the server's on one line, without what a terminal would obey.
fn plain(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let line = words.collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, body: &str) -> String {
        let status = StatusCode::from_u16(status).unwrap();
        let response =
            Response { head: Head { status, location: None }, body: body.as_bytes().to_vec().into() };
        parse::<Vec<u8>>(&response).unwrap_err().to_string()
    }

    #[test]
    fn a_result_of_another_type_is_none() {
        assert!(
            refusal(200, r#"{"status":"success","data":{"resultType":"scalar","result":[1,"2"]}}"#)
                .starts_with("the answer is none of Prometheus")
        );
    }

    #[test]
    fn what_a_terminal_would_obey_and_what_is_long_is_left_out() {
        assert_eq!(refusal(502, "a\u{1b}[2J\nb"), "it answers 502 Bad Gateway: \"a [2J b\"");
        assert!(refusal(500, &"x".repeat(1000)).len() < 400);
        let said = refusal(400, r#"{"status":"error","errorType":"bad_data","error":"parse\nerror"}"#);
        assert_eq!(said, "Prometheus says (400, bad_data): parse error");
    }
}
