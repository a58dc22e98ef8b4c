//! The messages of `querier.v1` and `types.v1`, as far as they are answered; names and numbers are theirs.
//!
//! Format: `querier.proto` and `types.proto` of grafana/pyroscope.

use serde::{Deserialize, Deserializer, Serialize};

use super::json;
use crate::export::pprof::proto::Profile;

/// No fields, or none that matter.
#[derive(Clone, Copy, PartialEq, prost::Message, Serialize, Deserialize)]
pub(super) struct Empty {}

#[derive(Clone, Copy, PartialEq, prost::Message, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ProfileTypesRequest {
    #[prost(int64, tag = "1")]
    #[serde(deserialize_with = "json::int64")]
    pub(super) start: i64,
    #[prost(int64, tag = "2")]
    #[serde(deserialize_with = "json::int64")]
    pub(super) end: i64,
}

#[derive(Clone, PartialEq, prost::Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ProfileTypesResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) profile_types: Vec<ProfileType>,
}

#[derive(Clone, PartialEq, prost::Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ProfileType {
    #[prost(string, tag = "1")]
    #[serde(rename = "ID")]
    pub(super) id: String,
    #[prost(string, tag = "2")]
    pub(super) name: String,
    #[prost(string, tag = "4")]
    pub(super) sample_type: String,
    #[prost(string, tag = "5")]
    pub(super) sample_unit: String,
    #[prost(string, tag = "6")]
    pub(super) period_type: String,
    #[prost(string, tag = "7")]
    pub(super) period_unit: String,
}

#[derive(Clone, PartialEq, prost::Message, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct LabelNamesRequest {
    #[prost(string, repeated, tag = "1")]
    pub(super) matchers: Vec<String>,
    #[prost(int64, tag = "2")]
    #[serde(deserialize_with = "json::int64")]
    pub(super) start: i64,
    #[prost(int64, tag = "3")]
    #[serde(deserialize_with = "json::int64")]
    pub(super) end: i64,
}

#[derive(Clone, PartialEq, prost::Message, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct LabelValuesRequest {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, repeated, tag = "2")]
    pub(super) matchers: Vec<String>,
    #[prost(int64, tag = "3")]
    #[serde(deserialize_with = "json::int64")]
    pub(super) start: i64,
    #[prost(int64, tag = "4")]
    #[serde(deserialize_with = "json::int64")]
    pub(super) end: i64,
}

/// Of label names and of label values.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub(super) struct NamesResponse {
    #[prost(string, repeated, tag = "1")]
    pub(super) names: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct SeriesRequest {
    #[prost(string, repeated, tag = "1")]
    pub(super) matchers: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(super) label_names: Vec<String>,
    #[prost(int64, tag = "3")]
    #[serde(deserialize_with = "json::int64")]
    pub(super) start: i64,
    #[prost(int64, tag = "4")]
    #[serde(deserialize_with = "json::int64")]
    pub(super) end: i64,
}

#[derive(Clone, PartialEq, prost::Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SeriesResponse {
    #[prost(message, repeated, tag = "2")]
    pub(super) labels_set: Vec<Labels>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, prost::Message, Serialize)]
pub(super) struct Labels {
    #[prost(message, repeated, tag = "1")]
    pub(super) labels: Vec<LabelPair>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, prost::Message, Serialize)]
pub(super) struct LabelPair {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

#[derive(Clone, PartialEq, prost::Message, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct SelectSeriesRequest {
    #[prost(string, tag = "1")]
    #[serde(rename = "profileTypeID")]
    pub(super) profile_type_id: String,
    #[prost(string, tag = "2")]
    pub(super) label_selector: String,
    #[prost(int64, tag = "3")]
    #[serde(deserialize_with = "json::int64")]
    pub(super) start: i64,
    #[prost(int64, tag = "4")]
    #[serde(deserialize_with = "json::int64")]
    pub(super) end: i64,
    #[prost(string, repeated, tag = "5")]
    pub(super) group_by: Vec<String>,
    /// In seconds.
    #[prost(double, tag = "6")]
    #[serde(deserialize_with = "json::double")]
    pub(super) step: f64,
    /// 0: the sum of each step, 1: the average of its profiles.
    #[prost(int32, optional, tag = "7")]
    #[serde(deserialize_with = "aggregation")]
    pub(super) aggregation: Option<i32>,
    #[prost(message, optional, tag = "8")]
    pub(super) stack_trace_selector: Option<StackTraceSelector>,
    #[prost(int64, optional, tag = "9")]
    #[serde(deserialize_with = "json::optional_int64")]
    pub(super) limit: Option<i64>,
}

fn aggregation<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i32>, D::Error> {
    json::enumeration(deserializer, "TIME_SERIES_AGGREGATION_TYPE_", &["SUM", "AVERAGE"]).map(Some)
}

#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub(super) struct SelectSeriesResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) series: Vec<Series>,
}

#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub(super) struct Series {
    #[prost(message, repeated, tag = "1")]
    pub(super) labels: Vec<LabelPair>,
    #[prost(message, repeated, tag = "2")]
    pub(super) points: Vec<Point>,
}

#[derive(Clone, Copy, PartialEq, prost::Message, Serialize)]
pub(super) struct Point {
    #[prost(double, tag = "1")]
    pub(super) value: f64,
    #[prost(int64, tag = "2")]
    pub(super) timestamp: i64,
}

#[derive(Clone, PartialEq, prost::Message, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct StackTraceSelector {
    /// Root first.
    #[prost(message, repeated, tag = "1")]
    pub(super) call_site: Vec<Location>,
    #[prost(message, optional, tag = "2")]
    pub(super) go_pgo: Option<Empty>,
    #[prost(message, optional, tag = "3")]
    pub(super) frame_filter: Option<Empty>,
}

#[derive(Clone, PartialEq, prost::Message, Deserialize)]
#[serde(default)]
pub(super) struct Location {
    #[prost(string, tag = "1")]
    pub(super) name: String,
}

/// Flame graphs by `PROFILE_FORMAT_*`.
pub(super) mod format {
    pub(in super::super) const UNSPECIFIED: i32 = 0;
    pub(in super::super) const FLAMEGRAPH: i32 = 1;
    pub(in super::super) const PPROF: i32 = 4;
}

#[derive(Clone, PartialEq, prost::Message, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct SelectMergeStacktracesRequest {
    #[prost(string, tag = "1")]
    #[serde(rename = "profileTypeID")]
    pub(super) profile_type_id: String,
    #[prost(string, tag = "2")]
    pub(super) label_selector: String,
    #[prost(int64, tag = "3")]
    #[serde(deserialize_with = "json::int64")]
    pub(super) start: i64,
    #[prost(int64, tag = "4")]
    #[serde(deserialize_with = "json::int64")]
    pub(super) end: i64,
    #[prost(int64, optional, tag = "5")]
    #[serde(deserialize_with = "json::optional_int64")]
    pub(super) max_nodes: Option<i64>,
    #[prost(int32, tag = "6")]
    #[serde(deserialize_with = "profile_format")]
    pub(super) format: i32,
    #[prost(message, optional, tag = "7")]
    pub(super) stack_trace_selector: Option<StackTraceSelector>,
    #[prost(string, repeated, tag = "8")]
    pub(super) profile_id_selector: Vec<String>,
    #[prost(string, repeated, tag = "10")]
    pub(super) trace_id_selector: Vec<String>,
    #[prost(string, repeated, tag = "11")]
    pub(super) span_selector: Vec<String>,
}

fn profile_format<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    json::enumeration(deserializer, "PROFILE_FORMAT_", &["UNSPECIFIED", "FLAMEGRAPH", "TREE", "DOT", "PPROF"])
}

#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub(super) struct SelectMergeStacktracesResponse {
    /// Not there where there is no data.
    #[prost(message, optional, tag = "1")]
    pub(super) flamegraph: Option<FlameGraph>,
    #[prost(message, optional, tag = "5")]
    pub(super) pprof: Option<PprofProfile>,
}

#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub(super) struct PprofProfile {
    #[prost(message, optional, tag = "1")]
    pub(super) profile: Option<Profile>,
}

#[derive(Clone, PartialEq, prost::Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FlameGraph {
    #[prost(string, repeated, tag = "1")]
    pub(super) names: Vec<String>,
    #[prost(message, repeated, tag = "2")]
    pub(super) levels: Vec<Level>,
    #[prost(int64, tag = "3")]
    pub(super) total: i64,
    #[prost(int64, tag = "4")]
    pub(super) max_self: i64,
}

#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub(super) struct Level {
    #[prost(int64, repeated, tag = "1")]
    pub(super) values: Vec<i64>,
}

#[derive(Clone, PartialEq, prost::Message, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct SelectMergeProfileRequest {
    #[prost(string, tag = "1")]
    #[serde(rename = "profileTypeID")]
    pub(super) profile_type_id: String,
    #[prost(string, tag = "2")]
    pub(super) label_selector: String,
    #[prost(int64, tag = "3")]
    #[serde(deserialize_with = "json::int64")]
    pub(super) start: i64,
    #[prost(int64, tag = "4")]
    #[serde(deserialize_with = "json::int64")]
    pub(super) end: i64,
    #[prost(message, optional, tag = "6")]
    pub(super) stack_trace_selector: Option<StackTraceSelector>,
    #[prost(string, repeated, tag = "7")]
    pub(super) profile_id_selector: Vec<String>,
    #[prost(string, repeated, tag = "8")]
    pub(super) trace_id_selector: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message, Deserialize)]
#[serde(default)]
pub(super) struct DiffRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) left: Option<SelectMergeStacktracesRequest>,
    #[prost(message, optional, tag = "2")]
    pub(super) right: Option<SelectMergeStacktracesRequest>,
}

#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub(super) struct DiffResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) flamegraph: Option<FlameGraphDiff>,
}

#[derive(Clone, PartialEq, prost::Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FlameGraphDiff {
    #[prost(string, repeated, tag = "1")]
    pub(super) names: Vec<String>,
    #[prost(message, repeated, tag = "2")]
    pub(super) levels: Vec<Level>,
    #[prost(int64, tag = "3")]
    pub(super) total: i64,
    #[prost(int64, tag = "4")]
    pub(super) max_self: i64,
    #[prost(int64, tag = "5")]
    pub(super) left_ticks: i64,
    #[prost(int64, tag = "6")]
    pub(super) right_ticks: i64,
}

#[derive(Clone, Copy, PartialEq, prost::Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ProfileStatsResponse {
    #[prost(bool, tag = "1")]
    pub(super) data_ingested: bool,
    #[prost(int64, tag = "2")]
    pub(super) oldest_profile_time: i64,
    #[prost(int64, tag = "3")]
    pub(super) newest_profile_time: i64,
}

#[derive(Clone, PartialEq, prost::Message, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct AnalyzeQueryRequest {
    #[prost(int64, tag = "2")]
    #[serde(deserialize_with = "json::int64")]
    pub(super) start: i64,
    #[prost(int64, tag = "3")]
    #[serde(deserialize_with = "json::int64")]
    pub(super) end: i64,
    #[prost(string, tag = "4")]
    pub(super) query: String,
}

#[derive(Clone, PartialEq, prost::Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AnalyzeQueryResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) query_scopes: Vec<QueryScope>,
    #[prost(message, optional, tag = "2")]
    pub(super) query_impact: Option<QueryImpact>,
}

#[derive(Clone, PartialEq, prost::Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct QueryScope {
    #[prost(string, tag = "1")]
    pub(super) component_type: String,
    #[prost(uint64, tag = "2")]
    pub(super) component_count: u64,
    #[prost(uint64, tag = "3")]
    pub(super) block_count: u64,
    #[prost(uint64, tag = "4")]
    pub(super) series_count: u64,
    #[prost(uint64, tag = "8")]
    pub(super) profile_bytes: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct QueryImpact {
    #[prost(uint64, tag = "2")]
    pub(super) total_bytes_in_time_range: u64,
    #[prost(uint64, tag = "3")]
    pub(super) total_queried_series: u64,
}
