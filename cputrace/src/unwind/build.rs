//! A file's call frame information to a table.
//!
//! Whatever the file says is bounded by its size; what makes no sense is counted and left out, and code that nothing
//! is known of is a gap.

use std::fs::File;
use std::marker::PhantomData;

use cputrace_common::unwind::table::{BLOCK_BYTES, BLOCK_SHIFT, CHUNK_WORDS, Rule, Table, cfa, row, table_flags};
use gimli::{BaseAddresses, CieOrFde, EhFrame, LittleEndian, UnwindSection};
use rustc_hash::FxHashMap;

use super::evaluate::{Advance, Bytes, Evaluation, Row};
use crate::process::elf::{self, ElfError, ElfFacts};

/// Text beyond this is no real program's.
const MAX_TEXT: u64 = 4 << 30;

/// Between two functions lies padding, which never runs: gaps up to this length belong to the function before.
const PADDING: u64 = 32;

/// Code is looked at for prologues up to this many bytes.
const PROLOGUE_BYTES: u64 = 1 << 20;

/// Call frame information beyond this is no real program's.
const MAX_FRAME_BYTES: u64 = 1 << 30;

/// A file that no table can be made of.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// It could not be read as an ELF file.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// Its addresses make no sense.
    #[error("its code is said to span {0} bytes")]
    TooLarge(u64),
    /// More distinct rules than there are numbers for.
    #[error("it has more than 65535 distinct rules")]
    TooManyRules,
}

/// A table, not placed in the pool yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuiltTable {
    /// The address, as linked, at which the first block begins.
    pub text_start: u64,
    /// For each block its first row's index in `rows` and how many it has, or its only rule's index and 0.
    pub blocks: Vec<(u32, u32)>,
    /// Offsets within the blocks, and indices in `rules`.
    pub rows: Vec<u32>,
    /// The distinct rules.
    pub rules: Vec<Rule>,
    /// `table_flags`.
    pub flags: u32,
    /// Functions whose instructions make no sense.
    pub damaged: u32,
    /// Rows before equal neighbours were merged.
    pub rows_read: u32,
}

impl BuiltTable {
    /// Its words as they will lie in the pool from `start` on, which is even: first the blocks, then the rows, those
    /// of one block always within one chunk, then the rules.
    pub fn place(&self, start: u32) -> (Vec<u32>, Table) {
        let mut words = vec![0; self.blocks.len() * 2];
        words.reserve(self.rows.len() + self.rules.len() * 2 + 2);
        for (block, &(first, count)) in self.blocks.iter().enumerate() {
            if count == 0 {
                words[block * 2] = first;
                continue;
            }
            let left = CHUNK_WORDS - (start as usize + words.len()) % CHUNK_WORDS;
            if left < count as usize {
                words.resize(words.len() + left, 0);
            }
            words[block * 2] = start + words.len() as u32;
            words[block * 2 + 1] = count;
            words.extend(&self.rows[first as usize..(first + count) as usize]);
        }
        words.resize(words.len().next_multiple_of(2), 0);
        let first_rule = start + words.len() as u32;
        words.extend(self.rules.iter().flat_map(|rule| rule.words()));
        let (text_start, blocks, flags) = (self.text_start, self.blocks.len() as u32, self.flags);
        (words, Table { text_start, first_block: start, blocks, flags, first_rule })
    }
}

/// Builds the table of an ELF file.
pub fn build(file: &File) -> Result<BuiltTable, BuildError> {
    let base = ElfFacts::read(file)?.lowest();
    let [eh_frame, text] = elf::sections(file, [".eh_frame", ".text"])?;
    let code = text.map(|text| text.read(file, PROLOGUE_BYTES)).transpose().map_err(ElfError::Io)?;
    let mut rows = Rows { base, ..Rows::default() };
    if let Some(section) = eh_frame {
        let bytes = section.read(file, MAX_FRAME_BYTES).map_err(ElfError::Io)?;
        let mut frame = EhFrame::new(&bytes, LittleEndian);
        frame.set_address_size(8);
        let text = text.map_or(0, |text| text.address);
        let bases = BaseAddresses::default().set_eh_frame(section.address).set_text(text);
        read_section(&frame, &bases, &mut rows);
    }
    let keeps = keeps_frame_pointers(&code.unwrap_or_default());
    let flags = table_flags::READY | if keeps { table_flags::FRAME_POINTERS } else { 0 };
    Ok(BuiltTable { flags, ..rows.finish()? })
}

/// Whether functions begin with `push rbp; mov rbp, rsp`, more often than once in two kilobytes.
fn keeps_frame_pointers(code: &[u8]) -> bool {
    let is_prologue = |bytes: &&[u8]| matches!(bytes, [0x55, 0x48, 0x89, 0xe5] | [0x55, 0x48, 0x8b, 0xec]);
    let prologues = code.windows(4).filter(is_prologue).count();
    prologues > code.len() / 2048
}

/// Rows of all functions, in the order in which the file has them.
#[derive(Debug, Default)]
struct Rows {
    /// The file's lowest address.
    base: u64,
    /// First address of the row, from `base` on, and its rule's index.
    rows: Vec<(u32, u16)>,
    /// One for each function: the index of its first row in `rows`, and its end.
    functions: Vec<(u32, u64)>,
    rules: Vec<Rule>,
    indices: FxHashMap<Rule, u16>,
    last: Option<(Rule, u16)>,
    damaged: u32,
    overflow: bool,
}

fn read_section<'a>(frame: &EhFrame<Bytes<'a>>, bases: &BaseAddresses, rows: &mut Rows) {
    let mut entries = frame.entries(bases);
    let mut remembered = Vec::new();
    // The functions of one compilation have one CIE: its initial row is evaluated once.
    let mut cies: FxHashMap<usize, Option<(gimli::CommonInformationEntry<Bytes<'a>>, Row)>> = FxHashMap::default();
    // An entry that cannot be read has no length either: what follows it is lost.
    while let Ok(Some(entry)) = entries.next() {
        let CieOrFde::Fde(partial) = entry else { continue };
        let offset = partial.cie_offset().0;
        let cie = cies.entry(offset).or_insert_with(|| {
            let cie = frame.cie_from_offset(bases, gimli::EhFrameOffset(offset)).ok()?;
            let initial = initial_row(frame, bases, &cie)?;
            Some((cie, initial))
        });
        let Some((cie, initial)) = cie else {
            rows.damaged += 1;
            continue;
        };
        let fde = partial.parse(|_, _, _| Ok(cie.clone()));
        let read = fde.ok().and_then(|fde| read_function(frame, bases, &fde, *initial, &mut remembered, rows));
        if read.is_none() {
            rows.damaged += 1;
        }
    }
}

fn initial_row<'a>(
    frame: &EhFrame<Bytes<'a>>,
    bases: &BaseAddresses,
    cie: &gimli::CommonInformationEntry<Bytes<'a>>,
) -> Option<Row> {
    let mut evaluation = Evaluation {
        section: frame,
        data_alignment: cie.data_alignment_factor(),
        code_alignment: cie.code_alignment_factor(),
        row: Row::INITIAL,
        initial: Row::INITIAL,
        remembered: &mut Vec::new(),
        bytes: PhantomData,
    };
    let mut instructions = cie.instructions(frame, bases);
    while let Some(instruction) = instructions.next().ok()? {
        evaluation.take(instruction)?;
    }
    Some(evaluation.row)
}

fn read_function<'a>(
    frame: &EhFrame<Bytes<'a>>,
    bases: &BaseAddresses,
    fde: &gimli::FrameDescriptionEntry<Bytes<'a>>,
    initial: Row,
    remembered: &mut Vec<Row>,
    rows: &mut Rows,
) -> Option<()> {
    let (start, end) = (fde.initial_address(), fde.initial_address().checked_add(fde.len())?);
    // Functions that the linker left out begin at 0.
    if start == 0 || start == end {
        return Some(());
    }
    rows.functions.push((rows.rows.len() as u32, end));
    if fde.is_signal_trampoline() {
        rows.push(start, Rule { cfa_kind: cfa::SIGNAL, ..Rule::default() });
        return Some(());
    }
    remembered.clear();
    let cie = fde.cie();
    let (data_alignment, code_alignment) = (cie.data_alignment_factor(), cie.code_alignment_factor());
    let mut evaluation = Evaluation {
        section: frame,
        data_alignment,
        code_alignment,
        row: initial,
        initial,
        remembered,
        bytes: PhantomData,
    };
    let first_row = rows.rows.len();
    let mut address = start;
    let mut instructions = fde.instructions(frame, bases);
    let outcome = loop {
        match instructions.next() {
            Ok(Some(instruction)) => {
                let Some(advance) = evaluation.take(instruction) else { break None };
                let next = match advance {
                    Advance::Stay => continue,
                    Advance::By(delta) => address.checked_add(delta),
                    Advance::To(next) => Some(next),
                };
                let Some(next) = next.filter(|next| (address..end).contains(next)) else { break Some(()) };
                if next > address {
                    rows.push(address, evaluation.row.rule());
                }
                address = next;
            }
            Ok(None) => break Some(()),
            Err(_) => break None,
        }
    };
    if outcome.is_none() {
        // Half a function is worse than none.
        rows.rows.truncate(first_row);
        rows.push(start, Rule::GAP);
        return None;
    }
    rows.push(address, evaluation.row.rule());
    Some(())
}

impl Rows {
    fn push(&mut self, address: u64, rule: Rule) {
        let index = self.index(rule);
        // Beyond 4 GB of code: not believed, and the function is left out.
        match address.checked_sub(self.base).and_then(|offset| u32::try_from(offset).ok()) {
            Some(offset) => self.rows.push((offset, index)),
            None => self.damaged += 1,
        }
    }

    fn index(&mut self, rule: Rule) -> u16 {
        if let Some((last, index)) = self.last
            && last == rule
        {
            return index;
        }
        let next = self.rules.len();
        let index = *self.indices.entry(rule).or_insert_with(|| {
            self.overflow |= next > usize::from(u16::MAX);
            self.rules.push(rule);
            next as u16
        });
        self.last = Some((rule, index));
        index
    }

    fn finish(mut self) -> Result<BuiltTable, BuildError> {
        if self.overflow {
            return Err(BuildError::TooManyRules);
        }
        let gap = self.index(Rule::GAP);
        let functions = self.in_order();
        let first = functions.first().map(|function| function.start);
        let last = functions.iter().map(|function| function.end).max();
        let (Some(first), Some(last)) = (first, last) else {
            return Ok(BuiltTable { damaged: self.damaged, ..BuiltTable::default() });
        };
        let text_start = first & !(BLOCK_BYTES - 1);
        if last - text_start > MAX_TEXT {
            return Err(BuildError::TooLarge(last - text_start));
        }
        let mut blocks = Blocks {
            text_start,
            blocks: Vec::with_capacity(((last - text_start) >> BLOCK_SHIFT) as usize + 1),
            rows: Vec::with_capacity(self.rows.len()),
            in_force: gap,
            first_row: 0,
        };
        let mut covered = first;
        for Function { start, end, rows } in functions {
            // Of functions that overlap, the one that begins first is believed.
            if end <= covered {
                continue;
            }
            if start > covered + PADDING {
                blocks.push(covered, gap);
            }
            let rows = &self.rows[rows];
            for (index, &(offset, rule)) in rows.iter().enumerate() {
                let address = self.base + u64::from(offset);
                let next = rows.get(index + 1).map_or(end, |(next, _)| self.base + u64::from(*next));
                if next > covered {
                    blocks.push(address.max(covered), rule);
                }
            }
            covered = end;
        }
        blocks.push(covered, gap);
        blocks.close();
        let Blocks { blocks, rows, .. } = blocks;
        let (damaged, rows_read) = (self.damaged, self.rows.len() as u32);
        Ok(BuiltTable { text_start, blocks, rows, rules: self.rules, flags: 0, damaged, rows_read })
    }

    /// The functions with their rows, by address.
    fn in_order(&self) -> Vec<Function> {
        let ends = self.functions.iter().skip(1).map(|(first, _)| *first as usize).chain([self.rows.len()]);
        let functions = self.functions.iter().zip(ends).filter(|((first, _), next)| (*first as usize) < *next);
        let mut functions: Vec<_> = functions
            .map(|((first, end), next)| {
                let rows = *first as usize..next;
                Function { start: self.base + u64::from(self.rows[rows.start].0), end: *end, rows }
            })
            .collect();
        // Linkers write them in order, nearly.
        functions.sort_by_key(|function| function.start);
        functions
    }
}

struct Function {
    start: u64,
    end: u64,
    rows: std::ops::Range<usize>,
}

/// Blocks in the making: rows come in order of their addresses.
struct Blocks {
    text_start: u64,
    blocks: Vec<(u32, u32)>,
    rows: Vec<u32>,
    in_force: u16,
    /// Of the block in the making.
    first_row: usize,
}

impl Blocks {
    /// From `address` on, `rule` holds.
    fn push(&mut self, address: u64, rule: u16) {
        if rule == self.in_force {
            return;
        }
        let offset = address - self.text_start;
        let block = (offset >> BLOCK_SHIFT) as usize;
        while self.blocks.len() < block {
            self.close();
        }
        let within = (offset & (BLOCK_BYTES - 1)) as u16;
        if self.rows.len() == self.first_row && within > 0 {
            self.rows.push(row(0, self.in_force));
        }
        match self.rows[self.first_row..].last_mut() {
            // A row that holds for nothing.
            Some(last) if *last as u16 == within => *last = row(within, rule),
            _ => self.rows.push(row(within, rule)),
        }
        self.in_force = rule;
    }

    /// Ends the block in the making.
    fn close(&mut self) {
        let count = self.rows.len() - self.first_row;
        self.blocks.push(match count {
            0 => (self.in_force.into(), 0),
            _ => (self.first_row as u32, count as u32),
        });
        self.first_row = self.rows.len();
    }
}
