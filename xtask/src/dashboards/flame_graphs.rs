//! In which code the time goes: Grafana's own flame graphs, of cputrace as a Pyroscope data source.

use super::panel::{flame_graph, lines};
use super::{Dashboard, Variable, row};

pub(super) fn dashboard() -> Dashboard {
    let when = row(
        "When",
        [
            lines("CPU by group", "short", "Cores that the busiest of the chosen groups used. Draw over a stretch of time: the flame graphs below follow.")
                .query("sum by (groupname) (rate(cputrace_group_cpu_seconds_total{@group}[$__rate_interval])) and topk(10, sum by (groupname) (increase(cputrace_group_cpu_seconds_total{@group}[$__range] @ end())))", "{{groupname}}")
                .leads_to_flame_graph()
                .width(12),
            lines("Longest waits for a CPU", "s", "The 99th percentile of those of the chosen groups that waited most. Draw over a stretch of time: the flame graphs below follow.")
                .query("histogram_quantile(0.99, sum by (groupname, le) (rate(cputrace_group_runqueue_latency_seconds_bucket{@group}[$__rate_interval]))) and topk(10, sum by (groupname) (increase(cputrace_group_runqueue_wait_seconds_total{@group}[$__range] @ end())))", "{{groupname}}")
                .leads_to_flame_graph()
                .width(12),
        ],
    );
    let profiles = row(
        "Code of the chosen groups",
        [
            flame_graph(
                "process_cpu:cpu:nanoseconds:cpu:nanoseconds",
                "On the CPU",
                "Where CPU time went. The wider, the more.",
            ),
            flame_graph(
                "off_cpu:off_cpu:nanoseconds::",
                "Off the CPU",
                "Where threads waited for something else than a CPU, with the reason below the code: locks, disk, network, sleep. Short waits are left out.",
            ),
            flame_graph(
                "runqueue:delay:nanoseconds::",
                "Waiting for a CPU",
                "Where threads were when they were runnable and got no CPU.",
            ),
            flame_graph(
                "wakers:off_cpu:nanoseconds::",
                "Who ended the waits",
                "Where threads waited, and below that who woke them up, with the code that did it. Kept by cputrace serve --wakers alone.",
            )
            .empty("No such stacks in this time. Who ended a wait is kept only with cputrace serve --wakers"),
        ],
    );
    Dashboard {
        name: "flame-graphs",
        title: "Flame graphs",
        description: "In which code the time goes, on the CPU and off it, of any stretch of time that is stored.",
        variables: vec![Variable::GROUP, Variable::PYROSCOPE],
        rows: vec![when, profiles],
    }
}
