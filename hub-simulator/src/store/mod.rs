//! What survives a restart, in one directory: the authority, and a database of the hub's state.
//!
//! The database is written behind the hub's back: what has changed is gathered and committed a few
//! times a second, so that no client waits for a disk. A killed process loses the last moments.

mod rows;
#[cfg(test)]
mod tests;
mod together;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::cloud::Cloud;
use crate::hub::Hub;
use crate::hub::state::{HubState, Now};
use crate::provisioning::{self, Rows, State};
use crate::tls::Authority;
use rows::{Changes, DeviceRow, HubRow};
pub(crate) use together::Stores;

/// Devices and modules by name.
const DEVICES: &str = "devices";
/// The provisioning service, with the first hub: what there is one of, and the rest by id.
const PROVISIONING: &str = "provisioning";
const INDIVIDUALS: &str = "individuals";
const GROUPS: &str = "groups";
const REGISTRATIONS: &str = "registrations";
/// What there is one of.
const HUB: &str = "hub";
/// How often changes are committed: what a killed process loses at most.
const INTERVAL: Duration = Duration::from_millis(200);
/// How long a database that is in use is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// The one key of the table of the hub.
const ONLY: &str = "hub";

/// Stored state cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A file cannot be read or written.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The database cannot be read or written; another simulator may be using it.
    #[error("cannot use the database of the state directory; is another simulator running on it?")]
    Database(#[source] Box<redb::Error>),
    /// A row does not hold what it should.
    #[error(
        "the stored {table} {key:?} cannot be read; remove the state directory to start afresh"
    )]
    Content {
        /// The table that the row is in.
        table: String,
        /// The row's key.
        key: String,
        /// Why not.
        source: serde_json::Error,
    },
}

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> Self {
        Self::Database(Box::new(error.into()))
    }
}

/// The directory that the state is kept in, with its database.
#[derive(Debug)]
pub(crate) struct Store {
    directory: PathBuf,
    database: Database,
}

impl Store {
    /// Opens the state of a directory, made on first use.
    ///
    /// A simulator that has just been dropped may be committing its last changes still: the database
    /// is waited for a little.
    pub(crate) async fn open(directory: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(directory).map_err(|source| file_error(directory, source))?;
        let path = directory.join("hub.redb");
        let patience = Instant::now() + PATIENCE;
        let database = loop {
            match Database::create(&path) {
                Err(redb::DatabaseError::DatabaseAlreadyOpen) if Instant::now() < patience => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                opened => break opened?,
            }
        };
        restrict(&path)?;
        Ok(Self {
            directory: directory.to_owned(),
            database,
        })
    }

    /// The stored authority, made and stored on first use.
    pub(crate) fn authority(&self) -> Result<Authority, crate::StartError> {
        if let (Some(certificate), Some(key)) = (self.read("ca.pem")?, self.read("ca-key.pem")?) {
            return Ok(Authority { certificate, key });
        }
        let authority = Authority::make()?;
        write_atomically(&self.directory.join("ca-key.pem"), &authority.key)?;
        write_atomically(&self.directory.join("ca.pem"), &authority.certificate)?;
        Ok(authority)
    }

    fn read(&self, name: &str) -> Result<Option<String>, StoreError> {
        let path = self.directory.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(file_error(&path, source)),
        }
    }

    /// Fills a fresh state with what is stored.
    pub(crate) fn load(&self, state: &mut HubState, now: Now) -> Result<(), StoreError> {
        for (_, row) in self.rows::<HubRow>(HUB)? {
            row.restore(state);
        }
        for (id, row) in self.rows::<DeviceRow>(DEVICES)? {
            row.restore(state, &id, now);
        }
        Ok(())
    }

    /// Stores the hub's own keys at once, before anybody is shown them.
    pub(crate) fn save_hub(&self, hub: &Hub) -> Result<(), StoreError> {
        let row = HubRow::of(&hub.state().registry);
        let write = self.database.begin_write()?;
        put(&write, HUB, [(ONLY, Some(row))])?;
        write.commit()?;
        Ok(())
    }

    /// The stored provisioning service, if there is one.
    pub(crate) fn load_provisioning(&self) -> Result<Option<State>, StoreError> {
        let Some((_, service)) = self.rows(PROVISIONING)?.pop() else {
            return Ok(None);
        };
        let stored = provisioning::Stored {
            service,
            individuals: self.rows(INDIVIDUALS)?,
            groups: self.rows(GROUPS)?,
            registrations: self.rows(REGISTRATIONS)?,
        };
        Ok(Some(stored.into()))
    }

    /// Commits what is new or different.
    fn commit(&self, changes: &Changes) -> Result<(), StoreError> {
        let devices = changes.devices.iter();
        let devices = devices.filter_map(|(id, row)| Some((&**id, Some(row.as_ref()?))));
        let write = self.database.begin_write()?;
        put(&write, DEVICES, devices)?;
        if let Some(row) = &changes.hub {
            put(&write, HUB, [(ONLY, Some(row))])?;
        }
        if let Some(changes) = &changes.provisioning {
            if let Some(service) = &changes.service {
                put(&write, PROVISIONING, [(ONLY, Some(service))])?;
            }
            put(&write, INDIVIDUALS, by_name(&changes.individuals))?;
            put(&write, GROUPS, by_name(&changes.groups))?;
            put(&write, REGISTRATIONS, by_name(&changes.registrations))?;
        }
        write.commit()?;
        Ok(())
    }

    /// Commits that devices are gone.
    fn commit_gone(&self, changes: &Changes) -> Result<(), StoreError> {
        let gone = changes.devices.iter().filter(|(_, row)| row.is_none());
        let write = self.database.begin_write()?;
        put::<()>(&write, DEVICES, gone.map(|(id, _)| (&**id, None)))?;
        write.commit()?;
        Ok(())
    }

    /// All rows of a table.
    fn rows<T: DeserializeOwned>(&self, table: &str) -> Result<Vec<(String, T)>, StoreError> {
        let read = self.database.begin_read()?;
        let rows = match read.open_table(definition(table)) {
            Ok(rows) => rows,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut found = Vec::new();
        for entry in rows.iter()? {
            let (key, value) = entry?;
            let row = serde_json::from_slice(value.value());
            let row = row.map_err(|source| content_error(table, key.value(), source))?;
            found.push((key.value().to_owned(), row));
        }
        Ok(found)
    }
}

fn definition(name: &str) -> TableDefinition<'_, &'static str, &'static [u8]> {
    TableDefinition::new(name)
}

fn by_name<T>(rows: &Rows<T>) -> impl Iterator<Item = (&str, Option<&T>)> {
    rows.iter().map(|(id, row)| (&**id, row.as_ref()))
}

/// Writes rows and removes those that are gone.
fn put<'a, T: Serialize>(
    write: &redb::WriteTransaction,
    table: &str,
    rows: impl IntoIterator<Item = (&'a str, Option<T>)>,
) -> Result<(), StoreError> {
    let mut open = write.open_table(definition(table))?;
    for (key, row) in rows {
        match row {
            Some(row) => {
                let row = serde_json::to_vec(&row);
                let row = row.map_err(|source| content_error(table, key, source))?;
                open.insert(key, &*row)?;
            }
            None => drop(open.remove(key)?),
        }
    }
    Ok(())
}

/// Commits what changes in the hubs of a cloud, a few times a second, until it is dropped.
pub(crate) async fn keep(cloud: Arc<Cloud>) {
    let mut every = tokio::time::interval(INTERVAL);
    loop {
        every.tick().await;
        let cloud = Arc::clone(&cloud);
        match tokio::task::spawn_blocking(move || cloud.stores.flush(&cloud.dps)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "The state cannot be stored; trying again"),
            Err(error) => tracing::error!(%error, "The store's task has failed"),
        }
    }
}

/// Writes a file so that it is there whole or not at all, readable by its owner only.
///
/// # Errors
/// Fails if the file cannot be written or put in place.
pub fn write_atomically(path: &Path, text: &str) -> Result<(), StoreError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = directory.join(format!(".{name}.new"));
    let write = || -> io::Result<()> {
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&draft)?;
        io::Write::write_all(&mut file, text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    write().map_err(|source| file_error(path, source))
}

/// Lets nobody but the owner read a file: it holds keys.
fn restrict(path: &Path) -> Result<(), StoreError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let permissions = fs::Permissions::from_mode(0o600);
        fs::set_permissions(path, permissions).map_err(|source| file_error(path, source))?;
    }
    Ok(())
}

fn file_error(path: &Path, source: io::Error) -> StoreError {
    StoreError::File {
        path: path.to_owned(),
        source,
    }
}

fn content_error(table: &str, key: &str, source: serde_json::Error) -> StoreError {
    StoreError::Content {
        table: table.to_owned(),
        key: key.to_owned(),
        source,
    }
}
