//! A flame graph as an interactive SVG, by inferno. Kernel functions are orange, C++ and Rust yellow, the rest red.

use std::collections::BTreeMap;
use std::io::{self, Write};

use inferno::flamegraph::color::MultiPalette;
use inferno::flamegraph::{Options, Palette};

use super::{Exporter, folded::folded};
use crate::model::{Aspect, Recording, Target, View};

/// A flame graph.
#[derive(Debug)]
pub struct Flamegraph;

impl Exporter for Flamegraph {
    fn name(&self) -> &'static str {
        "flamegraph"
    }

    fn description(&self) -> &'static str {
        "flame graph, an interactive SVG"
    }

    fn endings(&self) -> &'static [&'static str] {
        &["svg"]
    }

    fn content_type(&self) -> &'static str {
        "image/svg+xml"
    }

    fn export(&self, recording: &Recording, view: View, out: &mut dyn Write) -> io::Result<()> {
        let mut lines: Vec<String> =
            folded(recording, view).into_iter().map(|(stack, weight)| format!("{stack} {weight}")).collect();
        if lines.is_empty() {
            // inferno draws nothing at all, and that is an error there.
            lines.push("[no samples] 1".to_owned());
        }
        let mut options = Options::default();
        options.title = title(recording, view);
        options.subtitle = Some(subtitle(recording, view));
        options.count_name = view.unit().to_owned();
        options.colors = Palette::Multi(MultiPalette::Perl);
        inferno::flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), out).map_err(io::Error::other)
    }
}

/// A differential flame graph: of what came later than `base`, whose widths it has. Where a function has more of the time than
/// before it is red, where it has less it is blue.
#[derive(Debug)]
pub struct Differential<'a> {
    /// What it is compared with, scaled to the same length of time.
    pub base: &'a Recording,
}

impl Exporter for Differential<'_> {
    fn name(&self) -> &'static str {
        "differential"
    }

    fn description(&self) -> &'static str {
        "flame graph of what changed, an interactive SVG"
    }

    fn endings(&self) -> &'static [&'static str] {
        Flamegraph.endings()
    }

    fn content_type(&self) -> &'static str {
        Flamegraph.content_type()
    }

    fn export(&self, recording: &Recording, view: View, out: &mut dyn Write) -> io::Result<()> {
        let Self { base } = self;
        let [before, after] = [base, recording].map(|recording| recording.duration.as_secs_f64());
        let scale = after / before.max(1e-3);
        let mut weights: BTreeMap<String, [u64; 2]> = BTreeMap::new();
        for (stack, weight) in folded(base, view) {
            weights.entry(stack).or_default()[0] = (weight as f64 * scale).round() as u64;
        }
        for (stack, weight) in folded(recording, view) {
            weights.entry(stack).or_default()[1] = weight;
        }
        // inferno takes what it draws nothing of for an error.
        if weights.values().all(|[_, after]| *after == 0) {
            weights = BTreeMap::from([("[no samples]".to_owned(), [1, 1])]);
        }
        let lines = weights.into_iter().map(|(stack, [before, after])| format!("{stack} {before} {after}"));
        let lines: Vec<_> = lines.collect();
        let mut options = Options::default();
        options.title = format!("Change of {}", title(recording, view));
        let (first, second) = (&base.session_id, &recording.session_id);
        options.subtitle = Some(format!(
            "from {first} ({before:.1} s) to {second} ({after:.1} s): red has more of the time, blue less"
        ));
        options.count_name = view.unit().to_owned();
        inferno::flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), out).map_err(io::Error::other)
    }
}

fn title(recording: &Recording, view: View) -> String {
    let name = |target: &Target| match target {
        Target::Pid(pid) => {
            let timeline = recording.timelines.iter().find(|timeline| timeline.pid == *pid);
            timeline.map_or_else(|| format!("process {pid}"), |timeline| format!("{} ({pid})", timeline.name))
        }
        Target::Name(pattern) => format!("/{pattern}/"),
        Target::Cgroup(path) => path.clone(),
        Target::All => recording.host.hostname.clone(),
        Target::Command(words) => words.join(" "),
    };
    let names: Vec<_> = recording.targets.iter().map(name).collect();
    let what = match (&recording.event, view.aspect) {
        (Some(event), Aspect::Event) => &event.name,
        (_, aspect) => aspect.title(),
    };
    format!("{what} of {}", names.join(", "))
}

fn subtitle(recording: &Recording, view: View) -> String {
    if let (Some(event), Aspect::Event) = (&recording.event, view.aspect) {
        let seconds = recording.duration.as_secs_f64();
        return format!("{} samples in {seconds:.1} s, each of {} {}", event.kept, event.period, event.name);
    }
    if view.aspect != Aspect::OnCpu {
        let seconds = recording.duration.as_secs_f64();
        return match recording.threads.len() {
            1 => format!("1 thread in {seconds:.1} s"),
            threads => format!("{threads} threads in {seconds:.1} s"),
        };
    }
    let sampling = &recording.sampling;
    let clock = sampling.clock.map_or("no clock", |clock| clock.name());
    let (seconds, samples) = (recording.duration.as_secs_f64(), recording.ledger.samples_kept);
    format!("{samples} samples in {seconds:.1} s, {clock} at {:.0} Hz", sampling.asked_hz)
}
