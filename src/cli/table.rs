//! Tables without borders.

use super::out::{Format, Out, Tone};
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Row};

/// A column: its title, whether only `-o wide` shows it, and its text.
pub struct Column<T> {
    /// In upper case.
    pub title: &'static str,
    /// Only for wide screens.
    pub wide: bool,
    /// What stands in it, and in which colour.
    pub cell: fn(&T, &Out) -> (String, Tone),
}

/// How a kind of object is listed.
pub struct Table<T: 'static> {
    /// In the order shown.
    pub columns: &'static [Column<T>],
    /// For `-o name`.
    pub name: fn(&T) -> String,
    /// For `-o csv`, in the order written: what a program can read, without
    /// marks, times in RFC 3339 (UTC), an empty cell for what is not there.
    pub csv: &'static [Field<T>],
}

/// A column of a CSV: its title and its text.
pub type Field<T> = (&'static str, fn(&T) -> String);

impl<T> Table<T> {
    /// For people.
    pub fn text(&self, items: &[T], out: &Out) -> String {
        let shown: Vec<&Column<T>> =
            self.columns.iter().filter(|c| !c.wide || out.format == Format::Wide).collect();
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        if let Some(width) = out.width {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        if out.color {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        let title = |c: &&Column<T>| Cell::new(c.title).add_attribute(Attribute::Bold);
        table.set_header(shown.iter().map(title).collect::<Vec<_>>());
        for item in items {
            let mut row = Row::from(shown.iter().map(|c| cell((c.cell)(item, out))).collect::<Vec<_>>());
            if out.width.is_some() {
                row.max_height(1);
            }
            table.add_row(row);
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let lines: Vec<String> = table.lines().map(|l| l.trim_end().to_owned()).collect();
        lines.join("\n") + "\n"
    }

    /// The title line and all items, comma-separated (RFC 4180).
    pub fn csv(&self, items: &[T]) -> String {
        let titles: Vec<&str> = self.csv.iter().map(|(title, _)| *title).collect();
        let mut text = titles.join(",") + "\r\n";
        for item in items {
            text.push_str(&csv_line(self.csv.iter().map(|(_, cell)| cell(item))));
            text.push_str("\r\n");
        }
        text
    }
}

/// Cells as one line of a CSV, without its end.
pub fn csv_line(cells: impl Iterator<Item = String>) -> String {
    cells.map(|cell| quoted(&cell)).collect::<Vec<_>>().join(",")
}

fn cell((text, tone): (String, Tone)) -> Cell {
    let cell = Cell::new(text);
    match tone {
        Tone::Plain => cell,
        Tone::Used => cell.fg(Color::Blue),
        Tone::Busy => cell.fg(Color::Yellow),
        Tone::Bad => cell.fg(Color::Red),
        Tone::Dim => cell.fg(Color::DarkGrey),
    }
}

fn quoted(text: &str) -> String {
    // A spreadsheet takes a leading = + - @ for a formula; some of this text
    // was written by machines.
    let text = if text.starts_with(['=', '+', '@']) { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}
