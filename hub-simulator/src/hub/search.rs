//! Queries carried out over the registry, a stretch of it at a time.

use std::borrow::Cow;
use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};

use super::Hub;
use super::device::Device;
use super::error::HubError;
use super::identity;
use super::identity_record::{thumbprints_value, twin_document};
use super::identity_write::invalid;
use super::query::{Groups, Query, Row, Source};

/// Identities looked at before others have a turn.
const STRETCH: usize = 1000;

/// How far a query has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// The last identity that is done with.
    last: Option<Arc<str>>,
    /// Rows answered so far.
    answered: usize,
}

/// One page of an answer.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) rows: Vec<Value>,
    /// Where the next page begins, if there is one.
    pub(crate) next: Option<Cursor>,
}

impl Cursor {
    /// The cursor as a client holds it.
    pub(crate) fn token(&self) -> String {
        let last = self.last.as_deref().unwrap_or_default();
        BASE64.encode(format!("{}:{last}", self.answered))
    }

    /// Reads a token back.
    pub(crate) fn parse(token: &str) -> Result<Self, HubError> {
        let wrong = || invalid("The continuation token is none of this hub's.");
        let text = BASE64.decode(token).map_err(|_| wrong())?;
        let text = String::from_utf8(text).map_err(|_| wrong())?;
        let (answered, last) = text.split_once(':').ok_or_else(wrong)?;
        Ok(Self {
            last: Some(last.into()),
            answered: answered.parse().map_err(|_| wrong())?,
        })
    }
}

impl Hub {
    /// Answers the next `size` rows of a query.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub(crate) async fn search(&self, query: &Query, from: Cursor, size: usize) -> Page {
        if query.aggregates() {
            return self.put_together(query).await;
        }
        let mut at = from;
        let wanted = query.top.unwrap_or(usize::MAX);
        let mut page = Page {
            rows: Vec::new(),
            next: None,
        };
        while at.answered < wanted {
            let full = self.stretch(&mut at.last, |last, entry| {
                if at.answered >= wanted {
                    return false;
                }
                let is_wanted = entry.is_in(query.source) && query.matches(entry);
                if is_wanted && page.rows.len() >= size {
                    page.next = Some(Cursor {
                        last: last.cloned(),
                        answered: at.answered,
                    });
                    return false;
                }
                if is_wanted {
                    page.rows.push(query.project(entry));
                    at.answered += 1;
                }
                true
            });
            if full {
                break;
            }
            tokio::task::yield_now().await;
        }
        page
    }

    async fn put_together(&self, query: &Query) -> Page {
        let mut groups = Groups::default();
        let mut last = None;
        while !self.stretch(&mut last, |_, entry| {
            if entry.is_in(query.source) && query.matches(entry) {
                groups.add(query, entry);
            }
            true
        }) {
            tokio::task::yield_now().await;
        }
        Page {
            rows: groups.rows(query),
            next: None,
        }
    }

    /// Visits the identities after `last` and moves it; `visit` is told the one before and says
    /// whether to go on. Tells whether that was all.
    fn stretch(
        &self,
        last: &mut Option<Arc<str>>,
        mut visit: impl FnMut(Option<&Arc<str>>, &Entry<'_>) -> bool,
    ) -> bool {
        let state = self.state();
        let mut before = last.clone();
        let mut visited = 0;
        for (id, device) in state.registry.after(last.as_deref()).take(STRETCH) {
            if !visit(before.as_ref(), &Entry { id, device }) {
                return true;
            }
            before = Some(Arc::clone(id));
            visited += 1;
        }
        *last = before;
        visited < STRETCH
    }
}

/// A device or module as queries see it.
struct Entry<'a> {
    id: &'a str,
    device: &'a Device,
}

impl Entry<'_> {
    fn is_in(&self, source: Source) -> bool {
        self.id.contains('/') == (source == Source::Modules)
    }

    /// A property of the twin, by its path below `properties` or `tags`.
    fn of_twin(&self, in_tags: bool, path: &[String]) -> Option<Cow<'_, Value>> {
        match &self.device.twin {
            Some(twin) if in_tags => twin.tags().get(path),
            Some(twin) => twin.property(path),
            None if in_tags => None,
            None => {
                let twin = self.device.twin(self.id);
                let found = twin.property(path)?;
                Some(Cow::Owned(found.into_owned()))
            }
        }
    }
}

impl Row for Entry<'_> {
    fn get(&self, path: &[String]) -> Option<Cow<'_, Value>> {
        let (first, rest) = path.split_first()?;
        let device = self.device;
        let details = device.details.as_deref();
        let (device_id, module_id) = identity::split(self.id);
        let value = match first.to_ascii_lowercase().as_str() {
            "tags" => return self.of_twin(true, rest),
            "properties" => return self.of_twin(false, rest),
            "capabilities" => {
                let capabilities = json!({ "iotEdge": device.is_edge() });
                return below(capabilities, rest);
            }
            "x509thumbprint" => return below(thumbprints_value(&device.auth), rest),
            "deviceid" => device_id.into(),
            "moduleid" => module_id?.into(),
            "etag" => device.twin(self.id).etag().into(),
            "deviceetag" => device.etag_text().into(),
            "status" => device.status().into(),
            "statusreason" => details?.status_reason.as_deref()?.into(),
            "statusupdatetime" | "statusupdatedtime" => device.status_updated().to_string().into(),
            "connectionstate" => device.connection_state().into(),
            "connectionstateupdatedtime" => device.connection_updated.to_string().into(),
            "lastactivitytime" => device.last_activity().to_string().into(),
            "cloudtodevicemessagecount" => device.queued().into(),
            "authenticationtype" => device.auth.kind().into(),
            "modelid" => device.twin(self.id).model_id.as_str().into(),
            "version" => device.twin(self.id).version().into(),
            "devicescope" => details?.device_scope.as_deref()?.into(),
            "parentscopes" => details?.parent_scopes.clone().into(),
            _ => return None,
        };
        below(value, rest)
    }

    fn whole(&self) -> Value {
        twin_document(self.id, self.device, true)
    }
}

/// What a path leads to below a value.
fn below(value: Value, path: &[String]) -> Option<Cow<'static, Value>> {
    let found = path
        .iter()
        .try_fold(&value, |at, name| at.get(name))?
        .clone();
    Some(Cow::Owned(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_leads_back_to_its_place() {
        let cursor = Cursor {
            last: Some("dev:1/mod".into()),
            answered: 17,
        };
        assert_eq!(Cursor::parse(&cursor.token()).unwrap(), cursor);
        for wrong in ["", "?", "bm90aGluZw==", "eDp5", "//8="] {
            Cursor::parse(wrong).unwrap_err();
        }
    }
}
