//! The default store: one file of an embedded database (`redb`).

#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use redb::{Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::{Change, SessionStore, StoreError, row};
use crate::event::DevEui;
use crate::proto::store::DeviceRecord;

type Table = TableDefinition<'static, [u8; 8], &'static [u8]>;

/// All that is known of a device but its session in use, in JSON.
const DEVICES: Table = TableDefinition::new("devices");
/// Sessions in use; written with every frame.
const SESSIONS: Table = TableDefinition::new("sessions");
/// How long a database that is in use is waited for: a server that has just ended may be writing.
const PATIENCE: Duration = Duration::from_secs(1);

/// Keeps sessions in one file, which only its owner may read.
///
/// After a failure, as on a disk that was full, the file is opened anew with the next write.
#[derive(Debug)]
pub struct EmbeddedStore(Arc<Shelf>);

/// Opens the database.
type Opener = Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>;

/// Holds the database until it fails: from its first failed write on it takes no other.
struct Shelf {
    open: Opener,
    database: Mutex<Option<Database>>,
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shelf").finish_non_exhaustive()
    }
}

impl Shelf {
    /// Does something with the database, which is opened if it is not there.
    fn with<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut place = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let database = match place.take() {
            Some(database) => database,
            None => (self.open)().map_err(StoreError::database)?,
        };
        let done = work(&database)?;
        *place = Some(database);
        Ok(done)
    }
}

impl EmbeddedStore {
    /// Opens a file, which is made on first use.
    ///
    /// # Errors
    /// It cannot be opened, is no store, or another server uses it.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref().to_owned();
        let open = move || Database::builder().create_file(private(&path)?);
        Self::open_with(Box::new(open)).await
    }

    async fn open_with(open: Opener) -> Result<Self, StoreError> {
        let patience = Instant::now() + PATIENCE;
        loop {
            match open() {
                Err(DatabaseError::DatabaseAlreadyOpen) if Instant::now() < patience => {
                    sleep(Duration::from_millis(10)).await;
                }
                Ok(database) => {
                    let database = Mutex::new(Some(database));
                    return Ok(Self(Arc::new(Shelf { open, database })));
                }
                Err(error) => return Err(StoreError::database(error)),
            }
        }
    }
}

/// Opens a file that nobody but the owner may read: it holds keys.
fn private(path: &Path) -> std::io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[async_trait]
impl SessionStore for EmbeddedStore {
    async fn load(&self) -> Result<Vec<DeviceRecord>, StoreError> {
        let shelf = self.0.clone();
        blocking(move || shelf.with(load)).await
    }

    async fn save(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let shelf = self.0.clone();
        blocking(move || shelf.with(|database| save(database, changes))).await
    }
}

/// Runs what waits for a disk where it holds nobody up.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    spawn_blocking(work).await.map_err(StoreError::database)?
}

fn load(database: &Database) -> Result<Vec<DeviceRecord>, StoreError> {
    let records = rows(database, DEVICES, |row| serde_json::from_slice(row))?;
    let mut records: Vec<DeviceRecord> = records.into_iter().map(|(_, record)| record).collect();
    // In the order of their names, as the table has them.
    for (dev_eui, session) in rows(database, SESSIONS, row::decode)? {
        let at = records.binary_search_by_key(&dev_eui, |record| record.dev_eui);
        let at = at.unwrap_or_else(|at| {
            records.insert(at, DeviceRecord::new(dev_eui));
            at
        });
        records[at].session = Some(session);
    }
    Ok(records)
}

fn rows<T>(
    database: &Database,
    table: Table,
    decode: impl Fn(&[u8]) -> Result<T, serde_json::Error>,
) -> Result<Vec<(DevEui, T)>, StoreError> {
    let read = database.begin_read().map_err(StoreError::database)?;
    let table = match read.open_table(table) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::database(error)),
    };
    let mut rows = Vec::new();
    for entry in table.iter().map_err(StoreError::database)? {
        let (key, value) = entry.map_err(StoreError::database)?;
        let dev_eui = DevEui::new(key.value());
        let row = decode(value.value());
        rows.push((dev_eui, row.map_err(|source| content(dev_eui, source))?));
    }
    Ok(rows)
}

fn save(database: &Database, changes: Vec<Change>) -> Result<(), StoreError> {
    let write = database.begin_write().map_err(StoreError::database)?;
    {
        let mut devices = write.open_table(DEVICES).map_err(StoreError::database)?;
        let mut sessions = write.open_table(SESSIONS).map_err(StoreError::database)?;
        for change in changes {
            let (dev_eui, session) = match change {
                Change::Device(mut record) => {
                    let dev_eui = record.dev_eui;
                    let session = record.session.take();
                    let row = serde_json::to_vec(&record);
                    let row = row.map_err(|source| content(dev_eui, source))?;
                    let put = devices.insert(dev_eui.bytes(), &*row);
                    put.map_err(StoreError::database)?;
                    (dev_eui, session)
                }
                Change::Session { dev_eui, session } => (dev_eui, Some(session)),
            };
            let old = match session {
                Some(session) => sessions.insert(dev_eui.bytes(), &*row::encode(&session)),
                None => sessions.remove(dev_eui.bytes()),
            };
            old.map_err(StoreError::database)?;
        }
    }
    write.commit().map_err(StoreError::database)
}

fn content(dev_eui: DevEui, source: serde_json::Error) -> StoreError {
    StoreError::Content {
        dev_eui,
        source: source.into(),
    }
}
