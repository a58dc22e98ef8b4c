//! What hardware counters say: how well the CPUs are used, and what holds them up.

use super::panel::{Panel, lines, stack, table};
use super::{Dashboard, Variable, row};

/// What a panel without counters says.
const NOT_COUNTED: &str = "Not counted: see What is missing. cputrace serve --pmu counts on the host, cputrace pmu list says what this CPU can";
const NOT_BY_GROUP: &str = "Not counted. Start cputrace serve with --pmu-stacks cycles,instructions; cputrace pmu list says what this CPU can count";

/// Metrics of the host, by their names in `cputrace pmu explain`.
fn metric(title: &'static str, unit: &'static str, expr: &'static str, description: &'static str) -> Panel {
    lines(title, unit, description)
        .query(expr, "{{instance}}: {{metric}}")
        .empty(NOT_COUNTED)
        .leads_to_flame_graph_of_all()
}

pub(super) fn dashboard() -> Dashboard {
    let groups = row(
        "By group",
        [
            lines("Instructions per cycle", "short", "Below 1 the CPU mostly waits, often for memory. A change without a new release is a neighbour or other data.")
                .query("sum by (groupname) (rate(cputrace_group_counted_total{@group, event=\"instructions\"}[$__rate_interval])) / sum by (groupname) (rate(cputrace_group_counted_total{@group, event=\"cycles\"}[$__rate_interval]))", "{{groupname}}")
                .empty(NOT_BY_GROUP)
                .leads_to_group()
                .leads_to_flame_graph(),
            lines("Cache misses per 1000 instructions", "short", "Where both events are counted: --pmu-stacks cycles,instructions,cache-misses.")
                .query("1000 * sum by (groupname) (rate(cputrace_group_counted_total{@group, event=\"cache-misses\"}[$__rate_interval])) / sum by (groupname) (rate(cputrace_group_counted_total{@group, event=\"instructions\"}[$__rate_interval]))", "{{groupname}}")
                .empty(NOT_BY_GROUP)
                .leads_to_group()
                .leads_to_flame_graph(),
            lines("Events counted", "short", "All events that are counted by stack (--pmu-stacks), a second, over the chosen groups. Only their ratios say something: stretches without a sample are left out.")
                .query("sum by (event) (rate(cputrace_group_counted_total{@group}[$__rate_interval]))", "{{event}}")
                .empty(NOT_BY_GROUP),
        ],
    );
    let topdown = row(
        "Top-down: what became of the dispatch slots",
        [
            stack("First level", "percent", "Each cycle has a fixed number of slots. Retiring is useful work; the front end did not deliver; the back end had no room (memory, execution units); bad speculation was thrown away; the other thread of the core had the slot.")
                .query("avg by (metric) (cputrace_pmu_metric{@target, metric=~\"retiring|frontend-bound|bad-speculation|backend-bound|smt-contention\"})", "{{metric}}")
                .empty(NOT_COUNTED)
                .max(100.0)
                .leads_to_flame_graph_of_all()
                .width(12),
            lines("Second level", "percent", "The same, in parts: latency or bandwidth of the front end, mispredictions or restarts, memory or the CPU's own units, fast path or microcode.")
                .query("avg by (metric) (cputrace_pmu_metric{@target, metric=~\".+[.].+\", unit=\"% of slots\"})", "{{metric}}")
                .empty(NOT_COUNTED)
                .leads_to_flame_graph_of_all()
                .width(12),
        ],
    );
    let host = row(
        "Whole hosts",
        [
            metric(
                "Instructions per cycle",
                "short",
                "cputrace_pmu_metric{@target, metric=~\"ipc|flops-per-cycle\"}",
                "Of all CPUs together, and floating-point operations per cycle where they are counted.",
            ),
            metric(
                "Misses per 1000 instructions",
                "short",
                "cputrace_pmu_metric{@target, unit=\"/1000 instr\"}",
                "Mispredicted branches, misses of the caches and of the TLBs, by level.",
            ),
            metric(
                "Shares",
                "percent",
                "cputrace_pmu_metric{@target, unit=\"%\"}",
                "Ratios of misses, stalls by what was full, use of the memory bus.",
            ),
            metric(
                "Memory traffic",
                "GBs",
                "cputrace_pmu_metric{@target, unit=\"GB/s\"}",
                "Bytes read from and written to memory, from the memory controllers' own counters.",
            ),
            metric(
                "Power",
                "watt",
                "cputrace_pmu_metric{@target, unit=\"W\"}",
                "Power of the processor packages (RAPL).",
            ),
            metric(
                "Clocks",
                "short",
                "cputrace_pmu_metric{@target, unit=~\"GHz|GFLOP/s\"}",
                "GHz that the CPUs really ran at while busy, and floating-point operations (10^9 a second).",
            ),
            metric(
                "Events of the kernel",
                "ops",
                "cputrace_pmu_metric{@target, unit=\"/s\"}",
                "Page faults, context switches and moves between CPUs of the host, by the kernel's own counters.",
            ),
            metric(
                "Latency of the L3 cache",
                "none",
                "cputrace_pmu_metric{@target, metric=\"l3-miss-latency\"}",
                "Until data that the L3 lacks is there: nanoseconds, on older CPUs core cycles.",
            ),
        ],
    );
    let sure = row(
        "How sure this is",
        [
            lines("Coverage", "percentunit", "Share of the time that was really counted for each metric. Where counters take turns it is below 1, and the rest is scaled.")
                .query("cputrace_pmu_coverage_ratio{@target}", "{{instance}}: {{metric}}")
                .empty(NOT_COUNTED)
                .max(1.0)
                .width(12),
            table("metric", "Metric", "What is missing", "Metrics that were asked for and could not be counted, with the reason. No data is not 0.")
                .column("Hosts", "none", "count by (metric, reason) (cputrace_pmu_missing{@target})")
                .empty("Nothing is missing, or nothing was asked for (cputrace serve --pmu)")
                .size(12, 8),
        ],
    );
    Dashboard {
        name: "pmu",
        title: "PMU and top-down",
        description: "What hardware counters say: how well the CPUs are used, and what holds them up.",
        variables: vec![Variable::GROUP],
        rows: vec![groups, topdown, host, sure],
    }
}
