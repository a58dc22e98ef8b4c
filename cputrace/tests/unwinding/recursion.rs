//! Calls itself 40 times and works there, without end.

use std::hint::black_box;

fn main() {
    loop {
        black_box(recurse(40));
    }
}

#[inline(never)]
fn recurse(calls: u64) -> u64 {
    // One more call than asked for, that is no tail call.
    if calls == 0 { (0..10_000).map(black_box).sum() } else { black_box(recurse(black_box(calls - 1))) + 1 }
}
