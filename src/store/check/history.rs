//! The records, one after the other.

use super::super::sqlite::describe;
use super::{Checked, StoreError};
use pitstop_core::Lab;
use pitstop_core::record::Record;
use rusqlite::{Connection, Row};
use std::path::Path;

/// A record as its table has it.
struct Kept {
    number: u64,
    at: u64,
    wall: i64,
    machine: Option<String>,
    reservation: Option<u64>,
    json: String,
}

impl Kept {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            number: row.get::<_, i64>(0)?.unsigned_abs(),
            at: row.get::<_, i64>(1)?.unsigned_abs(),
            wall: row.get(2)?,
            machine: row.get(3)?,
            reservation: row.get::<_, Option<i64>>(4)?.map(i64::unsigned_abs),
            json: row.get(5)?,
        })
    }

    /// The columns that records are found by say the same as the record.
    fn differs(&self, record: &Record) -> Option<&'static str> {
        let machine = record.change.machine().map(ToString::to_string);
        let reservation = record.change.reservation().map(|id| id.0);
        [
            ("number", self.number == record.number),
            ("at", self.at == record.at.0),
            ("wall", self.wall == record.wall),
            ("machine", self.machine == machine),
            ("reservation", self.reservation == reservation),
        ]
        .into_iter()
        .find(|(_, same)| !same)
        .map(|(column, _)| column)
    }
}

/// The lab that the whole history leads to; `None` where it is not whole.
pub fn fold(connection: &Connection, path: &Path, checked: &mut Checked) -> Result<Option<Lab>, StoreError> {
    let failed = |e| describe("read the history", path, e);
    let sql = "SELECT number, at, wall, machine, reservation, json FROM record ORDER BY number";
    let mut statement = connection.prepare(sql).map_err(failed)?;
    let mut lab = Lab::default();
    let (mut next, mut whole) = (1, true);
    let (mut at, mut epoch) = (0, 0);
    for kept in statement.query_map([], Kept::read).map_err(failed)? {
        let kept = kept.map_err(failed)?;
        let about = format!("record {}", kept.number);
        if kept.number > next {
            checked
                .add(missing(next, kept.number - 1), "not there: rows cannot be compared with the history");
            whole = false;
        }
        next = kept.number + 1;
        let record = match serde_json::from_str::<Record>(&kept.json) {
            Ok(record) => record,
            Err(e) => {
                checked.add(about, format!("it makes no sense: {e}"));
                whole = false;
                continue;
            }
        };
        if let Some(column) = kept.differs(&record) {
            checked.add(&about, format!("column {column} says something else than the record"));
        }
        if record.at.0 < at {
            checked.add(&about, format!("lab time goes back, from {at} to {}", record.at.0));
        }
        if record.epoch.0 < epoch {
            checked.add(&about, format!("the epoch goes back, from {epoch} to {}", record.epoch.0));
        }
        (at, epoch) = (record.at.0, record.epoch.0);
        if whole {
            lab.follow(&record);
        }
    }
    let newest = next - 1;
    if newest != checked.meta.records {
        let told = checked.meta.records;
        checked.add("table meta", format!("it says that the newest record is {told}, and that is {newest}"));
        whole = false;
    }
    Ok(whole.then_some(lab))
}

fn missing(first: u64, last: u64) -> String {
    if first == last { format!("record {first}") } else { format!("records {first} to {last}") }
}
