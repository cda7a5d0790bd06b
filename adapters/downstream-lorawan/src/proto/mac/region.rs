//! A region's frequencies, data rates and limits.

use std::fmt;

use lrwn::region::{
    self, CommonName, DataRateModulation, FskDataRate, LoraDataRate, LrFhssDataRate, MacVersion,
    Revision,
};
use serde::{Deserialize, Serialize};

use super::super::radio::{CodingRate, Modulation};

/// Names a region, as RP002 does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
#[expect(missing_docs, reason = "their names are all there is to say")]
pub enum RegionName {
    #[serde(rename = "EU868")]
    Eu868,
    #[serde(rename = "US915")]
    Us915,
    #[serde(rename = "AU915")]
    Au915,
    #[serde(rename = "AS923")]
    As923,
    #[serde(rename = "AS923-2")]
    As923_2,
    #[serde(rename = "AS923-3")]
    As923_3,
    #[serde(rename = "AS923-4")]
    As923_4,
    #[serde(rename = "CN470")]
    Cn470,
    #[serde(rename = "CN779")]
    Cn779,
    #[serde(rename = "EU433")]
    Eu433,
    #[serde(rename = "IN865")]
    In865,
    #[serde(rename = "KR920")]
    Kr920,
    #[serde(rename = "RU864")]
    Ru864,
    #[serde(rename = "ISM2400")]
    Ism2400,
}

impl RegionName {
    fn common(self) -> CommonName {
        match self {
            Self::Eu868 => CommonName::EU868,
            Self::Us915 => CommonName::US915,
            Self::Au915 => CommonName::AU915,
            Self::As923 => CommonName::AS923,
            Self::As923_2 => CommonName::AS923_2,
            Self::As923_3 => CommonName::AS923_3,
            Self::As923_4 => CommonName::AS923_4,
            Self::Cn470 => CommonName::CN470,
            Self::Cn779 => CommonName::CN779,
            Self::Eu433 => CommonName::EU433,
            Self::In865 => CommonName::IN865,
            Self::Kr920 => CommonName::KR920,
            Self::Ru864 => CommonName::RU864,
            Self::Ism2400 => CommonName::ISM2400,
        }
    }
}

/// Says that a channel plan does not fit its region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// This region's channels are fixed, or the frequency cannot be told to a device.
    #[error("the region takes no extra channel at {0} Hz; give up to 5, in multiples of 100 Hz")]
    Channel(u32),
    /// This region has no such group of eight channels.
    #[error("the region has no sub-band {0}; US915 and AU915 have 1 to 8, others none")]
    SubBand(u8),
}

/// Is a region as one network uses it.
pub struct Region {
    name: RegionName,
    plan: Box<dyn region::Region + Send + Sync>,
    max_power: i8,
}

impl Region {
    /// Makes a region with its default channels.
    #[must_use]
    pub fn new(name: RegionName) -> Self {
        Self {
            name,
            plan: region::get(name.common(), false, false),
            max_power: i8::MAX,
        }
    }

    /// Adds channels for the data rates 0 to 5, of which devices learn when they join; Hertz.
    ///
    /// # Errors
    /// [`RegionError::Channel`] where the region's channels are fixed, or there are more than the
    /// five that a join tells.
    pub fn with_channels(mut self, frequencies: &[u32]) -> Result<Self, RegionError> {
        for (index, &frequency) in frequencies.iter().enumerate() {
            // Three bytes of 100 Hz: nothing above 1,677.7 MHz.
            if index >= 5 || frequency % 100 != 0 || frequency == 0 || frequency / 100 >= 1 << 24 {
                return Err(RegionError::Channel(frequency));
            }
            self.plan
                .add_channel(frequency, 0, 5)
                .map_err(|_| RegionError::Channel(frequency))?;
        }
        Ok(self)
    }

    /// Leaves one group of eight channels (1 to 8, with its wide one), as most concentrators for
    /// US915 and AU915 hear no more; devices learn of it when they have joined.
    ///
    /// # Errors
    /// [`RegionError::SubBand`] if there is none.
    pub fn with_sub_band(mut self, sub_band: u8) -> Result<Self, RegionError> {
        let fixed = matches!(self.name, RegionName::Us915 | RegionName::Au915);
        if !fixed || !(1..=8).contains(&sub_band) {
            return Err(RegionError::SubBand(sub_band));
        }
        let group = usize::from(sub_band - 1);
        for channel in self.plan.get_uplink_channel_indices() {
            let wanted = channel / 8 == group || channel == 64 + group;
            let done = if wanted {
                self.plan.enable_uplink_channel_index(channel)
            } else {
                self.plan.disable_uplink_channel_index(channel)
            };
            done.map_err(|_| RegionError::SubBand(sub_band))?;
        }
        Ok(self)
    }

    /// Bounds the power for downlinks, dBm EIRP, where the region allows more.
    #[must_use]
    pub fn with_max_power(mut self, power: i8) -> Self {
        self.max_power = power;
        self
    }

    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> RegionName {
        self.name
    }

    /// Returns the index of an uplink's data rate.
    #[must_use]
    pub fn data_rate(&self, modulation: &Modulation) -> Option<u8> {
        let modulation = match *modulation {
            Modulation::Lora {
                spreading_factor,
                bandwidth,
            } => DataRateModulation::Lora(LoraDataRate {
                spreading_factor,
                bandwidth,
                coding_rate: self.lora_coding_rate().to_owned(),
            }),
            Modulation::Fsk { bit_rate } => {
                DataRateModulation::Fsk(FskDataRate { bitrate: bit_rate })
            }
            Modulation::LrFhss {
                channel_width,
                coding_rate,
            } => {
                // 1/3 and 2/3 are the same as what the regions call 2/6 and 4/6.
                let thirds = if coding_rate.of == 3 { 2 } else { 1 };
                DataRateModulation::LrFhss(LrFhssDataRate {
                    coding_rate: format!(
                        "{}/{}",
                        coding_rate.data * thirds,
                        coding_rate.of * thirds
                    ),
                    occupied_channel_width: channel_width,
                })
            }
        };
        self.plan.get_data_rate_index(true, &modulation).ok()
    }

    /// Returns what a data rate's index means.
    #[must_use]
    pub fn modulation(&self, data_rate: u8) -> Option<Modulation> {
        Some(match self.plan.get_data_rate(data_rate).ok()? {
            DataRateModulation::Lora(lora) => Modulation::Lora {
                spreading_factor: lora.spreading_factor,
                bandwidth: lora.bandwidth,
            },
            DataRateModulation::Fsk(fsk) => Modulation::Fsk {
                bit_rate: fsk.bitrate,
            },
            DataRateModulation::LrFhss(fhss) => Modulation::LrFhss {
                channel_width: fhss.occupied_channel_width,
                coding_rate: fhss.coding_rate.parse::<CodingRate>().ok()?,
            },
        })
    }

    /// Returns the data rates as Basics Station wants them told: spreading factor (0 is FSK, -1 is
    /// none), kHz, and 1 if it is for downlinks only.
    #[must_use]
    pub fn station_data_rates(&self) -> [(i8, u16, u8); 16] {
        let uplink = |index: u8| {
            let modulation = self.plan.get_data_rate(index).ok()?;
            self.plan.get_data_rate_index(true, &modulation).ok()
        };
        std::array::from_fn(|index| {
            let index = index as u8;
            let down_only = u8::from(uplink(index) != Some(index));
            match self.modulation(index) {
                Some(Modulation::Lora {
                    spreading_factor,
                    bandwidth,
                }) => (spreading_factor as i8, (bandwidth / 1000) as u16, down_only),
                Some(Modulation::Fsk { .. }) => (0, 0, down_only),
                _ => (-1, 0, 0),
            }
        })
    }

    /// Returns frequency (Hertz) and data rate of the first window after an uplink.
    pub(super) fn rx1(&self, frequency: u32, data_rate: u8, offset: u8) -> Option<(u32, u8)> {
        let frequency = self.plan.get_rx1_frequency_for_uplink_frequency(frequency);
        let data_rate = self.plan.get_rx1_data_rate_index(data_rate, offset.into());
        frequency.ok().zip(data_rate.ok())
    }

    /// Returns frequency (Hertz) and data rate of the second window, where no other was agreed.
    pub(super) fn rx2(&self) -> (u32, u8) {
        let defaults = self.plan.get_defaults();
        (defaults.rx2_frequency, defaults.rx2_dr)
    }

    /// Returns the bytes between a frame's MHDR and its MIC that a data rate allows.
    pub(super) fn max_mac_payload(&self, data_rate: u8) -> usize {
        self.plan
            .get_max_payload_size(MacVersion::LORAWAN_1_0_4, Revision::Latest, data_rate)
            .map_or(0, |max| max.m)
    }

    /// Returns the power for a downlink, dBm EIRP.
    pub(super) fn power(&self, frequency: u32) -> i8 {
        let allowed = self.plan.get_downlink_tx_power_eirp(frequency) as i8;
        allowed.min(self.max_power)
    }

    /// Returns the channels that a join tells.
    pub(super) fn cf_list(&self) -> Option<lrwn::CFList> {
        // As for 1.0.2, so without masks: what older devices would not understand, LinkADR tells all.
        self.plan.get_cf_list(MacVersion::LORAWAN_1_0_2)
    }

    /// Returns the requests that set a device's channels to the network's, whatever they were.
    pub(super) fn channel_requests(&self) -> Vec<lrwn::LinkADRReqPayload> {
        if self.has_sub_band() {
            let all = self.plan.get_uplink_channel_indices();
            return self
                .plan
                .get_link_adr_req_payloads_for_enabled_uplink_channel_indices(&all);
        }
        let (ch_mask_cntl, channels) = match self.name {
            // All narrow channels, and by the mask the eight wide ones (RP002-1.0.x).
            RegionName::Us915 | RegionName::Au915 => (6, (0..8).collect()),
            RegionName::Cn470 | RegionName::Ism2400 => {
                (0, self.plan.get_enabled_uplink_channel_indices())
            }
            // All that the device has, by a mask of those that every one has (RP002-1.0.x): it
            // refuses one with a channel that no join has told it.
            _ => (6, self.plan.get_default_uplink_channel_indices()),
        };
        let mut mask = lrwn::ChMask::new([false; 16]);
        for channel in channels {
            if channel < 16 {
                mask.set(channel, true);
            }
        }
        vec![lrwn::LinkADRReqPayload {
            dr: 0,
            tx_power: 0,
            ch_mask: mask,
            redundancy: lrwn::Redundancy {
                ch_mask_cntl,
                nb_rep: 1,
            },
        }]
    }

    /// Tells whether a device that has joined must still be told its channels.
    pub(super) fn has_sub_band(&self) -> bool {
        matches!(self.name, RegionName::Us915 | RegionName::Au915)
            && !self.plan.get_disabled_uplink_channel_indices().is_empty()
    }

    /// Returns the fastest data rate that every channel carries, for ADR: LoRa at 125 kHz.
    pub(super) fn max_adr_data_rate(&self) -> u8 {
        (0..8)
            .rev()
            .find(|index| {
                let narrow = matches!(
                    self.modulation(*index),
                    Some(Modulation::Lora {
                        bandwidth: 125_000,
                        ..
                    })
                );
                narrow && self.plan.get_enabled_uplink_data_rates().contains(index)
            })
            .unwrap_or_default()
    }

    /// Tells whether the region has a step of power; 0 is the most.
    pub(super) fn has_power_step(&self, step: u8) -> bool {
        self.plan.get_tx_power_offset(step.into()).is_ok()
    }

    fn lora_coding_rate(&self) -> &'static str {
        match self.name {
            RegionName::Ism2400 => "4/8LI",
            _ => "4/5",
        }
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Region").field(&self.name).finish()
    }
}
