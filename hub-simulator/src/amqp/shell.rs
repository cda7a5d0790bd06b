//! Puts an AMQP engine on a line.

use std::sync::Arc;

use super::connection::Connection;
use crate::cloud::Caller;
use crate::hub::state::Now;
use crate::line::Line;
use crate::shell::drive;

/// Serves one connection until it ends.
pub(crate) async fn serve(line: impl Line, caller: Caller) {
    let peer = caller.hub.join();
    let connection = Connection::new(caller, Arc::clone(&peer), Now::read());
    drive(line, &peer, connection).await;
}
