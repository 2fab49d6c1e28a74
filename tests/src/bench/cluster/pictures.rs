//! The pictures: the step under both autoscalers, and the trace on the cluster and in the simulation.

use anyhow::Result;
use plotters::prelude::*;

use super::replicas::Replicas;
use super::step::{Run, Step};
use super::validate::Validation;
use super::windows::windows;
use crate::bench::draw::{BLUE, GREY, Line, ORANGE, SIZE, YELLOW, draw_lines, svg};

/// Name of the file that shows the step, without its ending.
pub const STEP: &str = "cluster-step";
/// Name of the file that shows the validation.
pub const VALIDATION: &str = "cluster-validation";

/// A share beyond this is drawn as this, in percent.
const SHARE_MAX: f64 = 100.0;

/// Draws the share of requests over the promise, and below it the replicas, under both.
///
/// # Errors
/// When the drawing library fails.
pub fn step(step: &Step) -> Result<String> {
    let runs: Vec<(&str, RGBColor, &Run)> =
        [("Plimsoll", ORANGE, Some(&step.plimsoll)), ("HPA", BLUE, step.hpa.as_ref())]
            .into_iter()
            .filter_map(|(name, color, run)| Some((name, color, run?)))
            .collect();
    let end = step.spans.before + step.spans.after;
    let shares = runs.iter().map(|(name, color, run)| {
        let share = windows(&run.seconds, 0).map(|window| (window.over_share() * 100.0).min(SHARE_MAX));
        (format!("{name}, over the promise"), *color, minutes(share))
    });
    let replicas = runs.iter().flat_map(|(name, color, run)| {
        [
            (format!("{name}, wanted"), *color, of_replicas(&run.replicas, end, |it| it.0)),
            (format!("{name}, Ready"), pale(*color), of_replicas(&run.replicas, end, |it| it.1)),
        ]
    });
    two("% of requests, 10 s windows", &shares.collect::<Vec<_>>(), "replicas", &replicas.collect::<Vec<_>>())
}

/// Draws the load, and below it the Ready replicas on the cluster and in the simulation.
///
/// # Errors
/// When the drawing library fails.
pub fn validation(validation: &Validation) -> Result<String> {
    let load = ("load".to_owned(), YELLOW, minutes(validation.rates.iter().copied()));
    let end = validation.rates.len() as u32;
    let mut replicas: Vec<Line> = validation
        .simulated
        .iter()
        .skip(1)
        .map(|run| (format!("simulation, seed {}", run.seed), pale(GREY), counts(&run.ready)))
        .collect();
    if let Some(first) = validation.simulated.first() {
        replicas.push((format!("simulation, seed {}", first.seed), BLUE, counts(&first.ready)));
    }
    for (index, run) in validation.cluster.iter().enumerate().rev() {
        let color = if index == 0 { ORANGE } else { pale(ORANGE) };
        replicas.push((
            format!("cluster, run {}", index + 1),
            color,
            of_replicas(&run.replicas, end, |it| it.1),
        ));
    }
    two("requests a second", &[load], "Ready replicas", &replicas)
}

fn two(upper: &str, upper_lines: &[Line], lower: &str, lower_lines: &[Line]) -> Result<String> {
    svg(|area| {
        let (top, bottom) = area.split_vertically(SIZE.1 * 2 / 5);
        draw_lines(&top, upper, upper_lines)?;
        draw_lines(&bottom, lower, lower_lines)
    })
}

/// Half-way to white.
const fn pale(color: RGBColor) -> RGBColor {
    RGBColor(color.0 / 2 + 127, color.1 / 2 + 127, color.2 / 2 + 127)
}

/// One value a second, over minutes.
fn minutes(values: impl IntoIterator<Item = f64>) -> Vec<(f64, f64)> {
    values.into_iter().enumerate().map(|(second, value)| (second as f64 / 60.0, value)).collect()
}

fn counts(values: &[u32]) -> Vec<(f64, f64)> {
    minutes(values.iter().map(|&value| f64::from(value)))
}

/// The wanted and the Ready replicas at the end of each second, of which `which` takes one.
fn of_replicas(replicas: &Replicas, end: u32, which: fn((u32, u32)) -> u32) -> Vec<(f64, f64)> {
    let at = |second: u32| replicas.at(f64::from(second + 1)).map_or((0, 0), |it| (it.wanted, it.ready));
    counts(&(0..end).map(|second| which(at(second))).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::super::step::{Spans, testing as steps};
    use super::super::validate::testing;
    use super::*;

    #[test]
    fn both_autoscalers_are_drawn_and_one_alone_too() {
        let run = || steps::run(Spans::FULL, 6.0, 7, 12);
        let both = step(&steps::step(run(), Some(run()))).unwrap();
        assert!(both.contains("Plimsoll, wanted") && both.contains("HPA, Ready"));
        let one = step(&steps::step(run(), None)).unwrap();
        assert!(!one.contains("HPA"));
    }

    #[test]
    fn the_cluster_is_drawn_beside_each_seed() {
        let svg = validation(&testing::validation(&[5, 6], 20, &[(5, 0.01), (6, 0.05)])).unwrap();
        for name in [
            "cluster, run 1",
            "cluster, run 2",
            "simulation, seed 1",
            "simulation, seed 2",
            "requests a second",
        ] {
            assert!(svg.contains(name), "{name}");
        }
    }
}
