//! The table of layouts in docs/data.md is the registry's.

use anomalens_datasets::layouts;

#[test]
fn the_page_lists_every_layout() {
    let page = include_str!("../../../docs/data.md");
    let mut table = "| layout | what | files and folders | published at |\n".to_owned();
    table += "| --- | --- | --- | --- |\n";
    for layout in layouts() {
        let about = layout.about.as_ref();
        let obtain = about.map_or("", |about| about.obtain);
        let (name, what, files) = (layout.name, layout.summary, layout.expects);
        table += &format!("| `{name}` | {what} | {files} | {obtain} |\n");
    }
    assert!(
        page.contains(&format!("\n\n{table}\n")),
        "docs/data.md needs this table:\n{table}"
    );
}
