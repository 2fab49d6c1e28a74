//! `spec.scaling`: the user's hands on scaling, beside the promise and the bounds.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the operator uses the number of replicas that the promise asks for.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Scaling {
    /// `Auto` writes the number of replicas; `Recommend` only publishes it.
    #[serde(default)]
    pub mode: Mode,

    /// Holds the replicas in a direction until a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pauses>,

    /// Floors by the time of day: at least so many replicas, whatever the load. Where several hold, the highest counts;
    /// `replicas.max` cuts it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub schedules: Vec<Schedule>,

    /// How fast replicas may be added. Absent: as fast as they are needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<Rate>,

    /// How fast replicas may be removed. Absent: as fast as they can be spared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down: Option<Rate>,

    /// What a minute over target costs, in minutes of one replica: 60 is as much as a replica for an hour. A higher price
    /// keeps more replicas in reserve.
    #[serde(default = "default_violation_price")]
    #[schemars(range(min = 1, max = 100_000))]
    pub violation_price: i32,
}

/// Whether the operator writes the number of replicas.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The operator writes it.
    #[default]
    Auto,
    /// The operator computes and publishes it, and writes none.
    Recommend,
}

/// A pause of each direction.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.up) || has(self.down)")
    .message("write the direction to pause, such as down: {until: \"2026-12-01T18:00:00Z\"}, or leave pause out"))]
pub struct Pauses {
    /// No replica is added until then, not even for `replicas.min`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<Pause>,
    /// No replica is removed until then, not even for `replicas.max`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down: Option<Pause>,
}

/// A pause. It has an end, so that none is forgotten.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Pause {
    /// When it ends, as RFC 3339 writes a time with its zone: `2026-12-01T18:00:00Z`.
    #[x_kube(validation = Rule::new("self.matches('^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})$') && timestamp(self) > timestamp('0001-01-01T00:00:00Z')")
        .message("write until as a time with its zone, such as 2026-12-01T18:00:00Z or 2026-12-01T18:00:00+01:00"))]
    #[schemars(length(max = 40))]
    pub until: String,

    /// Why, for whoever reads the status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub reason: Option<String>,
}

/// A floor by the time of day.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.from != self.to")
    .message("write from and to that differ: the whole day is from 00:00 to 24:00"))]
pub struct Schedule {
    /// What the status calls it; no two schedules have the same name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,

    /// Days on which it begins: a window over midnight belongs to the day before it.
    #[serde(default = "default_days")]
    #[schemars(length(min = 1, max = 7))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub days: Vec<Day>,

    /// Time of day from which the floor holds, `00:00` to `23:59`.
    #[x_kube(validation = Rule::new("self.matches('^([01][0-9]|2[0-3]):[0-5][0-9]$')")
        .message("write from as a time of day in hours and minutes, such as 08:00"))]
    #[schemars(length(max = 5))]
    pub from: String,

    /// Time of day until which it holds, `00:00` to `24:00`. Not after `from`: that of the next day.
    #[x_kube(validation = Rule::new("self.matches('^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$')")
        .message("write to as a time of day in hours and minutes, such as 18:30, or 24:00 for the end of the day"))]
    #[schemars(length(max = 5))]
    pub to: String,

    /// Time zone of both, by its name in the IANA database. Where clocks are set back or forth at one of the two times, the
    /// window takes the longer reading.
    #[serde(default = "default_time_zone")]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z][A-Za-z0-9_+/-]*$') && self != 'Local'")
        .message("write timeZone as the IANA database names it, such as Europe/Berlin or UTC"))]
    #[x_kube(validation = Rule::new("timestamp('2000-01-01T00:00:00Z').getHours(self) >= 0")
        .message("write timeZone as the IANA database names it, such as Europe/Berlin or UTC"))]
    #[schemars(length(max = 64))]
    pub time_zone: String,

    /// The floor.
    #[schemars(range(min = 1, max = 10000))]
    pub replicas: i32,

    /// Seconds over which the floor rises evenly from `replicas.min`, so that it is reached at `from`; after `to` it falls
    /// for as long.
    #[serde(default)]
    #[schemars(range(min = 0, max = 86400))]
    pub ramp_seconds: i32,
}

/// A day of the week.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Day {
    /// Monday.
    Mon,
    /// Tuesday.
    Tue,
    /// Wednesday.
    Wed,
    /// Thursday.
    Thu,
    /// Friday.
    Fri,
    /// Saturday.
    Sat,
    /// Sunday.
    Sun,
}

/// At most so many replicas within a period. Of `replicas` and `percent`, the one that allows more counts, in both
/// directions, as an HPA's policies do by default.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.replicas) || has(self.percent)")
    .message("write replicas, percent or both, such as replicas: 4; to stop a direction, pause it"))]
pub struct Rate {
    /// At most this many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub replicas: Option<i32>,

    /// At most this part of the fewest replicas in the period, or of the most when they are removed, rounded up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub percent: Option<i32>,

    /// Length of the period. It begins anew at every moment.
    #[serde(default = "default_rate_period")]
    #[schemars(range(min = 1, max = 1800))]
    pub period_seconds: i32,
}

impl Default for Scaling {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            pause: None,
            schedules: Vec::new(),
            up: None,
            down: None,
            violation_price: default_violation_price(),
        }
    }
}

impl Day {
    /// All days, Monday first.
    pub const ALL: [Self; 7] = [Self::Mon, Self::Tue, Self::Wed, Self::Thu, Self::Fri, Self::Sat, Self::Sun];
}

fn default_violation_price() -> i32 {
    60
}

fn default_days() -> Vec<Day> {
    Day::ALL.to_vec()
}

fn default_time_zone() -> String {
    "UTC".into()
}

fn default_rate_period() -> i32 {
    60
}
