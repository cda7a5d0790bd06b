//! MAC commands of LoRaWAN 1.0.x, as far as this server speaks them (TS001-1.0.4, section 5).

use std::time::Duration;

use lrwn::{LinkADRReqPayload, MACCommand, MACCommandSet};

/// What a device asks or answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FromDevice {
    LinkCheckReq,
    LinkAdrAns {
        accepted: bool,
    },
    DevStatusAns {
        battery: u8,
        margin: i8,
    },
    DeviceTimeReq,
    /// An answer that nothing depends on.
    Other,
}

/// Reads commands until the first that is unknown or cut: without its length, what follows cannot
/// be found.
pub(super) fn read(bytes: &[u8]) -> impl Iterator<Item = FromDevice> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (&id, after) = rest.split_first()?;
        let length = match id {
            0x02 | 0x04 | 0x08 | 0x09 | 0x0d => 0,
            0x03 | 0x05 | 0x07 | 0x0a => 1,
            0x06 => 2,
            _ => return None,
        };
        let (payload, after) = after.split_at_checked(length)?;
        rest = after;
        Some(match (id, payload) {
            (0x02, _) => FromDevice::LinkCheckReq,
            (0x03, &[status]) => FromDevice::LinkAdrAns {
                accepted: status & 0x07 == 0x07,
            },
            (0x06, &[battery, margin]) => FromDevice::DevStatusAns {
                battery,
                // Six bits with a sign.
                margin: (margin << 2).cast_signed() >> 2,
            },
            (0x0d, _) => FromDevice::DeviceTimeReq,
            _ => FromDevice::Other,
        })
    })
}

/// `LinkCheckAns`: dB above what the data rate needs, and concentrators that heard it.
pub(super) fn link_check(margin: u8, gateways: u8) -> Vec<u8> {
    vec![0x02, margin, gateways]
}

/// `DeviceTimeAns`: seconds since the GPS epoch and 1/256 of them, at the uplink's end.
pub(super) fn device_time(since_gps_epoch: Duration) -> Vec<u8> {
    let seconds = since_gps_epoch.as_secs() as u32;
    let fraction = (u64::from(since_gps_epoch.subsec_nanos()) * 256 / 1_000_000_000) as u8;
    let mut command = vec![0x0d];
    command.extend(seconds.to_le_bytes());
    command.push(fraction);
    command
}

/// `DevStatusReq`.
pub(super) fn device_status() -> Vec<u8> {
    vec![0x06]
}

/// `LinkADRReq`, a block of them: the last one's data rate and power count.
pub(super) fn link_adr(requests: &[LinkADRReqPayload], data_rate: u8, power: u8) -> Vec<u8> {
    let requests = requests.iter().cloned().map(|mut request| {
        request.dr = data_rate;
        request.tx_power = power;
        request.redundancy.nb_rep = 1;
        MACCommand::LinkADRReq(request)
    });
    // All fields are of four bits or fewer here, which is what could be wrong with them.
    MACCommandSet::new(requests.collect())
        .to_vec()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_up_to_the_first_that_is_unknown_or_cut() {
        use FromDevice::*;
        let read = |bytes: &[u8]| read(bytes).collect::<Vec<_>>();
        assert_eq!(
            read(&[0x02, 0x03, 0x07, 0x0d, 0x06, 0xff, 0x3f, 0x08]),
            [
                LinkCheckReq,
                LinkAdrAns { accepted: true },
                DeviceTimeReq,
                DevStatusAns {
                    battery: 255,
                    margin: -1
                },
                Other
            ]
        );
        assert_eq!(read(&[0x02, 0x80, 0x02]), [LinkCheckReq]);
        assert_eq!(read(&[0x02, 0x06, 0x00]), [LinkCheckReq]);
        assert_eq!(read(&[0x03, 0x06]), [LinkAdrAns { accepted: false }]);
        assert_eq!(
            read(&[0x06, 0, 0xdf])[..],
            [DevStatusAns {
                battery: 0,
                margin: 31
            }]
        );
    }

    #[test]
    fn the_time_is_told_in_seconds_and_256ths() {
        let time = Duration::from_millis(1_000_500);
        assert_eq!(device_time(time), [0x0d, 0xe8, 0x03, 0, 0, 128]);
    }
}
