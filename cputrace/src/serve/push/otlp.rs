//! Windows as OpenTelemetry's profiles, of the version of the protocol that is called 1.10 and 1.11: a signal that is still
//! under development, so that other versions may read them wrongly.
//!
//! Format: `profiles.proto` and `profiles_service.proto` of open-telemetry/opentelemetry-proto. The first row of each table
//! of the dictionary means "none".

use std::collections::HashMap;
use std::hash::Hash;

use prost::Message;

use super::Window;
use super::owner::{self, Owned, Owner};
use crate::export::pprof::proto as pprof;
use crate::model::Aspect;

/// A window as one request.
pub(super) fn encode(window: &Window, hostname: &str) -> Vec<Vec<u8>> {
    let mut dictionary = Dictionary::new();
    let resources: Vec<_> = owner::profiles(window)
        .into_iter()
        .map(|(owner, profiles)| {
            let profiles = profiles.iter().filter_map(|owned| dictionary.profile(owned)).collect();
            let scope = proto::Scope { name: "cputrace".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
            proto::ResourceProfiles {
                resource: Some(resource(&owner, hostname)),
                scope_profiles: vec![proto::ScopeProfiles { scope: Some(scope), profiles }],
            }
        })
        .collect();
    if resources.is_empty() {
        return Vec::new();
    }
    vec![proto::Request { resource_profiles: resources, dictionary: Some(dictionary.tables) }.encode_to_vec()]
}

/// Attributes, by OpenTelemetry's names.
fn resource(owner: &Owner, hostname: &str) -> proto::Resource {
    let Owner { group, container, pod, unit } = owner;
    let attributes = [
        ("service.name", &**group),
        ("host.name", hostname),
        ("container.id", container),
        ("k8s.pod.uid", pod),
        ("systemd.unit", unit),
    ];
    let attributes = attributes.into_iter().filter(|(_, value)| !value.is_empty()).map(|(key, value)| {
        let value = proto::AnyValue { string_value: Some(value.to_owned()) };
        proto::KeyValue { key: key.to_owned(), value: Some(value) }
    });
    proto::Resource { attributes: attributes.collect() }
}

/// The tables of a request, each row of which is there once.
struct Dictionary {
    tables: proto::Dictionary,
    strings: HashMap<String, i32>,
    mappings: HashMap<i32, i32>,
    functions: HashMap<[i64; 4], i32>,
    locations: HashMap<(i32, u64, Vec<i32>), i32>,
    stacks: HashMap<Vec<i32>, i32>,
}

/// A row's number, as it is or once it is there.
fn row<K: Eq + Hash, T>(ids: &mut HashMap<K, i32>, table: &mut Vec<T>, key: K, make: impl FnOnce(&K) -> T) -> i32 {
    if let Some(&id) = ids.get(&key) {
        return id;
    }
    let id = i32::try_from(table.len()).unwrap_or(i32::MAX);
    table.push(make(&key));
    ids.insert(key, id);
    id
}

impl Dictionary {
    fn new() -> Self {
        let tables = proto::Dictionary {
            mapping_table: vec![proto::Mapping::default()],
            location_table: vec![proto::Location::default()],
            function_table: vec![proto::Function::default()],
            link_table: vec![proto::Empty {}],
            string_table: vec![String::new()],
            attribute_table: vec![proto::Empty {}],
            stack_table: vec![proto::Stack::default()],
        };
        Self {
            tables,
            strings: HashMap::from([(String::new(), 0)]),
            mappings: HashMap::from([(0, 0)]),
            functions: HashMap::new(),
            locations: HashMap::new(),
            stacks: HashMap::from([(Vec::new(), 0)]),
        }
    }

    fn string(&mut self, text: &str) -> i32 {
        row(&mut self.strings, &mut self.tables.string_table, text.to_owned(), String::clone)
    }

    /// A profile has one number a sample here: of samples on the CPU how many there were, which the period makes a time.
    fn profile(&mut self, owned: &Owned) -> Option<proto::Profile> {
        let Owned { types, profile } = owned;
        let is_on_cpu = types.first()?.source == Aspect::OnCpu.name();
        let column = if is_on_cpu { types.iter().position(|each| each.number.is_count())? } else { 0 };
        let strings: Vec<i32> = profile.string_table.iter().map(|text| self.string(text)).collect();
        let text = |id: i64| usize::try_from(id).ok().and_then(|id| strings.get(id)).copied().unwrap_or(0);
        let value_type = |of: &pprof::ValueType| proto::ValueType { r#type: text(of.r#type), unit: text(of.unit) };
        let functions: Vec<i32> = profile
            .function
            .iter()
            .map(|function| {
                let pprof::Function { name, system_name, filename, start_line, .. } = *function;
                let key = [text(name).into(), text(system_name).into(), text(filename).into(), start_line];
                row(&mut self.functions, &mut self.tables.function_table, key, |_| proto::Function {
                    name: text(name),
                    system_name: text(system_name),
                    filename: text(filename),
                    start_line,
                })
            })
            .collect();
        let mappings: Vec<i32> = profile
            .mapping
            .iter()
            .map(|mapping| {
                row(&mut self.mappings, &mut self.tables.mapping_table, text(mapping.filename), |filename| {
                    proto::Mapping { filename: *filename }
                })
            })
            .collect();
        // Ids of pprof begin at 1.
        let of = |rows: &[i32], id: u64| {
            let index = usize::try_from(id).ok().and_then(|id| id.checked_sub(1));
            index.and_then(|index| rows.get(index)).copied().unwrap_or(0)
        };
        let locations: Vec<i32> = profile
            .location
            .iter()
            .map(|location| {
                let lines: Vec<i32> = location.line.iter().map(|line| of(&functions, line.function_id)).collect();
                let key = (of(&mappings, location.mapping_id), location.address, lines);
                row(&mut self.locations, &mut self.tables.location_table, key, |(mapping, address, lines)| {
                    proto::Location {
                        mapping: *mapping,
                        address: *address,
                        lines: lines.iter().map(|&function| proto::Line { function }).collect(),
                    }
                })
            })
            .collect();
        let samples = profile.sample.iter().map(|sample| {
            let stack: Vec<i32> = sample.location_id.iter().map(|&id| of(&locations, id)).collect();
            let stack = row(&mut self.stacks, &mut self.tables.stack_table, stack, |rows| proto::Stack {
                locations: rows.clone(),
            });
            proto::Sample { stack, values: sample.value.get(column).copied().into_iter().collect() }
        });
        let samples = samples.collect();
        let period_type = profile.period_type.as_ref().filter(|of| is_on_cpu && of.r#type != 0);
        Some(proto::Profile {
            sample_type: profile.sample_type.get(column).map(value_type),
            samples,
            time_unix_nano: profile.time_nanos.unsigned_abs(),
            duration_nano: profile.duration_nanos.unsigned_abs(),
            period_type: period_type.map(value_type),
            period: if period_type.is_some() { profile.period } else { 0 },
        })
    }
}

/// The messages, as far as there is something to say.
mod proto {
    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub(super) struct Empty {}

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Request {
        #[prost(message, repeated, tag = "1")]
        pub(super) resource_profiles: Vec<ResourceProfiles>,
        #[prost(message, optional, tag = "2")]
        pub(super) dictionary: Option<Dictionary>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ResourceProfiles {
        #[prost(message, optional, tag = "1")]
        pub(super) resource: Option<Resource>,
        #[prost(message, repeated, tag = "2")]
        pub(super) scope_profiles: Vec<ScopeProfiles>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Resource {
        #[prost(message, repeated, tag = "1")]
        pub(super) attributes: Vec<KeyValue>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct KeyValue {
        #[prost(string, tag = "1")]
        pub(super) key: String,
        #[prost(message, optional, tag = "2")]
        pub(super) value: Option<AnyValue>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct AnyValue {
        #[prost(string, optional, tag = "1")]
        pub(super) string_value: Option<String>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ScopeProfiles {
        #[prost(message, optional, tag = "1")]
        pub(super) scope: Option<Scope>,
        #[prost(message, repeated, tag = "2")]
        pub(super) profiles: Vec<Profile>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Scope {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        #[prost(string, tag = "2")]
        pub(super) version: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Profile {
        #[prost(message, optional, tag = "1")]
        pub(super) sample_type: Option<ValueType>,
        #[prost(message, repeated, tag = "2")]
        pub(super) samples: Vec<Sample>,
        #[prost(fixed64, tag = "3")]
        pub(super) time_unix_nano: u64,
        #[prost(uint64, tag = "4")]
        pub(super) duration_nano: u64,
        #[prost(message, optional, tag = "5")]
        pub(super) period_type: Option<ValueType>,
        #[prost(int64, tag = "6")]
        pub(super) period: i64,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub(super) struct ValueType {
        #[prost(int32, tag = "1")]
        pub(super) r#type: i32,
        #[prost(int32, tag = "2")]
        pub(super) unit: i32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Sample {
        #[prost(int32, tag = "1")]
        pub(super) stack: i32,
        #[prost(int64, repeated, tag = "4")]
        pub(super) values: Vec<i64>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Dictionary {
        #[prost(message, repeated, tag = "1")]
        pub(super) mapping_table: Vec<Mapping>,
        #[prost(message, repeated, tag = "2")]
        pub(super) location_table: Vec<Location>,
        #[prost(message, repeated, tag = "3")]
        pub(super) function_table: Vec<Function>,
        #[prost(message, repeated, tag = "4")]
        pub(super) link_table: Vec<Empty>,
        #[prost(string, repeated, tag = "5")]
        pub(super) string_table: Vec<String>,
        #[prost(message, repeated, tag = "6")]
        pub(super) attribute_table: Vec<Empty>,
        #[prost(message, repeated, tag = "7")]
        pub(super) stack_table: Vec<Stack>,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub(super) struct Mapping {
        #[prost(int32, tag = "4")]
        pub(super) filename: i32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Stack {
        #[prost(int32, repeated, tag = "1")]
        pub(super) locations: Vec<i32>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Location {
        #[prost(int32, tag = "1")]
        pub(super) mapping: i32,
        #[prost(uint64, tag = "2")]
        pub(super) address: u64,
        #[prost(message, repeated, tag = "3")]
        pub(super) lines: Vec<Line>,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub(super) struct Line {
        #[prost(int32, tag = "1")]
        pub(super) function: i32,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub(super) struct Function {
        #[prost(int32, tag = "1")]
        pub(super) name: i32,
        #[prost(int32, tag = "2")]
        pub(super) system_name: i32,
        #[prost(int32, tag = "3")]
        pub(super) filename: i32,
        #[prost(int64, tag = "4")]
        pub(super) start_line: i64,
    }
}
