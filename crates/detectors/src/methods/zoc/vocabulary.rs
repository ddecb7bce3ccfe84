//! The pieces of words that the decoder's tokens stand for, from a list as SentencePiece exports it
//! (`spm_export_vocab --model=spiece.model --output=spiece.vocab`): one a line, in the order of their tokens,
//! with their log probability behind a tab where texts are to be cut into pieces.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use super::refuse;
use crate::DetectorError;

/// More than any file of pieces has.
const MOST_BYTES: u64 = 64 << 20;

/// More characters than a caption has, or a piece; what is beyond is left out.
const MOST_CHARACTERS: usize = 2000;
const LONGEST_PIECE: usize = 64;

/// What SentencePiece writes for a space.
const SPACE: char = '\u{2581}';

/// By how much a character outside of the vocabulary is less probable than the least probable piece, as in
/// SentencePiece.
const UNKNOWN: f32 = 10.0;

/// Pieces by their tokens.
pub(super) struct Vocabulary {
    pieces: Vec<String>,
    /// Log probabilities; none if the list has none.
    scores: Option<Vec<f32>>,
}

/// The labels that candidates are of.
pub(super) struct Words {
    /// Each once.
    pub(super) labels: Vec<String>,
    /// For each token its label; none for seen labels.
    pub(super) of_token: Vec<Option<usize>>,
}

impl Vocabulary {
    /// Reads the file that the setting `vocabulary` names.
    pub(super) fn open(name: &str) -> Result<Self, DetectorError> {
        if name.is_empty() {
            return Err(refuse(
                "it needs the pieces of its decoder's vocabulary: name their file with --set \
                 vocabulary=FILE",
            ));
        }
        let read = || {
            if std::fs::metadata(Path::new(name))?.len() > MOST_BYTES {
                return Err(std::io::Error::other("it is larger than 64 MB"));
            }
            std::fs::read_to_string(name)
        };
        let text = read();
        let text = text.map_err(|e| refuse(format!("`vocabulary`: {name} cannot be read: {e}")))?;
        Self::parse(&text).map_err(|reason| refuse(format!("`vocabulary`: {name}: {reason}")))
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let lines = text.lines().map(|line| match line.split_once('\t') {
            Some((piece, score)) => (piece, score.parse::<f32>().ok()),
            None => (line, None),
        });
        let (pieces, scores): (Vec<&str>, Vec<Option<f32>>) = lines.unzip();
        if pieces.is_empty() || pieces.iter().any(|piece| piece.is_empty()) {
            return Err("it must have one piece on each line".to_owned());
        }
        let scores: Option<Vec<f32>> = scores.into_iter().collect();
        Ok(Self {
            pieces: pieces.into_iter().map(str::to_owned).collect(),
            scores: scores.filter(|scores| scores.iter().all(|x| x.is_finite())),
        })
    }

    /// How many tokens there are.
    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// The token of `piece`.
    pub(super) fn token(&self, piece: &str) -> Option<usize> {
        self.pieces.iter().position(|known| known == piece)
    }

    /// What tokens mean by themselves, without `seen` labels.
    pub(super) fn words(&self, seen: &[String]) -> Words {
        let mut labels: Vec<String> = vec![];
        let mut known: HashMap<String, usize> = HashMap::new();
        let seen: BTreeSet<&str> = seen.iter().map(String::as_str).collect();
        let of_token = self.pieces.iter().map(|piece| {
            let word = piece.replace(SPACE, " ").trim().to_owned();
            if seen.contains(word.as_str()) {
                return None;
            }
            let next = labels.len();
            let label = *known.entry(word.clone()).or_insert(next);
            if label == next {
                labels.push(word);
            }
            Some(label)
        });
        let of_token = of_token.collect();
        Words { labels, of_token }
    }

    /// The most probable pieces that make up `text` (Kudo, 2018), as tokens.
    ///
    /// # Errors
    /// [`DetectorError::Settings`] if the list has no log probabilities.
    pub(super) fn cutter(&self) -> Result<Cutter<'_>, DetectorError> {
        let scores = self.scores.as_deref().ok_or_else(|| {
            refuse(
                "`vocabulary` needs a log probability behind each piece to cut captions into \
                 pieces, as `spm_export_vocab` writes it",
            )
        })?;
        let tokens = self.pieces.iter().enumerate();
        let tokens: HashMap<&str, usize> = tokens.map(|(i, piece)| (piece.as_str(), i)).collect();
        let longest = self.pieces.iter().map(|piece| piece.chars().count()).max();
        Ok(Cutter {
            unknown: self.token("<unk>"),
            lowest: scores.iter().copied().fold(0.0, f32::min) - UNKNOWN,
            longest: longest.unwrap_or(0).clamp(1, LONGEST_PIECE),
            tokens,
            scores,
        })
    }
}

/// Cuts texts into pieces.
pub(super) struct Cutter<'a> {
    tokens: HashMap<&'a str, usize>,
    scores: &'a [f32],
    /// The token of what is in no piece; left out if there is none.
    unknown: Option<usize>,
    /// The score of such a character.
    lowest: f32,
    /// Characters of the longest piece.
    longest: usize,
}

/// The best way up to a character.
#[derive(Clone, Copy)]
struct Way {
    score: f32,
    /// Where its last piece begins, and that piece.
    from: usize,
    token: Option<usize>,
}

impl Cutter<'_> {
    /// The tokens of `text`. Spaces are as one, and there is one in front.
    pub(super) fn cut(&self, text: &str) -> Vec<usize> {
        let text: String = text
            .split_whitespace()
            .flat_map(|word| [SPACE].into_iter().chain(word.chars()))
            .take(MOST_CHARACTERS)
            .collect();
        let mut ends: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        ends.push(text.len());
        let nowhere = Way {
            score: f32::NEG_INFINITY,
            from: 0,
            token: None,
        };
        let mut ways = vec![nowhere; ends.len()];
        if let Some(first) = ways.first_mut() {
            first.score = 0.0;
        }
        for end in 1..ends.len() {
            for from in end.saturating_sub(self.longest)..end {
                let piece = &text[ends[from]..ends[end]];
                let (token, score) = match self.tokens.get(piece) {
                    Some(&token) => (Some(token), self.scores[token]),
                    None if from + 1 == end => (self.unknown, self.lowest),
                    None => continue,
                };
                let score = ways[from].score + score;
                if score > ways[end].score {
                    ways[end] = Way { score, from, token };
                }
            }
        }
        let mut tokens = vec![];
        let mut end = ends.len() - 1;
        while end > 0 {
            tokens.extend(ways[end].token);
            end = ways[end].from;
        }
        tokens.reverse();
        tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_mean_words_without_the_seen_ones() {
        let list = "<s>\n\u{2581}dog\ndog\n\u{2581}\nness\n\u{2581}cat";
        let words = Vocabulary::parse(list).unwrap().words(&["cat".to_owned()]);
        assert_eq!(words.labels, ["<s>", "dog", "", "ness"]);
        let of = [Some(0), Some(1), Some(1), Some(2), Some(3), None];
        assert_eq!(words.of_token, of);
    }

    #[test]
    fn texts_are_cut_into_the_most_probable_pieces() {
        let list = "<unk>\t0\n\u{2581}a\t-2\n\u{2581}ab\t-5\nb\t-2.5\nc\t-1\nbc\t-4\n\u{2581}\t-3";
        let vocabulary = Vocabulary::parse(list).unwrap();
        let cutter = vocabulary.cutter().unwrap();
        // "_a" + "b" is better than "_ab", "b" + "c" better than "bc"; "x" is in no piece.
        assert_eq!(cutter.cut(" ab  abc"), [1, 3, 1, 3, 4]);
        assert_eq!(cutter.cut("xc"), [6, 0, 4]);
        assert_eq!(cutter.cut(""), [0; 0]);
    }

    #[test]
    fn lists_that_cannot_be_used_are_refused() {
        assert!(Vocabulary::parse("").is_err());
        assert!(Vocabulary::parse("a\n\nb").is_err());
        let plain = Vocabulary::parse("a\nb").unwrap();
        let message = plain.cutter().err().unwrap().to_string();
        assert!(message.contains("needs a log probability"), "{message}");
        let message = Vocabulary::open("nowhere.vocab").err().unwrap().to_string();
        assert!(
            message.contains("nowhere.vocab cannot be read"),
            "{message}"
        );
    }
}
