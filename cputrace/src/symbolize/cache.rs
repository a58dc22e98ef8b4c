//! Names of code that was seen before, so that a window looks up only what is new in it.
//!
//! By build id and address, which tell the same code wherever it is mapped; the kernel's by address. Where a name holds for a
//! whole function, so does what is kept. Code without a build id, and of JIT compilers, is looked up each time.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use rustc_hash::FxBuildHasher;

use super::Extents;
use crate::model::{BuildId, Function, Line, LocationId, MappingId, MappingKind, Profile, UnknownReason};

/// Places that are kept, twice: what was asked for since so many others came, and before.
const GENERATION: usize = 16 << 10;

/// Places of one file can lie in each other: so many are tried.
const NESTED: usize = 4;

type FxMap<K, V> = HashMap<K, V, FxBuildHasher>;

/// The kernel has no build id here.
type Home = Option<BuildId>;

/// What a place is called.
#[derive(Clone, Debug)]
struct Named {
    lines: Arc<[NamedLine]>,
    unknown: Option<UnknownReason>,
}

/// By first address, with the address behind the last.
type Places = BTreeMap<u64, (u64, Named)>;

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
    by_home: FxMap<Home, Places>,
}

impl Generation {
    /// The place that an address lies in.
    fn find(&self, home: &Home, address: u64) -> Option<(Range<u64>, Named)> {
        let places = self.by_home.get(home)?.range(..=address).rev().take(NESTED);
        let mut places = places.map(|(&start, (end, named))| (start..*end, named));
        places.find(|(place, _)| place.contains(&address)).map(|(place, named)| (place, named.clone()))
    }
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

    /// Keeps the names that locations have by now, for their extents. What could not be read is looked up again.
    pub fn learn(&mut self, profile: &Profile, extents: &Extents) {
        let extents: FxMap<_, _> = extents.iter().cloned().collect();
        let is_known =
            |unknown| matches!(unknown, None | Some(UnknownReason::NoSymbols | UnknownReason::NotInSymbolTable));
        for (id, home, address) in places(profile, is_known) {
            let location = &profile.locations()[id.index()];
            if !location.lines.is_empty() && self.young.find(&home, address).is_none() {
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
                let place = extents.get(&id).cloned().unwrap_or(address..address.saturating_add(1));
                self.keep(home, place, Named { lines: lines.collect(), unknown: location.unknown });
            }
        }
    }

    fn find(&mut self, home: &Home, address: u64) -> Option<Named> {
        if let Some((_, named)) = self.young.find(home, address) {
            return Some(named);
        }
        let (place, named) = self.old.find(home, address)?;
        self.keep(home.clone(), place, named.clone());
        Some(named)
    }

    fn keep(&mut self, home: Home, place: Range<u64>, named: Named) {
        if self.young.places >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.places += 1;
        self.young.by_home.entry(home).or_default().insert(place.start, (place.end, named));
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
        cache.learn(&named, &Extents::new());
        let (mut next, location) = profile(None);
        cache.recall(&mut next);
        assert_eq!(next.names(location), ["work"]);
        assert_eq!(next.locations()[location.index()].lines[0].line, 7);
        assert_eq!(next.locations()[location.index()].unknown, None);
    }

    /// A name that holds for a function is there for all of its addresses, and for no other one.
    #[test]
    fn a_function_is_named_as_a_whole() {
        let mut cache = NameCache::default();
        let (named, location) = profile(Some("work"));
        cache.learn(&named, &vec![(location, 0x1200..0x1300)]);
        let home = Some(BuildId(vec![1, 2, 3]));
        let is_known = |cache: &mut NameCache, address| cache.find(&home, address).is_some();
        assert!(is_known(&mut cache, 0x1200) && is_known(&mut cache, 0x12ff));
        assert!(!is_known(&mut cache, 0x11ff) && !is_known(&mut cache, 0x1300));
        // One that lies in it does not hide it.
        cache.keep(home.clone(), 0x1240..0x1241, Named { lines: Arc::new([]), unknown: None });
        assert!(is_known(&mut cache, 0x1250));
    }

    #[test]
    fn what_has_no_name_yet_is_not_kept() {
        let mut cache = NameCache::default();
        let (unnamed, _) = profile(None);
        cache.learn(&unnamed, &Extents::new());
        let (mut next, location) = profile(None);
        cache.recall(&mut next);
        assert_eq!(next.locations()[location.index()].unknown, Some(UnknownReason::NotSymbolized));
    }

    #[test]
    fn what_is_asked_for_outlives_what_is_not() {
        let mut cache = NameCache::default();
        cache.learn(&profile(Some("work")).0, &Extents::new());
        let filler = Named { lines: Arc::new([]), unknown: None };
        for address in 0..3 * GENERATION as u64 {
            cache.keep(None, address..address + 1, filler.clone());
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
