//! Who waits for a CPU, how long, and who is moved about.

use super::panel::{bars, heatmap, lines, stack};
use super::{Dashboard, Variable, row};

pub(super) fn dashboard() -> Dashboard {
    let hosts = row(
        "Whole hosts",
        [
            heatmap("Waits for a CPU by length", "How many waits from runnable to running took how long, of all threads of the hosts. A click leads to what ran at that time.")
                .query("sum by (le) (increase(cputrace_runqueue_latency_seconds_bucket{@target}[$__rate_interval]))", "{{le}}")
                .leads_to_flame_graph_of_all()
                .size(12, 10),
            lines("Waits for a CPU", "s", "Half, 95 and 99 of a hundred waits are shorter. Long waits at a low median come from few threads: the groups below say whose.")
                .query("histogram_quantile(0.5, sum by (le) (rate(cputrace_runqueue_latency_seconds_bucket{@target}[$__rate_interval])))", "p50")
                .query("histogram_quantile(0.95, sum by (le) (rate(cputrace_runqueue_latency_seconds_bucket{@target}[$__rate_interval])))", "p95")
                .query("histogram_quantile(0.99, sum by (le) (rate(cputrace_runqueue_latency_seconds_bucket{@target}[$__rate_interval])))", "p99")
                .leads_to_flame_graph_of_all()
                .size(12, 10),
        ],
    );
    let groups = row(
        "Chosen groups",
        [
            heatmap("Waits for a CPU by length", "As above, of the chosen groups alone.")
                .query("sum by (le) (increase(cputrace_group_runqueue_latency_seconds_bucket{@group}[$__rate_interval]))", "{{le}}")
                .leads_to_flame_graph_of_all()
                .width(12),
            lines("Longest waits by group", "s", "The 99th percentile of the groups that waited most. A click leads to what the group did at that time.")
                .query("histogram_quantile(0.99, sum by (groupname, le) (rate(cputrace_group_runqueue_latency_seconds_bucket{@group}[$__rate_interval]))) and topk(10, sum by (groupname) (increase(cputrace_group_runqueue_wait_seconds_total{@group}[$__range] @ end())))", "{{groupname}}")
                .leads_to_group()
                .leads_to_flame_graph()
                .width(12),
            stack("Threads that wait for a CPU", "short", "Runnable threads without a CPU, on average; they add up over groups. It is Linux' pressure (PSI), by group.")
                .query("sum by (groupname) (rate(cputrace_group_runqueue_wait_seconds_total{@group}[$__rate_interval])) and topk(10, sum by (groupname) (increase(cputrace_group_runqueue_wait_seconds_total{@group}[$__range] @ end())))", "{{groupname}}")
                .leads_to_group()
                .leads_to_flame_graph(),
            bars("Part of the wanted time that is waited", "percentunit", "Of the time that a group's threads wanted a CPU, the part in which they had none; of the groups that waited most. Near half means that twice the CPUs would be used.")
                .query("sum by (groupname) (rate(cputrace_group_runqueue_wait_seconds_total{@group}[$__rate_interval])) / (sum by (groupname) (rate(cputrace_group_runqueue_wait_seconds_total{@group}[$__rate_interval])) + sum by (groupname) (rate(cputrace_group_cpu_seconds_total{@group}[$__rate_interval]))) and topk(15, sum by (groupname) (increase(cputrace_group_runqueue_wait_seconds_total{@group}[$__range] @ end())))", "{{groupname}}")
                .max(1.0)
                .limits(0.1, 0.3)
                .leads_to_group(),
            stack("Waits for something else", "short", "Threads off the CPU by the kernel's state: sleeping for an event, a lock, a timer or the network; uninterruptible mostly for a disk.")
                .query("sum by (state) (rate(cputrace_group_offcpu_seconds_total{@group}[$__rate_interval]))", "{{state}}")
                .leads_to_flame_graph_of_all(),
            lines("Switches because a thread waited", "ops", "Voluntary context switches of the groups with most. Many short waits are often a contended lock or single small requests.")
                .query("sum by (groupname) (rate(cputrace_group_context_switches_total{@group, kind=\"voluntary\"}[$__rate_interval])) and topk(10, sum by (groupname) (increase(cputrace_group_context_switches_total{@group, kind=\"voluntary\"}[$__range] @ end())))", "{{groupname}}")
                .leads_to_group()
                .leads_to_flame_graph(),
            lines("Switches because another was to run", "ops", "Involuntary context switches of the groups with most: threads that wanted to go on.")
                .query("sum by (groupname) (rate(cputrace_group_context_switches_total{@group, kind=\"involuntary\"}[$__rate_interval])) and topk(10, sum by (groupname) (increase(cputrace_group_context_switches_total{@group, kind=\"involuntary\"}[$__range] @ end())))", "{{groupname}}")
                .leads_to_group()
                .leads_to_flame_graph(),
            lines("Moves between CPUs", "ops", "Moves of threads to another CPU, whose caches are cold, of the groups with most.")
                .query("sum by (groupname) (rate(cputrace_group_migrations_total{@group}[$__rate_interval])) and topk(10, sum by (groupname) (increase(cputrace_group_migrations_total{@group}[$__range] @ end())))", "{{groupname}}")
                .leads_to_group(),
        ],
    );
    let account = row(
        "How sure this is",
        [
            lines("Threads' time in no part of the account", "short", "Threads whose time is neither on the CPU nor in a run queue nor off the CPU. 0 where nothing is missed.")
                .query("sum(rate(cputrace_residual_seconds_total{@target}[$__rate_interval]))", "threads"),
            lines("Lost by the account", "ops", "Threads without a place in the table, ends that were missed, clock errors, and waits and wake-ups without their stacks.")
                .query("sum by (what) (rate(cputrace_scheduler_lost_total{@target}[$__rate_interval]))", "{{what}}"),
            lines("Stacks left out to bound the cost", "ops", "Waits and wake-ups whose stacks were not taken. Their times are in the sums all the same.")
                .query("sum by (what) (rate(cputrace_scheduler_limited_total{@target}[$__rate_interval]))", "{{what}}"),
        ],
    );
    Dashboard {
        name: "scheduler",
        title: "Scheduler",
        description: "Who waits for a CPU, how long, and who is moved about.",
        variables: vec![Variable::GROUP],
        rows: vec![hosts, groups, account],
    }
}
