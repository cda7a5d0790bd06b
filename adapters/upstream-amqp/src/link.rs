//! What all links of devices have in common: addresses, properties, how messages go out.

use fe2o3_amqp::link::SendError;
use fe2o3_amqp::link::delivery::DeliveryFut;
use fe2o3_amqp::{Sendable, Sender};
use fe2o3_amqp_types::definitions::Fields;
use fe2o3_amqp_types::messaging::{Data, Message, Outcome};
use fe2o3_amqp_types::primitives::{Symbol, Value};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either, Ready, ready};
use gateway_core::credential::sas_resource;
use tokio::task::coop::unconstrained;

use crate::device::Device;
use crate::env::Env;
use crate::error::AmqpError;

/// Messages smaller than this go out in one frame, whose size the hub bounds at 64 KiB.
const ONE_FRAME: usize = 32 * 1024;

/// The properties that every link carries.
pub(crate) fn client_properties() -> Fields {
    let mut properties = Fields::new();
    let version = concat!("iot-gateway/", env!("CARGO_PKG_VERSION"));
    properties.insert(
        Symbol::from("com.microsoft:client-version"),
        Value::String(version.to_owned()),
    );
    properties
}

/// The address of one of a device's nodes at the hub.
pub(crate) fn address(env: &Env, device: &Device, path: &str) -> String {
    format!(
        "amqps://{}/{path}",
        sas_resource(&env.config.host, &device.id)
    )
}

/// Sends what the hub does not settle.
pub(crate) async fn send_settled(
    link: &mut Sender,
    message: Message<Data>,
) -> Result<(), AmqpError> {
    let sendable = Sendable::builder().message(message).settled(true).build();
    // Settled as it is sent: there is nothing to wait for.
    drop(link.send_batchable(sendable).await?);
    Ok(())
}

pub(crate) type Sent = Result<DeliveryFut<Result<Outcome, SendError>>, SendError>;

/// Hands a message to the client.
///
/// Nearly always the link has credit and the client takes the message at once. Its future has
/// 4 KiB: on the stack for one poll it costs nothing, as a part of each device's own future it
/// would be allocated, copied and cold. One that has to wait is begun anew: until the transfer is
/// queued the client has done nothing, and a message of one frame is queued in one step.
pub(crate) fn transfer(
    sender: &mut Sender,
    message: Message<Data>,
    size: usize,
) -> Either<Ready<Sent>, BoxFuture<'_, Sent>> {
    let message = Sendable::from(message);
    if size < ONE_FRAME {
        let sent = unconstrained(sender.send_batchable_ref(&message)).now_or_never();
        if let Some(sent) = sent {
            return Either::Left(ready(sent));
        }
    }
    Either::Right(Box::pin(sender.send_batchable(message)))
}
