// Calls every method of a running cputrace by the official Connect client: binary and as JSON, at both places, packed and not,
// with data, without, and with what is wrong; and finds in each flame graph the stacks of the folded export.
//
//     node check.js URL

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { isDeepStrictEqual } from "node:util";
import { createFileRegistry, fromBinary, fromJson, toJson } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { compressionGzip, createConnectTransport } from "@connectrpc/connect-node";
import { clean, folded, nodes } from "../levels.js";

const [url] = process.argv.slice(2);

const descriptors = fromBinary(FileDescriptorSetSchema, readFileSync(new URL("querier.binpb", import.meta.url)));
const service = createFileRegistry(descriptors).getService("querier.v1.QuerierService");
const ways = [
  { useBinaryFormat: true, prefix: "" },
  { useBinaryFormat: false, prefix: "" },
  { useBinaryFormat: true, prefix: "/pyroscope", sendCompression: compressionGzip, compressMinBytes: 0 },
  { useBinaryFormat: false, prefix: "/pyroscope/" },
].map(({ prefix, ...options }) => {
  const transport = { baseUrl: url + prefix, httpVersion: "1.1", defaultTimeoutMs: 60_000, ...options };
  return createClient(service, createConnectTransport(transport));
});

let calls = 0;
const answered = new Set(), refusals = new Set();

// What is answered, which is the same in all ways: {answer} or {code, message}.
async function call(name, request, tries = name === "GetProfileStats" ? 5 : 1) {
  const method = service.methods.find((method) => method.name === name);
  const answers = [];
  for (const client of ways) {
    calls++;
    try {
      const answer = await client[method.localName](fromJson(method.input, request));
      answers.push({ answer: toJson(method.output, answer) });
    } catch (error) {
      if (!(error instanceof ConnectError)) throw error;
      answers.push({ code: Code[error.code], message: error.rawMessage });
    }
  }
  const what = `${name} ${JSON.stringify(request)}`;
  // What is stored may have become more in between.
  if (tries > 1 && answers.some((answer) => !isDeepStrictEqual(answer, answers[0]))) return call(name, request, tries - 1);
  for (const answer of answers) assert.deepEqual(answer, answers[0], what);
  return { what, ...answers[0] };
}

async function ask(name, request) {
  const { what, answer, code, message } = await call(name, request);
  assert(answer, `${what}: ${code}: ${message}`);
  answered.add(name);
  return answer;
}

async function refused(name, request, expected, word = "") {
  const { what, code, message } = await call(name, request);
  assert.equal(code, Code[expected], `${what}: ${message}`);
  assert(message.includes(word), `${what}: ${message}`);
  refusals.add(`${name} ${message}`);
}

const sum = (numbers) => [...numbers].reduce((sum, number) => sum + Number(number), 0);

// What there is: types, labels, series. All that is stored now, so that no window is cut at an end.
const stats = await ask("GetProfileStats", {});
assert(stats.dataIngested, "nothing is stored");
const [start, end] = [Number(stats.oldestProfileTime), Number(stats.newestProfileTime)];
const middle = Math.round((start + end) / 2);
const range = { start, end };
const never = { start: 1000, end: 4000 };
const types = (await ask("ProfileTypes", range)).profileTypes;
for (const { ID, name, sampleType, sampleUnit, periodType = "", periodUnit = "" } of types) {
  assert.equal(ID, [name, sampleType, sampleUnit, periodType, periodUnit].join(":"));
}
const ids = types.map(({ ID }) => ID);
const labels = (await ask("LabelNames", range)).names;
for (const label of ["service_name", "hostname", "comm", "threadname", "pid"]) assert(labels.includes(label), label);
const valuesOf = async (name, ...matchers) => (await ask("LabelValues", { ...range, name, matchers })).names ?? [];
const services = await valuesOf("service_name");
assert(services.length > 1, "there is one service alone");
assert.deepEqual(await valuesOf("service_name", `{service_name="${services[0]}"}`), [services[0]]);
assert.deepEqual(await valuesOf("service_name", `{service_name=~"no(thing|body)"}`), []);
assert.deepEqual((await valuesOf("__profile_type__")).sort(), [...ids].sort());
const sets = (await ask("Series", { ...range, labelNames: ["service_name", "__profile_type__"] })).labelsSet;
const ofSets = (name) => new Set(sets.map(({ labels }) => labels.find((label) => label.name === name).value));
assert.deepEqual([...ofSets("service_name")].sort(), [...services].sort());
assert.deepEqual([...ofSets("__profile_type__")].sort(), [...ids].sort());
const cost = await ask("AnalyzeQuery", { ...range, query: "{}" });
assert(Number(cost.queryScopes[0].blockCount) > 1 && Number(cost.queryImpact.totalBytesInTimeRange) > 0, JSON.stringify(cost));

// The folded export of the same time: each stack with its weight, without the process that it begins with.
async function exported(source, from, to, scale) {
  const text = await (await fetch(`${url}/api/profile?format=folded&source=${source}&from=${from}&to=${to}`)).text();
  const stacks = new Map();
  for (const line of text.trimEnd().split("\n")) {
    const [, process, rest, weight] = line.match(/^([^;]*);(.*) (\d+)$/);
    const stack = rest === "[no stack]" ? "" : rest.split(";").map((frame) => frame.replace(/_\[[ki]\]$/, "")).join(";");
    assert(process !== "");
    stacks.set(stack, (stacks.get(stack) ?? 0) + Number(weight) * scale);
  }
  return stacks;
}

// Whether two have the same stacks with the same weights, unless those may differ.
function same(found, expected, what, mayDiffer = () => false) {
  for (const stack of new Set([...found.keys(), ...expected.keys()])) {
    const [is, was] = [found.get(stack) ?? 0, expected.get(stack) ?? 0];
    assert(is === was || mayDiffer(is, was), `${what}: ${is} and ${was} of ${stack}`);
  }
}

// The stacks of a pprof.
function ofPprof({ sample, location, function: functions, stringTable }) {
  const names = new Map(functions.map(({ id, name }) => [id, stringTable[name]]));
  const frames = new Map(location.map(({ id, line }) => [id, line.map(({ functionId }) => clean(names.get(functionId)))]));
  const stacks = new Map();
  for (const { locationId = [], value } of sample) {
    const stack = locationId.flatMap((id) => frames.get(id)).reverse().join(";");
    stacks.set(stack, (stacks.get(stack) ?? 0) + Number(value[0]));
  }
  return stacks;
}

// Each type's flame graph, pprof and series, by each other and by the folded export.
const sources = { process_cpu: "on-cpu", off_cpu: "off-cpu", runqueue: "run-queue", wakers: "wakers" };
for (const { ID, name, sampleType, sampleUnit } of types) {
  const wanted = { ...range, profileTypeID: ID, labelSelector: "{}", maxNodes: 1 << 20 };
  const { flamegraph } = await ask("SelectMergeStacktraces", wanted);
  const tree = nodes(flamegraph);
  const stacks = folded(tree);
  const total = Number(flamegraph.total);
  assert.equal(tree[0].total[0], total);
  assert.equal(Math.max(...tree.map(({ self }) => self[0])), Number(flamegraph.maxSelf));
  const { maxNodes: _, ...plain } = wanted;
  same(ofPprof(await ask("SelectMergeProfile", plain)), stacks, `${ID} as pprof`);
  const pprof = (await ask("SelectMergeStacktraces", { ...wanted, format: "PROFILE_FORMAT_PPROF" })).pprof.profile;
  same(ofPprof(pprof), stacks, `${ID} in pprof's format`);
  // On-CPU time is exported as samples, all else in microseconds, of each thread rounded down: up to 50 threads have a stack.
  if (name in sources && sampleType !== "cpu") {
    const [scale, off] = sampleUnit === "count" ? [1, 0] : [1000, 50 * 1000];
    const expected = await exported(sources[name], start, end, scale);
    same(stacks, expected, `${ID} and the folded export`, (is, was) => is >= was && is - was < off);
    for (const stack of expected.keys()) assert(stacks.has(stack), `${ID}: ${stack} is only in the folded export`);
  }
  // The largest alone, with the rest as one node a caller.
  const few = nodes((await ask("SelectMergeStacktraces", { ...wanted, maxNodes: 10 })).flamegraph);
  assert(few.length <= 21 && few[0].total[0] === total, `${few.length} nodes`);
  // A group's, and what lies below a function.
  let bySelector = 0;
  for (const service of services) {
    const answer = await ask("SelectMergeStacktraces", { ...wanted, labelSelector: `{service_name=${JSON.stringify(service)}}` });
    bySelector += Number(answer.flamegraph?.total ?? 0);
  }
  assert.equal(bySelector, total, ID);
  const first = tree.filter(({ level }) => level === 1).sort((a, b) => b.total[0] - a.total[0])[0];
  const below = { callSite: first.stack.map((name) => ({ name })) };
  const part = (await ask("SelectMergeStacktraces", { ...wanted, stackTraceSelector: below })).flamegraph;
  assert.equal(Number(part.total), first.total[0], `${ID} below ${first.name}`);
  // One point of the whole range.
  const whole = { ...range, profileTypeID: ID, labelSelector: "{}", step: (end - start) / 1000 };
  const point = ({ points }) => points.find(({ timestamp }) => Number(timestamp) === end)?.value ?? 0;
  const { series } = await ask("SelectSeries", { ...whole, groupBy: ["service_name"] });
  const values = sum(series.map(point));
  assert(Math.abs(values - total) <= 1e-6 * total, `${ID}: ${values} in series, ${total} in stacks`);
  const largest = (await ask("SelectSeries", { ...whole, groupBy: ["service_name"], limit: 1 })).series;
  assert.equal(largest.length, 1);
  // Two ranges in one.
  const sides = { left: { ...wanted, end: middle }, right: { ...wanted, start: middle } };
  const diff = (await ask("Diff", sides)).flamegraph;
  const both = nodes(diff, 2);
  for (const [side, key] of [[0, "left"], [1, "right"]]) {
    const { flamegraph: alone } = await ask("SelectMergeStacktraces", sides[key]);
    same(folded(both, side), alone ? folded(nodes(alone)) : new Map(), `${ID}, ${key}`);
    assert.equal(diff[`${key}Ticks`], alone?.total);
  }
  console.log(`  ${ID}: ${stacks.size} stacks, ${tree.length} nodes on ${flamegraph.levels.length} levels, total ${total}`);
}

// Of a time without anything.
const nothing = { ...never, profileTypeID: ids[0], labelSelector: "{}" };
for (const [name, request] of [
  ["ProfileTypes", never], ["LabelNames", never], ["LabelValues", { ...never, name: "comm" }], ["Series", never],
  ["SelectSeries", { ...nothing, step: 1 }], ["SelectMergeStacktraces", nothing],
]) {
  assert.deepEqual(await ask(name, request), {}, name);
}
assert.deepEqual((await ask("SelectMergeProfile", nothing)).sample, undefined);
assert.deepEqual((await ask("Diff", { left: nothing, right: nothing })).flamegraph.total, undefined);

// What is wrong, and what there is not.
const typed = { ...range, profileTypeID: ids[0], labelSelector: "{}" };
const stepped = { ...typed, step: 10 };
for (const [name, request, word] of [
  ["SelectSeries", { ...stepped, profileTypeID: "x" }, `no profile type "x"`],
  ["SelectSeries", { ...stepped, labelSelector: "{a=" }, "is no selector"],
  ["SelectSeries", { ...stepped, labelSelector: `{a=~"("}` }, "regular expression"],
  ["SelectSeries", { ...stepped, step: 0 }, "a step of 0 s"],
  ["SelectSeries", { ...stepped, end: 5 }, "ends before it begins"],
  ["SelectSeries", { profileTypeID: ids[0], step: 1 }, "no range of time"],
  ["SelectMergeStacktraces", { ...typed, maxNodes: (1 << 20) + 1 }, "max_nodes"],
  ["SelectMergeProfile", { ...typed, profileTypeID: "" }, "no profile type"],
  ["LabelNames", { ...range, matchers: ["{"] }, "is no selector"],
  ["LabelValues", range, "no name of a label"],
  ["Series", { ...range, matchers: ["}"] }, "is no selector"],
  ["ProfileTypes", { start: 5, end: 4 }, "ends before it begins"],
  ["AnalyzeQuery", { ...range, query: "{" }, "is no selector"],
  ["Diff", {}, "no left side"],
  ["Diff", { left: typed }, "no right side"],
  ["Diff", { left: typed, right: { ...typed, profileTypeID: ids[1] } }, "one profile type"],
]) {
  await refused(name, request, Code.InvalidArgument, word);
}
for (const [name, request] of [
  ["SelectMergeStacktraces", { ...typed, format: "PROFILE_FORMAT_DOT" }],
  ["SelectMergeStacktraces", { ...typed, format: "PROFILE_FORMAT_TREE" }],
  ["SelectMergeStacktraces", { ...typed, spanSelector: ["x"] }],
  ["SelectMergeStacktraces", { ...typed, profileIdSelector: ["x"] }],
  ["SelectMergeStacktraces", { ...typed, stackTraceSelector: { goPgo: {} } }],
  ["SelectHeatmap", {}],
  ["SelectMergeSpanProfile", {}],
]) {
  await refused(name, request, Code.Unimplemented);
}
console.log(`  ${calls} calls: ${answered.size} methods answered (${[...answered].join(", ")}), ${refusals.size} refusals, each in ${ways.length} ways`);
