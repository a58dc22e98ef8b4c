//! Prometheus metrics.
//!
//! - [`METRICS`]: each one's name, kind, labels and help; METRICS.md is made of it (`cargo xtask docs`).
//! - [`own`]: what cputrace says of itself, added up over windows.
//! - [`counters`]: what hardware and kernel counters came to.
//! - [`collect`]: all values of a moment.
//! - [`encode`]: these in the formats that a scraper may ask for.

pub mod collect;
pub mod counters;
pub mod encode;
pub mod own;

use std::fmt::Write as _;

use crate::model::WaitHistogram;

/// What kind of metric.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// How many values of which size.
    Histogram,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric, as it is on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metric {
    /// Its name, with unit and `_total`.
    pub name: &'static str,
    /// Of which kind.
    pub kind: Kind,
    /// Its labels' names.
    pub labels: &'static [&'static str],
    /// What it says, in a sentence without its full stop.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($(#[$doc:meta])* $id:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $($(#[$doc])* #[doc = $help] pub const $id: Metric =
            Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };)*

        /// All of them, in the order in which they are shown.
        pub const METRICS: &[Metric] = &[$($id),*];
    };
}

metrics! {
    GROUP_PROCESSES: Gauge "cputrace_group_processes" ["groupname"] "Living processes of the group";
    GROUP_THREADS: Gauge "cputrace_group_threads" ["groupname"] "Their threads";
    GROUP_OLDEST_START: Gauge "cputrace_group_oldest_start_time_seconds" ["groupname"] "Unix time at which the group's oldest living process started";
    GROUP_CPU: Counter "cputrace_group_cpu_seconds_total" ["groupname", "mode"] "Time on the CPU, of ended processes too; the sum is exact, its split is the kernel's own and for very short-lived processes estimated from samples";
    GROUP_RUN_QUEUE: Counter "cputrace_group_runqueue_wait_seconds_total" ["groupname"] "Time that threads waited for a CPU";
    GROUP_RUN_QUEUE_LATENCY: Histogram "cputrace_group_runqueue_latency_seconds" ["groupname"] "Waits for a CPU, from runnable to running";
    GROUP_OFF_CPU: Counter "cputrace_group_offcpu_seconds_total" ["groupname", "state"] "Time that threads waited for something else than a CPU";
    GROUP_SWITCHES: Counter "cputrace_group_context_switches_total" ["groupname", "kind"] "Context switches: voluntary where the thread waited, involuntary where another was to run";
    GROUP_MIGRATIONS: Counter "cputrace_group_migrations_total" ["groupname"] "Moves of threads to another CPU";
    GROUP_FAULTS: Counter "cputrace_group_page_faults_total" ["groupname", "severity"] "Page faults; of processes that ended within a window only up to its start";
    GROUP_RESIDENT: Gauge "cputrace_group_resident_memory_bytes" ["groupname"] "Resident memory of its processes, shared memory counted for each";
    GROUP_VIRTUAL: Gauge "cputrace_group_virtual_memory_bytes" ["groupname"] "Virtual memory of its processes";
    GROUP_STARTS: Counter "cputrace_group_starts_total" ["groupname"] "Processes that came into the group: started, or became one of its programs; one that a window's end falls into may count twice";
    GROUP_EXITS: Counter "cputrace_group_exits_total" ["groupname"] "Processes of the group that ended; one that a window's end falls into may count twice";
    GROUP_SAMPLES: Counter "cputrace_group_oncpu_samples_total" ["groupname", "space"] "Profiler samples taken on the CPU, in user or kernel code";
    GROUP_COUNTED: Counter "cputrace_group_counted_total" ["groupname", "event"] "Events counted (--pmu-stacks) in the stretches of threads' time on the CPU that ended with a sample: for ratios, such as instructions per cycle";
    PMU_METRIC: Gauge "cputrace_pmu_metric" ["metric", "unit"] "What the host's counters came to in the last window (--pmu; `cputrace pmu explain` says what each means)";
    PMU_COVERAGE: Gauge "cputrace_pmu_coverage_ratio" ["metric"] "Share of the time that was really counted for it, the rest scaled";
    PMU_MISSING: Gauge "cputrace_pmu_missing" ["metric", "reason"] "1 for each metric that was asked for and not counted, with the reason: no data, which is not 0";
    RUN_QUEUE_LATENCY: Histogram "cputrace_runqueue_latency_seconds" [] "Waits for a CPU of all threads of the host, from runnable to running";
    RESIDUAL: Counter "cputrace_residual_seconds_total" [] "Threads' time that is neither on the CPU nor in a run queue nor off the CPU: what the account lacks";
    SCHED_LOST: Counter "cputrace_scheduler_lost_total" ["what"] "What the account of the threads' time lost: threads without a place, ends, clock errors, waits and wake-ups without their stacks";
    SCHED_LIMITED: Counter "cputrace_scheduler_limited_total" ["what"] "Stacks of waits and wake-ups that were not taken, to bound the cost; their times are in the sums";
    WINDOWS: Counter "cputrace_windows_total" [] "Windows that were completed";
    FREQUENCY: Gauge "cputrace_sampling_frequency_hertz" [] "Samples a second and CPU that are taken now";
    SAMPLES_EXPECTED: Counter "cputrace_samples_expected_total" [] "Samples that running code should have yielded";
    SAMPLES: Counter "cputrace_samples_total" [] "Samples that are in profiles";
    SAMPLES_LOST: Counter "cputrace_samples_lost_total" ["reason"] "Samples that are not; expected = kept + lost";
    STACKS: Counter "cputrace_stacks_total" ["end"] "How the samples' user stacks ended";
    STACKS_GUESSED: Counter "cputrace_stacks_guessed_total" [] "Samples with a frame that was found where nothing says how";
    WAIT_STACKS: Counter "cputrace_wait_stacks_total" ["end"] "How the user stacks of waits ended";
    OVERHEAD: Counter "cputrace_overhead_cpu_seconds_total" ["component"] "CPU time that cputrace took: its own process (userspace), its eBPF programs by their own account (bpf), and the samples' interrupts, estimated at 3 microseconds each";
    OVERHEAD_RATIO: Gauge "cputrace_overhead_ratio" [] "The same as a part of the CPU time of all of the host's CPUs, in the last second";
    OVERHEAD_LIMIT: Gauge "cputrace_overhead_limit_ratio" [] "The part of the host's CPU time above which the governor lowers the sampling frequency";
    GOVERNOR_STEPS: Counter "cputrace_governor_steps_total" ["direction"] "Changes of the sampling frequency by the governor";
    BPF_RUN: Counter "cputrace_bpf_program_run_seconds_total" ["program"] "Time in each eBPF program: long runs are timed each, of short ones one in 251 stands for all";
    BPF_RUNS: Counter "cputrace_bpf_program_runs_total" ["program"] "How often each ran";
    BPF_MAPS: Gauge "cputrace_bpf_map_bytes" [] "Kernel memory of the eBPF maps";
    BPF_MAP_FILL: Gauge "cputrace_bpf_map_fill_ratio" ["map"] "How full the eBPF maps are that can be full; of the ring buffer of samples, when it was fullest in the last window";
    UNWIND_TABLES: Gauge "cputrace_unwind_tables" [] "Files whose unwind tables are in the kernel";
    UNWIND_BYTES: Gauge "cputrace_unwind_table_bytes" [] "Kernel memory of these tables";
    UNWIND_LIMIT: Gauge "cputrace_unwind_table_limit_bytes" [] "Kernel memory that these tables may take";
    UNWIND_BUILDS: Counter "cputrace_unwind_table_builds_total" ["result"] "Unwind tables that were built, or could not be";
    UNWIND_DROPPED: Counter "cputrace_unwind_table_dropped_total" ["reason"] "Unwind tables that gave way to others or found no room, and looks at new processes that were put off";
    SYMBOLS: Counter "cputrace_symbol_lookups_total" ["result"] "Places in code of the windows: named, or without a name";
    GROUPS: Gauge "cputrace_groups" [] "Groups of processes";
    GROUPS_LIMIT: Gauge "cputrace_groups_limit" [] "Groups that there may be";
    GROUPS_OVERFLOWED: Counter "cputrace_groups_overflowed_total" [] "Processes that were put into ~other because there were too many groups";
    STORE_BYTES: Gauge "cputrace_store_bytes" [] "Size of the store";
    STORE_LIMIT: Gauge "cputrace_store_limit_bytes" [] "Size that the store is kept below";
    STORE_WINDOWS: Gauge "cputrace_store_windows" [] "Windows in the store, of all lengths";
    STORE_FAILED: Counter "cputrace_store_failed_writes_total" [] "Windows, traces and events that could not be stored";
    PUSH_WINDOWS: Counter "cputrace_push_windows_total" ["to", "result"] "Windows that were handed on to another server (--push, --push-otlp): sent, refused by it, or dropped because it could not be reached";
    PUSH_RETRIES: Counter "cputrace_push_retries_total" ["to"] "Tries that failed and were followed by another one";
    PUSH_BYTES: Counter "cputrace_push_bytes_total" ["to"] "Bytes of the requests that were taken, as they were sent";
    PUSH_QUEUE: Gauge "cputrace_push_queued_windows" ["to"] "Windows that wait to be handed on";
    ANOMALY_SCORE: Gauge "cputrace_anomaly_score" ["groupname", "signal"] "How far the group's signal is from what is usual, in robust deviations";
    ANOMALIES: Counter "cputrace_anomalies_total" ["groupname", "signal"] "Anomalies that were reported";
    WEBHOOKS: Counter "cputrace_webhook_messages_total" ["result"] "Messages about anomalies to --webhook: sent, failed after several tries, or dropped because too many waited";
    HTTP_REQUESTS: Counter "cputrace_http_requests_total" ["handler", "code"] "Answered HTTP requests, by path and status code";
    CONFIG_LAST_SUCCESSFUL: Gauge "cputrace_config_last_reload_successful" [] "Whether the configuration could be read when it was to be last";
    CONFIG_LAST_SUCCESS: Gauge "cputrace_config_last_reload_success_timestamp_seconds" [] "When it could be last";
    BUILD_INFO: Gauge "cputrace_build_info" ["version", "arch", "kernel"] "1, with what runs where";
    PROCESS_CPU: Counter "process_cpu_seconds_total" [] "CPU time of cputrace itself";
    PROCESS_RESIDENT: Gauge "process_resident_memory_bytes" [] "Its resident memory";
    PROCESS_VIRTUAL: Gauge "process_virtual_memory_bytes" [] "Its virtual memory";
    PROCESS_FDS: Gauge "process_open_fds" [] "Its open file descriptors";
    PROCESS_MAX_FDS: Gauge "process_max_fds" [] "File descriptors that it may have open";
    PROCESS_THREADS: Gauge "process_threads" [] "Its threads";
    PROCESS_START: Gauge "process_start_time_seconds" [] "Unix time at which it started";
}

/// The value of a series.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// Of a counter or a gauge.
    Number(f64),
    /// Of a histogram, by the kernel's rows.
    Waits {
        /// All values added up, in seconds.
        sum: f64,
        /// How many of which length.
        rows: Box<WaitHistogram>,
        /// Rows that are one classic bucket.
        rows_a_bucket: usize,
    },
}

/// A metric's values: one a set of labels' values, in the order of [`Metric::labels`].
#[derive(Clone, PartialEq, Debug)]
pub struct Family {
    /// Which metric.
    pub metric: &'static Metric,
    /// Its series.
    pub series: Vec<(Vec<String>, Value)>,
}

/// METRICS.md.
pub fn markdown() -> String {
    let mut text = "# Metrics\n\nGenerated from `cputrace/src/metrics/mod.rs` by `cargo xtask docs`. Values of groups change once a window.\n\n\
                    | metric | kind | labels | what it says |\n| --- | --- | --- | --- |\n"
        .to_owned();
    for Metric { name, kind, labels, help } in METRICS {
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(text, "| `{name}` | {} | {} | {help} |", kind.name(), labels.join(", "));
    }
    text.push_str(
        "\nHistograms have classic buckets at powers of two (of groups: of four) nanoseconds, which are the rows that the kernel\n\
         counts in, and native ones (schema 0), whose bounds are up to 7 % off, for a second is no power of two nanoseconds.\n\
         `groupname` is `~kernel` for the kernel's threads and `~other` where no rule fits or there are too many groups.\n",
    );
    text
}
