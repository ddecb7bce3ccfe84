//! `fit` offers the original DINOv2 in place of the weights in the program, once.

use std::io::{BufRead, IsTerminal as _, Write};

use anomalens::backbones::weights::{Entry, Registry, Store};
use anomalens::base::write_atomic;
use anyhow::{Context, Result};

/// What is offered.
const ORIGINAL: &str = "dinov2-small";

/// The file in the cache folder that holds the answer, `yes` or `no`.
const ANSWER: &str = "original-weights";

/// The original weights if they are wanted. Who was asked before is not asked again; nobody is asked
/// where no person would see it, or where nothing may be fetched.
pub(super) fn original() -> Result<Option<&'static str>> {
    let store = Store::from_env()?;
    let may_ask =
        std::io::stdin().is_terminal() && std::io::stderr().is_terminal() && !store.is_offline();
    let mut input = std::io::stdin().lock();
    wanted(
        &store,
        may_ask.then_some(&mut input),
        &mut std::io::stderr(),
    )
}

/// The answer given before, or now on `input`.
fn wanted(
    store: &Store,
    input: Option<&mut impl BufRead>,
    output: &mut impl Write,
) -> Result<Option<&'static str>> {
    let path = store.made_path(ANSWER);
    if let Ok(answer) = std::fs::read_to_string(&path) {
        return Ok((answer.trim() == "yes").then_some(ORIGINAL));
    }
    let Some(input) = input else {
        return Ok(None);
    };
    let entry = Registry::builtin().find(ORIGINAL)?;
    let mut line = String::new();
    let asked = write!(output, "{}", question(entry)).and_then(|()| output.flush());
    if asked.is_err() || input.read_line(&mut line).unwrap_or(0) == 0 {
        return Ok(None);
    }
    let is_wanted = matches!(line.trim().to_lowercase().as_str(), "y" | "yes");
    let answer = if is_wanted { "yes\n" } else { "no\n" };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    write_atomic(&path, answer.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(is_wanted.then_some(ORIGINAL))
}

fn question(entry: &Entry) -> String {
    let megabytes = entry.bytes.unwrap_or_default() / 1_000_000;
    format!(
        "The weights in the program are a DINOv2-S whose last two blocks were spoilt by fine-tuning.\n\
         The original, {ORIGINAL}, has {megabytes} MB (licence {}). Fetch it and use it from now on? \
         [y/N] ",
        entry.licence
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_asked_once() {
        // (name, what is typed the first time, whether the original is used, whether one is asked again)
        for (name, typed, expected, again) in [
            ("yes", "y\n", true, false),
            ("in full", " YES \n", true, false),
            ("no", "n\n", false, false),
            ("only return", "\n", false, false),
            ("the input ends", "", false, true),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::new(folder.path().join("cache"));
            let (mut input, mut told) = (typed.as_bytes(), vec![]);
            let first = wanted(&store, Some(&mut input), &mut told).unwrap();
            assert_eq!(first, expected.then_some(ORIGINAL), "{name}");
            let told = String::from_utf8(told).unwrap();
            assert!(
                told.contains("88 MB (licence Apache-2.0)"),
                "{name}: {told}"
            );
            let (mut input, mut told) = ("y\n".as_bytes(), vec![]);
            let second = wanted(&store, Some(&mut input), &mut told).unwrap();
            assert_eq!(!told.is_empty(), again, "{name}");
            assert_eq!(second.is_some(), expected || again, "{name}");
            // Where nobody can be asked, the answer counts.
            let silent = wanted(&store, None::<&mut &[u8]>, &mut vec![]).unwrap();
            assert_eq!(silent.is_some(), expected || again, "{name}");
        }
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        let nobody = wanted(&store, None::<&mut &[u8]>, &mut vec![]).unwrap();
        assert_eq!(nobody, None);
    }
}
