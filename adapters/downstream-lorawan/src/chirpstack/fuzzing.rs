//! Topics that an operator has chosen, for fuzz targets.

use super::topic::Template;

const NAMES: [&str; 4] = ["application_id", "dev_eui", "event", "command"];

/// Reads a topic of events by a template.
///
/// # Panics
/// Panics if what is read of it is not in it, or leads to a topic of which something else is read.
pub fn read_topic(template: &str, topic: &str) {
    let Ok(template) = Template::new("event_topic", template, &["event"]) else {
        return;
    };
    let found = |topic| NAMES.map(|name| template.find(name, topic));
    let read = found(topic);
    let value = |name: &str| {
        let at = NAMES.iter().position(|known| *known == name);
        at.and_then(|at| read[at]).unwrap_or_default()
    };
    if !value("event").is_empty() {
        let mut values = read.iter().flatten();
        assert!(values.all(|value| topic.split('/').any(|level| level == *value)));
        let filled = template.fill(value);
        assert_eq!(found(&filled), read);
    }
}
