use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::StorageBackend;
use redb::backends::FileBackend;

use super::*;

/// A file on a disk that is full whenever that is said.
#[derive(Debug)]
struct Disk {
    file: FileBackend,
    is_full: Arc<AtomicBool>,
}

impl Disk {
    fn check(&self) -> io::Result<()> {
        match self.is_full.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check()?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        self.file.write(offset, data)
    }
}

fn device(number: u8) -> DeviceRecord {
    DeviceRecord::new(DevEui::new([number; 8]))
}

#[tokio::test]
async fn a_disk_that_was_full_is_written_again_and_nothing_of_before_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sessions");
    let is_full = Arc::new(AtomicBool::new(false));
    let disk = is_full.clone();
    let open = move || {
        let file = FileBackend::new(private(&path)?)?;
        let is_full = disk.clone();
        Database::builder().create_with_backend(Disk { file, is_full })
    };
    let store = EmbeddedStore::open_with(Box::new(open)).await.unwrap();
    let save = async |number| store.save(vec![Change::Device(device(number))]).await;
    save(1).await.unwrap();
    is_full.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        let failed = save(2).await;
        assert!(matches!(failed, Err(StoreError::Database(_))), "{failed:?}");
    }
    is_full.store(false, Ordering::SeqCst);
    save(3).await.unwrap();
    assert_eq!(store.load().await.unwrap(), [device(1), device(3)]);
}
