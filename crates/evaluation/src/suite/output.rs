//! Tables as files: Markdown, comma-separated values and a page that needs no other file.

use std::path::{Path, PathBuf};

use anomalens_vision::write_atomic;
use askama::Template;

use super::tables::{Line, csv, data_tables, published_table};
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
    heading: &'a Heading,
    tables: &'a [Table],
}

/// Every table of `lines`.
pub fn all_tables(lines: &[Line]) -> Vec<Table> {
    let mut tables = data_tables(lines);
    let published = published_table(lines);
    tables.extend((!published.rows.is_empty()).then_some(published));
    tables
}

/// Writes `tables.md`, `tables.csv` and `tables.html` into `folder`, each whole or not at all, and
/// returns their paths.
///
/// # Errors
/// [`EvaluationError::Write`], [`EvaluationError::Page`].
pub fn write_tables(
    folder: &Path,
    heading: &Heading,
    lines: &[Line],
) -> Result<[PathBuf; 3], EvaluationError> {
    let tables = all_tables(lines);
    let page = Page {
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
    Ok([
        write("tables.md", Ok(markdown.into_bytes()))?,
        write("tables.csv", csv(lines))?,
        write("tables.html", Ok(page.into_bytes()))?,
    ])
}

fn markdown(heading: &Heading, tables: &[Table]) -> String {
    let Heading {
        title,
        command,
        date,
        program,
        backbone,
        notes,
    } = heading;
    let head = format!("# {title}\n\n{program}, backbone {backbone}, {date}\n\n    {command}\n");
    let notes = notes.iter().map(|note| format!("{note}\n"));
    let tables = tables.iter().map(Table::markdown);
    let parts: Vec<String> = [head].into_iter().chain(notes).chain(tables).collect();
    parts.join("\n")
}
