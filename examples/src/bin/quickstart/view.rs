//! The live view on standard error.

use std::convert::Infallible;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use hub_simulator::HubSimulator;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::progress::Progress;

const ON_TERMINAL: Duration = Duration::from_millis(200);
const ELSEWHERE: Duration = Duration::from_secs(1);
const BAR: usize = 40;
/// Connections whose fill is shown one by one.
const SHOWN_CONNECTIONS: usize = 8;

/// Shows a run: some lines over and over on a terminal, else a line a second.
#[derive(Debug)]
pub(crate) struct View<'a> {
    progress: &'a Progress,
    hub: &'a HubSimulator,
    is_terminal: bool,
    screen: Screen,
    /// When it was refreshed last, and how many messages were acknowledged then.
    last: (Instant, u64),
}

impl<'a> View<'a> {
    pub(crate) fn new(progress: &'a Progress, hub: &'a HubSimulator) -> Self {
        Self {
            progress,
            hub,
            is_terminal: io::stderr().is_terminal(),
            screen: Screen::default(),
            last: (Instant::now(), 0),
        }
    }

    /// Refreshes again and again.
    pub(crate) async fn run(&mut self) -> Infallible {
        let mut ticks = interval(if self.is_terminal {
            ON_TERMINAL
        } else {
            ELSEWHERE
        });
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            self.refresh();
        }
    }

    pub(crate) fn refresh(&mut self) {
        let now = (Instant::now(), self.progress.acked.get());
        let elapsed = now.0.duration_since(self.last.0).as_secs_f64();
        let rate = (now.1 - self.last.1) as f64 / elapsed.max(0.001);
        self.last = now;
        let moment = Moment::read(self.progress, self.hub, rate);
        match self.is_terminal {
            true => self.screen.redraw(&moment.lines()),
            false => write(&format!("{}\n", moment.line())),
        }
    }
}

/// Is what the view shows at a moment.
#[derive(Debug, Clone, PartialEq)]
struct Moment {
    welcomed: u64,
    acked: u64,
    total: u64,
    rate: f64,
    in_flight: u64,
    /// Devices on each connection to the hub.
    fill: Vec<usize>,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    c2d: (u64, u64),
    methods: (u64, u64),
}

impl Moment {
    fn read(progress: &Progress, hub: &HubSimulator, rate: f64) -> Self {
        Self {
            welcomed: *progress.welcomed.borrow(),
            acked: progress.acked.get(),
            total: progress.total(),
            rate,
            in_flight: progress.in_flight(),
            fill: hub
                .connections()
                .iter()
                .map(|connection| connection.devices)
                .collect(),
            p50_ms: progress.latency_ms(0.5),
            p99_ms: progress.latency_ms(0.99),
            c2d: (progress.c2d_completed.get(), progress.c2d_sent.get()),
            methods: (
                progress.methods_answered.get(),
                progress.methods_called.get(),
            ),
        }
    }

    fn lines(&self) -> Vec<String> {
        let share = self.acked as f64 / self.total as f64;
        let full = (share * BAR as f64) as usize;
        let shown = self
            .fill
            .iter()
            .take(SHOWN_CONNECTIONS)
            .map(usize::to_string);
        let mut fill = shown.collect::<Vec<_>>().join(" ");
        if self.fill.len() > SHOWN_CONNECTIONS {
            fill.push_str(" ..");
        }
        vec![
            format!(
                "[{}{}] {:3.0} %  {} of {} messages",
                "#".repeat(full),
                ".".repeat(BAR - full),
                share * 100.0,
                self.acked,
                self.total
            ),
            format!(
                "  {:.0} a second, {} in flight, {}",
                self.rate,
                self.in_flight,
                self.latency()
            ),
            format!(
                "  {} devices came, {} connections to the hub with {fill} devices",
                self.welcomed,
                self.fill.len()
            ),
            format!("  {}", self.commands()),
        ]
    }

    fn line(&self) -> String {
        format!(
            "{} devices, {} connections, {} of {} messages, {:.0} a second, {} in flight, {}, {}",
            self.welcomed,
            self.fill.len(),
            self.acked,
            self.total,
            self.rate,
            self.in_flight,
            self.latency(),
            self.commands()
        )
    }

    fn latency(&self) -> String {
        match (self.p50_ms, self.p99_ms) {
            (Some(p50), Some(p99)) => format!("p50 {p50:.1} ms, p99 {p99:.1} ms"),
            _ => "no latency yet".to_owned(),
        }
    }

    fn commands(&self) -> String {
        let ((completed, sent), (answered, called)) = (self.c2d, self.methods);
        format!("C2D {completed} of {sent}, methods {answered} of {called}")
    }
}

/// Knows how many lines to go back.
#[derive(Debug, Default)]
struct Screen {
    lines: usize,
}

impl Screen {
    fn redraw(&mut self, lines: &[String]) {
        let mut text = String::new();
        if self.lines > 0 {
            text.push_str(&format!("\x1b[{}A", self.lines));
        }
        for line in lines {
            text.push_str(line);
            // Erases what was longer before.
            text.push_str("\x1b[K\n");
        }
        self.lines = lines.len();
        write(&text);
    }
}

/// A view that nobody can see is not worth ending the run.
fn write(text: &str) {
    drop(io::stderr().write_all(text.as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment() -> Moment {
        Moment {
            welcomed: 2000,
            acked: 30,
            total: 120,
            rate: 1234.4,
            in_flight: 7,
            fill: vec![995, 995, 10],
            p50_ms: Some(1.25),
            p99_ms: Some(20.0),
            c2d: (3, 4),
            methods: (5, 5),
        }
    }

    #[test]
    fn the_view_shows_progress_fill_latency_and_commands() {
        assert_eq!(
            moment().lines(),
            [
                "[##########..............................]  25 %  30 of 120 messages",
                "  1234 a second, 7 in flight, p50 1.2 ms, p99 20.0 ms",
                "  2000 devices came, 3 connections to the hub with 995 995 10 devices",
                "  C2D 3 of 4, methods 5 of 5",
            ]
        );
    }

    #[test]
    fn many_connections_are_not_shown_one_by_one() {
        let moment = Moment {
            fill: vec![1; 21],
            p50_ms: None,
            ..moment()
        };
        assert!(
            moment.lines()[2]
                .ends_with("21 connections to the hub with 1 1 1 1 1 1 1 1 .. devices")
        );
        assert!(moment.line().contains("21 connections, 30 of 120 messages"));
        assert!(moment.line().contains("no latency yet"));
    }
}
