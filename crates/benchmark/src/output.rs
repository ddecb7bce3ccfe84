//! Tables as files: Markdown, comma-separated values and a page that needs no other file.

use std::path::{Path, PathBuf};

use crate::BenchmarkError;
use anomalens_base::write_atomic;
use anomalens_evaluation::Table;
use anomalens_report::{Heading, tables_page};

use crate::bench::BenchResult;
use crate::tables::{
    Line, comparison_table, comparisons, csv, data_tables, lines, published_table,
};

/// The tables of a run as files.
pub struct Written {
    /// Every table.
    pub tables: Vec<Table>,
    /// The lines that they show.
    pub lines: Vec<Line>,
    /// `tables.md`, `tables.csv`, `tables.html`.
    pub paths: [PathBuf; 3],
}

/// Writes the tables of a run into `folder`, each file whole or not at all.
///
/// # Errors
/// [`BenchmarkError::Write`], [`BenchmarkError::Report`].
pub fn write_tables(
    folder: &Path,
    heading: &Heading,
    result: &BenchResult,
) -> Result<Written, BenchmarkError> {
    let lines = lines(result);
    let others = [
        comparison_table(&comparisons(&result.cells)),
        published_table(&lines),
    ];
    let others = others.into_iter().filter(|table| !table.rows.is_empty());
    let tables: Vec<Table> = data_tables(&lines).into_iter().chain(others).collect();
    let page = tables_page(heading, EXPLAINED, &tables)?;
    let markdown = markdown(heading, &tables);
    let write = |name: &str, content: std::io::Result<Vec<u8>>| {
        let path = folder.join(name);
        match content.and_then(|content| write_atomic(&path, &content)) {
            Ok(()) => Ok(path),
            Err(source) => Err(BenchmarkError::Write { path, source }),
        }
    };
    let paths = [
        write("tables.md", Ok(markdown.into_bytes()))?,
        write("tables.csv", csv(&lines))?,
        write("tables.html", Ok(page.into_bytes()))?,
    ];
    Ok(Written {
        tables,
        lines,
        paths,
    })
}

/// What figures in the tables are.
const EXPLAINED: &str = "Figures are fractions: mean ± standard deviation over the seeds [95 % bootstrap interval over \
    the images]. Between methods: DeLong's paired test, first seed, p not corrected for the number of tests.";

fn markdown(heading: &Heading, tables: &[Table]) -> String {
    let Heading {
        title,
        command,
        date,
        program,
        backbone,
        notes,
    } = heading;
    let head = format!(
        "# {title}\n\n{program}, backbone {backbone}, {date}\n\n    {command}\n\n{EXPLAINED}\n"
    );
    let notes = notes.iter().map(|note| format!("{note}\n"));
    let tables = tables.iter().map(Table::markdown);
    let parts: Vec<String> = [head].into_iter().chain(notes).chain(tables).collect();
    parts.join("\n")
}
