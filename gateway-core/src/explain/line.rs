//! An explanation as one line.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use super::{BreakerState, Explanation, LastError, SessionExplanation, UpstreamExplanation};
use crate::upstream::Interest;

impl Display for Explanation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.device)?;
        match &self.session {
            Some(session) => write_state(f, session)?,
            None => f.write_str("not in the session table")?,
        }
        if let Some(upstream) = &self.upstream {
            write_place(f, upstream)?;
        }
        if let Some(session) = &self.session {
            write_session(f, session)?;
        }
        if let Some(upstream) = &self.upstream {
            write_upstream(f, upstream)?;
        }
        let errors = [
            self.session.as_ref().and_then(|s| s.last_error.as_ref()),
            self.upstream.as_ref().and_then(|u| u.last_error.as_ref()),
        ];
        match errors.into_iter().flatten().min_by_key(|error| error.ago) {
            None => f.write_str(", no error"),
            Some(LastError { kind, text, ago }) => {
                write!(f, ", last error {} ago: {kind}: {text}", Rough(*ago))
            }
        }
    }
}

fn write_state(f: &mut Formatter<'_>, session: &SessionExplanation) -> fmt::Result {
    match (session.is_attached, session.refusal) {
        (true, _) => f.write_str("attached")?,
        (false, Some(refusal)) => {
            let left = Rough(refusal.left);
            write!(f, "refused as {} for another {left}", refusal.kind)?;
        }
        (false, None) => f.write_str("not attached")?,
    }
    match &session.downstream {
        Some(downstream) if session.is_attached => write!(f, " by {downstream}"),
        Some(downstream) => write!(f, ", last seen by {downstream}"),
        None => Ok(()),
    }
}

fn write_place(f: &mut Formatter<'_>, upstream: &UpstreamExplanation) -> fmt::Result {
    if upstream.connection.is_some() || upstream.lane.is_some() {
        f.write_str(" on")?;
    }
    if let Some(connection) = upstream.connection {
        write!(f, " connection {connection}")?;
    }
    if let Some(lane) = upstream.lane {
        let whose = if lane.is_own { "own" } else { "shared" };
        write!(f, " lane {} ({whose})", lane.number)?;
    }
    Ok(())
}

fn write_session(f: &mut Formatter<'_>, session: &SessionExplanation) -> fmt::Result {
    if let Some(credential) = session.credential {
        write!(f, ", {}", credential.as_str())?;
    }
    if session.is_online {
        f.write_str(", online")?;
    }
    if session.interest != Interest::NONE {
        let wants = [
            (session.interest.messages, "messages"),
            (session.interest.methods, "methods"),
            (session.interest.desired, "desired properties"),
        ];
        let wants = wants.iter().filter(|(is_wanted, _)| *is_wanted);
        let wants: Vec<_> = wants.map(|(_, what)| *what).collect();
        write!(f, ", wants {}", wants.join(" and "))?;
    }
    match session.queued {
        0 => write!(f, ", idle for {}", Rough(session.idle)),
        queued => write!(f, ", {queued} queued"),
    }
}

fn write_upstream(f: &mut Formatter<'_>, upstream: &UpstreamExplanation) -> fmt::Result {
    for link in &upstream.links {
        write!(f, ", {}", link.purpose.as_str())?;
        match link.credit {
            Some(credit) => write!(f, " credit {credit}")?,
            None => f.write_str(" link")?,
        }
    }
    if let Some(token) = upstream.token {
        write!(f, ", token renewed {} ago", Rough(token.age))?;
        if let Some(due) = token.renewal_in {
            write!(f, ", due in {}", Rough(due))?;
        }
    }
    if let Some(count) = upstream.in_flight {
        write!(f, ", {count} in flight")?;
    }
    match upstream.breaker {
        Some(BreakerState::Closed) => f.write_str(", breaker closed")?,
        Some(BreakerState::Open(left)) => write!(f, ", breaker open for {}", Rough(left))?,
        Some(BreakerState::Trying) => f.write_str(", breaker trying")?,
        None => {}
    }
    if let Some(wait) = upstream.waits_for {
        write!(f, ", waits for {}", wait.operation)?;
        match wait.position {
            Some(position) => write!(f, " ({position} of {})", wait.waiting)?,
            None => write!(f, " ({} waiting)", wait.waiting)?,
        }
    }
    Ok(())
}

/// A time as people say it, two digits or so.
struct Rough(Duration);

impl Display for Rough {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            0 => write!(f, "{} ms", self.0.as_millis()),
            1..120 => write!(f, "{seconds} s"),
            120..7_200 => write!(f, "{} min", seconds / 60),
            7_200..172_800 => write!(f, "{} h", seconds / 3600),
            _ => write!(f, "{} days", seconds / 86_400),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        BudgetWait, CredentialKind, LaneExplanation, LinkExplanation, LinkPurpose,
        RefusalExplanation, TokenExplanation,
    };
    use super::*;
    use crate::error::ErrorKind;

    const MINUTE: Duration = Duration::from_secs(60);

    fn explain(
        session: Option<SessionExplanation>,
        upstream: Option<UpstreamExplanation>,
    ) -> String {
        Explanation::new("sensor-7".parse().unwrap(), session, upstream).to_string()
    }

    #[test]
    fn a_device_that_is_well_is_one_line() {
        let session = SessionExplanation {
            is_attached: true,
            downstream: Some("lorawan".to_owned()),
            credential: Some(CredentialKind::DeviceKey),
            queued: 2,
            ..SessionExplanation::default()
        };
        let upstream = UpstreamExplanation {
            connection: Some(3),
            lane: Some(LaneExplanation::new(12, false)),
            links: vec![LinkExplanation::new(LinkPurpose::Telemetry, Some(1000))],
            token: Some(TokenExplanation::new(12 * MINUTE, Some(33 * MINUTE))),
            in_flight: Some(2),
            breaker: Some(BreakerState::Closed),
            ..UpstreamExplanation::default()
        };
        assert_eq!(
            explain(Some(session), Some(upstream)),
            "sensor-7: attached by lorawan on connection 3 lane 12 (shared), device key, 2 queued, \
             telemetry credit 1000, token renewed 12 min ago, due in 33 min, 2 in flight, \
             breaker closed, no error"
        );
    }

    #[test]
    fn what_stands_in_a_devices_way_is_named() {
        let session = SessionExplanation {
            refusal: Some(RefusalExplanation {
                kind: ErrorKind::Unauthorized,
                left: Duration::from_secs(12),
            }),
            downstream: Some("tcp".to_owned()),
            is_online: true,
            interest: Interest::COMMANDS,
            idle: 3 * MINUTE,
            last_error: Some(LastError::new(ErrorKind::Other, "older", MINUTE)),
            ..SessionExplanation::default()
        };
        let upstream = UpstreamExplanation {
            links: vec![LinkExplanation::new(LinkPurpose::Methods, None)],
            breaker: Some(BreakerState::Open(Duration::from_millis(900))),
            waits_for: Some(BudgetWait::new("token", Some(3), 40)),
            last_error: Some(LastError::new(
                ErrorKind::Unauthorized,
                "the hub answered the token with 401",
                Duration::from_secs(8),
            )),
            ..UpstreamExplanation::default()
        };
        assert_eq!(
            explain(Some(session), Some(upstream)),
            "sensor-7: refused as unauthorized for another 12 s, last seen by tcp, online, \
             wants messages and methods, idle for 3 min, methods link, breaker open for 900 ms, \
             waits for token (3 of 40), last error 8 s ago: unauthorized: the hub answered the \
             token with 401"
        );
        assert_eq!(
            explain(None, Some(UpstreamExplanation::default())),
            "sensor-7: not in the session table, no error"
        );
    }

    #[test]
    fn times_are_rough() {
        let days = |days: u64| Rough(Duration::from_secs(days * 86_400)).to_string();
        assert_eq!(days(1), "24 h");
        assert_eq!(days(9), "9 days");
        assert_eq!(Rough(119 * Duration::from_secs(1)).to_string(), "119 s");
    }
}
