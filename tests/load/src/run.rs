//! Sends a trace's load and prints a line of JSON a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hyper::body::Bytes;
use hyper::{HeaderMap, Method, Uri};
use jiff::Timestamp;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::client::{Client, Failure};
use crate::record::{End, Line, Outcome, Recorder, Summary};
use crate::trace::Trace;

/// In a path, a post that [`Plan::posts`] had made.
const POST: &str = "{post}";
/// How long the server may take to be found and to answer for the first time.
const START_LIMIT: Duration = Duration::from_mins(1);
/// Outcomes that may wait to be counted, and due requests that may wait to be begun.
const QUEUE: usize = 65_536;

/// What to send.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Scheme, host and port.
    pub base: Uri,
    /// Paths for `GET` and their weights.
    pub paths: Vec<(String, u32)>,
    /// Posts to make before the load begins, for `{post}` in a path.
    pub posts: u32,
    /// The load over time.
    pub trace: Trace,
    /// Of the moments at which requests are due.
    pub seed: u64,
    /// When a request is given up.
    pub timeout: Duration,
    /// Most connections.
    pub connections_max: u64,
    /// Of every `GET`.
    pub headers: HeaderMap,
    /// What is due before this has passed is sent and not counted.
    pub warmup: Duration,
    /// Latencies to count requests over.
    pub thresholds: Vec<Duration>,
}

/// Sends all of a plan's requests, calls `line` for each line of output, and returns the summary.
///
/// # Errors
/// When the plan has no path, or the server cannot be found or prepared. Failed requests are counted, not errors.
pub async fn run(plan: Plan, mut line: impl FnMut(&Line)) -> Result<Summary> {
    let client = Client::new(&plan.base, plan.connections_max, START_LIMIT).await?;
    let posts = make_posts(&client, plan.posts).await?;
    let paths = Paths::new(&plan.paths, posts)?;
    let timeout = plan.timeout;
    let in_flight = Arc::new(AtomicU64::new(0));
    let (ended, mut outcomes) = mpsc::channel::<Outcome>(QUEUE);
    let mut recorder = Recorder::new(plan.thresholds.clone(), plan.timeout, Timestamp::now())?;
    let mut random = SmallRng::seed_from_u64(plan.seed.wrapping_add(1));
    let headers = Arc::new(plan.headers);
    let started = Instant::now();
    let last = plan.trace.duration().as_secs_f64();
    let mut due = pace(plan.trace, plan.seed, started)?;
    let mut sending = true;
    let mut second = 0;
    let mut tick = tokio::time::interval_at(started + Duration::from_secs(1), Duration::from_secs(1));
    loop {
        tokio::select! {
            biased;
            _ = tick.tick() => {
                let under_way = in_flight.load(Ordering::Relaxed);
                while let Ok(outcome) = outcomes.try_recv() {
                    recorder.ended(&outcome);
                }
                line(&Line::Second(recorder.tick(second, Timestamp::now(), under_way, client.connections())));
                second += 1;
                if !sending && under_way == 0 && f64::from(second) >= last {
                    break;
                }
            }
            due = due.recv(), if sending => match due {
                None => sending = false,
                Some(due) => {
                    let counted = due >= started + plan.warmup;
                    if counted {
                        recorder.offered();
                    }
                    let ended = counted.then(|| ended.clone());
                    let request = Sent { due, path: paths.choose(&mut random), headers: headers.clone(), timeout };
                    tokio::spawn(request.send(client.clone(), ended, InFlight::new(&in_flight)));
                }
            },
            Some(outcome) = outcomes.recv() => recorder.ended(&outcome),
        }
    }
    let summary = recorder.summary();
    line(&Line::Summary(summary.clone()));
    Ok(summary)
}

/// A request that is due.
struct Sent {
    due: Instant,
    path: String,
    headers: Arc<HeaderMap>,
    timeout: Duration,
}

impl Sent {
    /// `ended` is absent for a request that is not counted.
    async fn send(self, client: Arc<Client>, ended: Option<mpsc::Sender<Outcome>>, in_flight: InFlight) {
        let late = self.due.elapsed();
        let response = client.send(&Method::GET, &self.path, &self.headers, Bytes::new());
        let (end, resent) = match tokio::time::timeout_at(self.due + self.timeout, response).await {
            Err(_) => (End::TimedOut("timeout".to_owned()), false),
            // All of them wait for the server.
            Ok(Err(Failure::ConnectionsExhausted)) => {
                (End::TimedOut("connections exhausted".to_owned()), false)
            }
            Ok(Err(Failure::Connect)) => (End::Failed("connect".to_owned()), false),
            Ok(Err(Failure::Broken)) => (End::Failed("connection broken".to_owned()), false),
            Ok(Ok(response)) => (End::of(response.status, &response.headers), response.resent),
        };
        // Counted before it is told: the load ends when nothing is under way and nothing is left to count.
        if let Some(ended) = ended {
            let _ = ended.send(Outcome { latency: self.due.elapsed(), late, end, resent }).await;
        }
        drop(in_flight);
    }
}

/// Tells the moments at which requests are due, each when it has come, until the trace or the receiver ends.
///
/// A thread of its own, for its sleep ends within a tenth of a millisecond. The runtime's timer counts in milliseconds,
/// and would add that much to what is measured.
fn pace(trace: Trace, seed: u64, started: Instant) -> Result<mpsc::Receiver<Instant>> {
    let (sender, due) = mpsc::channel(QUEUE);
    let pacer = move || {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut at = 0.0;
        while let Some(next) = next_due(&trace, at, &mut random) {
            let due = started + Duration::from_secs_f64(next);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if sender.blocking_send(due).is_err() {
                return;
            }
            at = next;
        }
    };
    std::thread::Builder::new().name("pacer".into()).spawn(pacer).context("start a thread")?;
    Ok(due)
}

/// The next moment, in seconds, at which a request is due: a Poisson process with the trace's rate, by thinning over
/// spans short enough for the rate to be constant. `None` after the end.
fn next_due(trace: &Trace, from: f64, random: &mut SmallRng) -> Option<f64> {
    const SPAN: f64 = 0.1;
    let end = trace.duration().as_secs_f64();
    let mut at = from;
    while at < end {
        let span_end = (((at / SPAN).floor() + 1.0) * SPAN).max(at + 1e-9);
        let rate = trace.rate(at);
        if rate > 0.0 {
            let gap = -(1.0 - random.random::<f64>()).ln() / rate;
            if at + gap < span_end {
                return (at + gap < end).then_some(at + gap);
            }
        }
        at = span_end;
    }
    None
}

async fn make_posts(client: &Client, count: u32) -> Result<Vec<String>> {
    let deadline = Instant::now() + START_LIMIT;
    let mut posts = Vec::new();
    while posts.len() < count as usize {
        let number = posts.len();
        let body = serde_json::json!({ "title": format!("Post {number}"), "body": "Loaded to the line and no further. ".repeat(20) });
        match client.send(&Method::POST, "/posts", &HeaderMap::new(), Bytes::from(body.to_string())).await {
            Ok(response) if response.status.is_success() => {
                let made: serde_json::Value =
                    serde_json::from_slice(&response.body).context("read a made post")?;
                posts.push(match &made["id"] {
                    serde_json::Value::String(id) => id.clone(),
                    id => id.to_string(),
                });
            }
            Ok(response) if response.status.is_client_error() => {
                bail!("POST /posts answers {}: {}", response.status, String::from_utf8_lossy(&response.body));
            }
            _ if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(200)).await,
            _ => bail!("POST /posts is not answered"),
        }
    }
    Ok(posts)
}

struct Paths {
    weighted: Vec<(String, u32)>,
    total: u32,
    posts: Vec<String>,
}

impl Paths {
    fn new(paths: &[(String, u32)], posts: Vec<String>) -> Result<Self> {
        let total = paths.iter().map(|(_, weight)| weight).sum();
        if total == 0 {
            bail!("there is no path with a weight above 0");
        }
        if posts.is_empty() && paths.iter().any(|(path, _)| path.contains(POST)) {
            bail!("a path has {POST}, but no posts are made");
        }
        Ok(Self { weighted: paths.to_vec(), total, posts })
    }

    fn choose(&self, random: &mut SmallRng) -> String {
        let mut chosen = random.random_range(0..self.total);
        for (path, weight) in &self.weighted {
            if chosen < *weight {
                if !path.contains(POST) {
                    return path.clone();
                }
                return path.replace(POST, &self.posts[random.random_range(0..self.posts.len())]);
            }
            chosen -= weight;
        }
        unreachable!("weights sum to the total")
    }
}

/// Counts a request that is under way for as long as it is.
struct InFlight(Arc<AtomicU64>);

impl InFlight {
    fn new(count: &Arc<AtomicU64>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_due_at_the_rate_of_the_trace() {
        let trace = Trace::parse("0,0\n10,200\n20,50\n30,0\n40,0\n").unwrap();
        let mut random = SmallRng::seed_from_u64(1);
        let mut counts = [0_u32; 5];
        let mut at = 0.0;
        while let Some(due) = next_due(&trace, at, &mut random) {
            counts[(due / 10.0) as usize] += 1;
            at = due;
        }
        assert_eq!((counts[0], counts[3], counts[4]), (0, 0, 0));
        // Five standard deviations of a Poisson count.
        assert!((1777..2224).contains(&counts[1]), "{counts:?}");
        assert!((388..612).contains(&counts[2]), "{counts:?}");
    }

    /// Answers every request on every connection with 200, and tells the requests' heads.
    async fn server() -> (Uri, mpsc::UnboundedReceiver<String>) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let (heads, told) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let heads = heads.clone();
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                        let _ = heads.send(String::from_utf8_lossy(&buffer[..read]).into_owned());
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                    }
                });
            }
        });
        (base, told)
    }

    #[tokio::test]
    async fn what_is_due_in_the_warmup_is_sent_and_not_counted() {
        let (base, mut heads) = server().await;
        let plan = Plan {
            base,
            paths: vec![("/health".to_owned(), 1)],
            posts: 0,
            trace: Trace::parse("0,200\n1,50\n").unwrap(),
            seed: 1,
            timeout: Duration::from_secs(5),
            connections_max: 512,
            headers: HeaderMap::from_iter([(hyper::header::ACCEPT_ENCODING, "br".parse().unwrap())]),
            warmup: Duration::from_secs(1),
            thresholds: Vec::new(),
        };
        let summary = run(plan, |_| {}).await.unwrap();
        let mut sent = 0;
        while let Ok(head) = heads.try_recv() {
            assert!(head.contains("accept-encoding: br\r\n"), "{head}");
            sent += 1;
        }
        assert_eq!(summary.ends.completed, summary.offered);
        // Five standard deviations of a Poisson count.
        assert!((14..86).contains(&summary.offered), "{summary:?}");
        assert!(sent > summary.offered + 100, "{sent} were sent");
    }
}
