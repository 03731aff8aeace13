//! The rows, one by one.

use super::super::sqlite::describe;
use super::{Checked, StoreError};
use pitstop_core::Lab;
use pitstop_core::lab::{NamedImage, Remembered, Row, Rows};
use pitstop_core::machine::{ImageRef, Machine, Stage};
use pitstop_core::reservation::Reservation;
use rusqlite::Connection;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// What the rows make.
pub struct Read {
    /// The lab of those that can be read.
    pub lab: Lab,
    /// Each of them as it is stored.
    pub stored: BTreeMap<String, Value>,
    /// Those that cannot.
    pub damaged: BTreeSet<String>,
}

/// Reads every row, and names each that is not what was written.
pub fn read(connection: &Connection, path: &Path, checked: &mut Checked) -> Result<Read, StoreError> {
    let mut reader = Reader {
        connection,
        path,
        checked,
        rows: Vec::new(),
        stored: BTreeMap::new(),
        damaged: BTreeSet::new(),
    };
    reader.table("machine", "name", |m: &Machine| m.name.to_string(), |m| Row::Machine(Arc::new(m)))?;
    reader.table(
        "reservation",
        "id",
        |r: &Reservation| r.id.0.to_string(),
        |r| Row::Reservation(Arc::new(r)),
    )?;
    reader.table("image", "name", |i: &NamedImage| i.image.name.clone(), |i| Row::Image(Arc::new(i)))?;
    reader.table("key", "number", |k: &Remembered| k.number.to_string(), |k| Row::Key(Arc::new(k)))?;
    let Reader { rows, stored, damaged, .. } = reader;
    keys(&rows, checked);
    let lab = Lab::from_rows(Rows { meta: checked.meta.clone(), rows });
    (checked.machines, checked.reservations) = (lab.machines().len(), lab.reservations().len());
    checked.images = images(&lab).into_iter().collect();
    Ok(Read { lab, stored, damaged })
}

struct Reader<'a> {
    connection: &'a Connection,
    path: &'a Path,
    checked: &'a mut Checked,
    rows: Vec<Row>,
    stored: BTreeMap<String, Value>,
    damaged: BTreeSet<String>,
}

impl Reader<'_> {
    fn table<T: DeserializeOwned>(
        &mut self,
        table: &str,
        key: &str,
        inside: impl Fn(&T) -> String,
        row: impl Fn(T) -> Row,
    ) -> Result<(), StoreError> {
        let failed = |e| describe("read the lab", self.path, e);
        let sql = format!("SELECT CAST({key} AS TEXT), row FROM {table} ORDER BY {key}");
        let mut statement = self.connection.prepare(&sql).map_err(failed)?;
        let found = statement
            .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
            .map_err(failed)?;
        for found in found {
            let (key, text) = found.map_err(failed)?;
            let about = format!("{table} {key}");
            match serde_json::from_str::<T>(&text) {
                Ok(value) if inside(&value) == key => {
                    self.rows.push(row(value));
                    self.stored.insert(about, serde_json::from_str(&text).unwrap_or_default());
                }
                Ok(value) => {
                    self.checked.add(&about, format!("its row says it is {}", inside(&value)));
                    self.damaged.insert(about);
                }
                Err(e) => {
                    self.checked.add(&about, format!("its row makes no sense: {e}"));
                    self.damaged.insert(about);
                }
            }
        }
        Ok(())
    }
}

/// An idempotency key stands for one answer.
fn keys(rows: &[Row], checked: &mut Checked) {
    let mut seen = BTreeMap::new();
    for row in rows {
        let Row::Key(k) = row else { continue };
        if k.number > checked.meta.records {
            let newest = checked.meta.records;
            checked.add(format!("key {}", k.number), format!("the newest record is {newest}"));
        }
        if let Some(other) = seen.insert((k.owner.clone(), k.key.clone()), k.number) {
            checked.add(format!("key {}", k.number), format!("it is the same key of {} as {other}", k.owner));
        }
    }
}

/// Digests of images that rows name, each with a name.
fn images(lab: &Lab) -> BTreeMap<String, String> {
    let named = lab.images().map(|i| i.image.clone());
    let asked = lab.reservations().filter(|r| !r.ended()).filter_map(|r| r.ask.image.clone());
    let on_machines = lab.machines().filter_map(|m| image_of(&m.stage));
    named.chain(asked).chain(on_machines).map(|i| (i.digest, i.name)).collect()
}

fn image_of(stage: &Stage) -> Option<ImageRef> {
    match stage {
        Stage::Turn(turn) => turn.image.clone(),
        Stage::Free | Stage::Ready { .. } | Stage::InUse { .. } => None,
    }
}
