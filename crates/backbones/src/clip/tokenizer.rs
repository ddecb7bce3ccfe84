//! CLIP's tokenizer: byte-pair encoding on UTF-8 bytes, with the vocabulary of OpenAI's release.
//!
//! A text is cleaned, cut into words, and each word's bytes are merged pairwise in the order in
//! which the pairs stand in the vocabulary file (Sennrich et al., "Neural Machine Translation of
//! Rare Words with Subword Units", 2016). The ids are those of OpenAI CLIP and OpenCLIP.

use std::collections::HashMap;
use std::io::Read;
use std::sync::LazyLock;

use flate2::read::GzDecoder;
use regex::Regex;

use super::cleaning::clean;
use crate::BackboneError;

/// The id that each text begins with.
pub const START_OF_TEXT: u32 = 49406;

/// The id that each text ends with, the largest of all.
pub const END_OF_TEXT: u32 = 49407;

/// The number of ids.
pub const VOCABULARY: usize = 49408;

/// Ids per text in all published models.
pub const CONTEXT_LENGTH: usize = 77;

/// `bpe_simple_vocab_16e6.txt.gz` of OpenAI CLIP (MIT licence): a line of comment, then one merge
/// per line. SHA-256 924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a.
const MERGES: &[u8] = include_bytes!("bpe_simple_vocab_16e6.txt.gz");

/// Ids of single bytes: 256 within a word, then the same 256 at a word's end.
const BYTES: u32 = 256;

/// Ids of single bytes and special tokens, which no merge makes.
const NOT_MERGED: usize = 2 * BYTES as usize + 2;

/// Words: special tokens, English contractions, letters, single digits, anything else.
const WORDS: &str = r"(?xi)
    <\|startoftext\|> | <\|endoftext\|> |
    's | 't | 're | 've | 'm | 'll | 'd |
    \p{L}+ | \p{N} | [^\s\p{L}\p{N}]+";

/// What to do with a text that has more ids than the context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooLong {
    /// Refuse it, as OpenAI's and AnomalyCLIP's code does.
    Error,
    /// Cut it off before its end-of-text id, as OpenCLIP does.
    Truncate,
}

/// Turns text into the ids that CLIP's text encoder was trained on.
///
/// The vocabulary is read once per process; making another tokenizer costs nothing.
#[derive(Debug, Clone, Copy)]
pub struct Tokenizer {
    vocabulary: &'static Vocabulary,
}

impl Default for Tokenizer {
    fn default() -> Self {
        Self::new()
    }
}

impl Tokenizer {
    /// The tokenizer of all OpenAI models and of OpenCLIP's with the same text encoder.
    pub fn new() -> Self {
        static VOCABULARY: LazyLock<Vocabulary> = LazyLock::new(|| {
            #[expect(clippy::expect_used, reason = "compiled in, and every test reads it")]
            Vocabulary::read(MERGES).expect("a valid vocabulary")
        });
        Self {
            vocabulary: &VOCABULARY,
        }
    }

    /// The ids of `text`, without start and end.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let text = clean(text);
        let mut ids = vec![];
        for word in self.vocabulary.words.find_iter(&text) {
            match word.as_str() {
                "<|startoftext|>" => ids.push(START_OF_TEXT),
                "<|endoftext|>" => ids.push(END_OF_TEXT),
                word => ids.extend(self.vocabulary.merge(word)),
            }
        }
        ids
    }

    /// What the text encoder takes: start, the ids of `text`, end, then zeros up to
    /// `context_length` ids.
    ///
    /// # Errors
    /// [`BackboneError::TextTooLong`] if they are more than that, unless `too_long` is
    /// [`TooLong::Truncate`], and always for a context that has no room for start and end.
    pub fn tokenize(
        &self,
        text: &str,
        context_length: usize,
        too_long: TooLong,
    ) -> Result<Vec<u32>, BackboneError> {
        let mut ids = self.encode(text);
        let tokens = ids.len() + 2;
        if context_length < 2 || (tokens > context_length && too_long == TooLong::Error) {
            return Err(BackboneError::TextTooLong {
                text: text.to_owned(),
                tokens,
                context_length,
            });
        }
        ids.truncate(context_length - 2);
        ids.insert(0, START_OF_TEXT);
        ids.push(END_OF_TEXT);
        ids.resize(context_length, 0);
        Ok(ids)
    }
}

#[derive(Debug)]
struct Vocabulary {
    words: Regex,
    /// The id of each byte within a word.
    bytes: [u32; BYTES as usize],
    /// What two ids merge to. An earlier merge makes a smaller id, so the id is also the rank.
    merges: HashMap<(u32, u32), u32>,
}

impl Vocabulary {
    fn read(compressed: &[u8]) -> Result<Self, Box<dyn std::error::Error>> {
        let mut text = String::new();
        GzDecoder::new(compressed).read_to_string(&mut text)?;
        let symbols = byte_symbols();
        let mut bytes = [0; BYTES as usize];
        let mut ids: HashMap<String, u32> = HashMap::new();
        for (id, (byte, symbol)) in (0..).zip(symbols) {
            bytes[usize::from(byte)] = id;
            ids.insert(symbol.to_string(), id);
            ids.insert(format!("{symbol}</w>"), BYTES + id);
        }
        let mut merges = HashMap::new();
        let lines = text.lines().skip(1).take(VOCABULARY - NOT_MERGED);
        for (merged, line) in (2 * BYTES..).zip(lines) {
            let (left, right) = line.split_once(' ').ok_or("a line without a pair")?;
            let id = |symbol: &str| ids.get(symbol).copied().ok_or("an unknown symbol");
            merges.insert((id(left)?, id(right)?), merged);
            ids.insert(format!("{left}{right}"), merged);
        }
        Ok(Self {
            words: Regex::new(WORDS)?,
            bytes,
            merges,
        })
    }

    /// The ids of one word.
    fn merge(&self, word: &str) -> Vec<u32> {
        let mut ids: Vec<u32> = word
            .bytes()
            .map(|byte| self.bytes[usize::from(byte)])
            .collect();
        if let Some(last) = ids.last_mut() {
            *last += BYTES;
        }
        let merged = |pair: &[u32]| self.merges.get(&(pair[0], pair[1])).copied();
        while let Some(best) = ids.windows(2).filter_map(merged).min() {
            let mut i = 0;
            while i + 1 < ids.len() {
                if merged(&ids[i..i + 2]) == Some(best) {
                    ids[i] = best;
                    ids.remove(i + 1);
                }
                i += 1;
            }
        }
        ids
    }
}

/// Every byte in the order of its id, with the character that stands for it in the vocabulary:
/// first those that print as themselves, then the others as U+0100 and up.
fn byte_symbols() -> impl Iterator<Item = (u8, char)> {
    let prints = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let others = (0..=u8::MAX).filter(move |byte| !prints(byte));
    (0..=u8::MAX)
        .filter(prints)
        .map(|byte| (byte, char::from(byte)))
        .chain(others.zip('\u{100}'..))
}
