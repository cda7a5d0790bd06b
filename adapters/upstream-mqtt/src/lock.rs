use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks what is whole between statements, whoever panicked.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
