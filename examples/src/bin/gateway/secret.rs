//! Secrets: never in the file, only where they are.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Names where a secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SecretSource {
    /// In an environment variable.
    Env(String),
    /// In a file; line ends at its end do not count.
    File(PathBuf),
}

/// Where relative paths begin, and where environment variables come from.
pub(crate) struct Surroundings<'a> {
    pub(crate) directory: &'a Path,
    pub(crate) variable: &'a dyn Fn(&str) -> Option<String>,
}

impl SecretSource {
    /// What may be written.
    pub(crate) const ALLOWED: &str = r#"{ env = "NAME" } or { file = "path" }"#;

    /// Gets the secret, or says why there is none; the secret is not repeated.
    pub(crate) fn read(&self, surroundings: &Surroundings<'_>) -> Result<String, String> {
        let (secret, place) = match self {
            Self::Env(name) => {
                let place = format!("the environment variable {name}");
                let secret = (surroundings.variable)(name)
                    .ok_or_else(|| format!("names {place}, which is not set; set it"))?;
                (secret, place)
            }
            Self::File(path) => {
                let path = surroundings.directory.join(path);
                let place = format!("the file {}", path.display());
                let secret = std::fs::read_to_string(&path)
                    .map_err(|error| format!("names {place}, which cannot be read: {error}"))?;
                (secret, place)
            }
        };
        match secret.trim_end_matches(['\r', '\n']) {
            "" => Err(format!(
                "names {place}, which is empty; put the secret there"
            )),
            secret => Ok(secret.to_owned()),
        }
    }
}

impl<'de> Deserialize<'de> for SecretSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Place {
            Env(String),
            File(PathBuf),
        }

        fn here<E: Error>() -> E {
            let allowed = SecretSource::ALLOWED;
            E::custom(format!(
                "a secret must not stand in this file; allowed: {allowed}"
            ))
        }

        struct PlaceVisitor;
        impl<'de> Visitor<'de> for PlaceVisitor {
            type Value = SecretSource;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(SecretSource::ALLOWED)
            }

            // The usual messages would repeat the secret.
            fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
                Err(here())
            }

            fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
                Err(here())
            }

            fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
                Err(here())
            }

            fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
                Err(here())
            }

            fn visit_i128<E: Error>(self, _: i128) -> Result<Self::Value, E> {
                Err(here())
            }

            fn visit_u128<E: Error>(self, _: u128) -> Result<Self::Value, E> {
                Err(here())
            }

            fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
                Err(here())
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                Ok(match Place::deserialize(MapAccessDeserializer::new(map))? {
                    Place::Env(name) => SecretSource::Env(name),
                    Place::File(path) => SecretSource::File(path),
                })
            }
        }
        deserializer.deserialize_any(PlaceVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(source: &SecretSource) -> Result<String, String> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("key"), "c2VjcmV0\n").unwrap();
        std::fs::write(directory.path().join("empty"), "\n").unwrap();
        let variable = |name: &str| (name == "KEY").then(|| "hidden".to_owned());
        source.read(&Surroundings {
            directory: directory.path(),
            variable: &variable,
        })
    }

    #[test]
    fn a_secret_comes_from_the_environment_or_a_file_without_its_last_line_end() {
        assert_eq!(read(&SecretSource::Env("KEY".into())).unwrap(), "hidden");
        assert_eq!(read(&SecretSource::File("key".into())).unwrap(), "c2VjcmV0");
    }

    #[test]
    fn a_missing_secret_is_named() {
        let error = read(&SecretSource::Env("OTHER".into())).unwrap_err();
        assert!(error.contains("OTHER, which is not set"), "{error}");
        let error = read(&SecretSource::File("nowhere".into())).unwrap_err();
        assert!(error.contains("nowhere, which cannot be read"), "{error}");
        let error = read(&SecretSource::File("empty".into())).unwrap_err();
        assert!(error.contains("empty, which is empty"), "{error}");
    }

    #[test]
    fn a_secret_in_the_file_itself_is_refused_and_not_repeated() {
        #[derive(Debug, Deserialize)]
        struct Section {
            #[expect(dead_code, reason = "it is never there")]
            key: SecretSource,
        }
        for text in ["'hidden'", "{ envv = 'X' }", "{}", "4711", "-4711", "47.11"] {
            let error = toml::from_str::<Section>(&format!("key = {text}")).unwrap_err();
            let shown = error.message().replace('.', "");
            assert!(
                !shown.contains("hidden") && !shown.contains("4711"),
                "{error}"
            );
        }
        toml::from_str::<Section>("key = { env = 'X' }").unwrap();
    }
}
