//! What a path or a query says, as nouns.

use std::fmt::Display;
use std::str::FromStr;

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::api::{Code, Problem};
use crate::portal::Portal;

/// The one parameter of a path.
pub(crate) struct Named<T>(pub(crate) T);

/// The two parameters of a path.
pub(crate) struct NamedTwo<A, B>(pub(crate) A, pub(crate) B);

/// The query.
pub(crate) struct Asked<T>(pub(crate) T);

impl<T> FromRequestParts<Portal> for Named<T>
where
    T: FromStr<Err: Display>,
{
    type Rejection = Box<Problem>;

    async fn from_request_parts(parts: &mut Parts, portal: &Portal) -> Result<Self, Box<Problem>> {
        let Path(text) = Path::<String>::from_request_parts(parts, portal)
            .await
            .map_err(|error| malformed(&error))?;
        text.parse().map(Self).map_err(|error| malformed(&error))
    }
}

impl<A, B> FromRequestParts<Portal> for NamedTwo<A, B>
where
    A: FromStr<Err: Display>,
    B: FromStr<Err: Display>,
{
    type Rejection = Box<Problem>;

    async fn from_request_parts(parts: &mut Parts, portal: &Portal) -> Result<Self, Box<Problem>> {
        let Path((first, second)) = Path::<(String, String)>::from_request_parts(parts, portal)
            .await
            .map_err(|error| malformed(&error))?;
        Ok(Self(
            first.parse().map_err(|error| malformed(&error))?,
            second.parse().map_err(|error| malformed(&error))?,
        ))
    }
}

impl<T: DeserializeOwned> FromRequestParts<Portal> for Asked<T> {
    type Rejection = Box<Problem>;

    async fn from_request_parts(parts: &mut Parts, portal: &Portal) -> Result<Self, Box<Problem>> {
        let Query(query) = Query::<T>::from_request_parts(parts, portal)
            .await
            .map_err(|error| malformed(&error))?;
        Ok(Self(query))
    }
}

fn malformed(error: &dyn Display) -> Box<Problem> {
    Problem::new(
        Code::Request,
        format!("the request's path or query: {error}"),
        "check the name that was given",
    )
}
