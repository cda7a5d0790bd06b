//! All devices of a network.

use std::collections::HashMap;

use super::super::Key;
use super::super::store::{DeviceRecord, SessionRecord};
use super::join;
use super::profile::{Class, DeviceProfile};
use super::region::Region;
use super::session::Session;
use crate::event::{DevAddr, DevEui};

/// Is how a network runs.
#[derive(Debug)]
#[non_exhaustive]
pub struct NetworkConfig {
    /// Its number; `000000` and `000001` are for everyone's private networks, and the default.
    pub net_id: [u8; 3],
    /// When and how devices listen.
    pub windows: WindowConfig,
}

/// Is when and how devices listen after an uplink. Devices that join are told; what an ABP device
/// was made with must be the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct WindowConfig {
    /// Seconds until the first window, 1 to 15; 1 by default. The second is a second later.
    pub delay: u8,
    /// Steps that the first window's data rate is below the uplink's; 0 by default.
    pub rx1_offset: u8,
    /// Data rate of the second window; the region's by default.
    pub rx2_data_rate: u8,
    /// Frequency of the second window, Hertz; the region's by default. A join does not tell it.
    pub rx2_frequency: u32,
}

impl NetworkConfig {
    /// Makes the defaults of a region.
    #[must_use]
    pub fn new(region: &Region) -> Self {
        let (rx2_frequency, rx2_data_rate) = region.rx2();
        Self {
            net_id: [0; 3],
            windows: WindowConfig {
                delay: 1,
                rx1_offset: 0,
                rx2_data_rate,
                rx2_frequency,
            },
        }
    }

    /// Sets the network's number.
    #[must_use]
    pub fn with_net_id(mut self, net_id: [u8; 3]) -> Self {
        self.net_id = net_id;
        self
    }

    /// Sets the seconds until the first window; what is not 1 to 15 is brought there.
    #[must_use]
    pub fn with_delay(mut self, seconds: u8) -> Self {
        self.windows.delay = seconds.clamp(1, 15);
        self
    }
}

impl WindowConfig {
    pub(super) fn session(
        &self,
        dev_addr: DevAddr,
        nwk_s_key: Key,
        app_s_key: Key,
    ) -> SessionRecord {
        SessionRecord {
            dev_addr,
            nwk_s_key,
            app_s_key,
            next_f_cnt_up: 0,
            last_mic: None,
            next_f_cnt_down: 0,
            unsettled: false,
            rx_delay: self.delay,
            rx1_offset: self.rx1_offset,
            rx2_data_rate: self.rx2_data_rate,
            rx2_frequency: self.rx2_frequency,
            power_step: 0,
            channels_told: false,
            gateway: None,
        }
    }
}

/// Is a network server for LoRaWAN 1.0.x: devices, their sessions and counters.
///
/// It does nothing by itself: frames go in ([`hear`](Self::hear)), messages go in
/// ([`answer`](Self::answer), [`send`](Self::send)), and what is to be sent comes out. After each
/// of these the device's [`record`](Self::record) may have changed, and must be stored before what
/// came out is acted upon, so that a restart neither delivers a frame twice nor uses a counter
/// again.
#[derive(Debug)]
pub struct Network {
    pub(super) region: Region,
    pub(super) config: NetworkConfig,
    pub(super) devices: HashMap<DevEui, Device>,
    /// An address may be several devices': only a frame's MIC tells whose it is.
    pub(super) addresses: HashMap<DevAddr, Vec<DevEui>>,
}

#[derive(Debug)]
pub(super) struct Device {
    pub(super) profile: DeviceProfile,
    /// Without the session in use.
    pub(super) record: DeviceRecord,
    pub(super) session: Option<Session>,
    /// Whether the device shall be asked how it is.
    pub(super) status_wanted: bool,
}

impl Network {
    /// Makes a network without devices.
    #[must_use]
    pub fn new(region: Region, config: NetworkConfig) -> Self {
        Self {
            region,
            config,
            devices: HashMap::new(),
            addresses: HashMap::new(),
        }
    }

    /// Returns its region.
    #[must_use]
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Returns how many devices may use it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.devices.len()
    }

    /// Tells whether no device may use it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    /// Lets a device use the network, with what is remembered of it. A device of the same name is
    /// replaced. An ABP device keeps its counters if its record is of the same session, and begins
    /// anew if its keys are others; it listens as the network is configured now. A device that joins
    /// begins anew if it joined with another key, or had its session without joining.
    pub fn insert(&mut self, profile: DeviceProfile, record: Option<DeviceRecord>) {
        let dev_eui = profile.dev_eui;
        self.remove(dev_eui);
        let mut record = record
            .filter(|record| record.dev_eui == dev_eui)
            .unwrap_or_else(|| DeviceRecord::new(dev_eui));
        join::forget_other_key(&profile, &mut record);
        if let Some(made_with) = profile.abp_session(&self.config.windows) {
            let known = record.session.take().filter(|session| {
                (session.dev_addr, session.nwk_s_key, session.app_s_key)
                    == (made_with.dev_addr, made_with.nwk_s_key, made_with.app_s_key)
            });
            let counted = known.map(|known| SessionRecord {
                // When it listens is a setting, and nothing that it could be told.
                rx_delay: made_with.rx_delay,
                rx1_offset: made_with.rx1_offset,
                rx2_data_rate: made_with.rx2_data_rate,
                rx2_frequency: made_with.rx2_frequency,
                ..known
            });
            record.session = Some(counted.unwrap_or(made_with));
            record.joined = None;
        }
        let sessions = [&record.session, &record.joined];
        for address in sessions
            .into_iter()
            .flatten()
            .map(|session| session.dev_addr)
        {
            Self::note_address(&mut self.addresses, address, dev_eui);
        }
        // Kept apart, with what need not be remembered.
        let session = record.session.take().map(Session::new);
        let device = Device {
            profile,
            record,
            session,
            status_wanted: false,
        };
        self.devices.insert(dev_eui, device);
    }

    /// Takes a device from the network, and returns what is remembered of it.
    pub fn remove(&mut self, dev_eui: DevEui) -> Option<DeviceRecord> {
        let device = self.devices.remove(&dev_eui)?;
        let record = device.into_record();
        for session in [&record.session, &record.joined].into_iter().flatten() {
            Self::forget_address(&mut self.addresses, session.dev_addr, dev_eui);
        }
        Some(record)
    }

    /// Returns what must be remembered of a device.
    #[must_use]
    pub fn record(&self, dev_eui: DevEui) -> Option<DeviceRecord> {
        self.devices.get(&dev_eui).map(Device::to_record)
    }

    /// Returns what changes with every frame of a device: its session in use.
    #[must_use]
    pub fn session(&self, dev_eui: DevEui) -> Option<&SessionRecord> {
        let session = self.devices.get(&dev_eui)?.session.as_ref();
        session.map(|session| &session.record)
    }

    /// Takes the word on a [confirmed uplink](super::Uplink::confirmed) with this counter and MIC,
    /// and tells whether its acknowledgement is due now: it is if its message was taken. If it was
    /// lost, it is handed out again when its device repeats it. Nothing happens if the device has
    /// said something newer.
    pub fn settle(&mut self, dev_eui: DevEui, counter: u32, mic: [u8; 4], taken: bool) -> bool {
        let device = self.devices.get_mut(&dev_eui);
        let session = device.and_then(|device| device.session.as_mut());
        session.is_some_and(|session| session.settle_uplink(counter, mic, taken))
    }

    /// Tells whether the last uplink of a device will want an acknowledgement once it is
    /// [settled](Self::settle).
    #[must_use]
    pub fn is_unsettled(&self, dev_eui: DevEui) -> bool {
        let session = self.devices.get(&dev_eui);
        let session = session.and_then(|device| device.session.as_ref());
        session.is_some_and(|session| session.in_hand)
    }

    /// Asks a device how it is, with the next answer to it; see [`Uplink::status`].
    ///
    /// [`Uplink::status`]: super::Uplink::status
    pub fn ask_status(&mut self, dev_eui: DevEui) {
        if let Some(device) = self.devices.get_mut(&dev_eui) {
            device.status_wanted = true;
        }
    }

    pub(super) fn note_address(
        addresses: &mut HashMap<DevAddr, Vec<DevEui>>,
        address: DevAddr,
        dev_eui: DevEui,
    ) {
        let devices = addresses.entry(address).or_default();
        if !devices.contains(&dev_eui) {
            devices.push(dev_eui);
        }
    }

    pub(super) fn forget_address(
        addresses: &mut HashMap<DevAddr, Vec<DevEui>>,
        address: DevAddr,
        dev_eui: DevEui,
    ) {
        if let Some(devices) = addresses.get_mut(&address) {
            devices.retain(|device| *device != dev_eui);
            if devices.is_empty() {
                addresses.remove(&address);
            }
        }
    }
}

impl Device {
    fn to_record(&self) -> DeviceRecord {
        let mut record = self.record.clone();
        record.session = self.session.as_ref().map(|session| session.record.clone());
        record
    }

    fn into_record(self) -> DeviceRecord {
        let mut record = self.record;
        record.session = self.session.map(|session| session.record);
        record
    }

    pub(super) fn is_class_c(&self) -> bool {
        self.profile.class == Class::C
    }
}
