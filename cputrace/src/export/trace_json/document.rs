//! The shape of trace.json. Every field is described in `schema/trace.schema.json`; here is only what a reader of
//! the source needs beyond that. What the ancestor did not write is optional when read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Trace {
    #[serde(default)]
    pub(super) schema_version: u32,
    pub(super) session_id: String,
    pub(super) start_time: String,
    pub(super) duration_seconds: f64,
    pub(super) metadata: Metadata,
    pub(super) summary: Summary,
    pub(super) samples: Vec<Point>,
    #[serde(default)]
    pub(super) processes: Vec<ProcessSeries>,
    #[serde(default)]
    pub(super) host: Host,
    #[serde(default)]
    pub(super) targets: Vec<Target>,
    #[serde(default)]
    pub(super) sampling: Option<Sampling>,
    #[serde(default)]
    pub(super) overhead: Overhead,
    #[serde(default)]
    pub(super) ledger: Ledger,
    #[serde(default)]
    pub(super) threads: Vec<ThreadTime>,
    #[serde(default)]
    pub(super) scheduler: Option<Scheduler>,
    #[serde(default)]
    pub(super) unwinding: Option<Unwinding>,
    #[serde(default)]
    pub(super) pmu: Option<Pmu>,
    #[serde(default)]
    pub(super) event: Option<EventSampling>,
    #[serde(default)]
    pub(super) stack_counters: Option<StackCounters>,
    #[serde(default)]
    pub(super) anomalies: Vec<Anomaly>,
    #[serde(default)]
    pub(super) notes: Vec<String>,
    #[serde(default)]
    pub(super) profile: Profile,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Metadata {
    pub(super) pid: u32,
    pub(super) process_name: String,
    pub(super) threads: u32,
    pub(super) vm_rss_kb: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Summary {
    pub(super) cpu_avg_percent: f64,
    pub(super) cpu_max_percent: f64,
    pub(super) sample_count: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Point {
    pub(super) t: f64,
    pub(super) cpu_pct: f64,
    pub(super) rss_kb: u64,
    pub(super) threads: u32,
    #[serde(default)]
    pub(super) user_pct: f64,
    #[serde(default)]
    pub(super) system_pct: f64,
    #[serde(default)]
    pub(super) voluntary_switches: u64,
    #[serde(default)]
    pub(super) involuntary_switches: u64,
    #[serde(default)]
    pub(super) minor_faults: u64,
    #[serde(default)]
    pub(super) major_faults: u64,
}

/// One row of `samples` a column: several processes in a tenth of the bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct ProcessSeries {
    pub(super) pid: u32,
    pub(super) name: String,
    pub(super) cpu_time_seconds: f64,
    pub(super) t: Vec<f64>,
    pub(super) cpu_pct: Vec<f64>,
    pub(super) user_pct: Vec<f64>,
    pub(super) system_pct: Vec<f64>,
    pub(super) rss_kb: Vec<u64>,
    pub(super) threads: Vec<u32>,
    pub(super) voluntary_switches: Vec<u64>,
    pub(super) involuntary_switches: Vec<u64>,
    pub(super) minor_faults: Vec<u64>,
    pub(super) major_faults: Vec<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Host {
    pub(super) hostname: String,
    pub(super) kernel: String,
    pub(super) arch: String,
    pub(super) cpu_model: String,
    pub(super) cpus: u32,
    pub(super) memory_kb: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Target {
    Pid(u32),
    Name(String),
    Cgroup(String),
    All(bool),
    Command(Vec<String>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Sampling {
    pub(super) tier: String,
    pub(super) clock: Option<String>,
    pub(super) asked_hz: f64,
    pub(super) achieved_hz: f64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Overhead {
    pub(super) bpf_run_time_seconds: Option<f64>,
    pub(super) bpf_runs: u64,
    #[serde(default)]
    pub(super) bpf_programs: Vec<BpfProgram>,
    pub(super) own_cpu_seconds: f64,
    pub(super) own_rss_kb: u64,
    pub(super) map_kb: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct BpfProgram {
    pub(super) name: String,
    pub(super) run_time_seconds: f64,
    pub(super) runs: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) verified_instructions: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Unwinding {
    pub(super) tables: u64,
    pub(super) rows: u64,
    pub(super) table_kb: u64,
    pub(super) builds: u64,
    pub(super) build_seconds: f64,
    pub(super) failed_builds: u64,
    pub(super) evictions: u64,
    pub(super) refused: u64,
    #[serde(default)]
    pub(super) put_off: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct EventSampling {
    pub(super) name: String,
    pub(super) period: u64,
    pub(super) expected: u64,
    pub(super) seen: u64,
    pub(super) idle: u64,
    pub(super) filtered: u64,
    pub(super) kept: u64,
    pub(super) lost: BTreeMap<String, u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ops: Option<Ops>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Ops {
    pub(super) loads: BTreeMap<String, Loads>,
    pub(super) stores: BTreeMap<String, u64>,
    pub(super) prefetches: BTreeMap<String, u64>,
    pub(super) locked: u64,
    pub(super) translated: u64,
    pub(super) second_tlb: u64,
    pub(super) walks: u64,
    pub(super) walk_cycles: u64,
    pub(super) branches: u64,
    pub(super) mispredicted: u64,
    pub(super) others: u64,
    pub(super) unread: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Loads {
    pub(super) count: u64,
    pub(super) timed: u64,
    pub(super) cycles: u64,
    pub(super) most_cycles: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct StackCounter {
    pub(super) name: String,
    pub(super) unit: String,
    pub(super) in_stacks: u64,
    pub(super) off_stack: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct StackCounters {
    pub(super) counters: Vec<StackCounter>,
    pub(super) counted: u64,
    pub(super) no_start: u64,
    pub(super) not_running: u64,
    pub(super) refused: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Pmu {
    pub(super) cpu: String,
    pub(super) sets: Vec<String>,
    pub(super) user_only: bool,
    pub(super) scopes: Vec<PmuScope>,
    pub(super) missing: Vec<PmuMissing>,
    pub(super) backwards: u64,
    pub(super) lost_groups: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct PmuScope {
    pub(super) subject: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tid: Option<u32>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) name: String,
    pub(super) counts: Vec<PmuCount>,
    pub(super) metrics: Vec<PmuMetric>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct PmuCount {
    pub(super) event: String,
    pub(super) unit: String,
    pub(super) value: u64,
    pub(super) coverage: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct PmuMetric {
    pub(super) name: String,
    pub(super) unit: String,
    pub(super) value: f64,
    pub(super) coverage: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct PmuMissing {
    pub(super) code: String,
    pub(super) reason: String,
    pub(super) metrics: Vec<String>,
}

/// A spike of a process's CPU use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Anomaly {
    pub(super) signal: String,
    pub(super) pid: u32,
    pub(super) process_name: String,
    pub(super) start: f64,
    pub(super) end: f64,
    pub(super) usual_pct: f64,
    pub(super) peak_pct: f64,
    pub(super) score: f64,
    pub(super) functions: Vec<AnomalyFunction>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct AnomalyFunction {
    pub(super) name: String,
    pub(super) before_pct: f64,
    pub(super) pct: f64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Ledger {
    pub(super) samples_expected: u64,
    pub(super) samples_kept: u64,
    pub(super) samples_lost: BTreeMap<String, u64>,
    pub(super) unaccounted: i64,
    pub(super) stacks: BTreeMap<String, u64>,
    #[serde(default)]
    pub(super) wait_stacks: BTreeMap<String, u64>,
    #[serde(default)]
    pub(super) stacks_guessed: u64,
    pub(super) ticks_expected: u64,
    pub(super) ticks: u64,
    pub(super) ticks_idle: u64,
    pub(super) ticks_filtered: u64,
}

/// A histogram's empty end is left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ThreadTime {
    pub(super) pid: u32,
    pub(super) tid: u32,
    pub(super) comm: String,
    pub(super) elapsed_ns: u64,
    pub(super) on_cpu_ns: u64,
    pub(super) run_queue_ns: u64,
    pub(super) run_queue_max_ns: u64,
    pub(super) off_cpu_ns: BTreeMap<String, u64>,
    pub(super) residual_ns: i64,
    pub(super) kernel_on_cpu_ns: u64,
    pub(super) kernel_run_queue_ns: u64,
    pub(super) switches_voluntary: u64,
    pub(super) switches_involuntary: u64,
    pub(super) migrations: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) run_queue_waits: Vec<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) ended: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Scheduler {
    pub(super) threads_lost: u64,
    pub(super) ends_lost: u64,
    pub(super) clock_errors: u64,
    pub(super) recovered: u64,
    pub(super) waits: u64,
    pub(super) waits_lost: u64,
    pub(super) waits_limited: u64,
    pub(super) wakes: u64,
    pub(super) wakes_lost: u64,
    pub(super) wakes_limited: u64,
    #[serde(default)]
    pub(super) sampled_below_ns: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Profile {
    pub(super) strings: Vec<String>,
    pub(super) mappings: Vec<Mapping>,
    pub(super) functions: Functions,
    pub(super) locations: Locations,
    pub(super) stacks: Stacks,
    pub(super) processes: Vec<Process>,
    pub(super) threads: Vec<Thread>,
    pub(super) sources: Vec<Source>,
    pub(super) samples: Samples,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Mapping {
    pub(super) kind: String,
    pub(super) path: u32,
    pub(super) build_id: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Functions {
    pub(super) name: Vec<u32>,
    pub(super) system_name: Vec<u32>,
    pub(super) file: Vec<u32>,
    pub(super) start_line: Vec<u32>,
}

/// Addresses are text, for JSON's numbers end at 2^53; `lines` has pairs of function and line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Locations {
    pub(super) mapping: Vec<u32>,
    pub(super) address: Vec<String>,
    pub(super) lines: Vec<Vec<u32>>,
    pub(super) unknown: BTreeMap<String, Vec<u32>>,
}

/// A prefix tree: `parent` is how many rows back the caller's row is, 0 for a root.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Stacks {
    pub(super) parent: Vec<u32>,
    pub(super) location: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) name: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Thread {
    pub(super) process: u32,
    pub(super) tid: u32,
    pub(super) name: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Source {
    pub(super) name: u32,
    pub(super) unit: String,
    pub(super) period: u64,
}

/// A row for equal observations. `at_us` is delta-coded; a row of `values` is empty where each event is worth the source's
/// period, and all of it is where that holds for every row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Samples {
    pub(super) thread: Vec<u32>,
    pub(super) source: Vec<u32>,
    pub(super) stack: Vec<Option<u32>>,
    pub(super) count: Vec<u64>,
    pub(super) value: Vec<u64>,
    pub(super) at_us: Vec<Vec<u64>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) values: Vec<Vec<u64>>,
}
