//! The codec against `serde_amqp` and `fe2o3-amqp-types`, which share nothing with it.

use bytes::BytesMut;
use fe2o3_amqp_types::definitions::{Handle, Role};
use fe2o3_amqp_types::messaging::message::__private::{Deserializable, Serializable};
use fe2o3_amqp_types::messaging::{
    ApplicationProperties, Body, Data, Message, MessageId, Properties,
};
use fe2o3_amqp_types::performatives as oracle;
use proptest::prelude::*;
use serde_amqp::primitives::Binary;

use super::encode::{AttachReply, LinkCredit, Outcome, SessionFlow, Tag, TransferHead};
use super::message::{MessageWriter, OutProperties, Sections, display_id};
use super::performative::Performative;
use super::{encode, frame, read, write};
use crate::amqp::AmqpError;
use crate::fuzzing::{Between, feed_amqp};
use crate::guid::Guid;

/// What the oracle reads in the one frame of `out`.
fn judged(out: &BytesMut) -> oracle::Performative {
    let frame = frame::split(out, u32::MAX).unwrap().unwrap();
    assert_eq!(frame.len, out.len());
    serde_amqp::from_slice(frame.body).unwrap()
}

/// The number of fields in the list of the one frame of `out`.
fn field_count(out: &BytesMut) -> u32 {
    u32::from_be_bytes(out[16..20].try_into().unwrap())
}

#[test]
fn every_performative_reads_back_and_carries_all_its_fields() {
    let error = AmqpError::new("amqp:not-found", "nobody there");
    type Write<'a> = Box<dyn Fn(&mut BytesMut) + 'a>;
    let session = SessionFlow {
        next_incoming_id: 1,
        incoming_window: 5000,
        next_outgoing_id: 300,
    };
    let link = LinkCredit {
        handle: 9,
        delivery_count: 0,
        credit: 1000,
        drained: true,
    };
    let reply = AttachReply {
        name: "link",
        handle: 300,
        hub_receives: false,
        sender_settle_mode: Some(1),
        receiver_settle_mode: Some(0),
        source: None,
        target: None,
        max_message_size: Some(1 << 20),
        properties: None,
    };
    let cases: [(u32, Write<'_>); 8] = [
        (
            10,
            Box::new(|out| encode::open(out, "c", 65_536, 8191, 240_000)),
        ),
        (8, Box::new(|out| encode::begin(out, 3, 1, 5000, 262_143))),
        (14, Box::new(|out| encode::attach(out, 3, &reply))),
        (
            11,
            Box::new(|out| encode::flow(out, 3, session, Some(link))),
        ),
        (
            6,
            Box::new(|out| {
                encode::disposition(out, 3, true, 1, 9, &Outcome::Rejected(error.clone()))
            }),
        ),
        (
            3,
            Box::new(|out| encode::detach(out, 3, 9, true, Some(&error))),
        ),
        (1, Box::new(|out| encode::end(out, 3, None))),
        (1, Box::new(|out| encode::close(out, Some(&error)))),
    ];
    for (fields, write) in cases {
        let mut out = BytesMut::new();
        write(&mut out);
        let read = judged(&out);
        assert_eq!(field_count(&out), fields, "{read:?}");
        if let oracle::Performative::Attach(attach) = read {
            assert_eq!(
                (attach.role, attach.handle, attach.initial_delivery_count),
                (Role::Sender, Handle(300), Some(0))
            );
        }
    }
}

proptest! {
    #[test]
    fn a_disposition_says_what_the_oracle_reads(first in any::<u32>(), last in any::<u32>(), receives in any::<bool>()) {
        let mut out = BytesMut::new();
        encode::disposition(&mut out, 7, receives, first, last, &Outcome::Accepted);
        let oracle::Performative::Disposition(read) = judged(&out) else { panic!("a disposition") };
        prop_assert_eq!(read.role == Role::Receiver, receives);
        prop_assert_eq!((read.first, read.last.unwrap_or(read.first), read.settled), (first, last, true));
    }

    #[test]
    fn the_oracles_transfer_is_read(handle in any::<u32>(), id in any::<u32>(), more in any::<bool>(), payload in any::<Vec<u8>>()) {
        let sent = oracle::Performative::Transfer(oracle::Transfer {
            handle: handle.into(),
            delivery_id: Some(id),
            delivery_tag: Some(vec![1; 16].into()),
            message_format: Some(7),
            settled: Some(true),
            more,
            rcv_settle_mode: None,
            state: None,
            resume: false,
            aborted: !more,
            batchable: true,
        });
        let mut body = serde_amqp::to_vec(&sent).unwrap();
        body.extend(&payload);
        let Performative::Transfer(read) = Performative::decode(&body).unwrap() else { panic!("a transfer") };
        prop_assert_eq!((read.handle, read.delivery_id, read.message_format), (handle, Some(id), 7));
        prop_assert_eq!((read.settled, read.more, read.aborted), (true, more, !more));
        prop_assert_eq!(read.payload, &payload[..]);
    }

    #[test]
    fn a_transfer_says_what_the_oracle_reads(handle in any::<u32>(), id in any::<u32>(), tag in any::<[u8; 16]>()) {
        let mut out = BytesMut::new();
        let head = TransferHead { handle, delivery_id: id, tag: Tag::Guid(Guid::from_bytes(tag)), settled: false, more: true };
        encode::transfer(&mut out, 1, head, b"");
        prop_assert!(out.len() <= encode::TRANSFER_OVERHEAD);
        prop_assert_eq!(field_count(&out), 11);
        let oracle::Performative::Transfer(read) = judged(&out) else { panic!("a transfer") };
        prop_assert_eq!((read.handle.0, read.delivery_id, read.more), (handle, Some(id), true));
        prop_assert_eq!(&read.delivery_tag.unwrap()[..], &tag[..]);
    }

    #[test]
    fn a_message_of_the_oracle_is_read(id in "\\PC{0,300}", value in "\\PC{0,40}", body in any::<Vec<u8>>()) {
        let message = Message::builder()
            .properties(Properties::builder().message_id(id.clone()).correlation_id(5u64).content_type("text/plain").build())
            .application_properties(ApplicationProperties::builder().insert("key", value.clone()).build())
            .data(body.clone())
            .build();
        let bytes = serde_amqp::to_vec(&Serializable(message)).unwrap();
        let sections = Sections::decode(&bytes).unwrap();
        let properties = sections.properties().unwrap();
        prop_assert_eq!(display_id(properties.message_id), Some(id));
        prop_assert_eq!(display_id(properties.correlation_id), Some("5".to_owned()));
        prop_assert_eq!(properties.content_type, Some("text/plain"));
        prop_assert_eq!(sections.application_property("key").and_then(read::Value::text), Some(&*value));
        prop_assert_eq!(sections.body().unwrap(), body);
    }

    #[test]
    fn a_message_of_the_hub_is_what_the_oracle_reads(id in any::<[u8; 16]>(), body in any::<Vec<u8>>()) {
        let mut encoded = BytesMut::new();
        write::uuid(&mut encoded, &id);
        let bytes = MessageWriter::default()
            .annotations(1, |out| {
                write::symbol(out, "status");
                write::int(out, 200);
            })
            .properties(&OutProperties { correlation_id: Some(&encoded), ..OutProperties::default() })
            .application(1, |out| {
                write::string(out, "name");
                write::string(out, "value");
            })
            .data(&body)
            .finish();
        let Deserializable(read): Deserializable<Message<Body<serde_amqp::Value>>> = serde_amqp::from_slice(&bytes).unwrap();
        let properties = read.properties.unwrap();
        prop_assert_eq!(properties.correlation_id, Some(MessageId::Uuid(id.into())));
        prop_assert_eq!(read.application_properties.unwrap().0.len(), 1);
        prop_assert_eq!(read.body, Body::Data(vec![Data(Binary::from(body))].into()));
    }

    #[test]
    fn whatever_comes_decoding_stays_within_it(bytes in any::<Vec<u8>>()) {
        prop_assert!(crate::fuzzing::decode_frame(&bytes) <= bytes.len());
        prop_assert!(crate::fuzzing::decode_values(&bytes) <= bytes.len());
        crate::fuzzing::decode_message(&bytes);
    }

    #[test]
    fn whatever_comes_in_whatever_pieces_a_connection_answers(
        frames in proptest::collection::vec((0u8..20, any::<Vec<u8>>()), 0..12),
        piece in 1usize..64,
    ) {
        let mut input = b"AMQP\x00\x01\x00\x00".to_vec();
        let mut out = BytesMut::new();
        encode::open(&mut out, "c", 65_536, 8191, 0);
        for (code, body) in frames {
            frame::put(&mut out, frame::FrameKind::Amqp, u16::from(code % 3), |out| {
                write::descriptor(out, u64::from(code) + 8);
                write::list(out, u32::try_from(body.len()).unwrap_or(0), |out| out.extend(body));
            });
        }
        input.extend(out);
        let whole = feed_amqp(&input, usize::MAX, Between::Nothing);
        prop_assert!(whole.starts_with(b"AMQP"));
        prop_assert_eq!(feed_amqp(&input, piece, Between::Nothing).len(), whole.len());
        // No time passes: it does not wait for a header for ever.
        let turns = feed_amqp(&input, piece, Between::from_bits(0b1_0111));
        prop_assert!(turns.starts_with(b"AMQP"));
    }
}
