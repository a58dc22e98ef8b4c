//! Connect's unary calls over HTTP: a message in, a message or an error out, as protobuf or as JSON.
//!
//! Protocol: <https://connectrpc.com/docs/protocol/#unary-request>.

use std::io::{Read, Write};

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::json;
use crate::store::StoreError;

/// The largest request, unpacked: a selector and some numbers.
pub(super) const MAX_REQUEST: usize = 1 << 20;

/// Answers below this size are not worth to be packed.
const MIN_PACKED: usize = 1 << 10;

/// What is wrong with a call, as Connect has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Code {
    InvalidArgument,
    ResourceExhausted,
    Unimplemented,
    Internal,
    /// A codec that there is not: Connect has a status for it, but no code.
    Unknown,
}

impl Code {
    fn status(self) -> StatusCode {
        match self {
            Self::InvalidArgument => StatusCode::BAD_REQUEST,
            Self::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Self::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unknown => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        }
    }
}

/// An error: one sentence with the fact and the fix.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Error {
    code: Code,
    message: String,
}

impl Error {
    /// The request is wrong.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self { code: Code::InvalidArgument, message: message.into() }
    }

    /// The request asks for too much.
    pub(super) fn too_much(message: impl Into<String>) -> Self {
        Self { code: Code::ResourceExhausted, message: message.into() }
    }

    /// There is no such thing here.
    pub(super) fn unimplemented(message: impl Into<String>) -> Self {
        Self { code: Code::Unimplemented, message: message.into() }
    }

    /// cputrace is at fault.
    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self { code: Code::Internal, message: message.into() }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let body = serde_json::to_string(&self).unwrap_or_default();
        let kind = [(header::CONTENT_TYPE, "application/json")];
        (self.code.status(), kind, body).into_response()
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::internal(error.to_string())
    }
}

/// How messages are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Codec {
    Protobuf,
    Json,
}

impl Codec {
    fn content_type(self) -> &'static str {
        match self {
            Self::Protobuf => "application/proto",
            Self::Json => "application/json",
        }
    }

    fn of(content_type: &str) -> Option<Self> {
        let kind = content_type.split(';').next()?.trim().to_ascii_lowercase();
        match &*kind {
            "application/proto" => Some(Self::Protobuf),
            "application/json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// A call, as it came.
#[derive(Debug)]
pub(super) struct Call {
    codec: Codec,
    body: Bytes,
    is_packed: bool,
    /// Whether the answer may be packed.
    may_pack: bool,
}

impl Call {
    /// Of a request whose body was read.
    pub(super) fn new(headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<Self, Error> {
        let body = body.map_err(|error| match error.status() {
            StatusCode::PAYLOAD_TOO_LARGE => too_large(),
            _ => Error::invalid(error.body_text()),
        })?;
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let codec = Codec::of(text(header::CONTENT_TYPE)).ok_or_else(|| Error {
            code: Code::Unknown,
            message: "the content type has to be application/proto or application/json".to_owned(),
        })?;
        let is_packed = match text(header::CONTENT_ENCODING) {
            "" | "identity" => false,
            "gzip" => true,
            other => {
                return Err(Error::unimplemented(format!(
                    "the encoding {other:?} is not supported: send gzip or identity"
                )));
            }
        };
        Ok(Self { codec, body, is_packed, may_pack: accepts_gzip(headers) })
    }

    /// Reads the request, and writes what `work` answers.
    pub(super) fn answer<Q, A>(&self, work: impl FnOnce(Q) -> Result<A, Error>) -> Result<Vec<u8>, Error>
    where
        Q: Message + Default + DeserializeOwned,
        A: Message + Serialize,
    {
        let request = self.request()?;
        let answer = work(request)?;
        Ok(match self.codec {
            Codec::Protobuf => answer.encode_to_vec(),
            Codec::Json => json::to_vec(&answer),
        })
    }

    fn request<Q: Message + Default + DeserializeOwned>(&self) -> Result<Q, Error> {
        let mut plain = Vec::new();
        let body: &[u8] = if self.is_packed && !self.body.is_empty() {
            let limit = MAX_REQUEST as u64;
            let read = GzDecoder::new(&*self.body).take(limit + 1).read_to_end(&mut plain);
            read.map_err(|error| Error::invalid(format!("the request cannot be unpacked: {error}")))?;
            if plain.len() > MAX_REQUEST {
                return Err(too_large());
            }
            &plain
        } else {
            &self.body
        };
        match self.codec {
            Codec::Protobuf => {
                Q::decode(body).map_err(|error| Error::invalid(format!("the request is no such message: {error}")))
            }
            Codec::Json => json::from_slice(body),
        }
    }

    /// The response with an answer's bytes.
    pub(super) fn respond(&self, answer: Vec<u8>) -> Response {
        respond(self.codec.content_type(), answer, self.may_pack)
    }
}

fn too_large() -> Error {
    Error::too_much(format!("the request is larger than {MAX_REQUEST} bytes"))
}

/// Whether the client can unpack gzip.
pub(super) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let codings = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
    codings.split(',').any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let is_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip") || name == "*");
        let refused = parts.any(|part| part.strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0_f32)));
        is_gzip && !refused
    })
}

/// A response with these bytes, packed where that is worth it.
pub(super) fn respond(kind: &'static str, bytes: Vec<u8>, may_pack: bool) -> Response {
    let kind = (header::CONTENT_TYPE, kind);
    if may_pack && bytes.len() >= MIN_PACKED {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        if let Ok(packed) = gzip.write_all(&bytes).and_then(|()| gzip.finish()) {
            return ([kind, (header::CONTENT_ENCODING, "gzip")], packed).into_response();
        }
    }
    ([kind], bytes).into_response()
}
