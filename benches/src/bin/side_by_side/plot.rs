//! The plot: throughput and CPU a message against devices.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::contender::Contender;
use super::figures::Row;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Figure = fn(&Row) -> f64;

const SIZE: (u32, u32) = (1200, 900);
const LEGEND: u32 = 90;
/// Room beyond the least and the greatest value, as a factor.
const MARGIN: f64 = 1.5;

/// Draws a panel for each figure and each number of messages in flight.
pub(crate) fn draw(rows: &[Row], file: &Path) -> Result<()> {
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    // Errors of plotters borrow the backend.
    paint(&root, rows).map_err(|error| anyhow!("{}: {error}", file.display()))
}

fn paint(root: &Area<'_>, rows: &[Row]) -> Result<(), Box<dyn std::error::Error>> {
    root.fill(&WHITE)?;
    let (panels, legend) = root.split_vertically(SIZE.1 - LEGEND);
    let mut in_flight: Vec<_> = rows.iter().map(|row| row.in_flight).collect();
    in_flight.sort_unstable();
    in_flight.dedup();
    let panels = panels.split_evenly((2, in_flight.len().max(1)));
    let figures: [(&str, Figure); 2] = [
        ("settled messages a second", |row| row.messages_per_second),
        ("CPU a message, microseconds", |row| row.cpu_us_per_message),
    ];
    let mut panels = panels.iter();
    for (name, figure) in figures {
        for in_flight in &in_flight {
            let Some(panel) = panels.next() else { break };
            let own: Vec<_> = rows
                .iter()
                .filter(|row| row.in_flight == *in_flight)
                .collect();
            let title = format!("{name}, {in_flight} in flight a device");
            draw_panel(panel, &title, &own, figure)?;
        }
    }
    draw_legend(&legend, rows)?;
    root.present()?;
    Ok(())
}

/// One figure against devices, both in decades.
fn draw_panel(
    panel: &Area<'_>,
    title: &str,
    rows: &[&Row],
    figure: Figure,
) -> Result<(), Box<dyn std::error::Error>> {
    let devices = span(rows.iter().map(|row| row.devices as f64));
    let figures = span(rows.iter().map(|row| figure(row)));
    let (Some(devices), Some(figures)) = (devices, figures) else {
        return Ok(());
    };
    let mut chart = ChartBuilder::on(panel)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(45)
        .y_label_area_size(75)
        .build_cartesian_2d(
            devices
                .clone()
                .log_scale()
                .with_key_points(round_within(&devices)),
            figures
                .clone()
                .log_scale()
                .with_key_points(round_within(&figures)),
        )?;
    chart
        .configure_mesh()
        .x_desc("devices")
        .x_label_formatter(&|value| short(*value))
        .y_label_formatter(&|value| short(*value))
        .label_style(("sans-serif", 15))
        .axis_desc_style(("sans-serif", 16))
        .bold_line_style(BLACK.mix(0.15))
        .light_line_style(TRANSPARENT)
        .draw()?;
    // The gateway comes last, so that no line hides its own.
    for contender in Contender::all().into_iter().rev() {
        // A round too short for the system's clock shows no CPU: there is no such decade.
        let own = rows
            .iter()
            .filter(|row| row.contender == contender && figure(row) > 0.0);
        let points: Vec<_> = own.map(|row| (row.devices as f64, figure(row))).collect();
        let style = line(contender);
        chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
        let dots = points.into_iter();
        chart.draw_series(dots.map(|point| Circle::new(point, 4, style.filled())))?;
    }
    Ok(())
}

fn draw_legend(legend: &Area<'_>, rows: &[Row]) -> Result<(), Box<dyn std::error::Error>> {
    const COLUMNS: usize = 3;
    let mut contenders: Vec<_> = rows.iter().map(|row| row.contender).collect();
    contenders.sort_unstable();
    contenders.dedup();
    for (n, contender) in contenders.into_iter().enumerate() {
        let x = 90 + (n % COLUMNS) as i32 * 370;
        let y = 15 + (n / COLUMNS) as i32 * 26;
        let style = line(contender);
        legend.draw(&PathElement::new([(x, y), (x + 36, y)], style))?;
        legend.draw(&Circle::new((x + 18, y), 4, style.filled()))?;
        let text = Text::new(contender.title(), (x + 46, y - 9), ("sans-serif", 17));
        legend.draw(&text)?;
    }
    Ok(())
}

/// The colours of Okabe and Ito, which people with any colour vision can tell apart.
fn line(contender: Contender) -> ShapeStyle {
    let (colour, width) = match contender {
        Contender::Gateway => (RGBColor(213, 94, 0), 4),
        Contender::Fe2o3Coalesced => (RGBColor(0, 114, 178), 2),
        Contender::Fe2o3 => (RGBColor(86, 180, 233), 2),
        Contender::Rhea => (RGBColor(0, 158, 115), 2),
        Contender::QpidProton => (RGBColor(204, 121, 167), 2),
        Contender::NodeSdkShared => (RGBColor(60, 60, 60), 2),
        Contender::NodeSdk => (RGBColor(150, 150, 150), 2),
    };
    colour.stroke_width(width)
}

/// From somewhat below the least value to somewhat above the greatest.
fn span(values: impl Iterator<Item = f64>) -> Option<std::ops::Range<f64>> {
    let positive: Vec<_> = values.filter(|value| *value > 0.0).collect();
    let least = positive.iter().copied().min_by(f64::total_cmp)?;
    let greatest = positive.iter().copied().max_by(f64::total_cmp)?;
    Some(least / MARGIN..greatest * MARGIN)
}

/// One, two and five in each decade.
fn round_within(range: &std::ops::Range<f64>) -> Vec<f64> {
    let (first, last) = (range.start.log10().floor(), range.end.log10().ceil());
    (first as i32..=last as i32)
        .flat_map(|decade| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(decade)))
        .filter(|value| range.contains(value))
        .collect()
}

fn short(value: f64) -> String {
    match value {
        small if small < 1.0 => format!("{small:.1}"),
        plain if plain < 1000.0 => format!("{plain:.0}"),
        thousands => format!("{:.0},000", thousands / 1000.0),
    }
}
