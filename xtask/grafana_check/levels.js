// Reads Pyroscope's flame graphs: levels of bars from left to right, each where it begins (as the distance from the end of the
// bar before it), its total, its self, its name; of two sides, the first three twice. A bar lies within its caller's.

import assert from "node:assert/strict";

// The nodes in depth-first order, each with its stack's names, root first and without the root of all, and on each side its
// total and self.
export function nodes({ names, levels }, sides = 1) {
  const roots = [];
  let above = [];
  for (const { values } of levels) {
    const numbers = values.map(Number);
    assert(numbers.length > 0 && numbers.every(Number.isSafeInteger), "a level without bars, or with what is no number");
    const bars = [];
    const ends = Array(sides).fill(0);
    let caller = 0;
    while (numbers.length > 0) {
      const total = [], self = [], from = [];
      for (let side = 0; side < sides; side++) {
        const [distance, all, own] = numbers.splice(0, 3);
        assert(distance >= 0 && own >= 0 && own <= all, "a bar that begins before its neighbour ends, or is narrower than its self");
        from.push(ends[side] + distance);
        ends[side] += distance + all;
        total.push(all);
        self.push(own);
      }
      const name = names[numbers.shift()];
      assert(name !== undefined, "a name that is not there");
      const bar = { name, total, self, from, to: [...ends], callees: [] };
      assert(total.some((total) => total > 0), `${name} has no width`);
      if (above.length === 0) {
        roots.push(bar);
      } else {
        const within = ({ from, to }) => bar.from.every((at, side) => from[side] <= at && bar.to[side] <= to[side]);
        while (caller < above.length && !within(above[caller])) caller++;
        assert(caller < above.length, `${name} lies outside of all callers`);
        above[caller].callees.push(bar);
      }
      bars.push(bar);
    }
    above = bars;
  }
  assert(roots.length === 1 && roots[0].name === names[0], "the first level is not the root alone, or its name not the first");
  const all = [];
  const visit = (bar, stack) => {
    const inside = bar.total.map((total, side) => total - bar.self[side]);
    for (const callee of bar.callees) callee.total.forEach((total, side) => { inside[side] -= total; });
    assert(inside.every((rest) => rest === 0), `${bar.name} is not its self and its callees`);
    all.push({ level: stack.length, name: bar.name, stack, total: bar.total, self: bar.self });
    for (const callee of bar.callees) visit(callee, [...stack, callee.name]);
  };
  visit(roots[0], []);
  return all;
}

// Each stack that has something of its own on a side, as "a;b", with that.
export function folded(nodes, side = 0) {
  return new Map(nodes.filter(({ self }) => self[side] > 0).map(({ stack, self }) => [stack.map(clean).join(";"), self[side]]));
}

// A name as it may stand in a folded stack.
export const clean = (name) => name.replaceAll(";", ":").replaceAll(/[\n\r]/g, " ");
