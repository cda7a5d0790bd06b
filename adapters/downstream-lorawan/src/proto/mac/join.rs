//! A device joins: its request is answered with a new session.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use lrwn::{
    AES128Key, DLSettings, EUI64, FType, JoinAcceptPayload, JoinRequestPayload, JoinType, MHDR,
    Major, NetID, Payload, PhyPayload, keys,
};

use super::super::store::{DeviceRecord, SessionRecord};
use super::super::{Eui64, Key};
use super::network::NetworkConfig;
use super::outcome::Refusal;
use super::profile::{Activation, DeviceProfile, NonceRule};
use super::region::Region;
use crate::event::{DevAddr, DevEui};

/// JoinNonce has 24 bits.
const JOIN_NONCES: u32 = 1 << 24;

/// The first JoinNonce: a device of LoRaWAN 1.0.4 takes one that is above its last, which is 0 at
/// first in LoRaMac-node.
const FIRST_JOIN_NONCE: u32 = 1;

/// Judges a join-request and makes the session and the answer.
pub(super) fn accept(
    profile: &DeviceProfile,
    record: &mut DeviceRecord,
    phy: &PhyPayload,
    request: &JoinRequestPayload,
    config: &NetworkConfig,
    region: &Region,
) -> Result<(SessionRecord, Vec<u8>), Refusal> {
    let dev_eui = profile.dev_eui;
    let Activation::Otaa {
        app_key,
        join_eui,
        nonces,
    } = &profile.activation
    else {
        return Err(Refusal::UnknownDevice(dev_eui));
    };
    let named = Eui64::from_be_bytes(request.join_eui.to_be_bytes());
    if join_eui.is_some_and(|join_eui| join_eui != named) {
        return Err(Refusal::UnknownDevice(dev_eui));
    }
    let app_key = AES128Key::from_bytes(app_key.expose());
    if !phy.validate_join_request_mic(&app_key).unwrap_or(false) {
        return Err(Refusal::JoinMic(dev_eui));
    }
    let nonce = request.dev_nonce;
    let join_nonce = record.next_join_nonce.max(FIRST_JOIN_NONCE);
    if join_nonce >= JOIN_NONCES {
        return Err(Refusal::Exhausted(dev_eui));
    }
    let is_new = match nonces {
        NonceRule::New => record.nonces.take(nonce),
        NonceRule::Higher => record.nonces.take_up_to(nonce),
    };
    if !is_new {
        return Err(Refusal::NonceUsed(dev_eui));
    }
    record.next_join_nonce = join_nonce + 1;
    record.app_key_mark = mark(dev_eui, &app_key);

    let net_id = NetID::from_be_bytes(config.net_id);
    let eui = &request.join_eui;
    let nwk_s_key =
        keys::get_f_nwk_s_int_key(false, &app_key, &net_id, eui, join_nonce, nonce).ok();
    let app_s_key = keys::get_app_s_key(false, &app_key, &net_id, eui, join_nonce, nonce).ok();
    let made = nwk_s_key.zip(app_s_key).and_then(|(nwk_s_key, app_s_key)| {
        let session = config.windows.session(
            address(dev_eui, join_nonce, net_id),
            Key::new(nwk_s_key.to_bytes()),
            Key::new(app_s_key.to_bytes()),
        );
        let frame = answer(&session, request, join_nonce, net_id, &app_key, region)?;
        Some((session, frame))
    });
    made.ok_or(Refusal::Malformed)
}

/// Forgets what a device was allowed by another AppKey than it has: sessions, and nonces to come; and
/// the session that it had before it was to join.
pub(super) fn forget_other_key(profile: &DeviceProfile, record: &mut DeviceRecord) {
    let Activation::Otaa { app_key, .. } = &profile.activation else {
        return;
    };
    let own = mark(profile.dev_eui, &AES128Key::from_bytes(app_key.expose()));
    if record.app_key_mark.is_some() && record.app_key_mark != own {
        *record = DeviceRecord {
            // A device may want it above its last one whatever its key is; it comes round in the end.
            next_join_nonce: record.next_join_nonce % JOIN_NONCES,
            ..DeviceRecord::new(profile.dev_eui)
        };
    }
    if record.nonces.highest().is_none() {
        (record.session, record.joined) = (None, None);
    }
}

/// Derives what an AppKey is known by: half of a key that LoRaWAN 1.0 has no use for (JSIntKey,
/// LoRaWAN 1.1, section 6.1.1.3).
fn mark(dev_eui: DevEui, app_key: &AES128Key) -> Option<[u8; 8]> {
    let derived = keys::get_js_int_key(&EUI64::from_be_bytes(dev_eui.bytes()), app_key);
    derived.ok()?.to_bytes().first_chunk().copied()
}

/// Derives a session's address. It need not be unique, so nothing must be remembered for it.
fn address(dev_eui: DevEui, join_nonce: u32, net_id: NetID) -> DevAddr {
    let mut hasher = DefaultHasher::new();
    (dev_eui, join_nonce).hash(&mut hasher);
    let mut address = lrwn::DevAddr::from_be_bytes((hasher.finish() as u32).to_be_bytes());
    address.set_dev_addr_prefix(net_id.dev_addr_prefix());
    DevAddr::new(address.to_be_bytes())
}

fn answer(
    session: &SessionRecord,
    request: &JoinRequestPayload,
    join_nonce: u32,
    net_id: NetID,
    app_key: &AES128Key,
    region: &Region,
) -> Option<Vec<u8>> {
    let mut phy = PhyPayload {
        mhdr: MHDR {
            f_type: FType::JoinAccept,
            major: Major::LoRaWANR1,
        },
        payload: Payload::JoinAccept(JoinAcceptPayload {
            join_nonce,
            home_netid: net_id,
            devaddr: lrwn::DevAddr::from_be_bytes(session.dev_addr.bytes()),
            dl_settings: DLSettings {
                opt_neg: false,
                rx2_dr: session.rx2_data_rate,
                rx1_dr_offset: session.rx1_offset,
            },
            rx_delay: session.rx_delay,
            cflist: region.cf_list(),
        }),
        mic: None,
    };
    let (join_eui, nonce) = (&request.join_eui, request.dev_nonce);
    phy.set_join_accept_mic(JoinType::Join, join_eui, nonce, app_key)
        .ok()?;
    phy.encrypt_join_accept_payload(app_key).ok()?;
    phy.to_vec().ok()
}
