//! A device on CoAP: posts its messages, observes its commands, answers methods.

mod exchanges;

use std::time::Duration;

use gateway_downstream_coap::proto::message::{Code, Message, Token, option};

use super::{Device, Lost};
use crate::fleet::Fleet;
use crate::verdict::message_id;
use exchanges::{Exchanges, Heard};

/// Content format of JSON.
const JSON: u32 = 50;

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// The message in hand.
    Uplink,
    /// To hear commands, or to hear them no more.
    Listening,
    /// The answer to a method.
    Answer,
}

/// Speaks with the gateway from one port, until it is lost or until all is said.
pub(super) async fn converse(device: &mut Device) -> Result<(), Lost> {
    let (mut exchanges, commands) = knock(device).await?;
    if device.series.is_out() {
        // Whether the hub has it is not known: it goes out again, under the same id.
        exchanges.ask(Purpose::Uplink, uplink(device));
    }
    loop {
        if device.series.is_done() && !device.stays {
            return leave(device, &mut exchanges, commands).await;
        }
        tokio::select! {
            heard = exchanges.next() => match heard? {
                Heard::Response(Purpose::Uplink, response) => settle(device, &response),
                Heard::Response(_, response) if !response.code.is_success() => {
                    device.complain(words(&response));
                }
                Heard::Response(..) => {}
                Heard::Notification(message) if Some(message.token) == commands => {
                    if let Some(answer) = obey(device, &message)? {
                        exchanges.ask(Purpose::Answer, answer);
                    }
                }
                Heard::Notification(_) => {}
            },
            () = device.series.due() => {
                device.series.goes_out();
                exchanges.ask(Purpose::Uplink, uplink(device));
            }
        }
    }
}

/// Takes a port, and registers for commands if it is to hear them; one that only speaks needs no
/// welcome.
async fn knock(device: &mut Device) -> Result<(Exchanges<Purpose>, Option<Token>), Lost> {
    let fleet = device.fleet.clone();
    let _turn = fleet.door.acquire().await;
    let mut exchanges = Exchanges::open(fleet.gateway).await?;
    let mut commands = None;
    if fleet.plan.listens() {
        let registration = proved(device, &fleet, Message::new(Code::GET).with_path("c"));
        let registration = registration.with_uint(option::OBSERVE, 0);
        commands = Some(exchanges.ask(Purpose::Listening, registration));
        let response = answer(&mut exchanges).await?;
        if !response.options.has(option::OBSERVE) {
            return Err(lost_by(&response));
        }
    }
    device.welcome();
    Ok((exchanges, commands))
}

/// Takes the registration back, so that the gateway does not call in vain.
async fn leave(
    device: &Device,
    exchanges: &mut Exchanges<Purpose>,
    commands: Option<Token>,
) -> Result<(), Lost> {
    if let Some(token) = commands {
        let end = proved(
            device,
            &device.fleet,
            Message::new(Code::GET).with_path("c"),
        );
        let end = end.with_uint(option::OBSERVE, 1).with_token(token);
        exchanges.ask_under(token, Purpose::Listening, end);
        answer(exchanges).await?;
    }
    Ok(())
}

/// Waits for what becomes of a registration.
async fn answer(exchanges: &mut Exchanges<Purpose>) -> Result<Message, Lost> {
    loop {
        if let Heard::Response(Purpose::Listening, response) = exchanges.next().await? {
            return Ok(response);
        }
    }
}

/// Adds what proves who this is.
fn proved(device: &Device, fleet: &Fleet, message: Message) -> Message {
    message
        .with_option(option::URI_QUERY, format!("$.id={}", device.id))
        .with_option(option::URI_QUERY, format!("$.token={}", fleet.secret))
}

fn uplink(device: &Device) -> Message {
    let sequence = device.series.current();
    let temperature = 20 + sequence % 10;
    let body = format!(r#"{{"temperature":{temperature},"count":{sequence}}}"#);
    let id = format!("$.mid={}", message_id(&device.id, sequence));
    let message = Message::new(Code::POST).with_path("t");
    proved(device, &device.fleet, message)
        .with_option(option::URI_QUERY, id)
        .with_uint(option::CONTENT_FORMAT, JSON)
        .with_payload(body)
}

fn settle(device: &mut Device, response: &Message) {
    match (response.code, patience(response)) {
        (Code::CHANGED, _) => device.series.acknowledge(),
        (_, Some(after)) => device.series.put_off(after),
        (_, None) => {
            device.series.refuse();
            device.complain(words(response));
        }
    }
}

/// Takes a command, which was acknowledged; the answer if it is a method.
fn obey(device: &Device, command: &Message) -> Result<Option<Message>, Lost> {
    if !command.code.is_success() {
        return Err(lost_by(command));
    }
    let path = command.options.all(option::LOCATION_PATH);
    let path: Vec<_> = path.map(|part| String::from_utf8_lossy(part)).collect();
    Ok(match path.join("/").as_str() {
        // The gateway asks whether somebody is there, or sends a message.
        "" | "c" => None,
        path => {
            let answer = Message::new(Code::POST).with_path(path);
            let body = format!(r#"{{"by":"{}"}}"#, device.id);
            let answer = proved(device, &device.fleet, answer)
                .with_option(option::URI_QUERY, &b"$.status=200"[..])
                .with_uint(option::CONTENT_FORMAT, JSON)
                .with_payload(body);
            Some(answer)
        }
    })
}

/// When to come back, if that may help.
fn patience(response: &Message) -> Option<Duration> {
    let is_for_now = [Code::UNAVAILABLE, Code::TOO_MANY_REQUESTS].contains(&response.code);
    let seconds = response.options.uint(option::MAX_AGE).unwrap_or(60);
    is_for_now.then_some(Duration::from_secs(seconds.into()))
}

fn lost_by(message: &Message) -> Lost {
    Lost::because(words(message), patience(message))
}

/// What a message of the gateway says, for people.
fn words(message: &Message) -> String {
    let reason = String::from_utf8_lossy(&message.payload);
    format!("the gateway said {:?} ({reason})", message.code)
}
