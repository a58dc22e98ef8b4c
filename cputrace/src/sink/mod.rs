//! Destinations of recordings.
