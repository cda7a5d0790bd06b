//! A session in use as a row of bytes: it is written with every frame, and in JSON it is five times as
//! large.

use serde::de::Error as _;

use crate::event::DevAddr;
use crate::proto::store::SessionRecord;
use crate::proto::{Eui64, Key};

/// The row's first byte. Rows of JSON, as they were before, begin with a brace.
const FORM: u8 = 1;
/// With a concentrator and a MIC.
const LONGEST: usize = 66;

const UNSETTLED: u8 = 1;
const CHANNELS_TOLD: u8 = 2;
const HAS_GATEWAY: u8 = 4;
/// Rows as they were before have none.
const HAS_MIC: u8 = 8;

pub(super) fn encode(session: &SessionRecord) -> Vec<u8> {
    let SessionRecord {
        dev_addr,
        nwk_s_key,
        app_s_key,
        next_f_cnt_up,
        last_mic,
        next_f_cnt_down,
        rx_delay,
        rx1_offset,
        rx2_data_rate,
        rx2_frequency,
        unsettled,
        power_step,
        channels_told,
        gateway,
    } = session;
    let flag = |is: bool, flag: u8| if is { flag } else { 0 };
    let flags = flag(*unsettled, UNSETTLED)
        | flag(*channels_told, CHANNELS_TOLD)
        | flag(gateway.is_some(), HAS_GATEWAY)
        | flag(last_mic.is_some(), HAS_MIC);
    let mut row = Vec::with_capacity(LONGEST);
    row.extend([FORM, flags]);
    row.extend(dev_addr.bytes());
    row.extend(nwk_s_key.expose());
    row.extend(app_s_key.expose());
    row.extend(next_f_cnt_up.to_be_bytes());
    row.extend(next_f_cnt_down.to_be_bytes());
    row.extend(rx2_frequency.to_be_bytes());
    row.extend([*rx_delay, *rx1_offset, *rx2_data_rate, *power_step]);
    row.extend(
        gateway
            .iter()
            .flat_map(|gateway| gateway.get().to_be_bytes()),
    );
    row.extend(last_mic.iter().flatten());
    row
}

pub(super) fn decode(row: &[u8]) -> Result<SessionRecord, serde_json::Error> {
    match row {
        [FORM, flags, row @ ..] => read(*flags, row).ok_or_else(|| {
            serde_json::Error::custom("the row of a session is too short or too long")
        }),
        json => serde_json::from_slice(json),
    }
}

fn read(flags: u8, mut row: &[u8]) -> Option<SessionRecord> {
    let row = &mut row;
    let session = SessionRecord {
        dev_addr: DevAddr::new(take(row)?),
        nwk_s_key: Key::new(take(row)?),
        app_s_key: Key::new(take(row)?),
        next_f_cnt_up: u32::from_be_bytes(take(row)?),
        next_f_cnt_down: u32::from_be_bytes(take(row)?),
        rx2_frequency: u32::from_be_bytes(take(row)?),
        rx_delay: u8::from_be_bytes(take(row)?),
        rx1_offset: u8::from_be_bytes(take(row)?),
        rx2_data_rate: u8::from_be_bytes(take(row)?),
        power_step: u8::from_be_bytes(take(row)?),
        unsettled: flags & UNSETTLED != 0,
        channels_told: flags & CHANNELS_TOLD != 0,
        gateway: match flags & HAS_GATEWAY {
            0 => None,
            _ => Some(Eui64::from_be_bytes(take(row)?)),
        },
        last_mic: match flags & HAS_MIC {
            0 => None,
            _ => Some(take(row)?),
        },
    };
    row.is_empty().then_some(session)
}

fn take<const N: usize>(row: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = row.split_first_chunk()?;
    *row = rest;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_session_reads_back_as_it_was_written_in_bytes_and_in_json(
            addr: [u8; 4], keys: [[u8; 16]; 2], counters: [u32; 3], small: [u8; 4],
            unsettled: bool, channels_told: bool, gateway: Option<u64>,
            last_mic: Option<[u8; 4]>,
        ) {
            let session = SessionRecord {
                dev_addr: DevAddr::new(addr),
                nwk_s_key: Key::new(keys[0]),
                app_s_key: Key::new(keys[1]),
                next_f_cnt_up: counters[0],
                last_mic,
                next_f_cnt_down: counters[1],
                rx_delay: small[0],
                rx1_offset: small[1],
                rx2_data_rate: small[2],
                rx2_frequency: counters[2],
                unsettled,
                power_step: small[3],
                channels_told,
                gateway: gateway.map(Eui64::new),
            };
            let row = encode(&session);
            prop_assert!(row.len() <= LONGEST);
            prop_assert_eq!(decode(&row).unwrap(), session.clone());
            prop_assert_eq!(decode(&serde_json::to_vec(&session).unwrap()).unwrap(), session);
            prop_assert!(decode(&row[..row.len() - 1]).is_err());
            prop_assert!(decode(&[row, vec![0]].concat()).is_err());
        }
    }
}
