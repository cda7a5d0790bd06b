//! What happens to a connection besides its input: time passes, the hub has news, a script has orders.

use std::ops::Bound;

use tokio::time::Instant;

use super::{Connection, LOGIN, Phase, SessionSlot};
use crate::amqp::codec::frame;
use crate::amqp::core::Core;
use crate::amqp::link::Link;
use crate::amqp::session::Session;
use crate::amqp::{AmqpError, condition, endpoint};
use crate::clock::unix_seconds;
use crate::faults::Order;
use crate::hub::error::HubError;
use crate::hub::peer::{Notice, Route};
use crate::hub::state::Now;
use crate::shell::LineOrder;

impl Connection {
    /// When `on_time` next has something to do.
    pub(crate) fn next_deadline(&self) -> Instant {
        let silence = self.patience_ends();
        let heartbeat = self.heartbeat.map(|every| self.last_output + every);
        let expiry = self
            .core
            .tokens
            .next_expiry()
            .map(|expiry| self.core.now.at_unix(expiry));
        let delayed = self.core.delayed.front().map(|delayed| delayed.due);
        [heartbeat, expiry, delayed]
            .into_iter()
            .flatten()
            .fold(silence, Instant::min)
    }

    /// When a peer is given up that is silent, or takes too long to open.
    fn patience_ends(&self) -> Instant {
        let silence = self.last_input + self.core.hub.limits.idle_timeout;
        match self.phase {
            Phase::Open | Phase::Closed => silence,
            Phase::Header { .. } | Phase::Sasl | Phase::Opening => silence.min(self.open_by),
        }
    }

    /// What a peer is told that was waited for too long (Azure/azure-amqp, `AmqpConnection.cs`).
    fn impatience(&self) -> AmqpError {
        let allowed = self.core.hub.limits.idle_timeout;
        let text = if self.core.now.instant < self.last_input + allowed {
            "The connection was not opened in time.".to_owned()
        } else {
            format!(
                "The connection was inactive for more than the allowed {} milliseconds and is closed by container '{}'.",
                allowed.as_millis(),
                self.container
            )
        };
        AmqpError::new(condition::CONNECTION_FORCED, text)
    }

    /// Does what has become due.
    pub(crate) fn on_time(&mut self, now: Now) {
        self.core.now = now;
        if self.is_closed() {
            return;
        }
        if now.instant >= self.patience_ends() {
            return self.close(Some(&self.impatience()));
        }
        if self
            .heartbeat
            .is_some_and(|every| now.instant >= self.last_output + every)
            && self.phase == Phase::Open
        {
            frame::put_empty(&mut self.core.out);
        }
        if self.core.tokens.expire(unix_seconds(now.system)) {
            self.tokens_expired();
            if self.is_closed() {
                return;
            }
        }
        while self
            .core
            .delayed
            .front()
            .is_some_and(|delayed| delayed.due <= now.instant)
        {
            let Some(delayed) = self.core.delayed.pop_front() else {
                break;
            };
            if let Some(SessionSlot::Open(session)) = self.sessions.get_mut(&delayed.channel) {
                session.settle_late(&mut self.core, delayed.settlement);
                self.touched.push(delayed.channel);
            }
        }
    }

    /// Parts with whoever lived by a token that is gone.
    fn tokens_expired(&mut self) {
        self.core.token_count_changed();
        let error = AmqpError::new(condition::UNAUTHORIZED, "Token Invalid.");
        if self.lost_login() {
            return self.close(Some(&error));
        }
        self.detach_where(|core, link| core.reauthorize(link).is_err().then(|| error.clone()));
    }

    /// Whether the token that the connection lives by is gone.
    fn lost_login(&self) -> bool {
        self.has_login && !self.core.tokens.contains(LOGIN)
    }

    /// Detaches the links that there is a reason against.
    fn detach_where(&mut self, reason: impl Fn(&Core, &Link) -> Option<AmqpError>) {
        for slot in self.sessions.values_mut() {
            let SessionSlot::Open(session) = slot else {
                continue;
            };
            let lost: Vec<_> = session
                .links()
                .filter_map(|(handle, link)| Some((handle, reason(&self.core, link)?)))
                .collect();
            for (handle, error) in lost {
                session.detach(&mut self.core, handle, Some(&error));
            }
        }
    }

    /// Takes a notice of the hub; what concerns the line itself comes back as an order.
    pub(crate) fn notice(&mut self, notice: Notice, now: Now) -> Option<LineOrder> {
        self.core.now = now;
        match notice {
            Notice::MessageReady(route) => {
                self.at(route, |session, core, handle| session.pump(core, handle))
            }
            Notice::Desired(route, patch) => self.at(route, |session, core, handle| {
                session.send(core, handle, endpoint::twin::encode_desired(&patch));
            }),
            Notice::Method(route, call) => self.at(route, |session, core, handle| {
                session.send(core, handle, endpoint::methods::encode(&call));
            }),
            Notice::Displaced(route) => self.at(route, |session, core, handle| {
                session.displace(core, handle);
            }),
            Notice::Stolen(route, text) => self.at(route, |session, core, handle| {
                let error = AmqpError::new(condition::STOLEN, &*text);
                session.detach(core, handle, Some(&error));
            }),
            Notice::Disabled(id) => self.detach_where(|core, link| {
                let concerned = link.device.as_deref() == Some(&*id);
                concerned.then(|| core.reauthorize(link).err()).flatten()
            }),
            Notice::Removed(id) => {
                let hub = self.core.hub.state().registry.short_name().to_owned();
                let error = self.core.refusal(&HubError::not_registered(&id, &hub));
                self.detach_where(|_core, link| {
                    let concerned = link.device.as_deref() == Some(&*id);
                    concerned.then(|| error.clone())
                });
                // Its tokens prove nothing of a device of the same name.
                if self.core.tokens.remove_of(&id) {
                    self.core.token_count_changed();
                    if self.lost_login() {
                        self.close(Some(&error));
                    }
                }
            }
            Notice::Order(Order::Cut) => return Some(LineOrder::Cut),
            Notice::Order(Order::Freeze(frozen)) => return Some(LineOrder::Freeze(frozen)),
            Notice::Order(order) => self.obey(order),
        }
        self.make_room();
        None
    }

    /// Goes on with readers of events that had to wait for room.
    pub(crate) fn resume(&mut self, now: Now) {
        self.core.now = now;
        let paused = std::mem::take(&mut self.core.paused);
        // Where there is not room for all, those behind the one that was served last are next.
        let behind = (Bound::Excluded(self.resumed), Bound::Unbounded);
        for route in paused.range(behind).chain(paused.range(..=self.resumed)) {
            if self.core.has_room_for_events() {
                self.resumed = *route;
            }
            self.at(*route, |session, core, handle| session.pump(core, handle));
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Cut | Order::Freeze(_) => {}
            Order::Close(error) => self.close(Some(&error)),
            Order::EndSessions(device, error) => {
                for channel in self.sessions.keys().copied().collect::<Vec<_>>() {
                    let Some(SessionSlot::Open(session)) = self.sessions.get(&channel) else {
                        continue;
                    };
                    let concerned = device.as_deref().is_none_or(|id| {
                        session
                            .links()
                            .any(|(_, link)| link.device.as_deref() == Some(id))
                    });
                    if concerned {
                        self.end_session(channel, &error);
                    }
                }
            }
            Order::Detach(device, kind, error) => self.detach_where(|_core, link| {
                let concerned = device.is_none() || link.device.as_deref() == device.as_deref();
                let concerned = concerned && kind.includes(link.kind.fault_kind());
                concerned.then(|| error.clone())
            }),
            Order::ExpireTokens(device) => {
                if self.core.tokens.drop_of(device.as_deref()) {
                    self.tokens_expired();
                }
            }
            Order::Release => {
                for (channel, slot) in &mut self.sessions {
                    if let SessionSlot::Open(session) = slot {
                        session.release_held(&mut self.core);
                        self.touched.push(*channel);
                    }
                }
            }
        }
    }

    /// Acts on the link that a route means, if it is still there.
    fn at(&mut self, route: Route, act: impl FnOnce(&mut Session, &mut Core, u32)) {
        let (channel, handle, serial) = route.unpack();
        if let Some(SessionSlot::Open(session)) = self.sessions.get_mut(&channel)
            && let Some(handle) = session.current(handle, serial)
        {
            act(session, &mut self.core, handle);
        }
    }
}
