//! pprof profiles, of any tool.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use prost::Message;

use super::{ImportError, recording};
use crate::export::pprof::proto;
use crate::model::{
    BuildId, ElfAddr, Function, FunctionId, Line, LocationId, Mapping, MappingId, MappingKind, ProcessId, Profile,
    Recording, Source, SourceId, StackId, Unit, UnknownReason,
};

pub(super) fn read(bytes: &[u8]) -> Result<Recording, ImportError> {
    let message = proto::Profile::decode(bytes).map_err(|error| ImportError::Pprof(error.to_string()))?;
    let damaged = |what: &str| ImportError::Pprof(format!("it refers to {what} that it does not hold"));
    let text = |index: i64| -> Result<&str, ImportError> {
        let index = usize::try_from(index).ok();
        let found = index.and_then(|index| message.string_table.get(index));
        found.map(String::as_str).ok_or_else(|| damaged("a string"))
    };
    if message.sample_type.is_empty() {
        return Err(ImportError::Pprof("it has no type of samples".to_owned()));
    }
    let mut profile = Profile::new();
    let unknown = profile.string("[unknown]");
    let nowhere = profile.mapping(Mapping { kind: MappingKind::Unmapped, path: unknown, build_id: None });
    let mut mappings: HashMap<u64, MappingId> = HashMap::new();
    for row in &message.mapping {
        let name = text(row.filename)?;
        let kind = if name.starts_with("[kernel") { MappingKind::Kernel } else { MappingKind::File };
        let path = profile.string(name);
        let build_id = text(row.build_id)?;
        let build_id = (!build_id.is_empty()).then(|| BuildId(hex(build_id)));
        mappings.insert(row.id, profile.mapping(Mapping { kind, path, build_id }));
    }
    let mut functions: HashMap<u64, FunctionId> = HashMap::new();
    for row in &message.function {
        let name = profile.string(text(row.name)?);
        let system_name = profile.string(text(row.system_name)?);
        let file = profile.string(text(row.filename)?);
        let start_line = u32::try_from(row.start_line).unwrap_or(0);
        functions.insert(row.id, profile.function(Function { name, system_name, file, start_line }));
    }
    let mut locations: HashMap<u64, LocationId> = HashMap::new();
    for row in &message.location {
        let mapping = mappings.get(&row.mapping_id).copied().unwrap_or(nowhere);
        // Without an address its number stands for one: two of them are two places.
        let address = if row.address == 0 { row.id } else { row.address };
        let location = profile.location(mapping, ElfAddr(address));
        let lines = row.line.iter().map(|line| {
            let function = functions.get(&line.function_id).copied().ok_or_else(|| damaged("a function"))?;
            Ok(Line { function, line: u32::try_from(line.line).unwrap_or(0) })
        });
        let lines = lines.collect::<Result<Vec<_>, ImportError>>()?;
        let named = if lines.is_empty() { Err(UnknownReason::NotSymbolized) } else { Ok(lines) };
        profile.set_lines(location, named);
        locations.insert(row.id, location);
    }
    let columns = columns(&message, &text)?;
    let mut sources: Vec<(SourceId, Column)> = Vec::new();
    for column in columns {
        let name = profile.string(&column.name);
        let period = u64::try_from(message.period).unwrap_or(0);
        sources.push((profile.source(Source { name, unit: column.unit, period }), column));
    }
    let process_name = message.mapping.first().map_or(Ok(""), |row| text(row.filename))?;
    let process_name = process_name.rsplit('/').next().unwrap_or_default().to_owned();
    let mut without_id: HashMap<String, ProcessId> = HashMap::new();
    for sample in &message.sample {
        let label = |wanted: &[&str]| {
            let found = sample.label.iter().find(|label| text(label.key).is_ok_and(|key| wanted.contains(&key)));
            found.map(|label| (label.num, text(label.str).unwrap_or_default().to_owned()))
        };
        let number = |found: Option<(i64, String)>| found.map_or(0, |(number, _)| u32::try_from(number).unwrap_or(0));
        let pid = number(label(&["pid", "process_id"]));
        let tid = number(label(&["tid", "thread_id"]));
        let process = label(&["process", "process_name"]).map_or_else(|| process_name.clone(), |(_, name)| name);
        let thread = label(&["thread", "thread_name"]).map_or_else(|| process.clone(), |(_, name)| name);
        let process = match pid {
            // Several without an id are told apart by their names.
            0 => *without_id.entry(process).or_insert_with_key(|name| profile.new_process(0, name)),
            _ => profile.process(pid, &process),
        };
        let thread = profile.thread(process, tid, &thread);
        let mut node: Option<StackId> = None;
        for id in sample.location_id.iter().rev() {
            let location = *locations.get(id).ok_or_else(|| damaged("a location"))?;
            node = Some(profile.stack(node, location));
        }
        for (source, column) in &sources {
            let value = |column: Option<usize>| {
                let value = column.and_then(|column| sample.value.get(column)).copied().unwrap_or(0);
                u64::try_from(value).unwrap_or(0)
            };
            let (count, value) = (value(column.count), value(column.value.or(column.count)));
            if value > 0 || count > 0 {
                profile.add((thread, *source, node), if column.count.is_some() { count } else { 1 }, value, None);
            }
        }
    }
    let start = SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::try_from(message.time_nanos).unwrap_or(0));
    let duration = Duration::from_nanos(u64::try_from(message.duration_nanos).unwrap_or(0));
    Ok(recording(profile, start, duration, "pprof"))
}

/// Columns of a sample that are one source: how many, and their sum.
struct Column {
    name: String,
    unit: Unit,
    count: Option<usize>,
    value: Option<usize>,
}

/// A column of numbers is the count of the column of values that follows it: so Go's and our own profiles have it.
fn columns<'a>(
    message: &proto::Profile,
    text: &dyn Fn(i64) -> Result<&'a str, ImportError>,
) -> Result<Vec<Column>, ImportError> {
    let mut columns: Vec<Column> = Vec::new();
    for (index, kind) in message.sample_type.iter().enumerate() {
        let (name, unit) = (text(kind.r#type)?, text(kind.unit)?);
        let unit = if unit == "nanoseconds" { Unit::Nanoseconds } else { Unit::Count };
        let name = match name {
            "cpu" | "samples" | "on-cpu" => "on-cpu",
            "off_cpu" | "off-cpu" => "off-cpu",
            other => other,
        };
        let before = columns.last_mut().filter(|before| before.value.is_none() && before.unit == Unit::Count);
        match before {
            Some(before) if unit == Unit::Nanoseconds => {
                (before.value, before.unit) = (Some(index), unit);
                name.clone_into(&mut before.name);
            }
            _ if unit == Unit::Count => {
                columns.push(Column { name: name.to_owned(), unit, count: Some(index), value: None });
            }
            _ => columns.push(Column { name: name.to_owned(), unit, count: None, value: Some(index) }),
        }
    }
    Ok(columns)
}

fn hex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    text.as_bytes().chunks(2).map_while(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect()
}
