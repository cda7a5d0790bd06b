//! Which path means what, and what a request says beside its body.

mod answer;
mod content;
mod links;
mod query;
mod routes;
mod template;

#[cfg(test)]
mod tests;

pub use answer::{CommandAnswer, failed, settled};
pub use content::{ContentFormat, content_of, format_of};
pub use query::{Query, QueryError};
pub use routes::{Profile, Resource, RouteConfig, Routes, Target};
