//! `cputrace doctor`: what the system allows, what that means, and how to change it.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::doctor::{self, Finding, Verdict};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let findings = doctor::examine();
    let text = if args.json { json(&findings) } else { findings.iter().map(line).collect() };
    let _ = io::stdout().write_all(text.as_bytes());
    if doctor::ebpf_works(&findings) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn line(finding: &Finding) -> String {
    let Finding { what, verdict, found, effect, fix } = finding;
    let mark = match verdict {
        Verdict::Good => "ok  ",
        Verdict::Limited => "less",
        Verdict::Bad => "NO  ",
    };
    let mut text = format!("{mark} {what:<18} {found}\n");
    if *verdict != Verdict::Good {
        text += &format!("     {:<18} {effect}\n     {:<18} fix: {fix}\n", "", "");
    }
    text
}

fn json(findings: &[Finding]) -> String {
    let findings: Vec<_> = findings
        .iter()
        .map(|Finding { what, verdict, found, effect, fix }| {
            let verdict = match verdict {
                Verdict::Good => "good",
                Verdict::Limited => "limited",
                Verdict::Bad => "bad",
            };
            serde_json::json!({ "what": what, "verdict": verdict, "found": found, "effect": effect, "fix": fix })
        })
        .collect();
    format!("{:#}\n", serde_json::Value::from(findings))
}
