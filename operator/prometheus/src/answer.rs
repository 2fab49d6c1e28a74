//! Reads what a server answered to a query: the result, or why there is none, in the server's own words.

use hyper::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::fetch::Response;

/// Characters of a text that is repeated in an error.
const SHOWN_CHARACTERS: usize = 300;

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

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body<T> {
    status: String,
    data: Option<Data<T>>,
    error_type: Option<String>,
    error: Option<String>,
    #[serde(default = "Vec::new")]
    warnings: Vec<String>,
}

#[derive(Deserialize)]
struct Data<T> {
    result: T,
}

/// Reads an answer.
///
/// # Errors
/// [`Refusal`], when there is no result.
pub fn parse<T: DeserializeOwned>(response: &Response) -> Result<Answer<T>, Refusal> {
    let status = response.status;
    if let Some(location) = &response.location {
        return Err(Refusal::Redirect(plain(location)));
    }
    match serde_json::from_slice::<Body<T>>(&response.body) {
        Ok(Body { status: said, data: Some(Data { result }), warnings, .. }) if said == "success" => {
            Ok(Answer { result, warnings: warnings.iter().map(|warning| plain(warning)).collect() })
        }
        Ok(Body { error: Some(error), error_type, .. }) => Err(Refusal::Said {
            status,
            error_type: plain(&error_type.unwrap_or_default()),
            error: plain(&error),
        }),
        Ok(_) | Err(_) => {
            let text = plain(&String::from_utf8_lossy(&response.body));
            Err(if status.is_success() {
                Refusal::NotPrometheus(text)
            } else {
                Refusal::Status { status, text }
            })
        }
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
        let response = Response { status, location: None, body: body.as_bytes().to_vec().into() };
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
