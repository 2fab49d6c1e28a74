//! The user's hands on scaling: what `spec.scaling` makes of the number of replicas that the engine wishes for.
//!
//! In this order, each on what the one before gave:
//!
//! 1. **the engine's wish**, cut to `replicas.min` and `replicas.max`;
//! 2. **schedule floors**: at least as many as the highest schedule asks for at the moment;
//! 3. **rates**: `up` and `down` limit the change within their period; the bounds win over them, as with an HPA;
//! 4. **pauses**: no change in a paused direction, not even for a bound;
//! 5. **the mode**: `Recommend` changes nothing.
//!
//! What comes out of the first three is the recommendation. A pinned number, and the one replica that a database inside the
//! pod allows, win over all of it. [`ScalingPolicy::rule`] goes this way; it is to be asked at every decision, between two
//! scrapes too, with the current number as the wish, for a floor or the end of a pause does not wait for a scrape.
//! The engine is asked with [`ScalingPolicy::settings`]. A Deployment that is to be made has [`ScalingPolicy::initial`]
//! replicas.
//!
//! Pure: it reads no clock and no file; time zones are those that the binary was built with. It never remembers: recent
//! changes of replicas are kept by the caller, for [`PERIOD_MAX`].

use std::time::Duration;

use jiff::civil::{Date, Time};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp, ToSpan};
use plimsoll_crds::{ApiDeploymentSpec, DatabaseKind, Day, Mode};
use serde::Serialize;

use crate::engine::{Engine, Settings, Target, VIOLATION_PRICE_DEFAULT};
use crate::input::Bounds;

/// The longest period of a rate: changes of replicas that are older count no more.
pub const PERIOD_MAX: Duration = Duration::from_mins(30);
/// Floors are looked at so far ahead at most.
pub const HORIZON_MAX: Duration = Duration::from_hours(7 * 24);

/// `spec.scaling` and the bounds, read into numbers and times.
#[derive(Clone, Debug, PartialEq)]
pub struct ScalingPolicy {
    /// Fewest replicas, whatever the time of day.
    pub min: u32,
    /// Most replicas; never below `min`.
    pub max: u32,
    /// Exactly this many: pinned, or the one that the database inside the pod allows.
    pub exact: Option<u32>,
    /// Whether the number is written.
    pub mode: Mode,
    /// Whether none is written, not even a pinned one, because somebody else scales the Deployment.
    pub yields: bool,
    /// Price of a minute over target, in replica-minutes.
    pub violation_price: f64,
    up: Hold,
    down: Hold,
    schedules: Vec<Schedule>,
}

/// What holds one direction back.
#[derive(Clone, Debug, Default, PartialEq)]
struct Hold {
    pause: Option<Pause>,
    rate: Option<Rate>,
}

#[derive(Clone, Debug, PartialEq)]
struct Pause {
    until: Timestamp,
    reason: Option<String>,
}

/// The larger of both, within a period.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rate {
    replicas: u32,
    percent: u32,
    period: Duration,
}

#[derive(Clone, Debug, PartialEq)]
struct Schedule {
    name: String,
    /// By day of the week, Monday first.
    days: [bool; 7],
    from: Time,
    to: Time,
    /// `to` is on the day after `from`.
    over_midnight: bool,
    zone: TimeZone,
    replicas: u32,
    ramp: Duration,
}

/// A change of replicas that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaChange {
    /// When.
    pub at: Timestamp,
    /// Replicas before.
    pub from: u32,
    /// Replicas since.
    pub to: u32,
}

/// What comes of a wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// Replicas to write. Those that there are, where nothing is to be written.
    pub replicas: u32,
    /// What would be written without mode and pauses.
    pub recommended: u32,
    /// Which hand made it another number than the bounds alone would have; the last one, where there are several.
    pub hand: Option<Hand>,
}

/// A hand of the user's on the number of replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Hand {
    /// `spec.scaling.mode` is `Recommend`.
    Recommend,
    /// `spec.scaling.pause.up` is in force.
    PausedUp,
    /// `spec.scaling.pause.down` is in force.
    PausedDown,
    /// `spec.scaling.up` allows no more.
    RateUp,
    /// `spec.scaling.down` allows no fewer.
    RateDown,
    /// A schedule asks for more than the load does.
    ScheduleFloor,
}

/// The fewest replicas at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor<'a> {
    /// At least `replicas.min`, at most `replicas.max`.
    pub replicas: u32,
    /// Name of the schedule that asks for them; none where `replicas.min` does.
    pub schedule: Option<&'a str>,
}

impl Hand {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Recommend,
        Self::PausedUp,
        Self::PausedDown,
        Self::RateUp,
        Self::RateDown,
        Self::ScheduleFloor,
    ];

    /// The hand in one CamelCase word, for conditions, Events and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Recommend => "Recommend",
            Self::PausedUp => "PausedUp",
            Self::PausedDown => "PausedDown",
            Self::RateUp => "RateUp",
            Self::RateDown => "RateDown",
            Self::ScheduleFloor => "ScheduleFloor",
        }
    }
}

impl ScalingPolicy {
    /// The bounds alone.
    pub fn within(min: u32, max: u32) -> Self {
        Self {
            min,
            max: max.max(min),
            exact: None,
            mode: Mode::Auto,
            yields: false,
            violation_price: VIOLATION_PRICE_DEFAULT,
            up: Hold::default(),
            down: Hold::default(),
            schedules: Vec::new(),
        }
    }

    /// Reads the policy of a spec.
    ///
    /// # Errors
    /// What to write instead. The schema refuses all of it but an unknown time zone and a date that no calendar has.
    pub fn of(spec: &ApiDeploymentSpec) -> Result<Self, String> {
        let scaling = &spec.scaling;
        let bounds = Bounds::of(spec);
        let embedded = matches!(spec.database(), DatabaseKind::Embedded);
        let within = Self::within(number(bounds.min), number(bounds.max));
        let hold = |direction: &str, pause: Option<&plimsoll_crds::Pause>, rate: Option<&_>| {
            let pause = pause
                .map(Pause::of)
                .transpose()
                .map_err(|error| format!("spec.scaling.pause.{direction}.until: {error}"))?;
            Ok::<_, String>(Hold { pause, rate: rate.map(Rate::of) })
        };
        let pauses = scaling.pause.clone().unwrap_or_default();
        let schedules = scaling.schedules.iter().map(|schedule| {
            Schedule::of(schedule).map_err(|(field, error)| {
                format!("spec.scaling.schedules[{}].{field}: {error}", schedule.name)
            })
        });
        Ok(Self {
            exact: bounds.pinned.map(number).or(embedded.then_some(1)),
            mode: scaling.mode,
            violation_price: f64::from(scaling.violation_price.max(1)),
            up: hold("up", pauses.up.as_ref(), scaling.up.as_ref())?,
            down: hold("down", pauses.down.as_ref(), scaling.down.as_ref())?,
            schedules: schedules.collect::<Result<_, _>>()?,
            ..within
        })
    }

    /// What an engine is asked at a time, about these targets, once in each `period`. A number that is fixed leaves it nothing
    /// to choose, and it goes on learning. A schedule's floor is known to it so far ahead that pods are ready when it begins.
    pub fn settings(
        &self,
        targets: Vec<Target>,
        period: Duration,
        now: Timestamp,
        engine: &Engine,
    ) -> Settings {
        let mut settings = Settings {
            targets,
            min: self.exact.unwrap_or(self.min),
            max: self.exact.unwrap_or(self.max),
            period,
            violation_price: self.violation_price,
        };
        if self.exact.is_none() {
            settings.min = self.floor(now, engine.horizon(&settings)).replicas;
        }
        settings
    }

    /// Replicas of a Deployment that is to be made: a first number is no change, so neither rates nor pauses nor the mode
    /// hold it back.
    pub fn initial(&self, now: Timestamp) -> u32 {
        self.exact.unwrap_or_else(|| self.floor(now, Duration::ZERO).replicas)
    }

    /// Whether the time of day matters to it.
    pub fn is_timed(&self) -> bool {
        !self.schedules.is_empty() || self.up.pause.is_some() || self.down.pause.is_some()
    }

    /// Whether no number is ever written: whoever sets the replicas is left alone.
    pub fn only_recommends(&self) -> bool {
        self.yields || (self.mode == Mode::Recommend && self.exact.is_none())
    }

    /// The highest floor from `now` until `ahead` later, at most [`HORIZON_MAX`].
    pub fn floor(&self, now: Timestamp, ahead: Duration) -> Floor<'_> {
        let until = later(now, ahead.min(HORIZON_MAX));
        let lowest = Floor { replicas: self.min, schedule: None };
        self.schedules.iter().fold(lowest, |floor, schedule| {
            let replicas = schedule.highest(now, until, self.min).min(self.max);
            if replicas > floor.replicas { Floor { replicas, schedule: Some(&schedule.name) } } else { floor }
        })
    }

    /// What becomes of the engine's wish, with `current` replicas asked for now, after `recent` changes in any order.
    pub fn rule(&self, now: Timestamp, current: u32, recent: &[ReplicaChange], wish: u32) -> Ruling {
        if let Some(exact) = self.exact {
            return Ruling { replicas: exact, recommended: exact, hand: None };
        }
        let wish = wish.clamp(self.min, self.max);
        let floored = wish.max(self.floor(now, Duration::ZERO).replicas);
        let mut hand = (floored != wish).then_some(Hand::ScheduleFloor);
        let recommended = self.limited(now, current, recent, floored).clamp(self.min, self.max);
        if recommended != floored {
            hand = Some(if floored > current { Hand::RateUp } else { Hand::RateDown });
        }
        let paused = |hold: &Hold| hold.pause.as_ref().is_some_and(|pause| now < pause.until);
        let mut replicas = recommended;
        if replicas > current && paused(&self.up) {
            (replicas, hand) = (current, Some(Hand::PausedUp));
        } else if replicas < current && paused(&self.down) {
            (replicas, hand) = (current, Some(Hand::PausedDown));
        }
        if replicas != current && self.mode == Mode::Recommend {
            (replicas, hand) = (current, Some(Hand::Recommend));
        }
        Ruling { replicas, recommended, hand }
    }

    /// As near to `wanted` as the rates allow.
    fn limited(&self, now: Timestamp, current: u32, recent: &[ReplicaChange], wanted: u32) -> u32 {
        let counts = |rate: Rate| {
            let began = now.checked_sub(rate.period).unwrap_or(Timestamp::MIN);
            recent
                .iter()
                // A clock that was set back must not hide a change.
                .filter(move |change| change.at > began)
                .flat_map(|change| [change.from, change.to])
                // Waking is no change of scale.
                .filter(|&replicas| replicas > 0)
        };
        match (self.up.rate, self.down.rate) {
            (Some(rate), _) if wanted > current => {
                let lowest = counts(rate).fold(current, u32::min);
                wanted.min(lowest.saturating_add(rate.allows(lowest)).max(current))
            }
            (_, Some(rate)) if wanted < current => {
                let highest = counts(rate).fold(current, u32::max);
                wanted.max(highest.saturating_sub(rate.allows(highest)).min(current))
            }
            _ => wanted,
        }
    }

    /// What a hand does, for a person: the field, and what it says.
    pub fn explain(&self, hand: Hand, now: Timestamp) -> String {
        let paused = |direction: &str, hold: &Hold| match &hold.pause {
            Some(Pause { until, reason: Some(reason) }) => {
                format!("spec.scaling.pause.{direction} holds until {until}: {reason}")
            }
            Some(Pause { until, reason: None }) => {
                format!("spec.scaling.pause.{direction} holds until {until}")
            }
            None => format!("spec.scaling.pause.{direction} holds"),
        };
        let limited = |direction: &str, hold: &Hold| {
            let amount = match hold.rate {
                Some(Rate { replicas, percent: 0, .. }) => format!("{replicas} replicas"),
                Some(Rate { replicas: 0, percent, .. }) => format!("{percent} %"),
                Some(Rate { replicas, percent, .. }) => format!("{replicas} replicas or {percent} %"),
                None => "no more".into(),
            };
            let seconds = hold.rate.map_or(0, |rate| rate.period.as_secs());
            format!("spec.scaling.{direction} allows {amount} in {seconds} s")
        };
        match hand {
            Hand::Recommend => {
                "spec.scaling.mode is Recommend: set it to Auto to have the number written".into()
            }
            Hand::PausedUp => paused("up", &self.up),
            Hand::PausedDown => paused("down", &self.down),
            Hand::RateUp => limited("up", &self.up),
            Hand::RateDown => limited("down", &self.down),
            Hand::ScheduleFloor => {
                let Floor { replicas, schedule } = self.floor(now, Duration::ZERO);
                let name = schedule.unwrap_or_default();
                format!("spec.scaling.schedules[{name}] asks for at least {replicas} replicas")
            }
        }
    }
}

impl Pause {
    fn of(pause: &plimsoll_crds::Pause) -> Result<Self, String> {
        let text = &pause.until;
        let until = text.parse().map_err(|_| {
            format!("{text:?} is not a time; write one with its zone, such as 2026-12-01T18:00:00Z")
        })?;
        Ok(Self { until, reason: pause.reason.clone() })
    }
}

impl Rate {
    fn of(rate: &plimsoll_crds::Rate) -> Self {
        Self {
            replicas: rate.replicas.map_or(0, number),
            percent: rate.percent.map_or(0, number),
            period: Duration::from_secs(number(rate.period_seconds).into()).min(PERIOD_MAX),
        }
    }

    /// How many replicas may come or go in a period that has or had so many.
    fn allows(self, replicas: u32) -> u32 {
        let part = (u64::from(replicas) * u64::from(self.percent)).div_ceil(100);
        self.replicas.max(u32::try_from(part).unwrap_or(u32::MAX))
    }
}

impl Schedule {
    /// The error comes with the field that it speaks of.
    fn of(schedule: &plimsoll_crds::Schedule) -> Result<Self, (&'static str, String)> {
        let time = |field, text: &str| {
            Time::strptime("%H:%M", text)
                .map_err(|_| (field, format!("{text:?} is not a time of day; write one such as 08:00")))
        };
        let from = time("from", &schedule.from)?;
        let end_of_day = schedule.to == "24:00";
        let to = if end_of_day { Time::midnight() } else { time("to", &schedule.to)? };
        let name = &schedule.time_zone;
        let zone = TimeZoneDatabase::bundled().get(name).map_err(|_| {
            let error =
                format!("{name:?} is not in the IANA database; write a time zone such as Europe/Berlin");
            ("timeZone", error)
        })?;
        Ok(Self {
            name: schedule.name.clone(),
            days: Day::ALL.map(|day| schedule.days.contains(&day)),
            from,
            to,
            over_midnight: end_of_day || to <= from,
            zone,
            replicas: number(schedule.replicas),
            ramp: Duration::from_secs(number(schedule.ramp_seconds).into()),
        })
    }

    /// The highest floor from `start` to `end`, on top of `min`.
    fn highest(&self, start: Timestamp, end: Timestamp, min: u32) -> u32 {
        let gap = self
            .windows(start, end)
            .map(|(from, to)| {
                let before = from.duration_since(end).max(start.duration_since(to));
                Duration::try_from(before).unwrap_or(Duration::ZERO)
            })
            .min();
        let Some(rise) = self.replicas.checked_sub(min) else { return min };
        match gap {
            Some(Duration::ZERO) => self.replicas,
            Some(gap) if gap < self.ramp => {
                let risen = self.ramp.saturating_sub(gap).as_millis() * u128::from(rise);
                // Not above `rise`, for the part of the ramp is below one.
                min + u32::try_from(risen.div_ceil(self.ramp.as_millis())).unwrap_or(rise)
            }
            Some(_) | None => min,
        }
    }

    /// Beginnings and ends of the windows that, with their ramps, may touch `start` to `end`.
    fn windows(&self, start: Timestamp, end: Timestamp) -> impl Iterator<Item = (Timestamp, Timestamp)> {
        let ramp = SignedDuration::try_from(self.ramp).unwrap_or(SignedDuration::ZERO);
        let date = |time: Timestamp| self.zone.to_datetime(time).date();
        // A window ends a day after its date at the latest, and a zone may leave out a day.
        let first = date(start.checked_sub(ramp).unwrap_or(start)).saturating_sub(2.days());
        let last = date(end.checked_add(ramp).unwrap_or(end)).saturating_add(1.day());
        first.series(1.day()).take_while(move |date| *date <= last).filter_map(|date| self.window(date))
    }

    /// The window that begins on a date, if one does. Of two readings, where clocks are set back or forth, it begins at the
    /// earlier and ends at the later one.
    fn window(&self, date: Date) -> Option<(Timestamp, Timestamp)> {
        let day = usize::try_from(date.weekday().to_monday_zero_offset()).ok()?;
        if !*self.days.get(day)? {
            return None;
        }
        let end = if self.over_midnight { date.tomorrow().ok()? } else { date };
        let from = self.zone.to_ambiguous_timestamp(date.to_datetime(self.from)).earlier().ok()?;
        let to = self.zone.to_ambiguous_timestamp(end.to_datetime(self.to)).later().ok()?;
        Some((from, to))
    }
}

/// A number that the schema keeps at 0 or above.
fn number(value: i32) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}
