//! Which eBPF object is embedded: the committed one, unless `CPUTRACE_BPF_OBJECT` names another (CI tests a fresh one).

fn main() {
    let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/cputrace.bpf.o");
    let object = std::env::var("CPUTRACE_BPF_OBJECT").unwrap_or_else(|_| committed.to_owned());
    println!("cargo::rerun-if-env-changed=CPUTRACE_BPF_OBJECT");
    println!("cargo::rerun-if-changed={object}");
    println!("cargo::rustc-env=CPUTRACE_BPF_OBJECT={object}");
}
