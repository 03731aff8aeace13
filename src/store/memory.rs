//! A store without a disk, for tests of those who use one.

use super::{Batch, CommitError, History, Pause, RecordQuery, Store, StoreError};
use pitstop_core::lab::{Meta, Row, RowKey, Rows};
use pitstop_core::record::Record;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// Clones see the same data, as a second daemon on one file would.
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Mutex<Data>>);

#[derive(Default)]
struct Data {
    meta: Meta,
    rows: BTreeMap<RowKey, Row>,
    records: Vec<Record>,
}

impl MemoryStore {
    fn data(&self) -> MutexGuard<'_, Data> {
        self.0.lock().unwrap()
    }
}

impl Store for MemoryStore {
    fn load(&mut self, _: Pause<'_>) -> Result<Rows, StoreError> {
        self.rows()
    }

    fn commit(&mut self, batch: &Batch, _: Pause<'_>) -> Result<(), CommitError> {
        let mut data = self.data();
        if data.meta.epoch > batch.meta.epoch {
            return Err(CommitError::Superseded { by: data.meta.epoch, ours: batch.meta.epoch });
        }
        let (found, expected) = (data.meta.records, batch.meta.records - batch.records.len() as u64);
        if found != expected {
            let path = PathBuf::from("memory");
            return Err(CommitError::Refused(StoreError::OutOfStep { path, expected, found }));
        }
        data.meta = batch.meta.clone();
        data.records.extend(batch.records.iter().cloned());
        for row in &batch.upserts {
            data.rows.insert(key_of(row), row.clone());
        }
        for key in &batch.removes {
            data.rows.remove(key);
        }
        Ok(())
    }

    fn history(&self) -> Arc<dyn History> {
        Arc::new(self.clone())
    }
}

impl History for MemoryStore {
    fn store_id(&self) -> &str {
        "memory"
    }

    fn records(&self, query: &RecordQuery) -> Result<Vec<Record>, StoreError> {
        let fits = |r: &&Record| {
            query.after.is_none_or(|n| r.number > n)
                && query.before.is_none_or(|n| r.number < n)
                && query.since.is_none_or(|t| r.wall >= t)
                && query.machine.as_ref().is_none_or(|m| r.change.machine() == Some(m))
                && query.reservation.is_none_or(|id| r.change.reservation() == Some(id))
        };
        let mut found: Vec<Record> = self.data().records.iter().filter(fits).cloned().collect();
        let most = query.most();
        if query.newest {
            found.drain(..found.len().saturating_sub(most));
        }
        found.truncate(most);
        Ok(found)
    }

    fn backup(&self, to: &Path) -> Result<(), StoreError> {
        let source = std::io::Error::other("this lab has no file");
        Err(StoreError::File { what: "copy to", path: to.to_owned(), source })
    }

    fn rows(&self) -> Result<Rows, StoreError> {
        let data = self.data();
        Ok(Rows { meta: data.meta.clone(), rows: data.rows.values().cloned().collect() })
    }
}

fn key_of(row: &Row) -> RowKey {
    match row {
        Row::Machine(m) => RowKey::Machine(m.name.clone()),
        Row::Reservation(r) => RowKey::Reservation(r.id),
        Row::Image(i) => RowKey::Image(i.image.name.clone()),
        Row::Key(k) => RowKey::Key(k.number),
    }
}
