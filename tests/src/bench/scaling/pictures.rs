//! The pictures: what every policy pays for how well it keeps the promise, and one run over time.

use anyhow::Result;
use plimsoll_scaling::measure::Effort;
use plimsoll_scaling::results::{Results, Shown, Who};
use plimsoll_simulator::peers::settings::Family;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::prelude::*;

use crate::bench::draw::{Area, BLUE, GREY, Line, ORANGE, SIZE, YELLOW, draw_lines, svg};

/// Name of the file that shows all policies, without its ending.
pub const PARETO: &str = "scaling-pareto";
/// Name of the file that shows one run.
pub const TIMELINE: &str = "scaling-timeline";

const GREEN: RGBColor = RGBColor(0, 158, 115);
const PINK: RGBColor = RGBColor(204, 121, 167);
const SKY: RGBColor = RGBColor(86, 180, 233);
/// What costs more of the oracle's replica-hours is not shown.
const X_MAX: f64 = 3.0;

const fn color(family: Family) -> RGBColor {
    match family {
        Family::HpaCpu => BLUE,
        Family::HpaP99 => SKY,
        Family::Keda => GREEN,
        Family::Knative => PINK,
        Family::Fixed => GREY,
    }
}

/// Where a policy is: replica-hours as a multiple of the oracle's, and violation-minutes an hour, over all cases.
fn point(results: &Results, who: Who) -> Option<(f64, f64)> {
    let (own, oracle) = results.over_all(who);
    (own.hours > 0.0 && oracle.replica_hours > 0.0)
        .then(|| (own.replica_hours / oracle.replica_hours, own.violations_an_hour()))
}

/// Violation-minutes an hour, on a scale that shows 0 and tells 0.1 from 1 from 10.
struct MinutesAxis;

impl MinutesAxis {
    /// So that a disc at 0 is not cut.
    const BELOW_ZERO: f64 = 0.06;

    fn stretched(minutes: f64) -> f64 {
        Self::BELOW_ZERO + (1.0 + 10.0 * minutes).log10()
    }
}

impl Ranged for MinutesAxis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, minutes: &f64, (from, to): (i32, i32)) -> i32 {
        let part = Self::stretched(*minutes) / Self::stretched(60.0);
        from + (f64::from(to - from) * part).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        vec![0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0]
    }

    fn range(&self) -> std::ops::Range<f64> {
        0.0..60.0
    }
}

impl ValueFormatter<f64> for MinutesAxis {
    fn format(minutes: &f64) -> String {
        format!("{minutes}")
    }
}

/// Draws all policies over all cases: a line for each peer through the settings of its grid, a disc for what people use, a
/// ring for the suite's best, a triangle for hindsight.
///
/// # Errors
/// When the drawing library fails.
pub fn pareto(results: &Results, effort: Effort) -> Result<String> {
    svg(|area| draw_pareto(area, results, effort))
}

fn draw_pareto(area: &Area<'_>, results: &Results, effort: Effort) -> Result<()> {
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .margin_right(24)
        .x_label_area_size(44)
        .y_label_area_size(60)
        .build_cartesian_2d(0.8..X_MAX, MinutesAxis)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.1))
        .x_desc("replica-hours, as a multiple of the oracle's, over all cases")
        .y_desc("violation-minutes an hour")
        .x_label_formatter(&|times| format!("{times:.1}×"))
        .label_style(("sans-serif", 14))
        .draw()?;
    let at = |who: Who| point(results, who).filter(|&(times, _)| times <= X_MAX);
    for (family, settings) in effort.grids() {
        let color = color(family);
        let mut points: Vec<(f64, f64)> =
            settings.into_iter().filter_map(|setting| at(Who::Grid(setting))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        // The front of a peer: what no other setting of it beats in both.
        let mut front: Vec<(f64, f64)> = Vec::new();
        for point in points {
            if front.last().is_none_or(|last| point.1 < last.1) {
                front.push(point);
            }
        }
        chart
            .draw_series(LineSeries::new(front, color.stroke_width(1)))?
            .label(format!("{}, front of its settings", family.title()))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
        chart.draw_series(at(Who::Suite(family)).map(|at| Circle::new(at, 6, color.stroke_width(2))))?;
        chart.draw_series(at(Who::Hindsight(family)).map(|at| TriangleMarker::new(at, 7, color.filled())))?;
    }
    for who in Who::without_hindsight() {
        if let Who::Customary(setting) = who {
            let color = color(setting.family());
            chart.draw_series(at(who).map(|at| Circle::new(at, 5, color.filled())))?;
        }
    }
    for (who, color) in [(Who::Oracle, BLACK), (Who::Plimsoll, ORANGE)] {
        chart
            .draw_series(at(who).map(|at| Circle::new(at, 8, color.filled())))?
            .label(results.title(who))
            .legend(move |(x, y)| Circle::new((x + 8, y), 6, color.filled()));
    }
    // Series of nothing, for the legend.
    let none = std::iter::empty::<Circle<(f64, f64), i32>>;
    chart
        .draw_series(none())?
        .label("disc: as people use it")
        .legend(|(x, y)| Circle::new((x + 8, y), 5, GREY.filled()));
    chart
        .draw_series(none())?
        .label("ring: the suite's best setting")
        .legend(|(x, y)| Circle::new((x + 8, y), 5, GREY.stroke_width(2)));
    chart
        .draw_series(none())?
        .label("triangle: the best setting of each run, in hindsight")
        .legend(|(x, y)| TriangleMarker::new((x + 8, y), 6, GREY.filled()));
    // No fleet of these sizes keeps every promise of the suite: nothing is drawn there.
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .label_font(("sans-serif", 13))
        .draw()?;
    Ok(())
}

/// Draws one run over time: the load, and below it the Ready replicas.
///
/// # Errors
/// When the drawing library fails.
pub fn timeline(shown: &Shown) -> Result<String> {
    let minute = |second: u64| second as f64 / 60.0;
    let load = shown.moments.iter().map(|moment| (minute(moment.second), moment.load)).collect();
    let ready = |index: usize| {
        shown
            .moments
            .iter()
            .map(move |moment| (minute(moment.second), f64::from(moment.ready[index])))
            .collect()
    };
    let lines: [Line; 3] = [
        ("Plimsoll, defaults".into(), ORANGE, ready(0)),
        ("oracle".into(), BLACK, ready(1)),
        (format!("{}, best in hindsight", shown.best_peer), BLUE, ready(2)),
    ];
    svg(|area| {
        let (upper, lower) = area.split_vertically(SIZE.1 / 3);
        draw_lines(&upper, "requests a second", &[("load".into(), YELLOW, load)])?;
        draw_lines(&lower, "Ready replicas", &lines)
    })
}
