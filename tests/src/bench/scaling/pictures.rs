//! The pictures: what every policy pays for how well it keeps the promise, and one run over time.

use anyhow::Result;
use plimsoll_simulator::peers::settings::Family;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::prelude::*;

use super::measure::{Effort, Moment};
use super::results::{Results, Who};

/// Name of the file that shows all policies, without its ending.
pub const PARETO: &str = "scaling-pareto";
/// Name of the file that shows one run.
pub const TIMELINE: &str = "scaling-timeline";

pub(in crate::bench) const SIZE: (u32, u32) = (960, 560);
/// Colours that stay apart for the colour-blind (Okabe and Ito).
pub(in crate::bench) const ORANGE: RGBColor = RGBColor(213, 94, 0);
pub(in crate::bench) const BLUE: RGBColor = RGBColor(0, 114, 178);
const GREEN: RGBColor = RGBColor(0, 158, 115);
const PINK: RGBColor = RGBColor(204, 121, 167);
const SKY: RGBColor = RGBColor(86, 180, 233);
pub(in crate::bench) const YELLOW: RGBColor = RGBColor(230, 159, 0);
pub(in crate::bench) const GREY: RGBColor = RGBColor(120, 120, 120);
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
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        draw_pareto(&area, results, effort)?;
        area.present()?;
    }
    Ok(svg)
}

fn draw_pareto(area: &DrawingArea<SVGBackend<'_>, Shift>, results: &Results, effort: Effort) -> Result<()> {
    area.fill(&WHITE)?;
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
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .label_font(("sans-serif", 13))
        .draw()?;
    Ok(())
}

/// Draws one run over time: the load, and below it the Ready replicas.
///
/// # Errors
/// When the drawing library fails.
pub fn timeline(moments: &[Moment], best_peer: &str) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let (upper, lower) = area.split_vertically(SIZE.1 / 3);
        let load = moments.iter().map(|moment| (moment.second / 60.0, moment.load)).collect();
        draw_lines(&upper, "requests a second", &[("load".into(), YELLOW, load)])?;
        let names = [
            ("Plimsoll, defaults".to_owned(), ORANGE),
            ("oracle".to_owned(), BLACK),
            (format!("{best_peer}, best in hindsight"), BLUE),
        ];
        let lines: Vec<Line> = names
            .into_iter()
            .enumerate()
            .map(|(index, (name, color))| {
                (
                    name,
                    color,
                    moments.iter().map(|moment| (moment.second / 60.0, moment.ready[index])).collect(),
                )
            })
            .collect();
        draw_lines(&lower, "Ready replicas", &lines)?;
        area.present()?;
    }
    Ok(svg)
}

/// A name, a colour, and points of minutes and values.
pub(in crate::bench) type Line = (String, RGBColor, Vec<(f64, f64)>);

/// Draws lines over minutes, with a legend.
pub(in crate::bench) fn draw_lines(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    title: &str,
    lines: &[Line],
) -> Result<()> {
    let points = || lines.iter().flat_map(|(_, _, points)| points);
    let end = points().map(|point| point.0).fold(1.0, f64::max);
    let top = points().map(|point| point.1).filter(|y| y.is_finite()).fold(1.0, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .margin_right(24)
        .x_label_area_size(28)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..end, 0.0..top)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.1))
        .y_desc(title)
        .x_label_formatter(&|minutes| format!("{minutes:.0} min"))
        .y_label_formatter(&|value| format!("{value:.0}"))
        .label_style(("sans-serif", 13))
        .draw()?;
    for (name, color, points) in lines {
        let color = *color;
        chart
            .draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))?
            .label(name.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .label_font(("sans-serif", 13))
        .draw()?;
    Ok(())
}
