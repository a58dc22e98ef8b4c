//! Windows as a Pyroscope takes them: pprof, with labels.
//!
//! Format: `push.proto` of grafana/pyroscope.

use prost::Message;

use super::Window;
use super::owner::{self, Owned, Owner};
use crate::serve::pyroscope::profile_type::Part;

/// Samples of a profile that a Pyroscope takes.
const MAX_SAMPLES: usize = 16_000;

/// A request is closed above this: a Pyroscope takes 4 MB a second.
const MAX_REQUEST: usize = 1 << 20;

/// The longest value of a label.
const MAX_VALUE: usize = 2_048;

#[derive(Clone, PartialEq, prost::Message)]
struct PushRequest {
    #[prost(message, repeated, tag = "1")]
    series: Vec<RawProfileSeries>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RawProfileSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<LabelPair>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<RawSample>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LabelPair {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RawSample {
    /// pprof; not packed by itself, for the request is.
    #[prost(bytes = "vec", tag = "1")]
    raw_profile: Vec<u8>,
}

/// A window as requests.
pub(super) fn encode(window: &Window, hostname: &str) -> Vec<Vec<u8>> {
    let mut requests = Vec::new();
    let mut request = PushRequest::default();
    for (owner, profiles) in owner::profiles(window) {
        for owned in profiles {
            request.series.push(series(&owner, owned, hostname));
            if request.encoded_len() > MAX_REQUEST {
                requests.push(std::mem::take(&mut request).encode_to_vec());
            }
        }
    }
    if !request.series.is_empty() {
        requests.push(request.encode_to_vec());
    }
    requests
}

fn series(owner: &Owner, owned: Owned, hostname: &str) -> RawProfileSeries {
    let Owned { types, mut profile } = owned;
    let name = types.first().map_or("", |first| first.part(Part::Name));
    let Owner { group, container, pod, unit } = owner;
    let labels = [
        ("__name__", name),
        ("service_name", group),
        ("hostname", hostname),
        ("container", container),
        ("pod", pod),
        ("unit", unit),
    ];
    let labels = labels.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| {
        let end = (0..=MAX_VALUE.min(value.len())).rev().find(|&end| value.is_char_boundary(end)).unwrap_or(0);
        LabelPair { name: name.to_owned(), value: value[..end].to_owned() }
    });
    let all = std::mem::take(&mut profile.sample);
    let samples = all.chunks(MAX_SAMPLES).map(|part| {
        profile.sample = part.to_vec();
        RawSample { raw_profile: profile.encode_to_vec() }
    });
    RawProfileSeries { samples: samples.collect(), labels: labels.collect() }
}
