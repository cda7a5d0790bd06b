//! What adapters have in common on the network.
//!
//! [`Listener`] takes connections in and never ends for anything that they do; [`Room`] bounds how
//! many there are, and [`Sources`] where they come from; [`close`] says goodbye to them. [`tls`] makes TLS of PEM files, for either
//! side, and [`read_secrets`] reads what devices share with the gateway. Whatever cannot be had
//! when an adapter starts is a [`BindError`].

mod bind;
mod close;
mod file;
mod listener;
mod room;
mod sources;
pub mod tls;

pub use bind::BindError;
pub use close::close;
pub use file::read_secrets;
pub use listener::Listener;
pub use room::{Guest, Room};
pub use sources::{Place, Sources};
