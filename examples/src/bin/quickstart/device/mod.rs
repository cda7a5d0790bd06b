//! One device, whatever it speaks: comes, says what it has to say, comes again when it lost the
//! gateway.

mod coap;
mod frames;
pub(crate) mod lorawan;
mod series;
mod tcp;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use gateway_core::Backoff;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::args::Downstream;
use crate::fleet::Fleet;
use crate::plan::device_id;
use crate::verdict::Told;
use series::Series;

#[derive(Debug)]
pub(crate) struct Device {
    fleet: Arc<Fleet>,
    number: u32,
    id: String,
    series: Series,
    stays: bool,
    is_known: bool,
}

impl Device {
    pub(crate) fn new(fleet: Arc<Fleet>, number: u32) -> Self {
        Self {
            number,
            id: device_id(number),
            stays: fleet.plan.stays(number),
            series: Series::new(fleet.clone()),
            fleet,
            is_known: false,
        }
    }

    /// Lives until everything is sent, or until it is stopped if it stays; tells what it was told.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Told {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.live() => {}
        }
        Told {
            device: self.id,
            acked: self.series.into_acked(),
        }
    }

    async fn live(&mut self) {
        let fleet = self.fleet.clone();
        // Closed never.
        let Ok(_place) = fleet.places.acquire().await else {
            return;
        };
        let backoff = Backoff::default();
        let mut failures = 0;
        loop {
            let acked = self.series.acked();
            let ended = match fleet.plan.downstream {
                Downstream::Tcp => tcp::converse(self).await,
                Downstream::Coap => coap::converse(self).await,
                Downstream::Lorawan => lorawan::converse(self).await,
            };
            let Err(lost) = ended else { return };
            self.complain(&lost.error);
            failures = if self.series.acked() > acked {
                0
            } else {
                failures + 1
            };
            let pause = lost.retry_after.unwrap_or_default();
            sleep(pause.max(backoff.delay(failures))).await;
        }
    }

    /// Notes that the gateway has let it in.
    fn welcome(&mut self) {
        if !std::mem::replace(&mut self.is_known, true) {
            let welcomed = &self.fleet.progress.welcomed;
            welcomed.send_modify(|count| *count += 1);
        }
    }

    fn complain(&self, complaint: impl std::fmt::Display) {
        let complaint = format!("{}: {complaint}", self.id);
        self.fleet.progress.complain(complaint);
    }
}

/// The gateway is lost.
#[derive(Debug)]
struct Lost {
    error: io::Error,
    retry_after: Option<Duration>,
}

impl Lost {
    fn because(words: String, retry_after: Option<Duration>) -> Self {
        Self {
            error: io::Error::new(io::ErrorKind::ConnectionAborted, words),
            retry_after,
        }
    }
}

impl From<io::Error> for Lost {
    fn from(error: io::Error) -> Self {
        Self {
            error,
            retry_after: None,
        }
    }
}
