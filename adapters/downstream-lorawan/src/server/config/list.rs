//! Lists of devices, as their makers ship them.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::str::FromStr;

use super::device::{AbpConfig, DeviceConfig, OtaaConfig};

/// Every column, and in brackets what others call it.
const COLUMNS: &str = "dev_eui, id, profile, adr, app_key, join_eui (app_eui), rising_nonces, \
                       dev_addr, nwk_s_key, app_s_key, reset_allowed";

/// Mistakes that are told one by one; more are counted.
const TOLD: usize = 5;

/// Tells what is wrong with a list of devices, line by line. Keys are not repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceListError {
    mistakes: Vec<(usize, String)>,
}

impl std::error::Error for DeviceListError {}

impl fmt::Display for DeviceListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (line, problem)) in self.mistakes.iter().take(TOLD).enumerate() {
            let comma = if at > 0 { "; " } else { "" };
            write!(f, "{comma}line {line}: {problem}")?;
        }
        match self.mistakes.len().saturating_sub(TOLD) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

/// Reads a list of devices: a table as spreadsheets write it, with commas, semicolons or tabs.
///
/// ```
/// # use gateway_downstream_lorawan::server::parse_devices;
/// let devices = parse_devices("\
/// DevEUI,JoinEUI,AppKey,profile
/// 70B3D57ED0000001,70B3D57ED0000000,00112233445566778899AABBCCDDEEFF,meter
/// 70B3D57ED0000002,70B3D57ED0000000,0123456789ABCDEF0123456789ABCDEF,meter
/// ")?;
/// assert_eq!(devices.len(), 2);
/// # Ok::<(), gateway_downstream_lorawan::server::DeviceListError>(())
/// ```
///
/// The first line names the columns, in any order, with or without capitals and `_`: `dev_eui`,
/// which every device has, and of the others of [`DeviceConfig`], [`OtaaConfig`] and [`AbpConfig`]
/// what there is. An empty value is the default; empty lines, and those that begin with `#`, are
/// passed over. A device without keys is one whose network server is elsewhere: here it cannot speak.
///
/// # Errors
/// All mistakes, with their lines.
pub fn parse_devices(text: &str) -> Result<Vec<DeviceConfig>, DeviceListError> {
    let text = text.trim_start_matches('\u{feff}');
    let lines = text.lines().zip(1..);
    let mut lines =
        lines.filter(|(line, _)| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
    let fail = |line, problem: String| DeviceListError {
        mistakes: vec![(line, problem)],
    };
    let Some((head, at)) = lines.next() else {
        let problem = format!("the columns have no names; allowed: {COLUMNS}");
        return Err(fail(1, problem));
    };
    let separator = [';', '\t'].into_iter().find(|it| head.contains(*it));
    let separator = separator.unwrap_or(',');
    let columns = columns(head, separator).map_err(|problem| fail(at, problem))?;
    let (mut devices, mut mistakes) = (Vec::new(), Vec::new());
    let mut known = HashSet::new();
    for (line, number) in lines {
        let device = Row::new(&columns, line, separator).and_then(|row| row.device());
        match device {
            Ok(device) if known.insert(device.dev_eui) => devices.push(device),
            Ok(device) => mistakes.push((number, format!("{} is there twice", device.dev_eui))),
            Err(problem) => mistakes.push((number, problem)),
        }
    }
    match mistakes.is_empty() {
        true => Ok(devices),
        false => Err(DeviceListError { mistakes }),
    }
}

fn columns(head: &str, separator: char) -> Result<Vec<&'static str>, String> {
    let mut columns = Vec::new();
    for name in cells(head, separator) {
        let letters = name.chars().filter(char::is_ascii_alphanumeric);
        let column = match &*letters.collect::<String>().to_ascii_lowercase() {
            "deveui" => "dev_eui",
            "id" => "id",
            "profile" => "profile",
            "adr" => "adr",
            "appkey" => "app_key",
            "joineui" | "appeui" => "join_eui",
            "risingnonces" => "rising_nonces",
            "devaddr" => "dev_addr",
            "nwkskey" => "nwk_s_key",
            "appskey" => "app_s_key",
            "resetallowed" => "reset_allowed",
            _ => return Err(format!("there is no column {name:?}; allowed: {COLUMNS}")),
        };
        if columns.contains(&column) {
            return Err(format!("the column {column} is there twice"));
        }
        columns.push(column);
    }
    match columns.contains(&"dev_eui") {
        true => Ok(columns),
        false => Err("there is no column dev_eui".to_owned()),
    }
}

fn cells(line: &str, separator: char) -> impl Iterator<Item = &str> {
    line.split(separator).map(|cell| {
        let cell = cell.trim();
        let quoted = cell.strip_prefix('"').and_then(|it| it.strip_suffix('"'));
        quoted.unwrap_or(cell)
    })
}

/// The values of a line that are not empty, by their columns.
struct Row<'a>(HashMap<&'static str, &'a str>);

impl<'a> Row<'a> {
    fn new(columns: &[&'static str], line: &'a str, separator: char) -> Result<Self, String> {
        let cells: Vec<_> = cells(line, separator).collect();
        if cells.len() != columns.len() {
            let (cells, columns) = (cells.len(), columns.len());
            return Err(format!("it has {cells} values for {columns} columns"));
        }
        let row = columns.iter().copied().zip(cells);
        Ok(Self(row.filter(|(_, cell)| !cell.is_empty()).collect()))
    }

    fn device(&self) -> Result<DeviceConfig, String> {
        let mut device = DeviceConfig::new(self.needed("dev_eui")?);
        device.id = self.get("id")?;
        device.profile = self.get("profile")?;
        device.adr = self.get("adr")?.unwrap_or(device.adr);
        if self.has_any(&["app_key", "rising_nonces"]) {
            let mut otaa = OtaaConfig::new(self.needed("app_key")?);
            otaa.join_eui = self.get("join_eui")?;
            otaa.rising_nonces = self.get("rising_nonces")?.unwrap_or_default();
            device.otaa = Some(otaa);
        }
        if self.has_any(&["dev_addr", "nwk_s_key", "app_s_key", "reset_allowed"]) {
            let mut abp = AbpConfig::new(
                self.needed("dev_addr")?,
                self.needed("nwk_s_key")?,
                self.needed("app_s_key")?,
            );
            abp.reset_allowed = self.get("reset_allowed")?.unwrap_or_default();
            device.abp = Some(abp);
        }
        if device.otaa.is_some() && device.abp.is_some() {
            return Err("it has both an app_key and session keys; allowed: either".to_owned());
        }
        match device.device_id() {
            Ok(_) => Ok(device),
            Err(error) => Err(error.to_string()),
        }
    }

    fn has_any(&self, columns: &[&str]) -> bool {
        columns.iter().any(|column| self.0.contains_key(column))
    }

    fn get<T: FromStr>(&self, column: &str) -> Result<Option<T>, String>
    where
        T::Err: fmt::Display,
    {
        let value = self.0.get(column).map(|value| value.parse());
        let value = value.transpose();
        value.map_err(|error| format!("{column} is wrong: {error}"))
    }

    fn needed<T: FromStr>(&self, column: &str) -> Result<T, String>
    where
        T::Err: fmt::Display,
    {
        let value = self.get(column)?;
        value.ok_or_else(|| format!("{column} is missing"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "00112233445566778899AABBCCDDEEFF";

    fn mistakes(text: &str) -> String {
        parse_devices(text).unwrap_err().to_string()
    }

    #[test]
    fn a_makers_list_is_read_as_it_comes() {
        let text = format!(
            "\u{feff}# Delivery 17\r\nDevEUI;AppEUI;\"AppKey\";Profile;ID\r\n\
             70-B3-D5-7E-D0-00-00-01;70B3D57ED0000000;{KEY};meter;\r\n\r\n\
             70B3D57ED0000002;;\"{KEY}\";;meter-2\r\n"
        );
        let devices = parse_devices(&text).unwrap();
        let mut first = DeviceConfig::otaa(
            "70b3d57ed0000001".parse().unwrap(),
            OtaaConfig::new(KEY.parse().unwrap()),
        );
        let mut second = first.clone();
        first.profile = Some("meter".into());
        first.otaa.as_mut().unwrap().join_eui = "70b3d57ed0000000".parse().ok();
        second.dev_eui = "70b3d57ed0000002".parse().unwrap();
        second.id = Some("meter-2".into());
        assert_eq!(devices, [first, second]);
    }

    #[test]
    fn a_session_is_read_and_a_device_may_have_its_keys_elsewhere() {
        let text = format!(
            "dev_eui,dev_addr,nwk_s_key,app_s_key,reset_allowed,adr\n\
             70b3d57ed0000001,01020304,{KEY},{KEY},true,false\n\
             70b3d57ed0000002,,,,,\n"
        );
        let devices = parse_devices(&text).unwrap();
        let abp = devices[0].abp.as_ref().unwrap();
        assert!(abp.reset_allowed && !devices[0].adr);
        assert_eq!((&devices[1].otaa, &devices[1].abp), (&None, &None));
        assert!(devices[1].adr);
    }

    #[test]
    fn every_mistake_is_told_with_its_line_and_no_key_is() {
        let text = format!(
            "dev_eui,app_key,adr,nwk_s_key\n\
             70b3d57ed0000001,{KEY}0,,\n\
             70b3d57ed000000g,{KEY},,\n\
             70b3d57ed0000003,{KEY},perhaps,\n\
             70b3d57ed0000004,{KEY},,{KEY}\n\
             70b3d57ed0000005,{KEY},\n\
             70b3d57ed0000006,{KEY},,\n\
             70b3d57ed0000006,{KEY},,\n\
             ,{KEY},,\n"
        );
        let told = mistakes(&text);
        for expected in [
            "line 2: app_key is wrong: ",
            "line 3: dev_eui is wrong: ",
            "line 4: adr is wrong: ",
            "line 5: dev_addr is missing",
            "line 6: it has 3 values for 4 columns",
            "and 2 more",
        ] {
            assert!(told.contains(expected), "{expected} in {told}");
        }
        assert!(!told.contains(KEY), "{told}");
    }

    #[test]
    fn a_wrong_head_says_what_may_stand_there() {
        assert!(mistakes("").contains("line 1: the columns have no names"));
        assert!(mistakes("dev_eui,key\n").contains("no column \"key\"; allowed: dev_eui, id"));
        assert!(mistakes("app_key\n").contains("no column dev_eui"));
        assert!(mistakes("dev_eui,DevEUI\n").contains("twice"));
    }
}
