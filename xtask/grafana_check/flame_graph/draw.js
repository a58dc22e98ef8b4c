// Has Grafana's own flame graph draw what a running cputrace answers, in a Chromium without a window, and looks for the words:
// `single` and `off-cpu` as Grafana's Pyroscope data source asks for them, `diff` as two ranges of /api/diff.
//
//     node draw.js URL FROM MIDDLE TO COMM FOLDER          milliseconds since 1970; pictures go to FOLDER

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { build } from "esbuild";
import { nodes } from "../levels.js";

const [url, start, middle, end, comm, folder] = process.argv.slice(2);

async function fetched(path, options) {
  const answer = await fetch(url + path, options);
  assert(answer.ok, `${path}: ${answer.status}`);
  return answer.json();
}

// As the data source does: columns of a nested set.
async function single(profileTypeID) {
  const question = { profileTypeID, labelSelector: `{comm="${comm}"}`, start, end, maxNodes: "8192" };
  const { flamegraph } = await fetched("/querier.v1.QuerierService/SelectMergeStacktraces", {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(question),
  });
  const rows = nodes(flamegraph);
  return {
    level: rows.map(({ level }) => level), value: rows.map(({ total }) => total[0]), self: rows.map(({ self }) => self[0]),
    label: rows.map(({ name }) => name),
  };
}

async function diff(source) {
  const { names, label, level, value, self, valueRight, selfRight } =
    await fetched(`/api/diff?source=${source}&base=${start}..${middle}&against=${middle}..${end}&process=${comm}`);
  return { level, value, self, label: label.map((name) => names[name]), valueRight, selfRight };
}

// In a page, by Chromium: the picture, and what was drawn.
function draw(name, unit, columns) {
  const input = JSON.stringify({ unit, columns }).replaceAll("<", "\\u003c");
  const page = join(folder, `${name}.html`), picture = join(folder, `${name}.png`);
  writeFileSync(page, `<!doctype html><meta charset="utf-8"><title>${name}</title>
    <body style="margin: 0"><div id="graph" style="height: 900px; padding: 8px; background: #111217"></div>
    <script type="application/json" id="input">${input}</script><script type="application/json" id="said"></script>
    <script src="page.js"></script>`);
  const dom = execFileSync("chromium", [
    "--headless=new", "--no-sandbox", "--hide-scrollbars", "--allow-file-access-from-files", "--virtual-time-budget=15000", "--window-size=1600,916",
    `--screenshot=${picture}`, "--dump-dom", `file://${page}`,
  ], { encoding: "utf8", maxBuffer: 1 << 28, stdio: ["ignore", "pipe", "ignore"] });
  const said = dom.match(/id="said">([^<]+)</)?.[1];
  assert(said, `${name}: the page did nothing`);
  return { picture, ...JSON.parse(decodeURIComponent(said)) };
}

// The functions with the largest self, which the table has first.
function top(columns, count) {
  const sums = new Map();
  columns.label.forEach((name, row) => sums.set(name, (sums.get(name) ?? 0) + columns.self[row]));
  return [...sums].filter(([, self]) => self > 0).sort(([, a], [, b]) => b - a).slice(0, count).map(([name]) => name);
}

// What is drawn as one bar has the first one's name: functions that may be alone in their caller are looked for in the table.
function check({ picture, canvas, rows }, columns, onCanvas, inRows) {
  // "(63) deep_phase (6.90 s)" are 63 bars of one width, which it draws as one.
  const drawn = canvas.map((text) => text.replace(/^\(\d+\) /, "").replace(/ \([^()]*\)$/, ""));
  for (const word of drawn) assert(columns.label.includes(word), `${picture}: ${word} is on the canvas, and none of ours`);
  for (const word of onCanvas) assert(drawn.includes(word), `${picture}: ${word} is not on the canvas: ${canvas.join(", ")}`);
  for (const word of inRows) {
    assert(rows.some((row) => row.includes(word)), `${picture}: ${word} is not in the table:\n${rows.join("\n")}`);
  }
  console.log(`  ${picture}\n    ${columns.label.length} nodes; ${drawn.length} functions' names on the canvas, ${rows.length} rows in the table`);
  for (const row of rows.slice(0, 6)) console.log(`    | ${row}`);
}

await build({
  entryPoints: ["page.jsx"], bundle: true, minify: true, format: "iife", jsx: "automatic", outfile: join(folder, "page.js"),
  alias: { "@grafana/assistant": "./assistant.js" }, define: { "process.env.NODE_ENV": '"production"', global: "window" },
  loader: { ".svg": "dataurl", ".png": "dataurl", ".ttf": "dataurl", ".woff2": "dataurl" }, logLevel: "error",
});
cpSync("node_modules/@grafana/ui/dist/public/img", join(folder, "public/build/img"), { recursive: true });

const cpu = await single("process_cpu:cpu:nanoseconds:cpu:nanoseconds");
check(draw("single", "ns", cpu), cpu, ["total", "work_half", "deep_phase", "sleep_phase"], top(cpu, 5));
const waits = await single("off_cpu:off_cpu:nanoseconds::");
check(draw("off-cpu", "ns", waits), waits, ["total", "hold_lock"], top(waits, 5));
const both = await diff("on-cpu");
check(draw("diff", "short", both), both, ["work_half", "deep_phase", "sleep_phase"], ["Symbol Baseline Comparison Diff", "work_half"]);
