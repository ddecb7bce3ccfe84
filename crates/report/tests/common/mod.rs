//! Pages parsed as a browser would parse them.

// Each test file uses some of it; a helper that cannot do its work is a failed test.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use scraper::{ElementRef, Html, Selector};
use sha2::{Digest, Sha256};

/// Checks that a page is valid HTML that loads nothing, and parses it.
pub(crate) fn parse(path: &Path) -> Html {
    let page = Html::parse_document(&std::fs::read_to_string(path).unwrap());
    assert_eq!(page.errors, Vec::<String>::new());
    check_self_contained(&page);
    page
}

pub(crate) fn elements<'a>(page: &'a Html, selector: &str) -> Vec<ElementRef<'a>> {
    page.select(&Selector::parse(selector).unwrap()).collect()
}

/// The words of each element, with single spaces.
pub(crate) fn texts(page: &Html, selector: &str) -> Vec<String> {
    let words = |element: ElementRef| {
        element
            .text()
            .flat_map(str::split_whitespace)
            .collect::<Vec<_>>()
            .join(" ")
    };
    elements(page, selector).into_iter().map(words).collect()
}

pub(crate) fn all_text(page: &Html) -> String {
    texts(page, "body").concat()
}

/// Checks that nothing is loaded from elsewhere and that no script but the page's own can run.
pub(crate) fn check_self_contained(page: &Html) {
    for element in elements(page, "*") {
        for (name, value) in element.value().attrs() {
            let loads = ["src", "srcset", "href", "data", "action", "poster"].contains(&name);
            let inside = value.starts_with("data:") || value.starts_with('#');
            assert!(!loads || inside, "{name}={value}");
            assert!(!name.starts_with("on"), "{name}={value}");
        }
    }
    assert!(elements(page, "link, iframe, object, embed, base").is_empty());
    the_script_is_the_only_one(page);
    let style = texts(page, "style").concat();
    assert!(
        !style.contains("url(") && !style.contains("@import"),
        "{style}"
    );
}

/// The page's own script, which the browser knows by its hash; no other would run.
fn the_script_is_the_only_one(page: &Html) {
    let script = include_str!("../../templates/report.js");
    let found: Vec<String> = elements(page, "script")
        .iter()
        .map(|element| element.text().collect())
        .collect();
    assert_eq!(found, [script]);
    let policy = elements(page, "meta[http-equiv]")[0]
        .attr("content")
        .unwrap();
    let hash = BASE64_STANDARD.encode(Sha256::digest(script));
    assert!(
        policy.ends_with(&format!("; script-src 'sha256-{hash}'")),
        "{policy}"
    );
    assert!(
        policy.starts_with("default-src 'none'; img-src data:; "),
        "{policy}"
    );
}
