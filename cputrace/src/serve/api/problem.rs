//! Errors as problem documents (RFC 9457).

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::task::JoinSet;
use utoipa::ToSchema;

use crate::export::FormatError;
use crate::import::ImportError;
use crate::store::StoreError;

/// An error: one sentence with the fact and the fix.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Problem {
    /// What kind of problem: none of our own.
    #[schema(example = "about:blank")]
    r#type: String,
    /// The status code in words.
    #[schema(example = "Not Found")]
    title: String,
    /// The status code.
    #[schema(example = 404)]
    status: u16,
    /// What is wrong, and what to do.
    detail: String,
}

impl Problem {
    /// With this status code.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            r#type: "about:blank".to_owned(),
            title: status.canonical_reason().unwrap_or_default().to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
        }
    }

    /// A panic.
    pub(super) fn fault() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "this request cannot be answered: a fault of cputrace's own")
    }

    /// The request is wrong.
    pub fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// The request is well formed, but cannot be done.
    pub fn unprocessable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_string(&self).unwrap_or_default();
        (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response()
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let status = if error.is_full() { StatusCode::INSUFFICIENT_STORAGE } else { StatusCode::INTERNAL_SERVER_ERROR };
        Self::new(status, error.to_string())
    }
}

impl From<FormatError> for Problem {
    fn from(error: FormatError) -> Self {
        Self::bad(error.to_string())
    }
}

impl From<ImportError> for Problem {
    fn from(error: ImportError) -> Self {
        let status = match error {
            ImportError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self::new(status, error.to_string())
    }
}

/// Runs what blocks, where it holds up no other request; not at all if the client goes away before its turn.
pub(in crate::serve) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    // Dropped with the request.
    let mut tasks = JoinSet::new();
    tasks.spawn_blocking(work);
    match tasks.join_next().await {
        Some(Ok(done)) => done,
        _ => Err(Problem::fault()),
    }
}
