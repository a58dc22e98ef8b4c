//! Names of code that was seen before, so that a window looks up only what is new in it.
//!
//! By build id and address, which tell the same code wherever it is mapped; the kernel's by address. Code without a build id,
//! and of JIT compilers, is looked up each time.

use std::collections::HashMap;

use rustc_hash::FxBuildHasher;

use crate::model::{BuildId, Function, Line, LocationId, MappingId, MappingKind, Profile, UnknownReason};

/// Places that are kept, twice: what was asked for since so many others came, and before.
const GENERATION: usize = 16 << 10;

type FxMap<K, V> = HashMap<K, V, FxBuildHasher>;

/// The kernel has no build id here.
type Home = Option<BuildId>;

/// What a place is called.
#[derive(Clone, Debug)]
struct Named {
    lines: Box<[NamedLine]>,
    unknown: Option<UnknownReason>,
}

#[derive(Clone, Debug)]
struct NamedLine {
    name: Box<str>,
    system_name: Box<str>,
    file: Box<str>,
    start_line: u32,
    line: u32,
}

#[derive(Debug, Default)]
struct Generation {
    places: usize,
    by_home: FxMap<Home, FxMap<u64, Named>>,
}

/// Keeps names from one window to the next; bounded.
#[derive(Debug, Default)]
pub struct NameCache {
    young: Generation,
    old: Generation,
}

impl NameCache {
    /// Names the locations whose names it has.
    pub fn recall(&mut self, profile: &mut Profile) {
        for (id, home, address) in places(profile, |unknown| unknown == Some(UnknownReason::NotSymbolized)) {
            let Some(named) = self.find(&home, address) else { continue };
            let lines = named.lines.iter().map(|line| {
                let function = Function {
                    name: profile.string(&line.name),
                    system_name: profile.string(&line.system_name),
                    file: profile.string(&line.file),
                    start_line: line.start_line,
                };
                Line { function: profile.function(function), line: line.line }
            });
            let lines = lines.collect();
            profile.set_lines(id, Ok(lines));
            if let Some(reason) = named.unknown {
                profile.set_unknown(id, reason);
            }
        }
    }

    /// Keeps the names that locations have by now. What could not be read is looked up again.
    pub fn learn(&mut self, profile: &Profile) {
        let is_known =
            |unknown| matches!(unknown, None | Some(UnknownReason::NoSymbols | UnknownReason::NotInSymbolTable));
        for (id, home, address) in places(profile, is_known) {
            let is_new = !self.young.by_home.get(&home).is_some_and(|places| places.contains_key(&address));
            let location = &profile.locations()[id.index()];
            if is_new && !location.lines.is_empty() {
                let lines = location.lines.iter().map(|line| {
                    let function = &profile.functions()[line.function.index()];
                    let text = |id| Box::from(profile.text(id));
                    NamedLine {
                        name: text(function.name),
                        system_name: text(function.system_name),
                        file: text(function.file),
                        start_line: function.start_line,
                        line: line.line,
                    }
                });
                self.keep(home, address, Named { lines: lines.collect(), unknown: location.unknown });
            }
        }
    }

    fn find(&mut self, home: &Home, address: u64) -> Option<Named> {
        if let Some(named) = self.young.by_home.get(home).and_then(|places| places.get(&address)) {
            return Some(named.clone());
        }
        let named = self.old.by_home.get_mut(home)?.remove(&address)?;
        self.keep(home.clone(), address, named.clone());
        Some(named)
    }

    fn keep(&mut self, home: Home, address: u64, named: Named) {
        if self.young.places >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.places += 1;
        self.young.by_home.entry(home).or_default().insert(address, named);
    }
}

/// Locations whose code can be told again, of which `wanted` says so.
fn places(profile: &Profile, wanted: impl Fn(Option<UnknownReason>) -> bool) -> Vec<(LocationId, Home, u64)> {
    let home = |mapping: MappingId| {
        let mapping = &profile.mappings()[mapping.index()];
        match mapping.kind {
            MappingKind::Kernel => Some(None),
            MappingKind::File | MappingKind::Vdso => mapping.build_id.clone().map(Some),
            MappingKind::Anonymous | MappingKind::Unmapped | MappingKind::Label => None,
        }
    };
    let wanted = |id: &LocationId| wanted(profile.locations()[id.index()].unknown);
    let place = |id: LocationId| {
        let location = &profile.locations()[id.index()];
        Some((id, home(location.mapping)?, location.address.0))
    };
    profile.location_ids().filter(wanted).filter_map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ElfAddr, Mapping};

    /// A place in a file, named by `name` or not at all.
    fn profile(name: Option<&str>) -> (Profile, LocationId) {
        let mut profile = Profile::new();
        let path = profile.string("/usr/bin/program");
        let build_id = Some(BuildId(vec![1, 2, 3]));
        let mapping = profile.mapping(Mapping { kind: MappingKind::File, path, build_id });
        let location = profile.location(mapping, ElfAddr(0x1234));
        if let Some(name) = name {
            let (name, file) = (profile.string(name), profile.string("main.c"));
            let function = profile.function(Function { name, system_name: name, file, start_line: 0 });
            profile.set_lines(location, Ok(vec![Line { function, line: 7 }]));
        }
        (profile, location)
    }

    #[test]
    fn what_was_named_is_named_again() {
        let mut cache = NameCache::default();
        let (named, _) = profile(Some("work"));
        cache.learn(&named);
        let (mut next, location) = profile(None);
        cache.recall(&mut next);
        assert_eq!(next.names(location), ["work"]);
        assert_eq!(next.locations()[location.index()].lines[0].line, 7);
        assert_eq!(next.locations()[location.index()].unknown, None);
    }

    #[test]
    fn what_has_no_name_yet_is_not_kept() {
        let mut cache = NameCache::default();
        let (unnamed, _) = profile(None);
        cache.learn(&unnamed);
        let (mut next, location) = profile(None);
        cache.recall(&mut next);
        assert_eq!(next.locations()[location.index()].unknown, Some(UnknownReason::NotSymbolized));
    }

    #[test]
    fn what_is_asked_for_outlives_what_is_not() {
        let mut cache = NameCache::default();
        cache.learn(&profile(Some("work")).0);
        let filler = Named { lines: Box::new([]), unknown: None };
        for address in 0..3 * GENERATION as u64 {
            cache.keep(None, address, filler.clone());
            if address % 1000 == 0 {
                cache.recall(&mut profile(None).0);
            }
        }
        let (mut next, location) = profile(None);
        cache.recall(&mut next);
        assert_eq!(next.names(location), ["work"]);
        assert!(cache.find(&None, 0).is_none());
    }
}
