//! Whether cputrace itself is well: what it loses, what it costs, what it holds.

use super::panel::{lines, stack, stat, table};
use super::{Dashboard, row};

/// What a panel says where nothing is handed on.
const NOT_PUSHED: &str = "Nothing is handed on: cputrace serve --push and --push-otlp do that";

pub(super) fn dashboard() -> Dashboard {
    let now = row(
        "Now",
        [
            stat("Hosts up", "none", "Hosts whose last scrape went well.")
                .query("sum(up{@target})", "up"),
            stat("Slowest scrape", "s", "How long the last scrape took, of the slowest host.")
                .query("max(scrape_duration_seconds{@target})", "scrape")
                .limits(0.5, 2.0),
            stat("Windows", "ops", "Windows that are completed a second, over all hosts. 0 means that nothing is watched any more.")
                .query("sum(rate(cputrace_windows_total{@target}[$__rate_interval]))", "windows"),
            stat("Samples lost", "percentunit", "Share of the expected samples that are in no profile.")
                .query("sum(rate(cputrace_samples_lost_total{@target}[$__rate_interval])) / sum(rate(cputrace_samples_expected_total{@target}[$__rate_interval]))", "lost")
                .limits(0.01, 0.05),
            stat("Stacks that are whole", "percentunit", "Share of the samples' user stacks that go to their end.")
                .query("sum(rate(cputrace_stacks_total{@target, end=\"complete\"}[$__rate_interval])) / sum(rate(cputrace_stacks_total{@target}[$__rate_interval]))", "whole"),
            stat("Places with a name", "percentunit", "Share of the places in code that have a function's name.")
                .query("sum(rate(cputrace_symbol_lookups_total{@target, result=\"named\"}[$__rate_interval])) / sum(rate(cputrace_symbol_lookups_total{@target}[$__rate_interval]))", "named"),
            table("instance", "Host", "Versions", "What runs where, and since when.")
                .column("Started", "dateTimeFromNow", "1000 * max by (instance, version, arch, kernel) (cputrace_build_info{@target} * on (job, instance) group_left () process_start_time_seconds{@target})")
                .size(24, 5),
        ],
    );
    let cost = row(
        "What it costs",
        [
            lines("Share of the host's CPU time", "percentunit", "cputrace's own time with its eBPF programs, and the limit above which the governor lowers the sampling frequency.")
                .query("cputrace_overhead_ratio{@target}", "{{instance}}")
                .query("max(cputrace_overhead_limit_ratio{@target})", "limit"),
            stack("CPU time by part", "percentunit", "Share of one CPU that each part takes: the process, the eBPF programs, the samples' interrupts (estimated).")
                .query("sum by (component) (rate(cputrace_overhead_cpu_seconds_total{@target}[$__rate_interval]))", "{{component}}"),
            lines("Sampling frequency", "hertz", "Samples a second and CPU that are taken now.")
                .query("cputrace_sampling_frequency_hertz{@target}", "{{instance}}"),
            lines("The governor's steps", "none", "Changes of the sampling frequency over the interval.")
                .query("sum by (direction) (increase(cputrace_governor_steps_total{@target}[$__rate_interval]))", "{{direction}}"),
            stack("Time in eBPF programs", "percentunit", "Share of one CPU that each program takes: long runs are timed each, of short ones one in 61 stands for all.")
                .query("sum by (program) (rate(cputrace_bpf_program_run_seconds_total{@target}[$__rate_interval]))", "{{program}}"),
            lines("Cost of a run of an eBPF program", "s", "Mean time of one run.")
                .query("sum by (program) (rate(cputrace_bpf_program_run_seconds_total{@target}[$__rate_interval])) / (sum by (program) (rate(cputrace_bpf_program_runs_total{@target}[$__rate_interval])) > 0)", "{{program}}"),
            lines("Process", "percentunit", "CPU time of the process itself, as a share of one CPU.")
                .query("rate(process_cpu_seconds_total{@target}[$__rate_interval])", "{{instance}}"),
            lines("Memory", "bytes", "Memory of the process, and kernel memory of its eBPF maps.")
                .query("process_resident_memory_bytes{@target}", "{{instance}}: resident")
                .query("process_virtual_memory_bytes{@target}", "{{instance}}: virtual")
                .query("cputrace_bpf_map_bytes{@target}", "{{instance}}: eBPF maps"),
            lines("Maps", "percentunit", "How full the eBPF maps are. samples: the ring buffer, when it was fullest in a window; what does not fit any more is lost, and counted. threads: those beyond have no account; processes: their stacks cannot be unwound.")
                .query("cputrace_bpf_map_fill_ratio{@target}", "{{instance}}: {{map}}"),
            lines("Threads and files", "none", "Threads and open files of the process, and how many files it may have open.")
                .query("process_threads{@target}", "{{instance}}: threads")
                .query("process_open_fds{@target}", "{{instance}}: open files")
                .query("process_max_fds{@target}", "{{instance}}: limit of open files"),
            lines("Up for", "s", "Age of the process. A saw is a process that starts anew again and again.")
                .query("time() - process_start_time_seconds{@target}", "{{instance}}"),
        ],
    );
    let samples = row(
        "Samples",
        [
            lines("Expected and kept", "ops", "Samples that running code should have yielded, and those that are in profiles.")
                .query("sum(rate(cputrace_samples_expected_total{@target}[$__rate_interval]))", "expected")
                .query("sum(rate(cputrace_samples_total{@target}[$__rate_interval]))", "kept"),
            stack("Lost, by reason", "ops", "ring_buffer_full: the process did not keep up; clock_missed: the timer did not fire (a hypervisor, interrupts off); scratch_busy: two at once on a CPU; bad_record: it could not be read.")
                .query("sum by (reason) (rate(cputrace_samples_lost_total{@target}[$__rate_interval]))", "{{reason}}"),
            stack("How stacks ended", "ops", "Complete, or why not: table_not_ready is code that was new, no_jit_info is code of a JIT without frame pointers.")
                .query("sum by (end) (rate(cputrace_stacks_total{@target}[$__rate_interval]))", "{{end}}"),
            lines("Stacks with a guessed frame", "ops", "Samples with a frame that was found where nothing says how: hand-written assembler, mostly.")
                .query("sum(rate(cputrace_stacks_guessed_total{@target}[$__rate_interval]))", "guessed"),
            stack("How stacks of waits ended", "ops", "The same, of the stacks that threads waited in.")
                .query("sum by (end) (rate(cputrace_wait_stacks_total{@target}[$__rate_interval]))", "{{end}}"),
            stack("Places in code", "ops", "Places of each window with a function's name, and without. Where many have none, debug information is missing: cputrace record says of which files.")
                .query("sum by (result) (rate(cputrace_symbol_lookups_total{@target}[$__rate_interval]))", "{{result}}"),
        ],
    );
    let tables = row(
        "Unwind tables",
        [
            lines("Memory", "bytes", "Kernel memory of the unwind tables, and how much they may take (--unwind-memory).")
                .query("cputrace_unwind_table_bytes{@target}", "{{instance}}")
                .query("max(cputrace_unwind_table_limit_bytes{@target})", "limit"),
            lines("Files with tables", "none", "Files whose unwind tables are in the kernel.")
                .query("cputrace_unwind_tables{@target}", "{{instance}}"),
            lines("Built and dropped", "ops", "Tables that were built or could not be, gave way to others or found no room, and looks at new processes that were put off.")
                .query("sum by (result) (rate(cputrace_unwind_table_builds_total{@target}[$__rate_interval]))", "{{result}}")
                .query("sum by (reason) (rate(cputrace_unwind_table_dropped_total{@target}[$__rate_interval]))", "{{reason}}"),
        ],
    );
    let store = row(
        "Groups, store and HTTP",
        [
            lines("Groups", "none", "Groups of processes, and how many there may be. Above, processes go to ~other.")
                .query("cputrace_groups{@target}", "{{instance}}")
                .query("max(cputrace_groups_limit{@target})", "limit"),
            lines("Processes without room for their group", "ops", "Processes that were put into ~other because there were too many groups. Rules that name fewer groups help.")
                .query("sum by (instance) (rate(cputrace_groups_overflowed_total{@target}[$__rate_interval]))", "{{instance}}"),
            lines("Store", "bytes", "Size of the store, and what it is kept below.")
                .query("cputrace_store_bytes{@target}", "{{instance}}")
                .query("max(cputrace_store_limit_bytes{@target})", "limit"),
            lines("Windows in the store", "none", "Of all lengths: 10 seconds, 5 minutes, an hour.")
                .query("cputrace_store_windows{@target}", "{{instance}}"),
            lines("Writes that failed", "ops", "Windows, traces and events that could not be stored: a full disk, mostly.")
                .query("sum by (instance) (rate(cputrace_store_failed_writes_total{@target}[$__rate_interval]))", "{{instance}}"),
            lines("HTTP answers", "reqps", "Answered requests by status code, those of Prometheus and Grafana too.")
                .query("sum by (code) (rate(cputrace_http_requests_total{@target}[$__rate_interval]))", "{{code}}"),
            lines("Windows handed on", "ops", "Windows that were handed on to another server: sent, refused by it, or dropped because it could not be reached.")
                .query("sum by (to, result) (rate(cputrace_push_windows_total{@target}[$__rate_interval]))", "{{to}}: {{result}}")
                .empty(NOT_PUSHED),
            lines("Windows that wait to be handed on", "none", "A queue that grows is a server that is away or too slow; what does not fit in it is dropped.")
                .query("cputrace_push_queued_windows{@target}", "{{instance}}: {{to}}")
                .empty(NOT_PUSHED),
            lines("Bytes handed on", "Bps", "Bytes of the requests that were taken, as they were sent.")
                .query("sum by (to) (rate(cputrace_push_bytes_total{@target}[$__rate_interval]))", "{{to}}")
                .empty(NOT_PUSHED),
            lines("Tries to hand on that failed", "ops", "Tries that failed and were followed by another one.")
                .query("sum by (to) (rate(cputrace_push_retries_total{@target}[$__rate_interval]))", "{{to}}")
                .empty(NOT_PUSHED),
            lines("Last reload of the configuration worked", "bool_yes_no", "Whether the configuration could be read when it was last to be. If not, the one before is still in force, and cputrace has said what is wrong.")
                .query("cputrace_config_last_reload_successful{@target}", "{{instance}}"),
            lines("Age of the configuration", "s", "Time since the configuration was last read without an error.")
                .query("time() - cputrace_config_last_reload_success_timestamp_seconds{@target}", "{{instance}}"),
            lines("Messages about anomalies", "none", "Messages to --webhook over the interval: sent, failed after several tries, or dropped because too many waited.")
                .query("sum by (result) (increase(cputrace_webhook_messages_total{@target}[$__rate_interval]))", "{{result}}")
                .empty("No messages: cputrace serve --webhook sends them"),
        ],
    );
    Dashboard {
        name: "agent",
        title: "Agent health",
        description: "Whether cputrace itself is well: what it loses, what it costs, what it holds.",
        variables: vec![],
        rows: vec![now, cost, samples, tables, store],
    }
}
