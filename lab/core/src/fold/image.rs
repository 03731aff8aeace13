//! How a change becomes an image's row.

use crate::experience::{Suspect, Trouble};
use crate::lab::{NamedImage, RowKey};
use crate::record::{Change, Record};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Makes a record about an image true; the row that it touched.
pub(super) fn apply(images: &mut BTreeMap<String, Arc<NamedImage>>, record: &Record) -> Option<RowKey> {
    let name = match &record.change {
        Change::ImageNamed { image, bytes } => {
            let row = NamedImage { image: image.clone(), bytes: *bytes, trouble: BTreeMap::new() };
            images.insert(image.name.clone(), Arc::new(row));
            return Some(RowKey::Image(image.name.clone()));
        }
        Change::ImageForgotten { name } => {
            images.remove(name);
            return Some(RowKey::Image(name.clone()));
        }
        Change::ImageFailed { image, .. }
        | Change::ImageWorked { image, .. }
        | Change::ImageSuspected { image, .. }
        | Change::ImageOnTrial { image, .. }
        | Change::ImageTried { image, .. }
        | Change::ImageTrusted { image } => image,
        _ => return None,
    };
    trouble(&mut Arc::make_mut(images.get_mut(name)?).trouble, record);
    Some(RowKey::Image(name.clone()))
}

fn trouble(all: &mut BTreeMap<String, Trouble>, record: &Record) {
    match &record.change {
        Change::ImageFailed { class, machine, failure, .. } => {
            let trouble = all.entry(class.clone()).or_insert_with(|| Trouble {
                machines: Vec::new(),
                failure: failure.clone(),
                suspect: None,
            });
            trouble.failure = failure.clone();
            if !trouble.machines.contains(machine) {
                trouble.machines.push(machine.clone());
            }
        }
        Change::ImageWorked { class, .. } => drop(all.remove(class)),
        Change::ImageTrusted { .. } => all.clear(),
        Change::ImageSuspected { class, again, .. } => {
            if let Some(trouble) = all.get_mut(class) {
                let before = trouble.suspect;
                trouble.suspect = Some(Suspect {
                    since: before.map_or(record.at, |s| s.since),
                    again: *again,
                    trial: false,
                    trying: false,
                    tries: before.map_or(0, |s| s.tries + 1),
                });
            }
        }
        Change::ImageOnTrial { class, .. } => {
            if let Some(suspect) = all.get_mut(class).and_then(|t| t.suspect.as_mut()) {
                suspect.trial = true;
            }
        }
        Change::ImageTried { class, again, .. } => {
            if let Some(suspect) = all.get_mut(class).and_then(|t| t.suspect.as_mut()) {
                (suspect.trial, suspect.trying, suspect.again) = (false, true, *again);
            }
        }
        _ => {}
    }
}
