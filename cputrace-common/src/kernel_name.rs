//! Names of kernel addresses, as the kernel gives them.

/// Addresses that can be asked for at once: as many as a raw tracepoint has arguments.
pub const AT_ONCE: usize = 12;

/// The longest answer, its end (0) included: a name has at most 511 bytes (`KSYM_NAME_LEN`), a module 55.
pub const ANSWER_BYTES: usize = 640;

/// The one element of the map `KERNEL_NAMES`: what the kernel's `%pS` makes of each address, `NAME+0xOFFSET/0xSIZE [MODULE]`,
/// with a 0 behind it.
pub type Answers = [[u8; ANSWER_BYTES]; AT_ONCE];
