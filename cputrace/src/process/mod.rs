//! What `/proc` knows: targets, timelines, mappings.
