//! A fault as data: what scripts, the command line and the control endpoint say.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Faults, LinkKind};
use crate::hub::peer::ConnectionId;

/// One thing to make go wrong, or right again; in JSON an object whose `fault` names it:
/// `{"fault": "throttle", "device": "d1", "count": 10}`.
///
/// Durations are written as `"250ms"` or `"1m 30s"`, connections by their numbers. An absent device
/// or connection means all of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Fault {
    /// Accepts telemetry but tells nobody, until [`Fault::Release`].
    Hold {},
    /// Sends the settlements held back and goes on as usual.
    Release {},
    /// Accepts the next telemetry messages and never tells.
    Drop {
        /// How many.
        count: u64,
    },
    /// Settles telemetry only after a delay; zero settles at once again.
    Delay {
        /// How much later.
        #[serde(with = "humantime_serde")]
        by: Duration,
    },
    /// Sends everything later; zero sends at once again.
    Latency {
        /// How much later.
        #[serde(with = "humantime_serde")]
        by: Duration,
    },
    /// Rejects the next telemetry messages with an error condition.
    Reject {
        /// Whose.
        #[serde(default)]
        device: Option<String>,
        /// How many.
        count: u64,
        /// The condition, `amqp:internal-error` for instance.
        condition: String,
    },
    /// Rejects the next telemetry messages as an overloaded hub does.
    Throttle {
        /// Whose.
        #[serde(default)]
        device: Option<String>,
        /// How many.
        count: u64,
    },
    /// Takes back all rejections of telemetry.
    StopRejecting {},
    /// Refuses every attach of a device with an error condition.
    RefuseAttach {
        /// Whose.
        device: String,
        /// The condition.
        condition: String,
    },
    /// Never answers an attach of a device.
    WithholdAttach {
        /// Whose.
        device: String,
    },
    /// Answers attaches of a device as usual again.
    AllowAttach {
        /// Whose.
        device: String,
    },
    /// Refuses good tokens of a device.
    RefuseToken {
        /// Whose.
        device: String,
        /// The status, as HTTP has them.
        status: i32,
        /// The text beside it.
        text: String,
    },
    /// Neither takes nor answers good tokens of a device over AMQP.
    WithholdToken {
        /// Whose.
        device: String,
    },
    /// Judges and answers tokens of a device as usual again.
    AllowToken {
        /// Whose.
        device: String,
    },
    /// Loses the next messages that the hub would send to a device over AMQP.
    Lose {
        /// Whose.
        device: String,
        /// On links of which kind.
        #[serde(default)]
        kind: LinkKind,
        /// How many.
        count: u64,
    },
    /// Sends the next messages to a device over AMQP as what nobody can read.
    Garble {
        /// Whose.
        device: String,
        /// On links of which kind.
        #[serde(default)]
        kind: LinkKind,
        /// How many.
        count: u64,
    },
    /// Gives sessions begun from now on a window of frames; absent, the limit's again.
    IncomingWindow {
        /// The window.
        #[serde(default)]
        frames: Option<u32>,
    },
    /// Gives links attached from now on a credit; absent, the limit's again.
    LinkCredit {
        /// The credit.
        #[serde(default)]
        credit: Option<u32>,
    },
    /// Resets connections.
    Cut {
        /// Which.
        #[serde(default)]
        connection: Option<u64>,
    },
    /// Resets one connection, that of this number modulo how many there are, counted from the oldest.
    ///
    /// In a [`Plan`](crate::Plan) an absent number is drawn by the plan's seed.
    CutOne {
        /// The number.
        #[serde(default)]
        pick: Option<u64>,
    },
    /// Closes connections with an error condition.
    Close {
        /// Which.
        #[serde(default)]
        connection: Option<u64>,
        /// The condition, `amqp:connection:forced` for instance.
        condition: String,
    },
    /// Stops reading from and writing to connections.
    Freeze {
        /// Which.
        #[serde(default)]
        connection: Option<u64>,
    },
    /// Lets every frozen connection go on.
    Thaw {},
    /// Ends the sessions that have a link of a device, or all.
    EndSessions {
        /// Whose.
        #[serde(default)]
        device: Option<String>,
        /// The condition.
        condition: String,
    },
    /// Detaches links with an error condition.
    Detach {
        /// Whose.
        #[serde(default)]
        device: Option<String>,
        /// Of which kind.
        #[serde(default)]
        kind: LinkKind,
        /// The condition.
        condition: String,
    },
    /// Takes the cloud-to-device link of a device, as another client of it would.
    Steal {
        /// Whose.
        device: String,
    },
    /// Disables a device.
    Disable {
        /// Which.
        device: String,
    },
    /// Enables a device again.
    Enable {
        /// Which.
        device: String,
    },
    /// Lets the tokens in use expire now.
    ExpireTokens {
        /// Whose.
        #[serde(default)]
        device: Option<String>,
    },
    /// Moves the hub away: everybody is sent off and nobody let in, until [`Fault::FailBack`].
    FailOver {},
    /// Moves the hub back.
    FailBack {},
    /// Detaches everybody from the hub's side, as when it is serviced.
    Maintenance {},
}

impl Faults {
    /// Makes a fault happen. Returns whether there was a device or connection for it; a fault for
    /// all, or for later, always has one.
    pub fn apply(&self, fault: &Fault) -> bool {
        tracing::info!(?fault, "Fault is made");
        match fault {
            Fault::Hold {} => self.hold(|rules| rules.hold = true),
            Fault::Release {} => self.hold(|rules| rules.hold = false),
            Fault::Drop { count } => self.drop_settlements(*count),
            Fault::Delay { by } => self.delay_settlements(*by),
            Fault::Latency { by } => self.latency(*by),
            Fault::Reject {
                device,
                count,
                condition,
            } => self.reject_next(device.as_deref(), *count, condition),
            Fault::Throttle { device, count } => self.throttle(device.as_deref(), *count),
            Fault::StopRejecting {} => self.stop_rejecting(),
            Fault::RefuseAttach { device, condition } => self.refuse_attach(device, condition),
            Fault::WithholdAttach { device } => self.withhold_attach(device),
            Fault::AllowAttach { device } => self.allow_attach(device),
            Fault::RefuseToken {
                device,
                status,
                text,
            } => self.refuse_token(device, *status, text),
            Fault::WithholdToken { device } => self.withhold_token(device),
            Fault::AllowToken { device } => self.allow_token(device),
            Fault::Lose {
                device,
                kind,
                count,
            } => self.lose_next(device, *kind, *count),
            Fault::Garble {
                device,
                kind,
                count,
            } => self.garble_next(device, *kind, *count),
            Fault::IncomingWindow { frames } => self.incoming_window(*frames),
            Fault::LinkCredit { credit } => self.link_credit(*credit),
            Fault::Cut { connection: None } => self.cut_all(),
            Fault::Cut {
                connection: Some(id),
            } => return self.at(*id, |id| self.cut(id)),
            Fault::CutOne { pick } => return self.cut_one(pick.unwrap_or_default()),
            Fault::Close {
                connection: None,
                condition,
            } => self.close_all(condition),
            Fault::Close {
                connection: Some(id),
                condition,
            } => return self.at(*id, |id| self.close(id, condition)),
            Fault::Freeze { connection: None } => self.freeze_all(),
            Fault::Freeze {
                connection: Some(id),
            } => return self.at(*id, |id| self.freeze(id)),
            Fault::Thaw {} => self.thaw(),
            Fault::EndSessions { device, condition } => {
                self.end_sessions(device.as_deref(), condition);
            }
            Fault::Detach {
                device: None,
                kind,
                condition,
            } => self.detach_all(*kind, condition),
            Fault::Detach {
                device: Some(device),
                kind,
                condition,
            } => self.detach(device, *kind, condition),
            Fault::Steal { device } => self.steal(device),
            Fault::Disable { device } => return self.hub.set_enabled(device, false),
            Fault::Enable { device } => return self.hub.set_enabled(device, true),
            Fault::ExpireTokens { device } => self.expire_tokens(device.as_deref()),
            Fault::FailOver {} => self.fail_over(),
            Fault::FailBack {} => self.fail_back(),
            Fault::Maintenance {} => self.maintenance(),
        }
        true
    }

    fn at(&self, connection: u64, act: impl FnOnce(ConnectionId)) -> bool {
        let id = ConnectionId(connection);
        let open = self.hub.connections().iter().any(|peer| peer.id == id);
        if open {
            act(id);
        }
        open
    }

    fn cut_one(&self, pick: u64) -> bool {
        let connections = self.hub.connections();
        let Some(at) = pick.checked_rem(connections.len() as u64) else {
            return false;
        };
        let id = usize::try_from(at).ok().and_then(|at| connections.get(at));
        id.is_some_and(|peer| self.at(peer.id.0, |id| self.cut(id)))
    }
}
