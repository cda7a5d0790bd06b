//! What devices speak to the gateway: one section for each protocol that is served.

use anyhow::Context as _;
use gateway_core::{GatewayBuilder, Upstream};
use gateway_downstream_coap::{CoapConfig, CoapDownstream};
use gateway_downstream_tcp::{TcpConfig, TcpDownstream};
use serde::de::IgnoredAny;

use super::files;
use super::lorawan::{self, LORAWAN, Lorawan};
use crate::document::Document;
use crate::secret::Surroundings;

const TCP: &str = "downstream.tcp";
const COAP: &str = "downstream.coap";

/// Is what the file says of devices: at least one protocol.
#[derive(Debug)]
pub(crate) struct Devices {
    pub(crate) tcp: Option<TcpConfig>,
    pub(crate) coap: Option<CoapConfig>,
    pub(crate) lorawan: Option<Lorawan>,
}

impl Devices {
    /// Connections that devices may have at a time.
    pub(crate) fn max_connections(&self) -> u64 {
        let tcp = self.tcp.iter().map(|tcp| tcp.limits.max_connections);
        let coap = self.coap.iter().map(|coap| {
            let ports = usize::from(coap.tcp.is_some()) + usize::from(coap.tls.is_some());
            ports * coap.connections.max
        });
        let lorawan = self.lorawan.iter().map(Lorawan::max_connections);
        let all = tcp.chain(coap).chain(lorawan);
        all.map(|count| count as u64).sum()
    }

    /// Tries what cannot be told from the file alone.
    pub(crate) async fn try_out(&self) -> anyhow::Result<()> {
        match &self.lorawan {
            Some(lorawan) => lorawan.try_out().await,
            None => Ok(()),
        }
    }

    /// Listens, and tells where.
    pub(crate) async fn bind<U: Upstream>(
        self,
        mut gateway: GatewayBuilder<U>,
    ) -> anyhow::Result<(GatewayBuilder<U>, Vec<String>)> {
        let mut addresses = Vec::new();
        if let Some(config) = self.tcp {
            let tcp = TcpDownstream::bind(config).await.context(TCP)?;
            addresses.push(tcp.local_addr().to_string());
            gateway = gateway.with_downstream("tcp", tcp);
        }
        if let Some(config) = self.coap {
            let coap = CoapDownstream::bind(config).await.context(COAP)?;
            let open = [
                ("coap", coap.udp_addr()),
                ("coaps", coap.dtls_addr()),
                ("coap+tcp", coap.tcp_addr()),
                ("coaps+tcp", coap.tls_addr()),
            ];
            let open = open.into_iter();
            let open =
                open.filter_map(|(scheme, address)| Some(format!("{scheme}://{}", address?)));
            addresses.extend(open);
            gateway = gateway.with_downstream("coap", coap);
        }
        if let Some(lorawan) = self.lorawan {
            let (added, open) = lorawan.bind(gateway).await?;
            gateway = added;
            addresses.extend(open);
        }
        Ok((gateway, addresses))
    }
}

/// Reads the sections of devices; what is wrong is noted.
pub(super) fn read(
    document: &mut Document<'_>,
    around: &Surroundings<'_>,
    is_broker: Option<bool>,
) -> Option<Devices> {
    let has = [TCP, COAP, LORAWAN].map(|key| document.has(key));
    if has == [false; 3] {
        let problem = format!("is missing; a gateway needs devices: {TCP}, {COAP}, {LORAWAN}");
        document.note(TCP, problem);
    }
    let [tcp, coap, lorawan] = has;
    let devices = Devices {
        tcp: tcp
            .then(|| read_tcp(document, around, is_broker == Some(true)))
            .flatten(),
        coap: coap.then(|| read_coap(document, around)).flatten(),
        lorawan: lorawan.then(|| lorawan::read(document, around)).flatten(),
    };
    document.leave("downstream", &["tcp", "coap", "lorawan"]);
    let read = [
        devices.tcp.is_some(),
        devices.coap.is_some(),
        devices.lorawan.is_some(),
    ];
    (read == has).then_some(devices)
}

fn read_tcp(
    document: &mut Document<'_>,
    around: &Surroundings<'_>,
    is_broker: bool,
) -> Option<TcpConfig> {
    refuse_secrets(document, TCP, "identity.secrets", "secrets_file");
    let mut config = document.section(TCP, TcpConfig::validate)?;
    let path = config.identity.secrets_file.as_mut();
    let key = format!("{TCP}.identity.secrets_file");
    files::secrets(document, around.directory, &key, path);
    if let Some(tls) = &mut config.tls {
        let (section, client_ca) = (format!("{TCP}.tls"), tls.client_ca.as_mut());
        let (certificate, key) = (&mut tls.certificate, &mut tls.key);
        files::server_tls(
            document,
            around.directory,
            &section,
            certificate,
            key,
            client_ca,
        );
    }
    if is_broker && config.identity.token {
        let problem = "is true, also where it is not set, but a broker judges no token of a device; \
                       allowed: false";
        document.note(&format!("{TCP}.identity.token"), problem);
    }
    Some(config)
}

fn read_coap(document: &mut Document<'_>, around: &Surroundings<'_>) -> Option<CoapConfig> {
    refuse_secrets(document, COAP, "identity.tokens", "tokens_file");
    let mut config = document.section(COAP, CoapConfig::validate)?;
    let path = config.identity.tokens_file.as_mut();
    let key = format!("{COAP}.identity.tokens_file");
    files::secrets(document, around.directory, &key, path);
    if let Some(dtls) = &mut config.dtls {
        let key = format!("{COAP}.dtls.keys_file");
        files::dtls_keys(document, around.directory, &key, dtls.keys_file.as_mut());
    }
    if let Some(tls) = &mut config.tls {
        let (section, certificate, key) =
            (format!("{COAP}.tls"), &mut tls.certificate, &mut tls.key);
        files::server_tls(document, around.directory, &section, certificate, key, None);
    }
    Some(config)
}

/// Notes secrets that stand in the file, and takes them out.
pub(super) fn refuse_secrets(document: &mut Document<'_>, section: &str, key: &str, allowed: &str) {
    let key = format!("{section}.{key}");
    if document.has(&key) {
        document.take::<IgnoredAny>(&key);
        let problem = format!("must not stand in this file; allowed: `{allowed}`");
        document.note(&key, problem);
    }
}
