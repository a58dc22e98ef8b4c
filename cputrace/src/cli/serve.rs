//! `cputrace serve`: from the command line to a server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::counters::CounterArgs;
use super::{say, stop};
use crate::duration;
use crate::ebpf::Waits;
use crate::group::GroupOptions;
use crate::model::Target;
use crate::serve::{self, Settings};
use crate::session::Options;
use crate::store::Retention;

/// Waits of a whole host that are kept with their stacks.
const MIN_WAIT: Duration = Duration::from_millis(10);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Address and port to listen on
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9797")]
    listen: SocketAddr,
    /// Directory of the store
    #[arg(long, value_name = "DIR", default_value = "/var/lib/cputrace")]
    data_dir: PathBuf,
    /// Samples a second and CPU
    #[arg(short = 'F', long, value_name = "HZ", default_value_t = 19, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    frequency: u32,
    /// Length of a window: seconds, or with a unit
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration::seconds)]
    window: Duration,
    /// Kernel memory that unwind tables may take, in megabytes
    #[arg(long, value_name = "MB", default_value_t = 64)]
    unwind_memory: u64,
    #[command(flatten)]
    counters: CounterArgs,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let session = Options {
        targets: vec![Target::All],
        frequency: args.frequency,
        duration: None,
        interval: Duration::from_secs(1),
        tier: None,
        follow_children: true,
        unwind_kb: args.unwind_memory * 1024,
        accounting: true,
        waits: Some(Waits { min: MIN_WAIT, wakers: false }),
        timeline: false,
        wait_rules: String::new(),
        pmu: args.counters.sets(),
        event: None,
        stack_counters: args.counters.pmu_stacks.clone(),
        event_period: None,
    };
    // As `cputrace record` does without flags.
    let waits = Some(Waits { min: Duration::from_millis(1), wakers: true });
    let on_demand = Options { interval: Duration::from_millis(100), waits, timeline: true, ..session.clone() };
    let settings = Settings {
        listen: args.listen,
        data_dir: args.data_dir.clone(),
        retention: Retention::default(),
        groups: GroupOptions::default(),
        window: args.window,
        session,
        on_demand,
    };
    let stop = stop::signals()?;
    let mut on_start = |address| say(&format!("cputrace: watching this host, serving http://{address}"));
    let tell = |line: &str| say(&format!("cputrace: {line}"));
    serve::serve(&settings, &mut on_start, Box::new(tell), &stop)?;
    Ok(ExitCode::SUCCESS)
}
