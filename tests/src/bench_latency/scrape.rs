//! Reads the API's metrics, and quantiles from their histograms as Prometheus does. Knows only the text format's plain part.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long an answer may take: a server that is out of quota still gives one within a few of its periods.
const LIMIT: Duration = Duration::from_secs(10);

/// The metrics at one moment.
pub struct Scrape(String);

/// Reads `/metrics`.
///
/// # Errors
/// As [`get`].
pub async fn read(address: SocketAddr) -> Result<Scrape> {
    get(address, "/metrics").await.map(Scrape)
}

/// The body of a path that answers 200.
///
/// # Errors
/// When there is no answer in time, or another one.
pub async fn get(address: SocketAddr, path: &str) -> Result<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(LIMIT, exchange).await.with_context(|| format!("GET {path}"))??;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
        _ => bail!("GET {path} answers {:?}", answer.lines().next()),
    }
}

impl Scrape {
    fn samples(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series, value.parse().ok()?))
        })
    }

    /// A metric's series, as they stand there, with their values.
    pub fn series<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        let ours = move |series: &str| {
            series.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
        };
        self.samples().filter(move |(series, _)| ours(series))
    }

    /// The sum of a metric's series.
    pub fn sum(&self, name: &str) -> f64 {
        self.series(name).map(|(_, value)| value).sum()
    }

    /// The finite upper edges of a histogram over all of its series, rising.
    pub fn edges(&self, name: &str) -> Vec<f64> {
        let prefix = format!("{name}_bucket{{");
        let ours = self.samples().filter(|(series, _)| series.starts_with(&prefix));
        let mut edges: Vec<f64> =
            ours.filter_map(|(series, _)| edge(series)).filter(|edge| edge.is_finite()).collect();
        edges.sort_by(f64::total_cmp);
        edges.dedup();
        edges
    }

    /// The `q`-quantile in seconds of what the series that begin with `prefix` gained since `before`. Series with a status
    /// other than a success are left out. Linear within a bucket; the highest finite edge for what lies beyond.
    pub fn quantile(&self, before: &Self, prefix: &str, q: f64) -> f64 {
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for (scrape, sign) in [(self, 1.0), (before, -1.0)] {
            for (series, value) in scrape.samples().filter(|(series, _)| series.starts_with(prefix)) {
                if series.contains("status=\"") && !series.contains("status=\"2") {
                    continue;
                }
                let Some(edge) = edge(series) else { continue };
                match buckets.iter_mut().find(|(other, _)| other.total_cmp(&edge).is_eq()) {
                    Some((_, count)) => *count += sign * value,
                    None => buckets.push((edge, sign * value)),
                }
            }
        }
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let rank = q * buckets.last().map_or(0.0, |(_, total)| *total);
        let (mut lower, mut below) = (0.0, 0.0);
        for (edge, up_to) in buckets {
            if up_to >= rank && up_to > below {
                return if edge.is_finite() {
                    lower + (edge - lower) * (rank - below) / (up_to - below)
                } else {
                    lower
                };
            }
            (lower, below) = (edge, up_to);
        }
        f64::NAN
    }
}

/// The upper edge of a bucket's series.
fn edge(series: &str) -> Option<f64> {
    series.rsplit_once("le=\"")?.1.strip_suffix("\"}")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_what_came_between_two_scrapes() {
        let scrape = |low: u32, high: u32, failed: u32| {
            Scrape(format!(
                "# HELP d_bucket x 1\nd_bucket{{status=\"200\",le=\"0.1\"}} {low}\nd_bucket{{status=\"200\",le=\"0.2\"}} {high}\n\
                 d_bucket{{status=\"200\",le=\"+Inf\"}} {high}\nd_bucket{{status=\"503\",le=\"+Inf\"}} {failed}\nc{{r=\"a\"}} 2\nc{{r=\"b\"}} 3\ncd 9\n"
            ))
        };
        let (before, after) = (scrape(100, 100, 0), scrape(150, 200, 70));
        let p75 = after.quantile(&before, "d_bucket{", 0.75);
        assert!((p75 - 0.15).abs() < 1e-9, "{p75}");
        assert!((after.sum("c") - 5.0).abs() < 1e-9);
        assert!(after.quantile(&after, "d_bucket{", 0.5).is_nan());
        assert_eq!(after.series("c").collect::<Vec<_>>(), [("c{r=\"a\"}", 2.0), ("c{r=\"b\"}", 3.0)]);
        assert_eq!((after.edges("d"), after.edges("c")), (vec![0.1, 0.2], Vec::new()));
    }
}
