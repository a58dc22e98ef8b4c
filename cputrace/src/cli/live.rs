//! What is shown while recording: on a terminal a block that renews itself, elsewhere a plain line now and then.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::say;
use crate::model::Timeline;
use crate::session::Progress;

/// How often a plain line is written.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// Metrics that are shown, the first two of them that there are.
const COUNTERS: [&str; 5] = ["ipc", "branch-mpki", "l3-miss-ratio", "page-faults", "context-switches"];

/// Points of the sparkline.
const SPARKS: usize = 24;

/// The live display.
pub(super) enum Live {
    Quiet,
    /// Lines, the next one not before this time.
    Plain(Duration),
    Terminal(ProgressBar),
}

impl Live {
    pub(super) fn new(quiet: bool, duration: Option<Duration>) -> Self {
        if quiet {
            return Self::Quiet;
        }
        if !io::stderr().is_terminal() {
            return Self::Plain(PLAIN_INTERVAL);
        }
        let (length, template) = match duration {
            Some(duration) => (duration.as_millis() as u64, "{msg}\n{wide_bar:.cyan/dim} {prefix}"),
            None => (0, "{msg}\n{spinner:.cyan} {prefix}   Ctrl-C ends the recording"),
        };
        let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr_with_hz(10));
        // The template is a constant: were it wrong, the default one would do.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        Self::Terminal(bar)
    }

    pub(super) fn show(&mut self, progress: &Progress<'_>) {
        match self {
            Self::Quiet => {}
            Self::Plain(next) => {
                if progress.elapsed >= *next {
                    *next = progress.elapsed + PLAIN_INTERVAL;
                    say(&format!("cputrace: {}, {}", clock(progress), numbers(progress)));
                }
            }
            Self::Terminal(bar) => {
                bar.set_message(format!("{}  {}", numbers(progress), sparkline(progress.timelines)));
                bar.set_prefix(clock(progress));
                if progress.duration.is_some() {
                    bar.set_position(progress.elapsed.as_millis() as u64);
                } else {
                    bar.tick();
                }
            }
        }
    }

    pub(super) fn finish(&mut self) {
        if let Self::Terminal(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// Columns of the terminal; plenty where there is none.
pub(super) fn width() -> usize {
    let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: fills in the struct given, if standard output is a terminal.
    let known = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) } == 0 && size.ws_col > 0;
    columns.unwrap_or(if known { size.ws_col.into() } else { 120 })
}

fn clock(progress: &Progress<'_>) -> String {
    let elapsed = progress.elapsed.as_secs_f64();
    match progress.duration {
        Some(duration) => format!("{elapsed:.1} of {:.1} s", duration.as_secs_f64()),
        None => format!("{elapsed:.1} s"),
    }
}

/// All processes together.
fn numbers(progress: &Progress<'_>) -> String {
    let now = |timeline: &&Timeline| {
        let fresh = |at: Duration| at + Duration::from_secs(1) > progress.elapsed;
        timeline.points.last().copied().filter(|point| fresh(point.at))
    };
    let points: Vec<_> = progress.timelines.iter().filter_map(|timeline| now(&timeline)).collect();
    let cpu: f64 = points.iter().map(|point| point.cpu_percent).sum();
    let rss: u64 = points.iter().map(|point| point.rss_kb).sum();
    let threads: u32 = points.iter().map(|point| point.threads).sum();
    let processes = if points.len() > 1 { format!("{} processes  ", points.len()) } else { String::new() };
    format!(
        "{processes}CPU {cpu:.0} %  RSS {}  threads {threads}  samples {}  lost {}{}",
        super::summary::size(rss * 1024),
        progress.samples,
        progress.lost,
        counters(progress)
    )
}

/// The counters that tell the most, of those that there are.
fn counters(progress: &Progress<'_>) -> String {
    let known = COUNTERS.iter().filter_map(|name| progress.metrics.iter().find(|metric| metric.name == *name));
    known.take(2).map(|metric| format!("  {}", super::counters::metric(metric))).collect()
}

/// CPU use of the last points, all processes together, scaled to the largest.
fn sparkline(timelines: &[Timeline]) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let mut sums = [0.0; SPARKS];
    for timeline in timelines {
        for (sum, point) in sums.iter_mut().rev().zip(timeline.points.iter().rev()) {
            *sum += point.cpu_percent;
        }
    }
    let largest = sums.iter().copied().fold(100.0, f64::max);
    sums.iter().map(|sum| BLOCKS[((sum / largest * 7.0).round() as usize).min(7)]).collect()
}
