//! ChirpStack's topics: templates with names in double braces.

use gateway_core::ConfigError;

/// The names that ChirpStack knows.
const NAMES: [&str; 4] = ["application_id", "dev_eui", "event", "command"];

/// Is a topic with names in some of its levels.
#[derive(Debug)]
pub(super) struct Template(Vec<Level>);

#[derive(Debug)]
enum Level {
    Text(String),
    Name(&'static str),
}

impl Template {
    /// Reads a template, which must have these names.
    ///
    /// # Errors
    /// It lacks one, or has another, or one that is not a whole level.
    pub(super) fn new(key: &str, template: &str, required: &[&str]) -> Result<Self, ConfigError> {
        let wrong = |problem: String| {
            let allowed =
                "levels of text or {{application_id}}, {{dev_eui}}, {{event}}, {{command}}";
            ConfigError::new(key, problem, allowed)
        };
        let level = |text: &str| {
            let name = text
                .strip_prefix("{{")
                .and_then(|text| text.strip_suffix("}}"));
            match name {
                Some(name) => NAMES
                    .into_iter()
                    .find(|known| *known == name.trim())
                    .map(Level::Name)
                    .ok_or_else(|| wrong(format!("has {text}"))),
                None if text.contains(['{', '}', '+', '#']) => Err(wrong(format!("has {text:?}"))),
                None => Ok(Level::Text(text.to_owned())),
            }
        };
        let levels = template
            .split('/')
            .map(level)
            .collect::<Result<Vec<_>, _>>()?;
        let template = Self(levels);
        match required.iter().find(|name| !template.has(name)) {
            Some(name) => Err(wrong(format!("lacks {{{{{name}}}}}"))),
            None => Ok(template),
        }
    }

    fn has(&self, name: &str) -> bool {
        let is_it = |level: &Level| matches!(level, Level::Name(other) if *other == name);
        self.0.iter().any(is_it)
    }

    /// Puts values in the place of names.
    pub(super) fn fill<'a>(&'a self, value: impl Fn(&str) -> &'a str) -> String {
        let levels = self.0.iter().map(|level| match level {
            Level::Text(text) => text,
            Level::Name(name) => value(name),
        });
        levels.collect::<Vec<_>>().join("/")
    }

    /// Finds the value of a name in a topic; none if that is not of this form.
    pub(super) fn find<'a>(&self, name: &str, topic: &'a str) -> Option<&'a str> {
        let mut found = None;
        let mut parts = topic.split('/');
        for level in &self.0 {
            let part = parts.next()?;
            match level {
                Level::Text(text) if text != part => return None,
                Level::Name(other) if *other == name => found = Some(part),
                _ => {}
            }
        }
        found.filter(|_| parts.next().is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_of_the_template_gives_its_values_and_no_other_does() {
        let text = "lora/{{application_id}}/{{ dev_eui }}/{{event}}";
        let template = Template::new("event_topic", text, &["event"]).unwrap();
        assert_eq!(template.fill(|_| "+"), "lora/+/+/+");
        assert_eq!(template.find("event", "lora/a/b/up"), Some("up"));
        assert_eq!(template.find("dev_eui", "lora/a/b/up"), Some("b"));
        for other in ["lora/a/b", "lora/a/b/up/", "other/a/b/up", ""] {
            assert_eq!(template.find("event", other), None, "{other}");
        }
    }

    #[test]
    fn a_wrong_template_is_named() {
        for (template, problem) in [
            (
                "a/{{event}}",
                "`command_topic` lacks {{dev_eui}}; allowed: ",
            ),
            (
                "a/{{dev_eui}}/{{other}}",
                "`command_topic` has {{other}}; allowed: ",
            ),
            (
                "a/x{{dev_eui}}",
                "`command_topic` has \"x{{dev_eui}}\"; allowed: ",
            ),
            ("a/{{dev_eui}}/#", "`command_topic` has \"#\"; allowed: "),
        ] {
            let error = Template::new("command_topic", template, &["dev_eui"]).unwrap_err();
            assert!(error.to_string().starts_with(problem), "{error}");
        }
    }
}
