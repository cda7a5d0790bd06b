//! The MQTT side: an engine without IO or clock, and the hub's topics.
//!
//! Every packet is MQTT 3.1.1. A hub is no general broker: it knows a handful of topics, takes no
//! QoS 2, and has one way to refuse anything, which is to close the connection.

mod acks;
pub(crate) mod bag;
pub(crate) mod codec;
pub(crate) mod connection;
pub(crate) mod login;
mod message;
pub(crate) mod session;
pub(crate) mod topic;

use std::sync::Arc;

use crate::cloud::Caller;
use crate::hub::state::Now;
use crate::line::Line;
use crate::shell::drive;
use connection::Connection;

/// Serves one connection until it ends.
pub(crate) async fn serve(line: impl Line, caller: Caller) {
    let peer = caller.hub.join();
    let connection = Connection::new(caller, Arc::clone(&peer), Now::read());
    drive(line, &peer, connection).await;
}
