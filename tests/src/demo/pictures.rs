//! The pictures of the report: load, latency against its targets, replicas, all over the same time.

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::report::{Report, Row};

/// A picture.
pub struct Picture {
    /// Name of its file, without the ending.
    pub name: &'static str,
    /// What it shows, for those who cannot see it too.
    pub title: &'static str,
    /// The picture.
    pub svg: String,
}

const SIZE: (u32, u32) = (960, 260);
/// Colours that stay apart for the colour-blind (Okabe and Ito).
const BLUE: RGBColor = RGBColor(0, 114, 178);
const ORANGE: RGBColor = RGBColor(213, 94, 0);
const YELLOW: RGBColor = RGBColor(230, 159, 0);
const PURPLE: RGBColor = RGBColor(204, 121, 167);
const GREEN: RGBColor = RGBColor(0, 158, 115);
const GREY: RGBColor = RGBColor(120, 120, 120);

/// A line of a picture.
struct Series<'a> {
    label: &'a str,
    color: RGBColor,
    points: Vec<(f64, f64)>,
}

/// Draws them all.
///
/// # Errors
/// When the drawing library fails.
pub fn draw(report: &Report) -> Result<Vec<Picture>> {
    let line = |label: &'static str, color: RGBColor, value: &dyn Fn(&Row) -> Option<f64>| Series {
        label,
        color,
        points: report
            .seconds
            .iter()
            .filter_map(|row| Some((f64::from(row.load.second) + 1.0, value(row)?)))
            .collect(),
    };
    let target = |label: &'static str, ms: u64| Series {
        label,
        color: GREY,
        points: vec![(0.0, ms as f64), (report.trace.seconds as f64, ms as f64)],
    };
    let load = [
        line("offered", BLUE, &|row| Some(row.load.offered as f64)),
        line("late", YELLOW, &|row| Some(row.late() as f64)),
        line("refused", ORANGE, &|row| Some(row.load.ends.refused as f64)),
        line("failed", PURPLE, &|row| Some(row.load.ends.failed as f64)),
    ];
    let latency = [
        line("p95", BLUE, &|row| row.load.p95_ms),
        line("p99", ORANGE, &|row| row.load.p99_ms),
        target("p95 target", report.targets.p95_ms),
        target("p99 target", report.targets.p99_ms),
    ];
    let replicas = [
        line("wanted", ORANGE, &|row| Some(f64::from(row.wanted))),
        line("ready", GREEN, &|row| Some(f64::from(row.ready))),
    ];
    // A stall of seconds must not flatten all the rest: what is above ten targets is cut, and the title says so.
    let ceiling = report.targets.p99_ms.max(report.targets.p95_ms) as f64 * 4.0;
    Ok(vec![
        Picture {
            name: "load",
            title: "Requests a second: late means answered after the p95 target, or not at all in time",
            svg: chart(report, &load, None)?,
        },
        Picture {
            name: "latency",
            title: "Latency of each second in milliseconds, as the client felt it, without refused requests, cut at four times the target",
            svg: chart(report, &latency, Some(ceiling))?,
        },
        Picture { name: "replicas", title: "Replicas", svg: chart(report, &replicas, None)? },
    ])
}

fn chart(report: &Report, series: &[Series<'_>], ceiling: Option<f64>) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        draw_on(&area, report, series, ceiling)?;
        area.present()?;
    }
    Ok(svg)
}

fn draw_on(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    report: &Report,
    series: &[Series<'_>],
    ceiling: Option<f64>,
) -> Result<()> {
    area.fill(&WHITE)?;
    let highest =
        series.iter().flat_map(|series| &series.points).map(|(_, value)| *value).fold(1.0, f64::max);
    let top = ceiling.map_or(highest, |ceiling| highest.min(ceiling)) * 1.05;
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .margin_right(24)
        .x_label_area_size(28)
        .y_label_area_size(52)
        .build_cartesian_2d(0.0..report.trace.seconds as f64, 0.0..top)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.1))
        .x_label_formatter(&|seconds| format!("{}:{:02}", *seconds as u32 / 60, *seconds as u32 % 60))
        .y_label_formatter(&|value| format!("{value:.0}"))
        .label_style(("sans-serif", 13))
        .draw()?;
    for Series { label, color, points } in series {
        let points = points.iter().map(|(x, y)| (*x, y.min(top)));
        let color = *color;
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(*label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .label_font(("sans-serif", 13))
        .draw()?;
    Ok(())
}
