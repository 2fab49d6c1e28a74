//! What the pictures of several benchmarks share: size, colours, and lines over minutes.

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;

/// Width and height, in pixels.
pub const SIZE: (u32, u32) = (960, 560);
/// Of Plimsoll. Colours that stay apart for the colour-blind (Okabe and Ito).
pub const ORANGE: RGBColor = RGBColor(213, 94, 0);
/// Of what Plimsoll is measured against.
pub const BLUE: RGBColor = RGBColor(0, 114, 178);
/// Of the load.
pub const YELLOW: RGBColor = RGBColor(230, 159, 0);
/// Of what stands behind.
pub const GREY: RGBColor = RGBColor(120, 120, 120);

/// A canvas that becomes an SVG.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The SVG that `draw` makes on a white canvas.
///
/// # Errors
/// When the drawing library fails.
pub fn svg(draw: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        draw(&area)?;
        area.present()?;
    }
    Ok(svg)
}

/// A name, a colour, and points of minutes and values.
pub type Line = (String, RGBColor, Vec<(f64, f64)>);

/// Draws lines over minutes, with a legend.
///
/// # Errors
/// When the drawing library fails.
pub fn draw_lines(area: &Area<'_>, title: &str, lines: &[Line]) -> Result<()> {
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
