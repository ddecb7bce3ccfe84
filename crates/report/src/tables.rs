//! Tables as a page that needs no other file, for templates/tables.html.

use anomalens_evaluation::Table;
use askama::Template;

use crate::ReportError;
use crate::frame::Frame;

/// What stands above a page, and how the page was made.
#[derive(Debug, Clone, Default)]
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
    /// What must be known to read the page, such as what is missing.
    pub notes: Vec<String>,
}

#[derive(Template)]
#[template(path = "tables.html")]
struct Page<'a> {
    frame: Frame<'a>,
    explained: &'a str,
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
        frame: Frame::plain(heading),
        explained,
        tables,
    };
    Ok(page.render()?)
}
