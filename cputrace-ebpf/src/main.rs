//! cputrace's eBPF program. [`program`] has the entry points, a line each; the other modules do one job each.
#![no_std]
#![no_main]

mod budget;
mod config;
mod counters;
mod filter;
mod maps;
mod missed;
mod op;
mod program;
mod run_time;
mod sample;
mod sched;
mod stack;
mod task;
mod threads;
mod unwind;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
