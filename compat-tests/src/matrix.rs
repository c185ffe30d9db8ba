//! Tables of who reaches whom: what is expected stands in the test as it is printed here when it is not so.
//!
//! The first line names the columns; each other line begins with the row's name, or with those of several that are alike
//! (`tcp4=tcp6`). A cell is what was found; where the two
//! daemons differ on purpose it is `stock|ours`, and the test says why; `stock|ours|variant` if ours differs by its settings.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result, ensure};

/// Whose table it is, by the place of its part in a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The stock daemon's.
    Stock,
    /// Ours.
    Ours,
    /// Ours with other settings.
    Variant,
}

/// Cells by row and column, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matrix {
    columns: Vec<String>,
    rows: Vec<String>,
    cells: BTreeMap<(String, String), String>,
}

impl Matrix {
    /// Reads a table as it is printed.
    pub fn parse(text: &str) -> Result<Self> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let columns = lines.next().context("an empty table")?.split_whitespace().map(str::to_owned).collect();
        let mut matrix = Self { columns, ..Self::default() };
        for line in lines {
            let mut words = line.split_whitespace();
            let rows = words.next().context("a row's name")?;
            let cells: Vec<&str> = words.collect();
            ensure!(cells.len() == matrix.columns.len(), "row {rows}: {} cells", cells.len());
            for row in rows.split('=') {
                for (column, cell) in matrix.columns.clone().iter().zip(&cells) {
                    matrix.put(row, column, (*cell).to_owned());
                }
            }
        }
        Ok(matrix)
    }

    /// Writes a cell; rows and columns that are new come last.
    pub fn put(&mut self, row: &str, column: &str, cell: String) {
        for (names, name) in [(&mut self.rows, row), (&mut self.columns, column)] {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        self.cells.insert((row.to_owned(), column.to_owned()), cell);
    }

    fn cell(&self, row: &str, column: &str) -> &str {
        self.cells.get(&(row.to_owned(), column.to_owned())).map_or("", String::as_str)
    }

    /// Whether this, which was found on that daemon, is what was `expected`; both are told otherwise.
    pub fn check(&self, expected: &str, whose: Whose) -> Result<()> {
        let expected = Self::parse(expected)?;
        let mut wrong = Vec::new();
        for row in self.rows.iter().chain(expected.rows.iter().filter(|row| !self.rows.contains(row))) {
            for column in &self.columns {
                let (found, wanted) = (self.cell(row, column), of(expected.cell(row, column), whose));
                if found != wanted {
                    wrong.push(format!("{row} {column}: {found:?}, not {wanted:?}"));
                }
            }
        }
        ensure!(wrong.is_empty(), "{}\nfound:\n{}", wrong.join("\n"), self.print());
        Ok(())
    }

    /// The table as text, columns aligned.
    pub fn print(&self) -> String {
        let first = self.rows.iter().map(String::len).max().unwrap_or_default();
        let width = |column: &String| {
            let cells = self.rows.iter().map(|row| self.cell(row, column).len());
            cells.chain([column.len()]).max().unwrap_or_default()
        };
        let mut out = " ".repeat(first);
        for column in &self.columns {
            let _ = write!(out, " {column:width$}", width = width(column));
        }
        for row in &self.rows {
            let _ = write!(out, "\n{row:first$}");
            for column in &self.columns {
                let _ = write!(out, " {:width$}", self.cell(row, column), width = width(column));
            }
        }
        out.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
    }
}

/// The part of a cell that is for that daemon: its own, else the last.
fn of(cell: &str, whose: Whose) -> &str {
    cell.split('|').take(whose as usize + 1).last().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_prints_and_tells_what_differs() {
        let text = "     near far\ntcp4 gw   far\nudp4 -    gw";
        let mut matrix = Matrix::parse(text).unwrap();
        assert_eq!(matrix.print(), text);
        matrix.check(text, Whose::Stock).unwrap();
        let both = text.replace("-  ", "-|x");
        matrix.check(&both, Whose::Stock).unwrap();
        matrix.put("udp4", "near", "x".to_owned());
        matrix.check(&both, Whose::Ours).unwrap();
        matrix.check(&text.replace("-  ", "-|-|x"), Whose::Variant).unwrap();
        matrix.check(&both, Whose::Variant).unwrap();
        let told = matrix.check(&both, Whose::Stock).unwrap_err().to_string();
        assert!(told.starts_with("udp4 near: \"x\", not \"-\"\nfound:\n"), "{told}");
        assert!(Matrix::parse("a b\nrow 1").is_err());
        let alike = Matrix::parse("     near far\ntcp4=udp4 gw far").unwrap();
        assert_eq!(alike.print(), "     near far\ntcp4 gw   far\nudp4 gw   far");
    }
}
