//! One group of processes: where its threads' time goes, and in which code.

use super::panel::{flame_graph, lines, stack, stat};
use super::{Dashboard, Variable, row};

/// What a panel without counters says.
const NO_COUNTERS: &str = "Not counted. Start cputrace serve with --pmu-stacks cycles,instructions; cputrace pmu list says what this CPU can count";

pub(super) fn dashboard() -> Dashboard {
    let now = row(
        "Now",
        [
            stat("CPU used", "short", "Cores that the chosen groups use.")
                .query("sum(rate(cputrace_group_cpu_seconds_total{@group}[$__rate_interval]))", "cores"),
            stat("Run queue, 99th percentile", "s", "Of a hundred waits for a CPU of the chosen groups, 99 are shorter.")
                .query("histogram_quantile(0.99, sum by (le) (rate(cputrace_group_runqueue_latency_seconds_bucket{@group}[$__rate_interval])))", "p99")
                .limits(0.01, 0.1),
            stat("Memory", "bytes", "Resident memory of the chosen groups, shared memory counted for each process.")
                .query("sum(cputrace_group_resident_memory_bytes{@group})", "resident"),
            stat("Processes", "none", "Living processes of the chosen groups.")
                .query("sum(cputrace_group_processes{@group})", "processes"),
            stat("Threads", "none", "Threads of these processes.")
                .query("sum(cputrace_group_threads{@group})", "threads"),
            stat("Up for", "s", "Age of the oldest living process of the chosen groups.")
                .query("time() - min(cputrace_group_oldest_start_time_seconds{@group})", "age"),
        ],
    );
    let time = row(
        "Where the threads' time goes",
        [
            stack("CPU", "short", "Cores in the programs' own code and in the kernel. The sum is exact, from the threads' switches; ended processes are in it.")
                .query("sum by (mode) (rate(cputrace_group_cpu_seconds_total{@group}[$__rate_interval]))", "{{mode}}")
                .leads_to_flame_graph_of_all(),
            stack("All of the threads' time", "short", "Threads on the CPU, waiting for one, and waiting for something else by the kernel's state. It adds up to the number of threads.")
                .query("sum(rate(cputrace_group_cpu_seconds_total{@group}[$__rate_interval]))", "on a CPU")
                .query("sum(rate(cputrace_group_runqueue_wait_seconds_total{@group}[$__rate_interval]))", "waiting for a CPU")
                .query("sum by (state) (rate(cputrace_group_offcpu_seconds_total{@group}[$__rate_interval]))", "{{state}}"),
            lines("CPU by group", "short", "Cores that the busiest of the chosen groups used. A click on a point leads to what ran at that time.")
                .query("sum by (groupname) (rate(cputrace_group_cpu_seconds_total{@group}[$__rate_interval])) and topk(10, sum by (groupname) (increase(cputrace_group_cpu_seconds_total{@group}[$__range] @ end())))", "{{groupname}}")
                .leads_to_flame_graph(),
            lines("Waits for a CPU", "s", "Half, 95 and 99 of a hundred waits are shorter. A click leads to the flame graphs of all groups at that time: who had the CPU.")
                .query("histogram_quantile(0.5, sum by (le) (rate(cputrace_group_runqueue_latency_seconds_bucket{@group}[$__rate_interval])))", "p50")
                .query("histogram_quantile(0.95, sum by (le) (rate(cputrace_group_runqueue_latency_seconds_bucket{@group}[$__rate_interval])))", "p95")
                .query("histogram_quantile(0.99, sum by (le) (rate(cputrace_group_runqueue_latency_seconds_bucket{@group}[$__rate_interval])))", "p99")
                .leads_to_flame_graph_of_all(),
            lines("Longest waits by group", "s", "The 99th percentile of those of the chosen groups that waited most. A click leads to what the group did at that time.")
                .query("histogram_quantile(0.99, sum by (groupname, le) (rate(cputrace_group_runqueue_latency_seconds_bucket{@group}[$__rate_interval]))) and topk(10, sum by (groupname) (increase(cputrace_group_runqueue_wait_seconds_total{@group}[$__range] @ end())))", "{{groupname}}")
                .leads_to_flame_graph(),
            lines("Context switches", "ops", "Voluntary where a thread waited for something, involuntary where another was to run: many of these mean too few CPUs.")
                .query("sum by (kind) (rate(cputrace_group_context_switches_total{@group}[$__rate_interval]))", "{{kind}}"),
        ],
    );
    let code = row(
        "In which code",
        [flame_graph(
            "process_cpu:cpu:nanoseconds:cpu:nanoseconds",
            "On the CPU",
            "Where the chosen groups' CPU time went in the dashboard's time. The wider, the more.",
        )],
    );
    let resources = row(
        "Memory and processes",
        [
            lines(
                "Memory",
                "bytes",
                "Resident and virtual memory of each group; shared memory is counted for each process.",
            )
            .query("sum by (groupname) (cputrace_group_resident_memory_bytes{@group})", "{{groupname}}: resident")
            .query("sum by (groupname) (cputrace_group_virtual_memory_bytes{@group})", "{{groupname}}: virtual"),
            lines("Page faults", "ops", "Minor ones map memory that is there, major ones wait for a disk.").query(
                "sum by (severity) (rate(cputrace_group_page_faults_total{@group}[$__rate_interval]))",
                "{{severity}}",
            ),
            lines("Moves between CPUs", "ops", "Moves of threads to another CPU, whose caches are cold.").query(
                "sum by (groupname) (rate(cputrace_group_migrations_total{@group}[$__rate_interval]))",
                "{{groupname}}",
            ),
            lines(
                "Processes and threads",
                "none",
                "Living processes of each group and their threads. Threads that only grow are a leak.",
            )
            .query("sum by (groupname) (cputrace_group_processes{@group})", "{{groupname}}: processes")
            .query("sum by (groupname) (cputrace_group_threads{@group})", "{{groupname}}: threads"),
            lines("Processes that start and end", "ops", "A high rate costs time of its own: fork, exec, loading.")
                .query("sum(rate(cputrace_group_starts_total{@group}[$__rate_interval]))", "start")
                .query("sum(rate(cputrace_group_exits_total{@group}[$__rate_interval]))", "end"),
            lines(
                "Distance from what is usual",
                "short",
                "How far the groups' signals are from their own past, in robust standard deviations.",
            )
            .query("max by (groupname, signal) (cputrace_anomaly_score{@group})", "{{groupname}}: {{signal}}")
            .empty("Nothing to compare with yet: anomalies are looked for once there are some minutes of past")
            .leads_to_flame_graph(),
        ],
    );
    let counters = row(
        "Counters",
        [
            lines("Instructions per cycle", "short", "Below 1 the CPU mostly waits, often for memory; the flame graph says where.")
                .query("sum by (groupname) (rate(cputrace_group_counted_total{@group, event=\"instructions\"}[$__rate_interval])) / sum by (groupname) (rate(cputrace_group_counted_total{@group, event=\"cycles\"}[$__rate_interval]))", "{{groupname}}")
                .empty(NO_COUNTERS)
                .leads_to_flame_graph()
                .width(12),
            lines("Samples in the kernel", "percentunit", "Share of the groups' samples that were taken in kernel code: system calls, page faults, interrupts.")
                .query("sum by (groupname) (rate(cputrace_group_oncpu_samples_total{@group, space=\"kernel\"}[$__rate_interval])) / sum by (groupname) (rate(cputrace_group_oncpu_samples_total{@group}[$__rate_interval]))", "{{groupname}}")
                .max(1.0)
                .leads_to_flame_graph()
                .width(12),
        ],
    );
    Dashboard {
        name: "group",
        title: "Process group",
        description: "One or a few groups of processes: where their threads' time goes, and in which code.",
        variables: vec![Variable::GROUP, Variable::PYROSCOPE],
        rows: vec![now, time, code, resources, counters],
    }
}
