//! Attaches the programs that account the threads' time, and send waits and wake-ups with their stacks.

use aya::programs::{BtfTracePoint, FExit, Iter};
use aya::{Btf, Ebpf, Endianness};

use super::{EbpfError, KernelTypes, WaitHook, Waits, typed};

/// The tracepoint at a switch's end: Linux 6.15.
const SCHED_EXIT: &str = "sched_exit_tp";

/// The kernel's types that the scheduler's programs are attached by.
const HOOKS: [&str; 5] =
    ["btf_trace_sched_switch", "bpf_iter_task", "btf_trace_sched_exit_tp", "schedule", "btf_trace_sched_waking"];

/// What was attached, where threads are accounted at all.
pub(super) struct Attached {
    /// Where the stacks of waits are taken; `None` where they are not.
    pub(super) wait_hook: Option<WaitHook>,
}

/// Attaches what is wanted; what the kernel does not take is noted. `None` where threads are not accounted.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    types: &KernelTypes,
    waits: Option<Waits>,
    notes: &mut Vec<String>,
) -> Option<Attached> {
    let mut note = |what: &str, error: EbpfError| notes.push(format!("{what}: {error}"));
    let hooks = Btf::parse(&types.hooks(&HOOKS), Endianness::default());
    let hooks = hooks.map_err(|error| EbpfError::Program { program: "sched_switch", source: error.into() });
    let accounts = hooks.and_then(|hooks| attach_account(ebpf, &hooks).map(|()| hooks));
    let hooks = accounts.map_err(|error| note("the threads' time is not accounted", error)).ok()?;
    let waits = waits.and_then(|waits| {
        let hook = attach_waits(ebpf, &hooks, exits_are_seen(types));
        Some((waits, hook.map_err(|error| note("waits have no stacks", error)).ok()?))
    });
    if let Some((Waits { wakers: true, .. }, _)) = waits
        && let Err(error) = attach_wakers(ebpf, &hooks)
    {
        note("who ends waits is not known", error);
    }
    Some(Attached { wait_hook: waits.map(|(_, hook)| hook) })
}

/// Whether the kernel has the tracepoint at a switch's end.
pub(super) fn exits_are_seen(types: &KernelTypes) -> bool {
    types.tracepoint_parameters(SCHED_EXIT).is_some()
}

/// The programs that account the threads' time.
fn attach_account(ebpf: &mut Ebpf, hooks: &Btf) -> Result<(), EbpfError> {
    let refused = |program| move |source| EbpfError::Program { program, source };
    for name in ["seed_threads", "look_at_threads"] {
        let program: &mut Iter = typed(ebpf, name)?;
        program.load("task", hooks).map_err(refused(name))?;
    }
    let switches: &mut BtfTracePoint = typed(ebpf, "sched_switch")?;
    let attached = switches.load("sched_switch", hooks).and_then(|()| switches.attach());
    attached.map(drop).map_err(refused("sched_switch"))
}

/// The program that sends waits with their stacks.
fn attach_waits(ebpf: &mut Ebpf, hooks: &Btf, exits_are_seen: bool) -> Result<WaitHook, EbpfError> {
    let refused = |program| move |source| EbpfError::Program { program, source };
    Ok(if exits_are_seen {
        let exits: &mut BtfTracePoint = typed(ebpf, "sched_exit")?;
        let attached = exits.load(SCHED_EXIT, hooks).and_then(|()| exits.attach());
        attached.map(drop).map_err(refused("sched_exit"))?;
        WaitHook::SchedExit
    } else {
        let returns: &mut FExit = typed(ebpf, "schedule_returns")?;
        let attached = returns.load("schedule", hooks).and_then(|()| returns.attach());
        attached.map(drop).map_err(refused("schedule_returns"))?;
        WaitHook::ScheduleReturns
    })
}

/// The program that sends who ends a wait, with the stack of that.
fn attach_wakers(ebpf: &mut Ebpf, hooks: &Btf) -> Result<(), EbpfError> {
    let wakes: &mut BtfTracePoint = typed(ebpf, "sched_waking")?;
    let attached = wakes.load("sched_waking", hooks).and_then(|()| wakes.attach());
    attached.map(drop).map_err(|source| EbpfError::Program { program: "sched_waking", source })
}
