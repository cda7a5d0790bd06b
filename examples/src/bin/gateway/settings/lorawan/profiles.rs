//! How devices of each kind are treated, and who reads their payloads.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use gateway_core::ConfigError;
use gateway_downstream_lorawan::embed::{Profile, ProfileConfig};
use gateway_downstream_lorawan::payload::{
    CayenneLpp, JavaScriptCodec, JavaScriptConfig, PayloadCodec,
};
use gateway_downstream_lorawan::server::ServerConfig;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::super::files::resolve;
use crate::document::Document;
use crate::secret::Surroundings;

const PROFILES: &str = "downstream.lorawan.profiles";
const DEFAULT: &str = "downstream.lorawan.profile";

/// The codecs by their profiles' names.
pub(super) type Codecs = BTreeMap<String, Arc<dyn PayloadCodec>>;

/// The profiles by their names.
pub(super) type Named = BTreeMap<String, Arc<Profile>>;

/// Is all profiles of the file.
#[derive(Debug, Clone, Default)]
pub(super) struct Profiles {
    /// That of devices that name none.
    default: Option<String>,
    configs: BTreeMap<String, ProfileConfig>,
    codecs: BTreeMap<String, CodecConfig>,
}

/// Says who reads and writes the payloads of a profile's devices.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum CodecConfig {
    /// Cayenne LPP, which only reads.
    CayenneLpp {},
    /// A script of the devices' maker.
    Javascript {
        file: PathBuf,
        #[serde(default)]
        settings: JavaScriptConfig,
    },
}

impl CodecConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        match self {
            Self::CayenneLpp {} => Ok(()),
            Self::Javascript { settings, .. } => settings
                .validate()
                .map_err(|error| error.within("settings")),
        }
    }

    async fn load(&self) -> anyhow::Result<Arc<dyn PayloadCodec>> {
        Ok(match self {
            Self::CayenneLpp {} => Arc::new(CayenneLpp::new()),
            Self::Javascript { file, settings } => {
                let name = || file.display().to_string();
                let script = std::fs::read_to_string(file).with_context(name)?;
                let codec = JavaScriptCodec::load(&script, settings.clone()).await;
                Arc::new(codec.with_context(name)?)
            }
        })
    }
}

/// Reads the profiles; what is wrong is noted.
pub(super) fn read(document: &mut Document<'_>, around: &Surroundings<'_>) -> Option<Profiles> {
    let mut profiles = Profiles::default();
    let mut is_whole = true;
    for name in document.names(PROFILES) {
        if name.contains('.') {
            // A key with a dot in it is that of another table.
            let problem = format!("has a profile {name:?}; allowed: names without a dot");
            document.note(PROFILES, problem);
            is_whole = false;
            continue;
        }
        let section = format!("{PROFILES}.{name}");
        let key = format!("{section}.codec");
        if document.has(&key) {
            let mut codec = document.section(&key, CodecConfig::validate);
            if let Some(CodecConfig::Javascript { file, .. }) = &mut codec {
                resolve(
                    document,
                    around.directory,
                    &format!("{key}.file"),
                    Some(file),
                );
            }
            is_whole &= codec.is_some();
            profiles
                .codecs
                .extend(codec.map(|codec| (name.clone(), codec)));
        }
        let config = document.section(&section, ProfileConfig::validate);
        is_whole &= config.is_some();
        profiles.configs.extend(config.map(|config| (name, config)));
    }
    document.section::<BTreeMap<String, IgnoredAny>>(PROFILES, |_| Ok(()));
    profiles.default = document.take(DEFAULT);
    if let Some(name) = profiles.default.clone() {
        profiles.check(document, DEFAULT, "", &name);
    }
    is_whole.then_some(profiles)
}

impl Profiles {
    /// Notes at a key if there is no profile of the name that it, or something in it, gives.
    pub(super) fn check(&self, document: &mut Document<'_>, key: &str, place: &str, name: &str) {
        // One that is there but wrong is noted already.
        if !self.configs.contains_key(name) && !document.has(&format!("{PROFILES}.{name}")) {
            let known: Vec<_> = self.configs.keys().map(String::as_str).collect();
            let known = known.join(", ");
            let problem = format!("{place}names {name:?}, which is no profile; allowed: {known}");
            document.note(key, problem);
        }
    }

    /// Sets the profiles of a network server, whose devices are known by now.
    pub(super) fn apply(&self, server: &mut ServerConfig) {
        server.profiles = self.configs.clone();
        for device in &mut server.devices {
            device.profile = device.profile.take().or_else(|| self.default.clone());
        }
    }

    /// Loads the codecs, which shows whether scripts run.
    pub(super) async fn load(&self) -> anyhow::Result<Codecs> {
        let mut loaded = Codecs::new();
        for (name, codec) in &self.codecs {
            let context = || format!("{PROFILES}.{name}.codec");
            loaded.insert(name.clone(), codec.load().await.with_context(context)?);
        }
        Ok(loaded)
    }

    /// Makes the profiles.
    pub(super) fn make(&self, codecs: &Codecs) -> anyhow::Result<Named> {
        let mut named = Named::new();
        for (name, config) in &self.configs {
            let mut profile = Profile::new(config.clone())?;
            if let Some(codec) = codecs.get(name) {
                profile = profile.with_codec(codec.clone());
            }
            named.insert(name.clone(), Arc::new(profile));
        }
        Ok(named)
    }

    /// Finds the profile that a device names, or else the default.
    pub(super) fn find(&self, named: &Named, name: Option<&str>) -> Arc<Profile> {
        let name = name.or(self.default.as_deref());
        let profile = name.and_then(|name| named.get(name));
        profile.cloned().unwrap_or_default()
    }
}
