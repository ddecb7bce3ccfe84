//! The CLIP tokenizer against OpenCLIP's with ftfy, and the rules for texts that are too long.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code

use std::path::Path;

use anomalens_backbones::BackboneError;
use anomalens_backbones::clip::tokenizer::{
    CONTEXT_LENGTH, END_OF_TEXT, START_OF_TEXT, Tokenizer, TooLong,
};

#[test]
fn texts_have_the_original_ids() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/tokens.json");
    let cases: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let tokenizer = Tokenizer::new();
    let wrong: Vec<String> = cases
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|case| {
            let text = case["text"].as_str().unwrap();
            let expected: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            let found = tokenizer.encode(text);
            (found != expected).then(|| format!("{text:?}: {found:?}, expected {expected:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn prompts_are_framed_and_padded() {
    let cases: [(&str, &[u32]); 4] = [
        ("", &[START_OF_TEXT, END_OF_TEXT]),
        ("01", &[START_OF_TEXT, 271, 272, END_OF_TEXT]),
        (
            "a photo of a normal metal_nut.",
            &[
                START_OF_TEXT,
                320,
                1125,
                539,
                320,
                5967,
                4044,
                318,
                6491,
                269,
                END_OF_TEXT,
            ],
        ),
        (
            "<|startoftext|>X<|EndOfText|>",
            &[START_OF_TEXT, START_OF_TEXT, 343, END_OF_TEXT, END_OF_TEXT],
        ),
    ];
    for (text, expected) in cases {
        let ids = Tokenizer::new()
            .tokenize(text, CONTEXT_LENGTH, TooLong::Error)
            .unwrap();
        assert_eq!(ids.len(), CONTEXT_LENGTH, "{text}");
        assert_eq!(&ids[..expected.len()], expected, "{text}");
        assert!(ids[expected.len()..].iter().all(|&id| id == 0), "{text}");
    }
}

#[test]
fn a_text_that_is_too_long_is_refused_or_cut() {
    let tokenizer = Tokenizer::new();
    let x = |count: usize| "x ".repeat(count);
    // Words, context, what the ids then are or the number of tokens that the error names.
    type Case<'a> = (usize, usize, TooLong, Result<&'a [u32], usize>);
    let cases: [Case; 5] = [
        (
            2,
            4,
            TooLong::Error,
            Ok(&[START_OF_TEXT, 343, 343, END_OF_TEXT]),
        ),
        (3, 4, TooLong::Error, Err(5)),
        (
            3,
            4,
            TooLong::Truncate,
            Ok(&[START_OF_TEXT, 343, 343, END_OF_TEXT]),
        ),
        (9, 2, TooLong::Truncate, Ok(&[START_OF_TEXT, END_OF_TEXT])),
        (0, 1, TooLong::Truncate, Err(2)),
    ];
    for (words, context, too_long, expected) in cases {
        let case = format!("{words} words in {context}, {too_long:?}");
        match (tokenizer.tokenize(&x(words), context, too_long), expected) {
            (Ok(ids), Ok(expected)) => assert_eq!(ids, expected, "{case}"),
            (
                Err(BackboneError::TextTooLong {
                    tokens,
                    context_length,
                    ..
                }),
                Err(expected),
            ) => assert_eq!((tokens, context_length), (expected, context), "{case}"),
            (found, _) => panic!("{case}: {found:?}"),
        }
    }
}
