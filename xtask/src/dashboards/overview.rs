//! What the hosts do, and where to look next.

use super::panel::{heatmap, lines, stack, stat, table};
use super::{Dashboard, row};

pub(super) fn dashboard() -> Dashboard {
    let now = row(
        "Now",
        [
            stat("CPU used", "short", "Cores that all groups of processes used together.")
                .query("sum(rate(cputrace_group_cpu_seconds_total{@target}[$__rate_interval]))", "cores"),
            stat("Waiting for a CPU", "short", "Threads that were runnable and had no CPU, on average. Above 0 for long, the host has too few CPUs or too many threads.")
                .query("sum(rate(cputrace_group_runqueue_wait_seconds_total{@target}[$__rate_interval]))", "threads"),
            stat("Run queue, 99th percentile", "s", "Of a hundred waits for a CPU, 99 are shorter.")
                .query("histogram_quantile(0.99, sum by (le) (rate(cputrace_runqueue_latency_seconds_bucket{@target}[$__rate_interval])))", "p99")
                .limits(0.01, 0.1),
            stat("Groups of processes", "none", "Groups that the hosts' processes are in.")
                .query("sum(cputrace_groups{@target})", "groups"),
            stat("Samples lost", "percentunit", "Share of the expected samples that are in no profile. Agent health says why.")
                .query("sum(rate(cputrace_samples_lost_total{@target}[$__rate_interval])) / sum(rate(cputrace_samples_expected_total{@target}[$__rate_interval]))", "lost")
                .limits(0.01, 0.05),
            stat("Cost of cputrace", "percentunit", "Share of the hosts' CPU time that cputrace takes, with its eBPF programs.")
                .query("max(cputrace_overhead_ratio{@target})", "cost")
                .limits(0.01, 0.02),
        ],
    );
    let groups = row(
        "Groups of processes",
        [
            stack("CPU by group", "short", "Cores that the busiest groups used, with processes that have ended. A click on a point leads to the group or to what ran at that time.")
                .query("sum by (groupname) (rate(cputrace_group_cpu_seconds_total{@target}[$__rate_interval])) and topk(10, sum by (groupname) (increase(cputrace_group_cpu_seconds_total{@target}[$__range] @ end())))", "{{groupname}}")
                .leads_to_group()
                .leads_to_flame_graph()
                .width(12),
            stack("Waiting for a CPU, by group", "short", "Threads that were runnable without a CPU, on average, of the groups that waited most.")
                .query("sum by (groupname) (rate(cputrace_group_runqueue_wait_seconds_total{@target}[$__rate_interval])) and topk(10, sum by (groupname) (increase(cputrace_group_runqueue_wait_seconds_total{@target}[$__range] @ end())))", "{{groupname}}")
                .leads_to_group()
                .leads_to_flame_graph()
                .width(12),
            table("groupname", "Group", "All groups", "What each group used over the last minutes and holds now. A click on its name leads to it.")
                .column("CPU (cores)", "short", "sum by (groupname) (rate(cputrace_group_cpu_seconds_total{@target}[$__rate_interval]))")
                .column("Waiting for a CPU (threads)", "short", "sum by (groupname) (rate(cputrace_group_runqueue_wait_seconds_total{@target}[$__rate_interval]))")
                .column("Run queue p99", "s", "histogram_quantile(0.99, sum by (groupname, le) (rate(cputrace_group_runqueue_latency_seconds_bucket{@target}[$__rate_interval]))) > 0")
                .column("Memory", "bytes", "sum by (groupname) (cputrace_group_resident_memory_bytes{@target})")
                .column("Processes", "none", "sum by (groupname) (cputrace_group_processes{@target})")
                .column("Threads", "none", "sum by (groupname) (cputrace_group_threads{@target})")
                .column("Started (per second)", "short", "sum by (groupname) (rate(cputrace_group_starts_total{@target}[$__rate_interval]))")
                .leads_to_group()
                .leads_to_flame_graph(),
        ],
    );
    let latency = row(
        "Waits for a CPU, whole hosts",
        [
            heatmap("Waits by length", "How many waits for a CPU took how long, of all threads. A dark band that climbs is a host that runs out of CPU. A click leads to what ran at that time.")
                .query("sum by (le) (increase(cputrace_runqueue_latency_seconds_bucket{@target}[$__rate_interval]))", "{{le}}")
                .leads_to_flame_graph_of_all()
                .width(12),
            lines("Longest waits by host", "s", "Of a hundred waits for a CPU, 99 are shorter; by host.")
                .query("histogram_quantile(0.99, sum by (instance, le) (rate(cputrace_runqueue_latency_seconds_bucket{@target}[$__rate_interval])))", "{{instance}}")
                .leads_to_flame_graph_of_all()
                .width(12),
        ],
    );
    let anomalies = row(
        "Unusual",
        [
            lines("Distance from what is usual", "short", "How far a group's signal is from its own past, in robust standard deviations; the groups farthest off. Needs some minutes of past.")
                .query("topk(10, max by (groupname, signal) (cputrace_anomaly_score{@target}))", "{{groupname}}: {{signal}}")
                .empty("Nothing to compare with yet: anomalies are looked for once there are some minutes of past")
                .leads_to_group()
                .leads_to_flame_graph()
                .width(12),
            lines("Anomalies reported", "none", "Anomalies over the interval, by group and signal. cputrace's event log has each with what was different.")
                .query("sum by (groupname, signal) (increase(cputrace_anomalies_total{@target}[$__rate_interval])) > 0", "{{groupname}}: {{signal}}")
                .empty("No anomaly in this time")
                .leads_to_group()
                .leads_to_flame_graph()
                .width(12),
        ],
    );
    Dashboard {
        name: "overview",
        title: "Overview",
        description: "What the watched hosts do: who uses the CPUs, who waits for one, what is unusual.",
        variables: vec![],
        rows: vec![now, groups, latency, anomalies],
    }
}
