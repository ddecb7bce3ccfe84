//! What the original tokenizer does to a text before it looks at words: ftfy's `fix_text`, HTML
//! entities, white space, lower case.
//!
//! Of ftfy this has all rules for single characters, and composition (NFC). It does not guess at
//! text that was decoded with the wrong encoding ("donâ€™t"), and leaves C1 controls alone.

use std::borrow::Cow;

use unicode_normalization::{UnicodeNormalization, char::decompose_compatible};

/// The text as the tokenizer sees it: composed, in lower case, words separated by single spaces.
pub(super) fn clean(text: &str) -> String {
    let fixed: String = fix_characters(&unescape(text)).nfc().collect();
    let unescaped = unescape(&fixed);
    let unescaped = unescape(&unescaped);
    let words: Vec<&str> = unescaped.split_whitespace().collect();
    words.join(" ").to_lowercase()
}

fn unescape(text: &str) -> Cow<'_, str> {
    html_escape::decode_html_entities(text)
}

/// Straight quotes, no ligatures, no full-width or half-width forms, no invisible controls.
fn fix_characters(text: &str) -> String {
    let mut fixed = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{02bc}' | '\u{2018}'..='\u{201b}' => fixed.push('\''),
            '\u{201c}'..='\u{201f}' => fixed.push('"'),
            '\u{0149}' => fixed.push_str("'n"),
            '\u{fb05}' => fixed.push_str("ſt"),
            '\u{0132}'
            | '\u{0133}'
            | '\u{01c4}'..='\u{01cc}'
            | '\u{01f1}'..='\u{01f3}'
            | '\u{fb00}'..='\u{fb06}'
            | '\u{ff01}'..='\u{ffef}'
            | '\u{3000}' => {
                decompose_compatible(c, |part| fixed.push(part));
            }
            '\0'..='\u{08}' | '\u{0b}' | '\u{0e}'..='\u{1f}' | '\u{7f}' => {}
            '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}' => {}
            other => fixed.push(other),
        }
    }
    fixed
}
