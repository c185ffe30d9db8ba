//! What kind of failure an error is, in the field's words. `api-compat` owns the one table from kind to HTTP status.

/// Class of a failure, as the Docker API tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request itself is wrong (400).
    InvalidArgument,
    /// Credentials are missing or wrong (401).
    Unauthenticated,
    /// The caller may not do this (403).
    PermissionDenied,
    /// The named object does not exist (404).
    NotFound,
    /// The object's state forbids the verb, or a name is taken (409).
    Conflict,
    /// Somebody else, such as a registry, has had enough for now (429).
    TooManyRequests,
    /// Nothing to do: the object is already in the wanted state (304).
    NotModified,
    /// Not built yet, or needs a mode that is off (501).
    NotImplemented,
    /// Needs something that is not there now (503).
    Unavailable,
    /// Everything else (500).
    System,
}

/// Errors that know their [`ErrorKind`]. Every error that can leave the engine implements it.
pub trait Kinded: std::error::Error {
    /// The class that decides the HTTP status.
    fn kind(&self) -> ErrorKind;
}
