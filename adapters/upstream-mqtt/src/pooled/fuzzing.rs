//! Topics that an operator has chosen, for fuzz targets.

use gateway_core::DeviceId;

use super::template::{Purpose, Template, Values};

/// Everything that a topic may name.
const NAMES: &[&str] = &[
    "{device_id}",
    "{message_id}",
    "{method}",
    "{request_id}",
    "{status}",
    "{properties}",
    "{property:...}",
];

/// Reads topics by a template.
///
/// # Panics
/// Panics if what is read of a topic leads to a topic of which something else is read.
pub fn read_topics<'a>(template: &str, topics: impl Iterator<Item = &'a str>) {
    let purpose = Purpose {
        key: "any",
        allowed: NAMES,
        required: &[],
        is_heard: true,
    };
    let Ok(template) = Template::parse(template, "gateway-1", purpose) else {
        return;
    };
    assert!(template.overlaps(&template));
    for topic in topics {
        let Some(captures) = template.read(topic) else {
            continue;
        };
        let device = captures.device.as_deref().map(DeviceId::new).transpose();
        let Ok(device) = device else { continue };
        let values = Values {
            device: device.as_ref(),
            message: captures.message.as_deref(),
            method: captures.method.as_deref(),
            request: captures.request.as_deref(),
            status: captures.status.as_deref(),
            bag: captures.bag,
            properties: None,
        };
        if let Ok(written) = template.write(&values) {
            assert_eq!(
                template.read(&written),
                Some(captures),
                "{topic} and {written}"
            );
        }
    }
}
