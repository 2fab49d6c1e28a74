//! `cargo xtask bench api`: Plimsoll's API beside what a user would pick in its place, on this machine, in one run.
//!
//! The server has CPU 0 for itself; load generator and Redis have CPU 1. Every round starts each server afresh, and every
//! other round goes through them backwards (ABBA), so that a machine that warms up or slows down does so for all.
//! Reading order: [`case`] and [`server`] (what is compared), [`probe`], [`measure`], [`results`], [`goals`], [`markdown`].

pub mod case;
pub mod cluster;
pub mod content;
pub mod data;
pub mod decision;
pub mod draw;
pub mod fleet;
pub mod goals;
pub mod machine;
pub mod markdown;
pub mod measure;
pub mod probe;
pub mod process;
pub mod results;
pub mod rivals;
pub mod scaling;
pub mod server;
pub mod stats;
pub mod sustained;
pub mod usage;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::{Args, Subcommand, ValueEnum};
use http::header::HeaderName;
use http::{HeaderMap, Method, StatusCode};
use jiff::Timestamp;
use plimsoll_load::client::Client;
use serde::Serialize;

use self::case::Case;
use self::content::Content;
use self::machine::Machine;
use self::probe::Offer;
use self::results::{Capacity, Found, Probed, Rate, Results, Run, Settings};
use self::server::{Server, Serving, Stage};
use crate::progress::{note, step};
use crate::{bench_latency, host, paths};

/// CPU of the load generators and of Redis.
pub const GENERATOR_CPU: &str = "1";
/// Of a request that is no measurement.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// To find a server's capacity before the rounds.
const CAPACITY_SECONDS: u64 = 2;
/// To start and to end a server, for the estimate.
const START_SECONDS: u64 = 2;

/// What is measured.
#[derive(Subcommand)]
pub enum Command {
    /// Measures the API service beside Express, Fastify, Go and nginx: CPU a request, capacity, latency, memory.
    Api(Options),
    /// Compares the API's own latency histogram with what its clients feel, below and above the capacity of its CPU quota.
    Latency(bench_latency::Options),
    /// Measures what a decision of the scaling engine costs, in time and allocations, against pods and histogram sizes, and what a
    /// simulated hour takes.
    Decision(decision::Options),
    /// Runs the scaling engine beside HPA, KEDA, Knative and an oracle in the simulator, on traces and changing services.
    Scaling(scaling::Options),
    /// Runs a step of the load under Plimsoll and under the real HPA on the local cluster, and a trace on it and in the simulator.
    Cluster(cluster::Options),
    /// Measures one operator with hundreds of resources on the local cluster: CPU, memory, and whether it keeps up.
    Fleet(fleet::Options),
}

/// How it is measured.
#[derive(Args)]
pub struct Options {
    /// Where every round's numbers go.
    #[arg(long, value_name = "FILE", default_value = "out/bench/api.json")]
    json: PathBuf,
    /// Times that every server is started and measured; even, so that each is as often early as late [default: 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Seconds of a measurement [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: Option<u64>,
    /// Only these, as CASE, /SERVER or CASE/SERVER, such as list/go; may be repeated. Plimsoll and Express always take part.
    #[arg(long, value_name = "CASE/SERVER", value_parser = Filter::parse)]
    only: Vec<Filter>,
    /// One round of a second: shows that everything works, and its numbers are worth nothing.
    #[arg(long)]
    quick: bool,
    /// Write the tables into docs/benchmarks.md.
    #[arg(long, conflicts_with_all = ["quick", "only"])]
    publish: bool,
}

/// Which cases of which servers; what is absent is all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Filter {
    case: Option<Case>,
    server: Option<Server>,
}

impl Filter {
    fn parse(text: &str) -> Result<Self, String> {
        let (case, server) = text.split_once('/').unwrap_or((text, ""));
        let read = |name: &str| (!name.is_empty()).then_some(name.to_owned());
        let case = read(case)
            .map(|name| Case::from_str(&name, false).map_err(|_| unknown(&name, &Case::ALL.map(Case::id))));
        let server = read(server).map(|name| {
            Server::from_str(&name, false).map_err(|_| unknown(&name, &Server::ALL.map(Server::id)))
        });
        Ok(Self { case: case.transpose()?, server: server.transpose()? })
    }

    fn takes(self, server: Server, case: Case) -> bool {
        let always = matches!(server, Server::Plimsoll | Server::Express);
        self.case.is_none_or(|only| only == case) && (always || self.server.is_none_or(|only| only == server))
    }
}

fn unknown(name: &str, known: &[&str]) -> String {
    format!("{name:?} is none of: {}", known.join(", "))
}

/// Measures, prints the tables and writes the numbers.
///
/// # Errors
/// When the machine has too few CPUs, or Plimsoll or Express cannot be measured. What fails of another server is told
/// in the tables.
pub async fn run(command: Command) -> Result<()> {
    let options = match command {
        Command::Api(options) => options,
        Command::Latency(options) => return bench_latency::run(options).await,
        Command::Decision(options) => return decision::run(options).await,
        Command::Scaling(options) => return scaling::run(options).await,
        Command::Cluster(options) => return cluster::run(options).await,
        Command::Fleet(options) => return fleet::run(options).await,
    };
    let machine = Machine::read()?;
    host::install_bench_packages().await?;
    let settings = settings(&options);
    let taken = |server: Server, case: Case| {
        options.only.is_empty() || options.only.iter().any(|filter| filter.takes(server, case))
    };
    note(format!(
        "{} rounds take about {} minutes",
        settings.rounds,
        estimate(&settings, &taken).div_ceil(60)
    ));
    let folder =
        tempfile::Builder::new().prefix("plimsoll-bench-").tempdir().context("make a temporary folder")?;
    open_to_all(folder.path())?;
    let stage = Stage::set(folder.path(), machine.cpus).await?;
    let mut bench = Bench {
        content: step("Give Plimsoll a hundred posts", seed(&stage)).await?,
        stage,
        offers: BTreeMap::new(),
        results: Results {
            started: Timestamp::now(),
            machine,
            versions: machine::versions().await?,
            settings,
            probes: Vec::new(),
            capacities: Vec::new(),
            runs: Vec::new(),
        },
    };
    bench.content.write(folder.path())?;
    for server in Server::ALL {
        let cases: Vec<Case> = Case::ALL.into_iter().filter(|case| taken(server, *case)).collect();
        if !cases.is_empty() {
            step(format!("Probe {}", server.title()), bench.probe(server, &cases)).await?;
        }
    }
    for round in 1..=bench.results.settings.rounds {
        for server in order(round) {
            if bench.offers.keys().any(|(of, _)| *of == server) {
                let title = format!("Round {round}: measure {}", server.title());
                step(title, bench.measure(round, server)).await?;
            }
        }
        write(&options.json, &bench.results)?;
    }
    let rendered = markdown::render(&bench.results);
    println!("{rendered}");
    note(format!("every round's numbers are in {}", options.json.display()));
    if options.publish {
        markdown::publish(&paths::project().join("docs/benchmarks.md"), &rendered)?;
    }
    Ok(())
}

fn settings(options: &Options) -> Settings {
    let quick = options.quick;
    Settings {
        rounds: options.rounds.unwrap_or(if quick { 1 } else { 4 }),
        seconds: options.seconds.unwrap_or(if quick { 1 } else { 5 }),
        // Until just-in-time compilers have seen the route often enough.
        warmup_seconds: if quick { 1 } else { 2 },
        baseline_seconds: if quick { 2 } else { 20 },
        quick,
    }
}

/// Seconds that the probes and rounds take, without builds.
fn estimate(settings: &Settings, taken: &impl Fn(Server, Case) -> bool) -> u64 {
    let of = |server: Server| {
        let cases = Case::ALL.into_iter().filter(|case| taken(server, *case)).count() as u64;
        let open_loops = if server == Server::Plimsoll { 3 } else { 1 };
        // A generator starts, warms up for a second and waits for the end of its last second.
        let case = settings.warmup_seconds + settings.seconds + open_loops * (settings.seconds + 2);
        if cases == 0 { 0 } else { START_SECONDS + settings.baseline_seconds + cases * case }
    };
    let cases = Case::ALL.into_iter().filter(|case| taken(Server::Express, *case)).count() as u64;
    let closed = 2 * (CAPACITY_SECONDS + settings.warmup_seconds);
    let sustained = sustained::TRIES_USUAL * (settings.seconds + 2);
    let probes = Server::ALL.len() as u64 * START_SECONDS + cases * (closed + sustained);
    probes + u64::from(settings.rounds) * Server::ALL.into_iter().map(of).sum::<u64>()
}

/// Forwards in odd rounds, backwards in even ones.
fn order(round: u32) -> Vec<Server> {
    let mut servers = Server::ALL.to_vec();
    if round.is_multiple_of(2) {
        servers.reverse();
    }
    servers
}

async fn seed(stage: &Stage) -> Result<Content> {
    let serving = stage.start(Server::Plimsoll).await?;
    Content::seed(&serving.client).await
}

struct Bench {
    stage: Stage,
    content: Content,
    offers: BTreeMap<(Server, Case), Offer>,
    results: Results,
}

impl Bench {
    /// Finds out what a server offers, of Express and Plimsoll how much of it they can carry in a closed loop, and of
    /// Express also in an open one: it is where the rates come from at which all are compared.
    async fn probe(&mut self, server: Server, cases: &[Case]) -> Result<()> {
        let needed = matches!(server, Server::Plimsoll | Server::Express);
        let serving = match self.stage.start(server).await {
            Ok(serving) => Some(serving),
            Err(error) if needed => return Err(error),
            Err(error) => {
                self.refuse(server, cases, &format!("{error:#}"));
                None
            }
        };
        let Some(serving) = serving else { return Ok(()) };
        for &case in cases {
            match probe::probe(&serving.client, server, case, &self.content).await {
                Ok(offer) => {
                    let probed =
                        Probed { server, case, body_bytes: Some(offer.body_bytes), not_offered: None };
                    self.results.probes.push(probed);
                    if needed {
                        let paths = case.paths(&self.content);
                        let load = async |seconds| {
                            measure::closed(&self.stage, &serving, &paths, &offer, seconds).await
                        };
                        load(self.results.settings.warmup_seconds).await?;
                        let requests_per_second = load(CAPACITY_SECONDS).await?.requests_per_second;
                        let sustained_per_second = if server == Server::Express {
                            let seconds = self.results.settings.seconds;
                            let load = async |rate| {
                                measure::open(&self.stage, &serving, &paths, &offer, rate, seconds).await
                            };
                            sustained::highest(requests_per_second, load).await?
                        } else {
                            None
                        };
                        let capacity = Capacity { server, case, requests_per_second, sustained_per_second };
                        self.results.capacities.push(capacity);
                    }
                    self.offers.insert((server, case), offer);
                }
                Err(error) => self.refuse(server, &[case], &format!("{error:#}")),
            }
        }
        Ok(())
    }

    fn refuse(&mut self, server: Server, cases: &[Case], reason: &str) {
        for &case in cases {
            note(format!("{} does not offer {}: {reason}", server.title(), case.id()));
            let not_offered = Some(reason.to_owned());
            self.results.probes.push(Probed { server, case, body_bytes: None, not_offered });
        }
    }

    /// Starts a server and measures all that it offers.
    async fn measure(&mut self, round: u32, server: Server) -> Result<()> {
        let Settings { seconds, warmup_seconds, baseline_seconds, .. } = self.results.settings;
        let serving = match self.stage.start(server).await {
            Ok(serving) => serving,
            Err(error) => {
                let found = Found::Failed { reason: format!("start: {error:#}") };
                self.results.runs.push(Run { round, server, found });
                return Ok(());
            }
        };
        let mut found = Vec::new();
        let offers = self.offers.iter().filter(|((of, _), _)| *of == server);
        for (&(_, case), offer) in offers {
            let paths = case.paths(&self.content);
            let closed = async |seconds| measure::closed(&self.stage, &serving, &paths, offer, seconds).await;
            found.push(match closed(warmup_seconds).await.and(closed(seconds).await) {
                Ok(closed) => Found::Closed { case, closed },
                Err(error) => failed(case, &error),
            });
            if let Some(rate) = self.equal_rate(case) {
                found.push(self.open(&serving, case, offer, Rate::Equal, rate).await);
            }
        }
        if let Some(offer) = self.offers.get(&(server, Case::Health)) {
            let paths = Case::Health.paths(&self.content);
            found.push(match measure::closed(&self.stage, &serving, &paths, offer, baseline_seconds).await {
                Ok(closed) => Found::Baseline(closed),
                Err(error) => failed(Case::Health, &error),
            });
        }
        // Before what only some servers have to bear.
        found.push(Found::Memory(usage::memory(serving.running.id())?));
        let offers = self.offers.iter().filter(|((of, _), _)| *of == server);
        for (&(_, case), offer) in offers {
            for (at, rate) in self.own_rates(server, case) {
                found.push(self.open(&serving, case, offer, at, rate).await);
            }
        }
        self.results.runs.extend(found.into_iter().map(|found| Run { round, server, found }));
        Ok(())
    }

    /// Measures an open loop of `rate` requests a second.
    async fn open(&self, serving: &Serving, case: Case, offer: &Offer, at: Rate, rate: f64) -> Found {
        let (paths, seconds) = (case.paths(&self.content), self.results.settings.seconds);
        match measure::open(&self.stage, serving, &paths, offer, rate, seconds).await {
            Ok(open) => Found::Open { case, at, open },
            Err(error) => failed(case, &error),
        }
    }

    /// What one server was found to carry in a case before the rounds.
    fn capacity(&self, server: Server, case: Case) -> Option<&Capacity> {
        self.results.capacities.iter().find(|capacity| (capacity.server, capacity.case) == (server, case))
    }

    /// The rate of every server's open loop in a case, in requests a second; none if Express sustains none.
    fn equal_rate(&self, case: Case) -> Option<f64> {
        Some(0.8 * self.capacity(Server::Express, case)?.sustained_per_second?)
    }

    /// The rates of the open loops that only this server has, in requests a second.
    fn own_rates(&self, server: Server, case: Case) -> Vec<(Rate, f64)> {
        let own = self.capacity(Server::Plimsoll, case).filter(|_| server == Server::Plimsoll);
        own.map_or(Vec::new(), |own| {
            let own = own.requests_per_second;
            vec![(Rate::OwnHalf, 0.5 * own), (Rate::OwnMost, 0.8 * own)]
        })
    }
}

fn failed(case: Case, error: &anyhow::Error) -> Found {
    let reason = format!("{}: {error:#}", case.id());
    note(&reason);
    Found::Failed { reason }
}

fn write(path: &Path, results: &impl Serialize) -> Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    std::fs::write(path, serde_json::to_string_pretty(results)?)
        .with_context(|| format!("write {}", path.display()))
}

/// nginx's worker reads its files as another user.
fn open_to_all(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).context("open a folder to nginx")
}

/// An answer whose body has been read.
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, as sent.
    pub body: Bytes,
}

impl Answer {
    /// A header's value, where it is text.
    pub fn header(&self, name: HeaderName) -> Option<String> {
        Some(self.headers.get(name)?.to_str().ok()?.to_owned())
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).context("the body is not JSON")
    }
}

/// Sends a request and takes any answer.
///
/// # Errors
/// When none comes in time.
pub async fn send(
    client: &Client,
    method: Method,
    path: &str,
    headers: &[(String, String)],
    body: Bytes,
) -> Result<Answer> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(name.parse::<HeaderName>()?, value.parse()?);
    }
    let answer = tokio::time::timeout(REQUEST_LIMIT, client.send(&method, path, &map, body)).await;
    let answer = answer.with_context(|| format!("{method} {path} is not answered in time"))?;
    let answer = answer.map_err(|failure| anyhow::anyhow!("{method} {path}: {failure:?}"))?;
    Ok(Answer { status: answer.status, headers: answer.headers, body: answer.body })
}

/// As [`send`], and the answer must be a success.
///
/// # Errors
/// As [`send`], and for any other status.
pub async fn ask(
    client: &Client,
    method: Method,
    path: &str,
    headers: &[(String, String)],
    body: Bytes,
) -> Result<Answer> {
    let answer = send(client, method.clone(), path, headers, body).await?;
    ensure!(answer.status.is_success(), "{method} {path} is answered with {}", answer.status);
    Ok(answer)
}

/// As [`ask`], with GET.
///
/// # Errors
/// As [`ask`].
pub async fn get(client: &Client, path: &str, headers: &[(String, String)]) -> Result<Answer> {
    ask(client, Method::GET, path, headers, Bytes::new()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_names_a_case_a_server_or_both() {
        let filter = |text| Filter::parse(text).unwrap();
        assert_eq!(filter("list"), Filter { case: Some(Case::List), server: None });
        assert_eq!(filter("/go"), Filter { case: None, server: Some(Server::Go) });
        assert!(filter("list/go").takes(Server::Go, Case::List));
        assert!(!filter("list/go").takes(Server::Go, Case::Post));
        assert!(!filter("list/go").takes(Server::Nginx, Case::List));
        assert!(Filter::parse("lists").unwrap_err().contains("list-gzip"));
        assert!(Filter::parse("/gin").unwrap_err().contains("nginx"));
    }

    #[test]
    fn those_that_ratios_and_rates_come_from_always_take_part() {
        let filter = Filter::parse("list/go").unwrap();
        assert!(filter.takes(Server::Plimsoll, Case::List) && filter.takes(Server::Express, Case::List));
        assert!(!filter.takes(Server::Plimsoll, Case::Post));
    }

    #[test]
    fn every_other_round_goes_backwards() {
        let (first, mut second) = (order(1), order(2));
        second.reverse();
        assert_eq!((&first, order(3)), (&second, first.clone()));
    }

    #[test]
    fn the_estimate_grows_with_what_is_measured() {
        let settings =
            Settings { rounds: 4, seconds: 5, warmup_seconds: 2, baseline_seconds: 20, quick: false };
        let all = estimate(&settings, &|_, _| true);
        // Within what a person would wait for: under an hour.
        assert!((30 * 60..3600).contains(&all), "{all}");
        assert!(estimate(&settings, &|_, case| case == Case::Health) < all / 2);
    }
}
