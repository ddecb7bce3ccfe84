//! A table of words and numbers, as Markdown and for the pages in `templates/`.

use std::fmt::Write as _;

/// Cells as they are shown, in columns under titles.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// What it is of.
    pub title: String,
    /// Titles of the columns.
    pub columns: Vec<String>,
    /// As many cells as columns in each.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub fn new(title: impl Into<String>, columns: &[&str]) -> Self {
        Self {
            title: title.into(),
            columns: columns.iter().map(|&title| title.to_owned()).collect(),
            rows: vec![],
        }
    }

    /// The table as Markdown, under its title as a heading of second order.
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| {
            let cells = cells.iter().map(|cell| cell.replace('|', "\\|"));
            format!("| {} |", cells.collect::<Vec<_>>().join(" | "))
        };
        let mut text = format!("## {}\n\n", self.title);
        let rules = vec!["---".to_owned(); self.columns.len()];
        for row in [&self.columns, &rules].into_iter().chain(&self.rows) {
            // Writing into a string does not fail.
            let _ = writeln!(text, "{}", line(row));
        }
        text
    }

    /// Leaves out the columns that have nothing in them.
    pub fn without_empty_columns(mut self) -> Self {
        let empty = |column: usize| self.rows.iter().all(|row| row[column].is_empty());
        let kept: Vec<usize> = (0..self.columns.len()).filter(|&i| !empty(i)).collect();
        let choose = |cells: &[String]| kept.iter().map(|&i| cells[i].clone()).collect();
        self.rows = self.rows.iter().map(|row| choose(row)).collect();
        self.columns = choose(&self.columns);
        self
    }

    /// Whether the cells of `column` are numbers, to be put to the right.
    pub fn is_number(&self, column: &usize) -> bool {
        let cells = self.rows.iter().map(|row| row[*column].as_str());
        let is_number = |cell: &str| cell.starts_with(|c: char| "0123456789+−<".contains(c));
        cells.filter(|cell| !cell.is_empty()).all(is_number)
    }
}

/// Three decimals, nothing for what is not defined.
pub fn fraction(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| format!("{value:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_as_markdown() {
        let mut table = Table::new("nuts", &["class", "none", "AUROC"]);
        table
            .rows
            .push(["a|b", "", "0.500"].map(str::to_owned).to_vec());
        let table = table.without_empty_columns();
        let expected = "## nuts\n\n| class | AUROC |\n| --- | --- |\n| a\\|b | 0.500 |\n";
        assert_eq!(table.markdown(), expected);
        assert!(table.is_number(&1) && !table.is_number(&0));
    }
}
