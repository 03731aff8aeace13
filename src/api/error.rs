//! Refusals as HTTP answers.

use axum::Json;
use axum::http::header::RETRY_AFTER;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use pitstop_wire::{ApiError, Code};

/// An [`ApiError`] on its way out.
#[derive(Debug)]
pub struct Refusal(pub ApiError);

/// What a handler gives.
pub type Answer<T> = Result<Json<T>, Refusal>;

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after = self.0.retry_after;
        let mut response = (status, Json(self.0)).into_response();
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// The request makes no sense.
pub fn usage(message: impl Into<String>) -> Refusal {
    Refusal(ApiError::new(Code::Usage, message))
}

/// No such thing.
pub fn not_found(message: impl Into<String>) -> ApiError {
    ApiError::new(Code::NotFound, message)
}

pub async fn no_such_path(uri: Uri) -> Refusal {
    Refusal(not_found(format!("there is nothing at {}", uri.path())).hint("see /api/v1/openapi.json"))
}

pub async fn no_such_method(method: Method, uri: Uri) -> Response {
    let message = format!("{} does not take {method}", uri.path());
    let error = ApiError::new(Code::Usage, message).hint("see /api/v1/openapi.json");
    (StatusCode::METHOD_NOT_ALLOWED, Json(error)).into_response()
}
