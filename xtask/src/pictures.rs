//! Pictures of the dashboards for `grafana/README.md`, of what a Prometheus that scrapes cputrace answers to the panels' own
//! queries.
//!
//! No Grafana is needed: a page of ours (`pictures.html`) draws in a Chromium without a window what the panels ask for. So
//! they show the data as it is, and Grafana's looks only roughly.

use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

use crate::system::{command, install, root, run as run_command, target};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A Prometheus that scrapes cputrace
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9090")]
    prometheus: String,
    /// How much of the past is shown
    #[arg(long, default_value_t = 15)]
    minutes: u32,
}

/// Which dashboards, with the height of what is shown of them, in pixels.
const PICTURES: &[(&str, u32)] = &[("overview", 1010), ("group", 860), ("scheduler", 1000), ("agent", 900)];

const WIDTH: u32 = 1200;

/// The page, with what it draws in place of `INPUT`.
const PAGE: &str = include_str!("pictures.html");

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let &Args { ref prometheus, minutes } = args;
    install(&[("chromium", "chromium"), ("pngquant", "pngquant")])?;
    let to = root().join("grafana/pictures");
    std::fs::create_dir_all(&to)?;
    for (name, height) in PICTURES {
        let dashboard = root().join(format!("grafana/dashboards/{name}.json"));
        let dashboard: Value = serde_json::from_slice(&std::fs::read(&dashboard)?)
            .with_context(|| format!("{} is no dashboard", dashboard.display()))?;
        let input = json!({"dashboard": dashboard, "prometheus": prometheus, "seconds": minutes * 60}).to_string();
        // `</script>` in a text would end it.
        let page = target().join("picture.html");
        std::fs::write(&page, PAGE.replace("INPUT", &input.replace('<', "\\u003c")))?;
        shoot(&page, *height, &to.join(format!("{name}.png")))?;
        std::fs::remove_file(page)?;
    }
    Ok(())
}

fn shoot(page: &Path, height: u32, picture: &Path) -> anyhow::Result<()> {
    let mut chromium = command("chromium");
    chromium.args(["--headless=new", "--no-sandbox", "--hide-scrollbars", "--virtual-time-budget=20000"]);
    chromium.arg(format!("--window-size={WIDTH},{height}")).arg(format!("--screenshot={}", picture.display()));
    run_command(chromium.arg(format!("file://{}", page.display())))?;
    // A third of the size for the same look.
    run_command(command("pngquant").args(["--force", "--skip-if-larger", "--ext", ".png", "64"]).arg(picture))
}
