//! Metrics whose values are read when they are asked for, so that what is gone is told of no longer.

use std::collections::HashMap;
use std::fmt;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

/// What a metric is, as its documentation tells it.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    /// Its name, with the unit last.
    pub name: &'static str,
    /// What it tells, in a sentence.
    pub help: &'static str,
    /// Counter, gauge or histogram.
    pub kind: MetricType,
    /// Names of its labels.
    pub labels: &'static [&'static str],
}

/// One metric with its present values: those of the labels, in their order, and the number.
#[derive(Clone, Debug)]
pub struct Family {
    /// The metric.
    pub description: Description,
    /// Its values.
    pub samples: Vec<(Vec<String>, f64)>,
}

/// Counters and gauges that are read when they are asked for.
pub struct Live {
    descs: Vec<Desc>,
    read: Box<dyn Fn() -> Vec<Family> + Send + Sync>,
}

impl Live {
    /// Metrics of these descriptions, with values that `read` gives.
    ///
    /// # Errors
    /// When a name or a label is not one of Prometheus', which a test rules out.
    pub fn new(
        descriptions: impl IntoIterator<Item = Description>,
        read: impl Fn() -> Vec<Family> + Send + Sync + 'static,
    ) -> Result<Self, prometheus::Error> {
        let desc = |description: Description| {
            let labels = description.labels.iter().map(|&label| label.to_owned()).collect();
            Desc::new(description.name.to_owned(), description.help.to_owned(), labels, HashMap::new())
        };
        let descs = descriptions.into_iter().map(desc).collect::<Result<_, _>>()?;
        Ok(Self { descs, read: Box::new(read) })
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("descs", &self.descs).finish_non_exhaustive()
    }
}

impl Collector for Live {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        (self.read)().into_iter().map(encode).collect()
    }
}

fn encode(Family { description, samples }: Family) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(description.name.to_owned());
    family.set_help(description.help.to_owned());
    family.set_field_type(description.kind);
    let metrics = samples.into_iter().map(|(values, number)| {
        let labels = description.labels.iter().zip(values).map(|(&name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(value);
            pair
        });
        let mut metric = Metric::from_label(labels.collect());
        if description.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(number);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(number);
            metric.set_gauge(gauge);
        }
        metric
    });
    family.set_metric(metrics.collect());
    family
}
