//! Keys that belong to the format and that this release does not do yet. Using one is an error that says so: a rule that
//! is read and not kept would be worse. Building one means taking its line out; its parser is there.
//!
//! Drivers that are not built are marked in the catalogue instead.

use super::error::{Problem, Problems};
use super::source::Loc;

/// Path (`*` is one name) and what is missing.
const NOT_YET: &[(&str, &str)] = &[
    ("machine.*.shell", "there is no `pitstop shell` yet"),
    ("group.*.may.select", "every user may reserve every machine so far"),
    ("group.*.may.machines", "every user may hold as many machines as there are so far"),
    ("group.*.may.priority", "only a reservation itself says its priority so far"),
    ("policy.*.on_failure", "a failed build's machine is not held so far"),
    (
        "policy.*.at_end",
        "at its end a reservation is over as if it were released, and nobody is warned so far",
    ),
    ("resource.*", "reservations cannot ask for anything but machines so far"),
];

/// Whether the key can be used; raises it if it is on the list. `path` has `*` for names.
pub(super) fn usable(path: &str, at: Loc, problems: &mut Problems) -> bool {
    let Some((_, why)) = NOT_YET.iter().find(|(listed, _)| *listed == path) else { return true };
    let key = path.trim_end_matches(".*").rsplit('.').next().unwrap_or(path);
    problems.raise(Problem::new(at, format!("`{key}` is not in this release: {why}")));
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_listed_is_refused() {
        let at = Loc { file: 0, start: 0, end: 0 };
        let mut problems = Problems::default();
        assert!(usable("machine.*.power", at, &mut problems) && problems.is_empty());
        assert!(!usable("machine.*.shell", at, &mut problems));
        assert_eq!(problems.count(), 1);
    }
}
