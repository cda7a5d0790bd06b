//! A client that writes frames itself, to say what no proper client would.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, though not in test functions"
)]

use fe2o3_amqp_types::definitions::Role;
use fe2o3_amqp_types::messaging::{Source, Target};
use fe2o3_amqp_types::performatives::{Attach, Begin, Flow, Open, Performative, Transfer};
use hub_simulator::HubSimulator;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{soon, token};

pub(crate) const HEADER: [u8; 8] = *b"AMQP\x00\x01\x00\x00";

/// A frame as it came: channel, performative, payload; `None` for a heartbeat.
pub(crate) type Frame = Option<(u16, Performative, Vec<u8>)>;

pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
}

pub(crate) fn frame(channel: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = (body.len() as u32 + 8).to_be_bytes().to_vec();
    frame.extend([2, 0]);
    frame.extend(channel.to_be_bytes());
    frame.extend(body);
    frame
}

pub(crate) fn open() -> Open {
    Open {
        container_id: "wire".to_owned(),
        hostname: None,
        max_frame_size: 65_536.into(),
        channel_max: 8191.into(),
        idle_time_out: None,
        outgoing_locales: None,
        incoming_locales: None,
        offered_capabilities: None,
        desired_capabilities: None,
        properties: None,
    }
}

pub(crate) fn begin(incoming_window: u32) -> Begin {
    Begin {
        remote_channel: None,
        next_outgoing_id: 0,
        incoming_window,
        outgoing_window: 2048,
        handle_max: 1023.into(),
        offered_capabilities: None,
        desired_capabilities: None,
        properties: None,
    }
}

pub(crate) fn attach(name: &str, handle: u32, role: Role, address: &str) -> Attach {
    let (source, target) = match role {
        Role::Sender => (
            Source::default(),
            Target::builder().address(address).build(),
        ),
        Role::Receiver => (
            Source::builder().address(address).build(),
            Target::default(),
        ),
    };
    Attach {
        name: name.to_owned(),
        handle: handle.into(),
        initial_delivery_count: (role == Role::Sender).then_some(0),
        role,
        snd_settle_mode: Default::default(),
        rcv_settle_mode: Default::default(),
        source: Some(source.into()),
        target: Some(Box::new(target.into())),
        unsettled: None,
        incomplete_unsettled: false,
        max_message_size: None,
        offered_capabilities: None,
        desired_capabilities: None,
        properties: None,
    }
}

pub(crate) fn transfer(handle: u32, id: u32, more: bool) -> Transfer {
    Transfer {
        handle: handle.into(),
        delivery_id: Some(id),
        delivery_tag: Some(vec![1, 2, 3, 4].into()),
        message_format: Some(0),
        settled: Some(false),
        more,
        rcv_settle_mode: None,
        state: None,
        resume: false,
        aborted: false,
        batchable: false,
    }
}

pub(crate) fn credit(handle: u32, credit: u32) -> Flow {
    Flow {
        next_incoming_id: Some(1),
        incoming_window: 2048,
        next_outgoing_id: 0,
        outgoing_window: 2048,
        handle: Some(handle.into()),
        delivery_count: Some(0),
        link_credit: Some(credit),
        available: None,
        drain: false,
        echo: false,
        properties: None,
    }
}

impl Wire {
    pub(crate) async fn connect(hub: &HubSimulator) -> Self {
        Self {
            stream: TcpStream::connect(hub.addr()).await.unwrap(),
        }
    }

    /// Connects, opens, and begins a session on channel 0; answers are consumed.
    pub(crate) async fn with_session(hub: &HubSimulator, open: Open, begin: Begin) -> Self {
        let mut wire = Self::connect(hub).await;
        wire.send_bytes(&HEADER).await;
        wire.send(0, Performative::Open(open)).await;
        wire.send(0, Performative::Begin(begin)).await;
        assert_eq!(wire.read_header().await, HEADER);
        assert!(matches!(wire.next().await, Performative::Open(_)));
        assert!(matches!(wire.next().await, Performative::Begin(_)));
        wire
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn send(&mut self, channel: u16, performative: Performative) {
        self.send_with(channel, performative, &[]).await;
    }

    pub(crate) async fn send_with(
        &mut self,
        channel: u16,
        performative: Performative,
        payload: &[u8],
    ) {
        let mut body = serde_amqp::to_vec(&performative).unwrap();
        body.extend(payload);
        self.send_bytes(&frame(channel, &body)).await;
    }

    pub(crate) async fn read_header(&mut self) -> [u8; 8] {
        let mut header = [0; 8];
        soon(self.stream.read_exact(&mut header)).await.unwrap();
        header
    }

    pub(crate) async fn frame(&mut self) -> Frame {
        let header = self.read_header().await;
        let len = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let mut body = vec![0; len - 8];
        soon(self.stream.read_exact(&mut body)).await.unwrap();
        if body.is_empty() {
            return None;
        }
        let mut reader = &body[..];
        let performative = {
            let mut deserializer =
                serde_amqp::de::Deserializer::new(serde_amqp::read::IoReader::new(&mut reader));
            serde::Deserialize::deserialize(&mut deserializer).unwrap()
        };
        Some((
            u16::from_be_bytes([header[6], header[7]]),
            performative,
            reader.to_vec(),
        ))
    }

    /// The next performative.
    pub(crate) async fn next(&mut self) -> Performative {
        self.frame()
            .await
            .expect("a performative rather than a heartbeat")
            .1
    }

    /// The next performative, if one is expected at all.
    pub(crate) async fn next_if(&mut self, expected: bool) -> Option<Performative> {
        match expected {
            true => Some(self.next().await),
            false => None,
        }
    }

    /// Puts a device's token on `$cbs`, over links 0 and 1 of channel 0.
    pub(crate) async fn authorize(&mut self, hub: &HubSimulator, device: &str) {
        let token = token(&hub.device_connection_string(device));
        self.put_token(device, &token).await;
    }

    /// Puts a token on `$cbs`, over links 0 and 1 of channel 0.
    pub(crate) async fn put_token(&mut self, name: &str, token: &str) {
        use fe2o3_amqp_types::messaging::message::__private::Serializable;
        use fe2o3_amqp_types::messaging::{ApplicationProperties, Message, Properties};
        for (link, handle, role) in [("cbs-s", 0, Role::Sender), ("cbs-r", 1, Role::Receiver)] {
            self.send(0, Performative::Attach(attach(link, handle, role, "$cbs")))
                .await;
        }
        self.send(0, Performative::Flow(credit(1, 10))).await;
        let request = Message::builder()
            .properties(Properties::builder().message_id(1u64).build())
            .application_properties(
                ApplicationProperties::builder()
                    .insert("operation", "put-token")
                    .insert("type", "servicebus.windows.net:sastoken")
                    .insert("name", name)
                    .build(),
            )
            .value(token.to_owned())
            .build();
        let payload = serde_amqp::to_vec(&Serializable(request)).unwrap();
        self.send_with(0, Performative::Transfer(transfer(0, 0, false)), &payload)
            .await;
        let mut answered = false;
        let mut settled = false;
        while !(answered && settled) {
            match self.next().await {
                Performative::Transfer(answer) => {
                    // The real hub counts here, in four bytes.
                    assert_eq!(answer.delivery_tag.unwrap().len(), 4);
                    answered = true;
                }
                Performative::Disposition(_) => settled = true,
                Performative::Attach(_) | Performative::Flow(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Whether the hub hangs up.
    pub(crate) async fn is_hung_up(&mut self) -> bool {
        let mut rest = Vec::new();
        soon(self.stream.read_to_end(&mut rest))
            .await
            .map_or(true, |_| true)
    }
}
