//! Stores that try the server's patience.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use gateway_downstream_lorawan::proto::store::DeviceRecord;
use gateway_downstream_lorawan::server::{Change, EmbeddedStore, SessionStore, StoreError};
use tokio::sync::{Semaphore, mpsc};

/// Tells when it is asked to store something, and does so, or fails, when it is let.
#[derive(Debug)]
pub(crate) struct Gate {
    asked: mpsc::Sender<()>,
    open: Arc<Semaphore>,
    pub(crate) fails: Arc<AtomicBool>,
}

impl Gate {
    pub(crate) fn new(fails: bool) -> (Self, mpsc::Receiver<()>, Arc<Semaphore>) {
        let (sender, asked) = mpsc::channel(100);
        let open = Arc::new(Semaphore::new(0));
        let gate = Self {
            asked: sender,
            open: open.clone(),
            fails: Arc::new(fails.into()),
        };
        (gate, asked, open)
    }
}

#[async_trait]
impl SessionStore for Gate {
    async fn load(&self) -> Result<Vec<DeviceRecord>, StoreError> {
        Ok(Vec::new())
    }

    async fn save(&self, _: Vec<Change>) -> Result<(), StoreError> {
        self.asked.send(()).await.ok();
        if self.fails.load(Ordering::SeqCst) {
            return Err(StoreError::database("the disk is full"));
        }
        let permit = self.open.acquire().await;
        permit.map(drop).map_err(StoreError::database)
    }
}

/// Keeps what it is given, and fails once whenever it is told to.
#[derive(Debug)]
pub(crate) struct Faulty {
    pub(crate) store: EmbeddedStore,
    pub(crate) fails: Arc<AtomicBool>,
}

#[async_trait]
impl SessionStore for Faulty {
    async fn load(&self) -> Result<Vec<DeviceRecord>, StoreError> {
        self.store.load().await
    }

    async fn save(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        match self.fails.swap(false, Ordering::SeqCst) {
            true => Err(StoreError::database("the disk is full")),
            false => self.store.save(changes).await,
        }
    }
}
