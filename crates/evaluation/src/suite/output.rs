//! Tables as files: Markdown, comma-separated values and a page that needs no other file.

use std::path::{Path, PathBuf};

use anomalens_vision::write_atomic;
use askama::Template;

use super::bench::BenchResult;
use super::tables::{
    Line, comparison_table, comparisons, csv, data_tables, lines, published_table,
};
use crate::{EvaluationError, Table};

/// What stands above the tables.
#[derive(Debug, Clone)]
pub struct Heading {
    /// The title.
    pub title: String,
    /// The exact command line.
    pub command: String,
    /// When, as RFC 3339.
    pub date: String,
    /// Name and version of the program.
    pub program: String,
    /// The backbone.
    pub backbone: String,
    /// What must be known of the tables, such as what is missing.
    pub notes: Vec<String>,
}

#[derive(Template)]
#[template(path = "tables.html")]
struct Page<'a> {
    explained: &'a str,
    heading: &'a Heading,
    tables: &'a [Table],
}

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
/// [`EvaluationError::Write`], [`EvaluationError::Page`].
pub fn write_tables(
    folder: &Path,
    heading: &Heading,
    result: &BenchResult,
) -> Result<Written, EvaluationError> {
    let lines = lines(result);
    let others = [
        comparison_table(&comparisons(&result.cells)),
        published_table(&lines),
    ];
    let others = others.into_iter().filter(|table| !table.rows.is_empty());
    let tables: Vec<Table> = data_tables(&lines).into_iter().chain(others).collect();
    let page = Page {
        explained: EXPLAINED,
        heading,
        tables: &tables,
    };
    let (markdown, page) = (markdown(heading, &tables), page.render()?);
    let write = |name: &str, content: std::io::Result<Vec<u8>>| {
        let path = folder.join(name);
        match content.and_then(|content| write_atomic(&path, &content)) {
            Ok(()) => Ok(path),
            Err(source) => Err(EvaluationError::Write { path, source }),
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
