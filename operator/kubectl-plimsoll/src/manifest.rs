//! The manifest: the promise and the bounds of an `ApiDeployment`, read as the operator reads them.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use plimsoll_core::input::{Bounds, Targets};
use plimsoll_core::policy::ScalingPolicy;
use plimsoll_crds::ApiDeployment;
use plimsoll_simulator::Target;
use serde::Deserialize;

/// What of a manifest counts here.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Name of the object.
    pub name: String,
    /// The promise, the strictest quantile first, each with its name, such as `p99`.
    pub targets: Vec<(&'static str, Target)>,
    /// The bounds, and `spec.scaling`.
    pub policy: ScalingPolicy,
    /// The bounds are one, for the database is inside of the pod.
    pub embedded_database: bool,
    /// `resources.requests.cpu`, in cores.
    pub cpu_request: Option<f64>,
    /// `resources.limits.cpu`, in cores.
    pub cpu_limit: Option<f64>,
    /// It runs the bundled API.
    pub bundled: bool,
}

/// Reads the one `ApiDeployment` of a YAML file, whatever else is in it.
///
/// # Errors
/// When there is none or more than one, or it says something that the API server would refuse.
pub fn read(file: &Path) -> Result<Manifest> {
    let shown = file.display().to_string();
    let text = std::fs::read_to_string(file).with_context(|| format!("read the manifest {shown}"))?;
    parse(&text).with_context(|| shown)
}

fn parse(text: &str) -> Result<Manifest> {
    let mut found = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = serde_yaml::Value::deserialize(document).context("it is no YAML")?;
        if value.get("kind").and_then(serde_yaml::Value::as_str) == Some("ApiDeployment") {
            found.push(value);
        }
    }
    let [value] = <[_; 1]>::try_from(found).map_err(|found| match found.len() {
        0 => anyhow!("it holds no object of kind ApiDeployment"),
        many => anyhow!("it holds {many} objects of kind ApiDeployment; leave the one to simulate"),
    })?;
    let app: ApiDeployment = serde_yaml::from_value(value).context("it is no ApiDeployment")?;
    let spec = &app.spec;
    let targets = Targets::of(spec).map_err(|error| anyhow!(error))?;
    let replicas = &spec.replicas;
    ensure!(
        replicas.min <= replicas.max,
        "spec.replicas: min {} is above max {}; raise max or lower min",
        replicas.min,
        replicas.max
    );
    ensure!(replicas.min >= 1, "spec.replicas.min is {}; write at least 1", replicas.min);
    if let Some(pinned) = replicas.pinned {
        bail!("spec.replicas.pinned is {pinned}: nothing would be scaled; leave it out to simulate");
    }
    let mut targets: Vec<_> = targets
        .latencies()
        .map(|(percentile, latency)| {
            (percentile.as_str(), Target { quantile: 1.0 - percentile.budget(), latency })
        })
        .collect();
    targets.sort_by(|a, b| b.1.quantile.total_cmp(&a.1.quantile));
    let cpu = |quantities: Option<&std::collections::BTreeMap<String, _>>, field: &str| {
        quantities
            .and_then(|quantities| quantities.get("cpu"))
            .map(|quantity| cores(quantity, field))
            .transpose()
    };
    Ok(Manifest {
        name: app.metadata.name.clone().unwrap_or_default(),
        targets,
        policy: ScalingPolicy::of(spec).map_err(|error| anyhow!(error))?,
        embedded_database: Bounds::of(spec).embedded_database,
        cpu_request: cpu(spec.resources.requests.as_ref(), "requests")?,
        cpu_limit: cpu(spec.resources.limits.as_ref(), "limits")?,
        bundled: spec.image.is_none(),
    })
}

/// A quantity of CPU in cores: `100m` or `1.5`.
fn cores(quantity: &k8s_openapi::apimachinery::pkg::api::resource::Quantity, field: &str) -> Result<f64> {
    let text = quantity.0.as_str();
    let (number, factor) = text.strip_suffix('m').map_or((text, 1.0), |number| (number, 0.001));
    let cores = number.parse::<f64>().map_or(f64::NAN, |number| number * factor);
    ensure!(
        cores.is_finite() && cores > 0.0,
        "spec.resources.{field}.cpu: {text:?} is no quantity of CPU above 0; write one such as 100m or 1.5"
    );
    Ok(cores)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn app(spec: &str) -> String {
        format!(
            "apiVersion: plimsoll.dev/v1alpha1\nkind: ApiDeployment\nmetadata: {{name: shop}}\nspec: {spec}\n"
        )
    }

    #[test]
    fn reads_promise_bounds_and_cpu_among_other_objects() {
        let spec = "{image: shop:1, latency: {p95: 100ms, p99: 250ms}, replicas: {min: 2, max: 20}, resources: {requests: {cpu: 500m}, limits: {cpu: '1'}}}";
        let manifest = parse(&format!("kind: Secret\n---\n{}", app(spec))).unwrap();
        assert_eq!((manifest.name.as_str(), manifest.policy.min, manifest.policy.max), ("shop", 2, 20));
        assert_eq!(manifest.targets.iter().map(|target| target.0).collect::<Vec<_>>(), ["p99", "p95"]);
        assert_eq!(manifest.targets[0].1.latency, Duration::from_millis(250));
        assert!((manifest.targets[0].1.quantile - 0.99).abs() < 1e-9);
        assert_eq!((manifest.cpu_request, manifest.cpu_limit), (Some(0.5), Some(1.0)));
        assert!(!manifest.bundled && !manifest.embedded_database);
    }

    #[test]
    fn of_many_targets_the_strictest_quantile_comes_first() {
        let latency = "{p50: 20ms, p90: 50ms, p95: 100ms, p99: 250ms, p999: 1s}";
        let manifest = parse(&app(&format!("{{image: shop:1, latency: {latency}}}"))).unwrap();
        let names = manifest.targets.iter().map(|target| target.0).collect::<Vec<_>>();
        assert_eq!(names, ["p999", "p99", "p95", "p90", "p50"]);
        assert!((manifest.targets[0].1.quantile - 0.999).abs() < 1e-9);
    }

    #[test]
    fn errors_say_what_to_write() {
        let ok = "{image: shop:1, latency: {p99: 250ms}}";
        for (text, message) in [
            ("kind: Service\n".to_owned(), "no object of kind ApiDeployment"),
            (format!("{}---\n{}", app(ok), app(ok)), "2 objects of kind ApiDeployment"),
            ("a: [".to_owned(), "it is no YAML"),
            (app("{image: shop:1, latency: {}}"), "write at least one target"),
            (app("{image: shop:1, latency: {p99: fast}}"), "spec.latency.p99: \"fast\" is not a duration"),
            (
                app("{image: shop:1, latency: {p99: 1s}, replicas: {min: 9, max: 3}}"),
                "min 9 is above max 3; raise",
            ),
            (app("{image: shop:1, latency: {p99: 1s}, replicas: {min: 0}}"), "min is 0; write at least 1"),
            (
                app("{image: shop:1, latency: {p99: 1s}, replicas: {pinned: 3}}"),
                "pinned is 3: nothing would be scaled",
            ),
            (
                app("{image: shop:1, latency: {p99: 1s}, resources: {requests: {cpu: lots}}}"),
                "requests.cpu: \"lots\" is no quantity of CPU",
            ),
        ] {
            let error = format!("{:#}", parse(&text).unwrap_err());
            assert!(error.contains(message), "{text}: {error}");
        }
    }
}
