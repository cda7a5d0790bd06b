//! What the hub allows, with the real hub's figures as defaults.

use std::time::Duration;

use crate::clock::CENTURY;
use crate::hub::feedback::FeedbackRules;
use crate::hub::queue::QueueRules;
use crate::hub::throttle::Size;

/// Limits of the hub; the defaults are the real hub's.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// CBS tokens a connection; default 1000.
    pub tokens_per_connection: usize,
    /// How long a device holds a cloud-to-device message; default 60 s.
    pub c2d_lock: Duration,
    /// Cloud-to-device messages that wait for one device; default 50.
    pub c2d_queue_depth: usize,
    /// Deliveries after which a message is dead; default 10.
    pub max_delivery_count: u32,
    /// Whether a lapsed lock counts as a delivery; default false, as the newest documentation has it.
    pub lapsed_lock_counts: bool,
    /// Feedback records that fill a batch; default 64.
    pub feedback_batch: usize,
    /// How long a batch of feedback waits to be filled; default 15 s.
    pub feedback_wait: Duration,
    /// How long a receiver holds a batch of feedback; default 60 s, the real hub takes 5 to 300 s.
    pub feedback_lock: Duration,
    /// How long a batch of feedback waits for a receiver; default 1 h.
    pub feedback_ttl: Duration,
    /// Deliveries after which a batch of feedback is dropped; default 10.
    pub feedback_max_delivery_count: u32,
    /// Link credit that telemetry, method and twin links are given; default 1000.
    pub credit: u32,
    /// Link credit that a `$cbs` link is given; default 100.
    pub cbs_credit: u32,
    /// Incoming window of a session in frames; default 5000.
    pub incoming_window: u32,
    /// How long a client may be silent; default 240 s.
    pub idle_timeout: Duration,
    /// Shortest idle time-out that a client may ask for; default 5 s.
    pub min_client_idle_timeout: Duration,
    /// Highest link handle in a session; default 262143.
    pub handle_max: u32,
    /// Highest channel of a connection; default 8191.
    pub channel_max: u16,
    /// Largest frame in bytes; default 65536.
    pub max_frame_size: u32,
    /// Largest telemetry message or batch in bytes; default 256 KB.
    pub max_telemetry_size: usize,
    /// Links a connection; default 65536. The real hub's bound is not known.
    pub links_per_connection: usize,
    /// Bytes that an AMQP client may make the hub hold in deliveries that it does not end and in
    /// messages that it gives no credit for; default 16 MiB, sixteen of the largest. Beyond them the
    /// link with the most is detached. The real hub's bound is not known. Names of links and tokens
    /// do not count: they are at most 1 KiB each.
    pub held_per_connection: usize,
    /// How long an MQTT client may take to send its CONNECT; default 30 s.
    pub mqtt_connect_timeout: Duration,
    /// How long an MQTT packet may take to arrive once it has begun; default 60 s, enough for a
    /// message of 256 KB at 35 kbit/s.
    pub mqtt_packet_timeout: Duration,
    /// How long an MQTT client may be silent, whatever keep-alive it asks for; default 1767 s.
    pub mqtt_max_silence: Duration,
    /// Cloud-to-device messages that an MQTT client may leave unacknowledged; default 16. The real
    /// hub's figure is not public.
    pub mqtt_in_flight: usize,
    /// How long an HTTP client may be silent between two requests, take for the headers of one, and
    /// let an answer wait unread; default 120 s, as Windows' own server has it.
    pub http_idle_timeout: Duration,
    /// How long the body of an HTTP request may take to arrive; default 60 s.
    pub http_body_timeout: Duration,
    /// Largest body of an HTTP request in bytes; default 1 MiB, which a bulk operation fits in.
    pub max_http_body: usize,
    /// How long an AMQP client may take from the first byte to its open; default 60 s, as
    /// Azure/azure-amqp waits.
    pub amqp_open_timeout: Duration,
    /// Whether the hub is of the basic tier, which has no cloud-to-device messages, methods and
    /// twins; default false.
    pub basic_tier: bool,
    /// Receive links that may be opened on the hub in ten seconds before more are refused with
    /// 503008; default none. The real hub's figure is not public.
    pub receive_link_opens: Option<u32>,
    /// Direct methods of one device that may wait for an answer; default none. The real hub's figure
    /// is not public.
    pub methods_in_flight: Option<usize>,
    /// Whether a connection gets a token back when the last link of its device is detached; default
    /// false. What the real hub does is not known.
    pub detach_frees_token: bool,
    /// Whether `$cbs` knows the operation `delete-token`; default false. What the real hub does is
    /// not known.
    pub delete_token: bool,
    /// The status that answers a report of properties over AMQP; default 200, as logged in
    /// Azure/azure-iot-sdk-c issue 1386.
    pub twin_report_status: i32,
    /// Tier and units, whose throttles and daily quota are enforced; default none, so that nothing is.
    pub size: Option<Size>,
    /// What of its rules about who may do what the hub enforces; default all of them.
    pub checks: Checks,
}

/// Rules about who may do what, each with a switch; all are on by default, as in the real hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checks {
    /// Whether a token must be signed with a key of whom it speaks for.
    pub signature: bool,
    /// Whether a token ends, and with it what was opened under it.
    pub expiry: bool,
    /// Whether a token is good only for the hub, and the part of it, that it names.
    pub scope: bool,
    /// Whether a disabled device is turned away.
    pub disabled: bool,
    /// Whether a newer receiver of a device displaces the older one.
    pub link_steal: bool,
}

impl Default for Checks {
    fn default() -> Self {
        Self {
            signature: true,
            expiry: true,
            scope: true,
            disabled: true,
            link_steal: true,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tokens_per_connection: 1000,
            c2d_lock: Duration::from_secs(60),
            c2d_queue_depth: 50,
            max_delivery_count: 10,
            lapsed_lock_counts: false,
            feedback_batch: 64,
            feedback_wait: Duration::from_secs(15),
            feedback_lock: Duration::from_secs(60),
            feedback_ttl: Duration::from_secs(3600),
            feedback_max_delivery_count: 10,
            credit: 1000,
            cbs_credit: 100,
            incoming_window: 5000,
            idle_timeout: Duration::from_secs(240),
            min_client_idle_timeout: Duration::from_secs(5),
            handle_max: 262_143,
            channel_max: 8191,
            max_frame_size: 65_536,
            max_telemetry_size: 256 * 1024,
            links_per_connection: 65_536,
            held_per_connection: 16 * 1024 * 1024,
            mqtt_connect_timeout: Duration::from_secs(30),
            mqtt_packet_timeout: Duration::from_secs(60),
            mqtt_max_silence: Duration::from_secs(1767),
            mqtt_in_flight: 16,
            http_idle_timeout: Duration::from_secs(120),
            http_body_timeout: Duration::from_secs(60),
            max_http_body: 1024 * 1024,
            amqp_open_timeout: Duration::from_secs(60),
            basic_tier: false,
            receive_link_opens: None,
            methods_in_flight: None,
            detach_frees_token: false,
            delete_token: false,
            twin_report_status: 200,
            size: None,
            checks: Checks::default(),
        }
    }
}

macro_rules! with {
    ($($name:ident, $field:ident: $type:ty, $what:literal;)*) => {
        impl Limits {$(
            #[doc = concat!("Sets ", $what, ".")]
            #[must_use]
            pub fn $name(mut self, value: $type) -> Self {
                self.$field = value;
                self
            }
        )*}
    };
}

with! {
    with_tokens_per_connection, tokens_per_connection: usize, "the number of CBS tokens a connection";
    with_c2d_lock, c2d_lock: Duration, "how long a device holds a cloud-to-device message";
    with_c2d_queue_depth, c2d_queue_depth: usize, "how many cloud-to-device messages wait for a device";
    with_max_delivery_count, max_delivery_count: u32, "after how many deliveries a message is dead";
    with_lapsed_lock_counts, lapsed_lock_counts: bool, "whether a lapsed lock counts as a delivery";
    with_feedback_batch, feedback_batch: usize, "how many feedback records fill a batch";
    with_feedback_wait, feedback_wait: Duration, "how long a batch of feedback waits to be filled";
    with_feedback_lock, feedback_lock: Duration, "how long a receiver holds a batch of feedback";
    with_feedback_ttl, feedback_ttl: Duration, "how long a batch of feedback waits for a receiver";
    with_feedback_max_delivery_count, feedback_max_delivery_count: u32, "after how many deliveries a batch of feedback is dropped";
    with_credit, credit: u32, "the link credit of telemetry, method and twin links";
    with_cbs_credit, cbs_credit: u32, "the link credit of `$cbs` links";
    with_incoming_window, incoming_window: u32, "the incoming window of a session in frames";
    with_idle_timeout, idle_timeout: Duration, "how long a client may be silent";
    with_min_client_idle_timeout, min_client_idle_timeout: Duration, "the shortest idle time-out a client may ask for";
    with_handle_max, handle_max: u32, "the highest link handle in a session";
    with_channel_max, channel_max: u16, "the highest channel of a connection";
    with_max_frame_size, max_frame_size: u32, "the largest frame in bytes, at least 512";
    with_max_telemetry_size, max_telemetry_size: usize, "the largest telemetry message in bytes";
    with_mqtt_connect_timeout, mqtt_connect_timeout: Duration, "how long an MQTT client may take to send its CONNECT";
    with_mqtt_packet_timeout, mqtt_packet_timeout: Duration, "how long an MQTT packet may take to arrive";
    with_mqtt_max_silence, mqtt_max_silence: Duration, "how long an MQTT client may be silent at most";
    with_mqtt_in_flight, mqtt_in_flight: usize, "how many messages an MQTT client may leave unacknowledged, at least 1";
    with_links_per_connection, links_per_connection: usize, "the number of links a connection";
    with_held_per_connection, held_per_connection: usize, "how many bytes an AMQP client may make the hub hold";
    with_http_idle_timeout, http_idle_timeout: Duration, "how long an HTTP client may be silent";
    with_http_body_timeout, http_body_timeout: Duration, "how long the body of an HTTP request may take";
    with_max_http_body, max_http_body: usize, "the largest body of an HTTP request in bytes";
    with_amqp_open_timeout, amqp_open_timeout: Duration, "how long an AMQP client may take to open";
    with_basic_tier, basic_tier: bool, "whether the hub is of the basic tier";
    with_receive_link_opens, receive_link_opens: Option<u32>, "how many receive links may be opened in ten seconds";
    with_methods_in_flight, methods_in_flight: Option<usize>, "how many methods of a device may wait for an answer";
    with_detach_frees_token, detach_frees_token: bool, "whether a detached device frees its token";
    with_delete_token, delete_token: bool, "whether `$cbs` knows `delete-token`";
    with_twin_report_status, twin_report_status: i32, "the status of a report of properties over AMQP";
    with_size, size: Option<Size>, "tier and units";
    with_checks, checks: Checks, "what is enforced of the rules about who may do what";
}

impl Limits {
    /// The same with times that can be added to any instant: none is longer than 100 years.
    pub(crate) fn bounded(mut self) -> Self {
        for time in [
            &mut self.c2d_lock,
            &mut self.feedback_wait,
            &mut self.feedback_lock,
            &mut self.feedback_ttl,
            &mut self.idle_timeout,
            &mut self.min_client_idle_timeout,
            &mut self.mqtt_connect_timeout,
            &mut self.mqtt_packet_timeout,
            &mut self.mqtt_max_silence,
            &mut self.http_idle_timeout,
            &mut self.http_body_timeout,
            &mut self.amqp_open_timeout,
        ] {
            *time = (*time).min(CENTURY);
        }
        self
    }

    pub(crate) fn feedback_rules(&self) -> FeedbackRules {
        FeedbackRules {
            batch: self.feedback_batch,
            wait: self.feedback_wait,
            lock: self.feedback_lock,
            ttl: self.feedback_ttl,
            max_deliveries: self.feedback_max_delivery_count,
        }
    }

    pub(crate) fn queue_rules(&self) -> QueueRules {
        QueueRules {
            depth: self.c2d_queue_depth,
            lock: self.c2d_lock,
            max_deliveries: self.max_delivery_count,
            lapsed_lock_counts: self.lapsed_lock_counts,
        }
    }
}
