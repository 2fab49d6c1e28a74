//! Reads what the server answered: series, or why there are none, in the server's own words and with what to do.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow, bail};
use hyper::StatusCode;
use plimsoll_prometheus::Response;
use plimsoll_prometheus::answer::{self, Refusal};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// What came back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The series.
    pub series: Vec<Series>,
    /// What the server wants to be known, such as that a part of its data could not be read.
    pub warnings: Vec<String>,
}

/// One series.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Series {
    /// Its labels.
    #[serde(default)]
    pub metric: BTreeMap<String, String>,
    /// Seconds since the epoch, and the value as it is written.
    #[serde(default)]
    pub values: Vec<(f64, String)>,
    /// Points that are histograms and not numbers.
    #[serde(default)]
    pub histograms: Vec<IgnoredAny>,
}

/// Reads an answer.
///
/// # Errors
/// When it is a refusal, or not Prometheus'.
pub fn parse(response: &Response) -> Result<Answer> {
    let answer::Answer { result: series, warnings } =
        answer::parse::<Vec<Series>>(response).map_err(|refusal| {
            let hint = match &refusal {
                Refusal::Redirect(_) => "; write that server as --prometheus",
                Refusal::Said { status, error_type, error } => hint(*status, error_type, error),
                Refusal::Status { status, text } => hint(*status, "", text),
                Refusal::NotPrometheus(_) => "",
            };
            anyhow!("{refusal}{hint}")
        })?;
    if series.iter().any(|series| !series.histograms.is_empty()) {
        bail!(
            "the query gives native histograms; count their requests, such as by sum(histogram_count(rate(http_request_duration_seconds[1m])))"
        );
    }
    Ok(Answer { series, warnings })
}

fn hint(status: StatusCode, error_type: &str, error: &str) -> &'static str {
    const LESS: &str = "; write a larger --step or a shorter range";
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            "; name a file with a token that it takes by --bearer-token-file"
        }
        StatusCode::NOT_FOUND => "; is that its address, with the path that it may be served under?",
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => LESS,
        _ if error_type == "timeout" => LESS,
        _ if error.contains("too many samples") || error.contains("maximum resolution") => LESS,
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_prometheus::Head;

    use super::*;

    fn answer(status: u16, body: &str) -> Response {
        let head = Head { status: StatusCode::from_u16(status).unwrap(), location: None };
        Response { head, body: body.as_bytes().to_vec().into() }
    }

    fn refusal(status: u16, body: &str) -> String {
        parse(&answer(status, body)).unwrap_err().to_string()
    }

    #[test]
    fn series_and_warnings_are_read() {
        let body = r#"{"status":"success","data":{"resultType":"matrix","result":[
            {"metric":{"code":"200"},"values":[[1435781430,"1"],[1435781445,"NaN"]]}]},"warnings":["some store\nis down"]}"#;
        let answer = parse(&answer(200, body)).unwrap();
        assert_eq!(answer.series[0].metric["code"], "200");
        assert_eq!(answer.series[0].values, [(1_435_781_430.0, "1".into()), (1_435_781_445.0, "NaN".into())]);
        assert_eq!(answer.warnings, ["some store is down"]);
    }

    #[test]
    fn a_refusal_is_in_prometheus_own_words_with_what_to_do() {
        for (status, body, message) in [
            (
                400,
                r#"{"status":"error","errorType":"bad_data","error":"invalid parameter \"query\": 1:4: parse error: unclosed left parenthesis"}"#,
                "Prometheus says (400, bad_data): invalid parameter \"query\": 1:4: parse error: unclosed left parenthesis",
            ),
            (
                422,
                r#"{"status":"error","errorType":"execution","error":"query processing would load too many samples into memory in query execution"}"#,
                "in query execution; write a larger --step or a shorter range",
            ),
            (
                503,
                r#"{"status":"error","errorType":"timeout","error":"query timed out in expression evaluation"}"#,
                "query timed out in expression evaluation; write a larger --step or a shorter range",
            ),
            (
                401,
                "Unauthorized\n",
                "it answers 401 Unauthorized: \"Unauthorized\"; name a file with a token",
            ),
            (
                404,
                "404 page not found",
                "it answers 404 Not Found: \"404 page not found\"; is that its address",
            ),
            (502, "<html>\n <b>Bad\u{1b}[2J</b>", "it answers 502 Bad Gateway: \"<html> <b>Bad [2J</b>\""),
            (
                200,
                "<!doctype html>",
                "the answer is none of Prometheus: \"<!doctype html>\"; is that its address",
            ),
            (200, r#"{"status":"success"}"#, "the answer is none of Prometheus"),
        ] {
            let said = refusal(status, body);
            assert!(said.contains(message), "{message}\n{said}");
        }
        let long = refusal(500, &"x".repeat(1000));
        assert!(long.len() < 400, "{long}");
    }

    #[test]
    fn a_redirect_and_native_histograms_are_told() {
        let mut moved = answer(302, "");
        moved.head.location = Some("/prometheus/api".into());
        assert!(parse(&moved).unwrap_err().to_string().contains("it sends to /prometheus/api; write that"));
        let body = r#"{"status":"success","data":{"resultType":"matrix","result":[
            {"metric":{},"histograms":[[1435781430,{"count":"60","sum":"1"}]]}]}}"#;
        assert!(refusal(200, body).contains("sum(histogram_count(rate("));
    }
}
