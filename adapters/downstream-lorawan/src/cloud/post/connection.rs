//! A connection to a server, kept for the next request.

use std::fmt;
use std::pin::{Pin, pin};

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use futures_util::FutureExt as _;
use futures_util::future::{Fuse, FusedFuture as _};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// The longest answer that is read to its end, in bytes, so that the connection can be used again.
const MAX_ANSWER: usize = 64 * 1024;

/// Is an open connection. Nothing happens on it but while a request is on its way, so that one that
/// the server has closed is only noticed with the next.
pub(super) struct Connection {
    sender: SendRequest<Body>,
    driver: Fuse<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// Tells why there is no answer.
#[derive(Debug)]
pub(super) struct Unanswered {
    pub(super) error: hyper::Error,
    /// The request, if the server cannot have seen it.
    pub(super) unsent: Option<Request<Body>>,
}

impl Connection {
    pub(super) async fn open<S>(stream: S) -> Result<Self, hyper::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(connection.map(drop));
        Ok(Self {
            sender,
            driver: driver.fuse(),
        })
    }

    /// Sends a request, and gives the status of the answer and the connection, if that serves for
    /// more.
    pub(super) async fn post(
        self,
        request: Request<Body>,
    ) -> Result<(StatusCode, Option<Self>), Unanswered> {
        let Self {
            mut sender,
            mut driver,
        } = self;
        let mut exchange = pin!(async move {
            if let Err(error) = sender.ready().await {
                let unsent = Some(request);
                return Err(Unanswered { error, unsent });
            }
            let answer = sender.try_send_request(request).await;
            let answer = answer.map_err(|mut refused| Unanswered {
                unsent: refused.take_message(),
                error: refused.into_error(),
            })?;
            let status = answer.status();
            let body = to_bytes(Body::new(answer.into_body()), MAX_ANSWER).await;
            Ok((status, body.is_ok().then_some(sender)))
        });
        let answered = tokio::select! {
            biased;
            // The answer may have come with the end; otherwise it tells what is wrong.
            () = &mut driver => exchange.as_mut().await,
            answered = exchange.as_mut() => answered,
        };
        let (status, sender) = answered?;
        let sender = sender.filter(|_| !driver.is_terminated());
        Ok((status, sender.map(|sender| Self { sender, driver })))
    }
}
