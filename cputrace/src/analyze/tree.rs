//! Stacks added up to a tree of functions: what flame graphs are drawn of, one profile or two side by side.

use std::collections::HashMap;

use rustc_hash::FxBuildHasher;

use crate::model::{Profile, Weight};

/// What the root is called.
const ROOT: &str = "total";

/// What nodes are called that stand for several small ones.
const OTHER: &str = "other";

/// Widths, of the first profile and of the second.
pub type Widths = [u64; 2];

#[derive(Clone, Debug)]
struct Node {
    name: u32,
    parent: u32,
    own: Widths,
    total: Widths,
}

/// A tree of functions.
#[derive(Clone, Debug)]
pub struct Tree {
    names: Vec<String>,
    name_ids: HashMap<String, u32, FxBuildHasher>,
    nodes: Vec<Node>,
    node_ids: HashMap<(u32, u32), u32, FxBuildHasher>,
}

/// A node in depth-first order: a "nested set", as Grafana's flame graph takes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// Its distance from the root.
    pub level: u32,
    /// Its name, a row of [`Tree::names`].
    pub name: u32,
    /// Width with what it calls.
    pub total: Widths,
    /// Width without.
    pub own: Widths,
}

impl Default for Tree {
    fn default() -> Self {
        let mut tree =
            Self { names: Vec::new(), name_ids: HashMap::default(), nodes: Vec::new(), node_ids: HashMap::default() };
        let name = tree.name(ROOT);
        tree.nodes.push(Node { name, parent: 0, own: [0; 2], total: [0; 2] });
        tree
    }
}

impl Tree {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds stacks to one of the two sides (0 or 1).
    pub fn add(&mut self, profile: &Profile, weights: &[Weight], side: usize) {
        let mut names: HashMap<_, Vec<u32>, FxBuildHasher> = HashMap::default();
        let mut of_stack: HashMap<_, u32, FxBuildHasher> = HashMap::default();
        for weight in weights {
            let leaf = *of_stack.entry(weight.stack).or_insert_with(|| {
                let frames: Vec<_> = profile.frames(weight.stack).collect();
                let mut node = 0;
                for location in frames.into_iter().rev() {
                    let names = names
                        .entry(location)
                        .or_insert_with(|| profile.names(location).iter().rev().map(|name| self.name(name)).collect());
                    for name in names.iter() {
                        node = child(&mut self.nodes, &mut self.node_ids, node, *name);
                    }
                }
                node
            });
            let own = &mut self.nodes[leaf as usize].own[side];
            *own = own.saturating_add(weight.weight);
            let mut node = leaf;
            loop {
                let row = &mut self.nodes[node as usize];
                row.total[side] = row.total[side].saturating_add(weight.weight);
                if node == 0 {
                    break;
                }
                node = row.parent;
            }
        }
    }

    /// Width of everything.
    pub fn total(&self) -> Widths {
        self.nodes[0].total
    }

    /// All names.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The widest nodes in depth-first order, the widest child first; what is left of each parent's children is one node.
    /// At most `max` nodes, and as many that stand for the rest.
    pub fn rows(&mut self, max: usize) -> Vec<Row> {
        let width = |node: &Node| node.total[0].saturating_add(node.total[1]);
        let mut widths: Vec<u64> = self.nodes.iter().map(width).collect();
        widths.sort_unstable_by(|a, b| b.cmp(a));
        let least = widths.get(max).map_or(1, |width| width + 1);
        let other = self.name(OTHER);
        let mut children: Vec<Vec<u32>> = vec![Vec::new(); self.nodes.len()];
        let mut rest: Vec<Widths> = vec![[0; 2]; self.nodes.len()];
        for (id, node) in (0_u32..).zip(&self.nodes).skip(1) {
            let parent = node.parent as usize;
            if width(node) >= least {
                children[parent].push(id);
            } else {
                for (sum, more) in rest[parent].iter_mut().zip(node.total) {
                    *sum = sum.saturating_add(more);
                }
            }
        }
        let mut rows = Vec::new();
        let mut stack = vec![(0_u32, 0_u32)];
        while let Some((id, level)) = stack.pop() {
            let node = &self.nodes[id as usize];
            rows.push(Row { level, name: node.name, total: node.total, own: node.own });
            let rest = rest[id as usize];
            let of_node = &mut children[id as usize];
            if rest != [0; 2] {
                // Its place does not matter to the parent's width; first is the simplest, for it has no children.
                rows.push(Row { level: level + 1, name: other, total: rest, own: rest });
            }
            // The last is popped first: the widest, and among equals the first by name.
            let key = |child: u32| {
                (width(&self.nodes[child as usize]), &self.names[self.nodes[child as usize].name as usize])
            };
            of_node.sort_by(|&a, &b| key(a).0.cmp(&key(b).0).then_with(|| key(b).1.cmp(key(a).1)));
            stack.extend(of_node.iter().map(|&child| (child, level + 1)));
        }
        rows
    }

    fn name(&mut self, name: &str) -> u32 {
        if let Some(&id) = self.name_ids.get(name) {
            return id;
        }
        let id = u32::try_from(self.names.len()).expect("a tree has fewer than 2^32 names");
        self.names.push(name.to_owned());
        self.name_ids.insert(name.to_owned(), id);
        id
    }
}

fn child(nodes: &mut Vec<Node>, ids: &mut HashMap<(u32, u32), u32, FxBuildHasher>, parent: u32, name: u32) -> u32 {
    *ids.entry((parent, name)).or_insert_with(|| {
        nodes.push(Node { name, parent, own: [0; 2], total: [0; 2] });
        u32::try_from(nodes.len() - 1).expect("a tree has fewer than 2^32 nodes")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ElfAddr, Function, Line, Mapping, MappingKind, StackId, ThreadId};

    /// Stacks of letters, root first, with their widths.
    fn add(tree: &mut Tree, side: usize, stacks: &[(&str, u64)]) {
        let mut profile = Profile::new();
        let (path, file) = (profile.string("x"), profile.string(""));
        let mapping = profile.mapping(Mapping { kind: MappingKind::File, path, build_id: None });
        let process = profile.process(1, "p");
        let thread: ThreadId = profile.thread(process, 1, "t");
        let weights: Vec<Weight> = stacks
            .iter()
            .map(|(letters, weight)| {
                let mut stack: Option<StackId> = None;
                for letter in letters.chars() {
                    let name = profile.string(&letter.to_string());
                    let function = profile.function(Function { name, system_name: name, file, start_line: 0 });
                    let location = profile.location(mapping, ElfAddr(u64::from(letter)));
                    profile.set_lines(location, Ok(vec![Line { function, line: 0 }]));
                    stack = Some(profile.stack(stack, location));
                }
                Weight { thread, stack, count: *weight, weight: *weight }
            })
            .collect();
        tree.add(&profile, &weights, side);
    }

    fn shown(tree: &mut Tree, max: usize) -> String {
        let rows = tree.rows(max);
        let name = |row: &Row| tree.names()[row.name as usize].clone();
        let lines = rows.iter().map(|row| {
            let indent = " ".repeat(row.level as usize);
            format!("{indent}{} {}/{} {}/{}", name(row), row.total[0], row.total[1], row.own[0], row.own[1])
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Both sides are added up along the stacks; a stack without a frame is the root's own.
    #[test]
    fn two_sides() {
        let mut tree = Tree::new();
        add(&mut tree, 0, &[("ab", 3), ("ab", 1), ("ac", 5), ("a", 2), ("", 7)]);
        add(&mut tree, 1, &[("ab", 10), ("d", 1)]);
        insta::assert_snapshot!(shown(&mut tree, 100), @r"
        total 18/11 7/0
         a 11/10 2/0
          b 4/10 4/10
          c 5/0 5/0
         d 0/1 0/1
        ");
    }

    /// What is small is one node a parent, and nothing is lost.
    #[test]
    fn small_nodes_are_one() {
        let mut tree = Tree::new();
        add(&mut tree, 0, &[("ab", 30), ("acx", 5), ("ad", 4), ("e", 50), ("fg", 1)]);
        insta::assert_snapshot!(shown(&mut tree, 4), @r"
        total 90/0 0/0
         other 1/0 1/0
         e 50/0 50/0
         a 39/0 0/0
          other 9/0 9/0
          b 30/0 30/0
        ");
    }
}
