//! Adding one digest to another: rows of the one become rows of the other.

use super::{Digest, FrameRow, MappingRow, Member, MemberRow, SourceRow};

/// How to merge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Detail {
    /// Keep process and thread ids.
    Process,
    /// Keep groups, names and containers, but no ids: what a window of hours needs.
    Name,
}

/// What has been taken over of another digest, by its rows there: only what is used is, and each once.
struct Taken {
    strings: Vec<Option<u32>>,
    mappings: Vec<Option<u32>>,
    frames: Vec<Option<u32>>,
    members: Vec<Option<u32>>,
    /// As sums have them: 0 is none.
    nodes: Vec<Option<u32>>,
}

impl Taken {
    fn new(other: &Digest) -> Self {
        let nothing = |rows: usize| vec![None; rows];
        let mut nodes = nothing(other.nodes.rows.len() + 1);
        nodes[0] = Some(0);
        Self {
            strings: nothing(other.strings.len()),
            mappings: nothing(other.mappings.rows.len()),
            frames: nothing(other.frames.rows.len()),
            members: nothing(other.members.rows.len()),
            nodes,
        }
    }
}

impl Digest {
    /// Adds those samples of another digest for which `keep` is true of source and member.
    pub fn merge(&mut self, other: &Self, detail: Detail, keep: &dyn Fn(&str, &Member<'_>) -> bool) {
        let sources: Vec<&str> = other.sources.iter().map(|row| other.text(row.name)).collect();
        let kept: Vec<Vec<bool>> = (0..other.members.rows.len())
            .map(|member| {
                let member = other.member(member);
                sources.iter().map(|source| keep(source, &member)).collect()
            })
            .collect();
        let mut taken = Taken::new(other);
        let source_ids: Vec<u32> = other
            .sources
            .iter()
            .map(|&row| {
                let name = self.take_string(other, &mut taken, row.name);
                self.source(SourceRow { name, ..row })
            })
            .collect();
        let mut path = Vec::new();
        for &((source, member, node), sum) in &other.sums.rows {
            if !kept[member as usize][source as usize] {
                continue;
            }
            let member = self.take_member(other, &mut taken, member, detail);
            // From the first ancestor that is there down to the node.
            let mut next = node;
            while taken.nodes[next as usize].is_none() {
                path.push(next);
                next = other.nodes.rows[next as usize - 1].0;
            }
            for node in path.drain(..).rev() {
                let (parent, frame) = other.nodes.rows[node as usize - 1];
                let frame = self.take_frame(other, &mut taken, frame);
                let parent = taken.nodes[parent as usize].unwrap_or_default();
                taken.nodes[node as usize] = Some(self.nodes.id((parent, frame)) + 1);
            }
            let node = taken.nodes[node as usize].unwrap_or_default();
            self.sums.add((source_ids[source as usize], member, node), sum);
        }
    }

    fn take_string(&mut self, other: &Self, taken: &mut Taken, row: u32) -> u32 {
        *taken.strings[row as usize].get_or_insert_with(|| self.string(other.text(row)))
    }

    fn take_member(&mut self, other: &Self, taken: &mut Taken, row: u32, detail: Detail) -> u32 {
        if let Some(id) = taken.members[row as usize] {
            return id;
        }
        let MemberRow { group, process, thread, cgroup, unit, container, pod, pid, tid } =
            other.members.rows[row as usize];
        let mut take = |text| self.take_string(other, taken, text);
        let taken_over = MemberRow {
            group: take(group),
            process: take(process),
            thread: take(thread),
            cgroup: take(cgroup),
            unit: take(unit),
            container: take(container),
            pod: take(pod),
            pid: if detail == Detail::Process { pid } else { 0 },
            tid: if detail == Detail::Process { tid } else { 0 },
        };
        *taken.members[row as usize].insert(self.members.id(taken_over))
    }

    fn take_mapping(&mut self, other: &Self, taken: &mut Taken, row: u32) -> u32 {
        if let Some(id) = taken.mappings[row as usize] {
            return id;
        }
        let MappingRow { path, kind, build_id } = other.mappings.rows[row as usize];
        let mut take = |text| self.take_string(other, taken, text);
        let taken_over = MappingRow { path: take(path), kind, build_id: take(build_id) };
        *taken.mappings[row as usize].insert(self.mappings.id(taken_over))
    }

    fn take_frame(&mut self, other: &Self, taken: &mut Taken, row: u32) -> u32 {
        if let Some(id) = taken.frames[row as usize] {
            return id;
        }
        let FrameRow { name, file, start_line, mapping } = other.frames.rows[row as usize];
        let mapping = self.take_mapping(other, taken, mapping);
        let mut take = |text| self.take_string(other, taken, text);
        let taken_over = FrameRow { name: take(name), file: take(file), start_line, mapping };
        *taken.frames[row as usize].insert(self.frames.id(taken_over))
    }
}
