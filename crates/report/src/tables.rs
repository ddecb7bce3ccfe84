//! Tables as a page that needs no other file, for templates/tables.html.

use anomalens_evaluation::Table;
use askama::Template;

use crate::ReportError;

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

/// The page of `tables` as HTML; `explained` says what their figures are.
///
/// # Errors
/// [`ReportError::Page`].
pub fn tables_page(
    heading: &Heading,
    explained: &str,
    tables: &[Table],
) -> Result<String, ReportError> {
    let page = Page {
        explained,
        heading,
        tables,
    };
    Ok(page.render()?)
}
