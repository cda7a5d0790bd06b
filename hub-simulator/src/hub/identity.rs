//! Names of identities: a device's id, or `device/module` for a module of a device.
//!
//! The hub writes modules so in MQTT client ids and in its texts. A device id holds no slash, so the
//! two never meet, and one string names either everywhere.

use std::borrow::Cow;

/// The name of a module of a device.
pub(crate) fn module(device: &str, module: &str) -> String {
    format!("{device}/{module}")
}

/// The device, and the module if the identity is one.
pub(crate) fn split(identity: &str) -> (&str, Option<&str>) {
    match identity.split_once('/') {
        Some((device, module)) => (device, Some(module)),
        None => (identity, None),
    }
}

/// The identity that path segments lead to: `devices/{id}` or `devices/{id}/modules/{id}`, decoded;
/// with what follows it.
pub(crate) fn in_path<'a, 'b>(path: &'b [&'a str]) -> Option<(Cow<'a, str>, &'b [&'a str])> {
    let is = |word: &str, keyword: &str| word.eq_ignore_ascii_case(keyword);
    match *path {
        [devices, id, modules, name, ref rest @ ..]
            if is(devices, "devices") && is(modules, "modules") =>
        {
            let whole = [id, name].iter().all(|part| is_part(part));
            whole.then(|| (module(id, name).into(), rest))
        }
        [devices, id, ref rest @ ..] if is(devices, "devices") => {
            is_part(id).then_some((id.into(), rest))
        }
        _ => None,
    }
}

fn is_part(id: &str) -> bool {
    !id.is_empty() && !id.contains('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_to_a_device_or_to_a_module_of_it() {
        let read = |path: &[&str]| {
            in_path(path).map(|(identity, rest)| (identity.into_owned(), rest.len()))
        };
        assert_eq!(
            read(&["devices", "d", "messages", "events"]),
            Some(("d".to_owned(), 2))
        );
        assert_eq!(
            read(&["Devices", "d", "Modules", "m", "twin"]),
            Some(("d/m".to_owned(), 1))
        );
        assert_eq!(read(&["devices", "a/b", "twin"]), None);
        assert_eq!(read(&["devices", ""]), None);
        assert_eq!(split("d/m"), ("d", Some("m")));
        assert_eq!(split("d"), ("d", None));
    }
}
