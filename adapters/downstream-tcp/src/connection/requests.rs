//! What the protocol asks for, and what came of it.

use std::collections::VecDeque;

use futures_util::FutureExt as _;
use gateway_core::credential::SasToken;
use gateway_core::{
    Announcement, DeviceId, ErrorKind, Interest, Presence, Settlement, Slot, UpstreamError,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::jobs::{Done, Job, Start};
use super::login::{self, Admission};
use super::{Connection, End, Standing};
use crate::proto::{CloseReason, Login, Proof, Refusal, Request};
use crate::registry::Claim;

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Does what the protocol asked for.
    pub(super) fn obey(&mut self) {
        while !self.actions.requests.is_empty() {
            // Its memory serves the next connection, and is in the processor's cache then.
            for request in std::mem::take(&mut self.actions.requests) {
                self.grant(request);
            }
        }
    }

    pub(super) fn grant(&mut self, request: Request) {
        match request {
            Request::Identify(login) => self.identify(login),
            Request::Done { tag, result } => {
                if self.commands.done(tag, result)
                    && let Standing::Known { device, .. } = &self.standing
                {
                    self.ingress.note_late_answer(device);
                }
            }
            Request::Close => {
                self.end.get_or_insert(End::Told(CloseReason::Protocol));
            }
            Request::Twin { token, request } => {
                let job = Job::Twin { token, request };
                match self.standing {
                    Standing::Known { .. } | Standing::Left => self.queue.push_back(job),
                    _ => self.done(job.undone()),
                }
            }
            Request::Uplink { token, uplink } => match &self.standing {
                Standing::Known { device, .. } if *device != uplink.device => {
                    self.refuse(token, ErrorKind::Unauthorized);
                }
                Standing::Known { .. } | Standing::Left => {
                    self.queue.push_back(Job::Uplink { token, uplink });
                }
                _ => self.refuse(token, ErrorKind::Unauthorized),
            },
        }
    }

    pub(super) fn refuse(&mut self, token: u64, kind: ErrorKind) {
        self.done(Done::Uplink {
            token,
            settlement: Settlement::Rejected(kind),
        });
    }

    pub(super) fn identify(&mut self, login: Login) {
        match &mut self.standing {
            Standing::Left => {}
            Standing::Judging => tracing::warn!("A protocol identified a device twice at once"),
            Standing::Known {
                device,
                interest,
                has_token,
                ..
            } if *device == login.device => match login.proof {
                Proof::Token(token) => {
                    let device = device.clone();
                    self.present(device, login.interest, token);
                }
                _ if *interest == login.interest => {
                    self.protocol.on_login(Ok(device), &mut self.actions);
                }
                _ if *has_token => {
                    let refusal = Refusal::new(ErrorKind::Unauthorized);
                    self.protocol.on_login(Err(&refusal), &mut self.actions);
                }
                _ => {
                    let announcement =
                        Announcement::new(device.clone()).with_interest(login.interest);
                    self.arrival = Some(login::arrive(self.ingress.clone(), announcement));
                    *interest = login.interest;
                    self.protocol.on_login(Ok(device), &mut self.actions);
                }
            },
            Standing::Known { .. } => {
                let refusal = Refusal::new(ErrorKind::Rejected);
                self.judged(Err(refusal));
            }
            Standing::Unknown => {
                self.standing = Standing::Judging;
                let (registry, device) = (self.shared.registry.clone(), login.device.clone());
                let (sender, stop) = (self.sender.clone(), self.stop.clone());
                self.judgement = Some(login::judge(
                    self.shared.clone(),
                    self.ingress.clone(),
                    self.peer.clone(),
                    login,
                    move || Claim::new(registry, device, sender, stop),
                    self.hello_deadline,
                ));
            }
        }
    }

    /// Has the hub judge a new token of the device. One at a time: each costs the hub a look.
    fn present(&mut self, device: DeviceId, interest: Interest, token: SasToken) {
        let refusal = match self.shared.config.identity.token {
            false => ErrorKind::Unauthorized,
            true if self.renewal.is_some() => ErrorKind::Throttled,
            true => {
                let ingress = self.ingress.clone();
                self.renewal = Some(login::present(ingress, device, interest, token));
                return;
            }
        };
        let refusal = Refusal::new(refusal);
        self.protocol.on_login(Err(&refusal), &mut self.actions);
    }

    /// Takes the hub's word on a new token.
    pub(super) fn presented(&mut self, verdict: Result<(Presence, Interest), UpstreamError>) {
        match (verdict, &mut self.standing) {
            (
                Ok((presence, taken)),
                Standing::Known {
                    device,
                    interest,
                    has_token,
                    ..
                },
            ) => {
                (self.presence, self.arrival) = (Some(presence), None);
                (*interest, *has_token) = (taken, true);
                self.protocol.on_login(Ok(device), &mut self.actions);
            }
            (Err(error), _) => {
                tracing::info!(peer = %self.peer.address, error = %error, "New token refused");
                let refusal = Refusal::from(&error);
                self.protocol.on_login(Err(&refusal), &mut self.actions);
            }
            (Ok(_), _) => {}
        }
        self.obey();
    }

    pub(super) fn judged(&mut self, verdict: Result<Admission, Refusal>) {
        match verdict {
            Ok(Admission {
                claim,
                announcement,
                presence,
            }) => {
                let (device, interest) = (announcement.device.clone(), announcement.interest);
                tracing::info!(device.id = %device, peer = %self.peer.address, "Device connected");
                claim.take();
                if presence.is_none() {
                    self.arrival = Some(login::arrive(self.ingress.clone(), announcement));
                }
                self.presence = presence;
                self.heard = Instant::now();
                self.standing = Standing::Known {
                    device: device.clone(),
                    interest,
                    has_token: self.presence.is_some(),
                    _claim: claim,
                };
                self.protocol.on_login(Ok(&device), &mut self.actions);
            }
            Err(refusal) => {
                tracing::info!(peer = %self.peer.address, error = %refusal, "Login refused");
                self.protocol.on_login(Err(&refusal), &mut self.actions);
                self.end
                    .get_or_insert(End::Told(CloseReason::Refused(refusal)));
            }
        }
        self.obey();
    }

    pub(super) fn arrived(&mut self, verdict: Result<Presence, UpstreamError>) {
        match verdict {
            Ok(presence) => self.presence = Some(presence),
            Err(error) => {
                let reason = match error.kind() {
                    ErrorKind::Closed => CloseReason::Shutdown,
                    _ => CloseReason::Refused(Refusal::from(&error)),
                };
                tracing::info!(peer = %self.peer.address, error = %error, "Hub refused the device");
                self.end.get_or_insert(End::Told(reason));
            }
        }
    }

    pub(super) fn done(&mut self, done: Done) {
        let actions = &mut self.actions;
        match done {
            Done::Uplink { token, settlement } => {
                self.protocol.on_settled(token, settlement, actions);
            }
            Done::Twin { token, answer } => self.protocol.on_twin(token, answer, actions),
        }
        self.obey();
    }

    /// Takes the next job that may begin: an uplink needs a credit.
    pub(super) fn next_job(&mut self) -> Option<Start> {
        let Standing::Known { device, .. } = &self.standing else {
            return None;
        };
        let job = self.queue.pop_front()?;
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
        match job {
            Job::Twin { token, request } => Some(Start::Twin {
                token,
                request,
                device: device.clone(),
                turn: self.twin_turn.get_or_insert_default().clone(),
            }),
            Job::Uplink { token, uplink } => match self.take_slot() {
                Some(slot) => Some(Start::Uplink {
                    token,
                    uplink,
                    slot,
                }),
                None => {
                    self.queue.push_front(Job::Uplink { token, uplink });
                    None
                }
            },
        }
    }

    /// Takes a credit, or begins to wait for one.
    fn take_slot(&mut self) -> Option<Slot> {
        if self.slot.is_some() || self.reserving.is_some() {
            return self.slot.take();
        }
        let slot = self.ingress.try_reserve();
        if slot.is_none() {
            let ingress = self.ingress.clone();
            self.reserving = Some(async move { ingress.reserve().await }.boxed());
        }
        slot
    }
}
