//! The known name that is most similar to a mistyped one.

/// Similarity (Jaro-Winkler, 0 to 1) below which a suggestion would puzzle more than help.
const LEAST_SIMILARITY: f64 = 0.75;

/// The candidate most similar to `name` in any case, if one is similar at all.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let name = name.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| {
            let similarity = strsim::jaro_winkler(&name, &candidate.to_lowercase());
            (similarity, candidate)
        })
        .filter(|(similarity, _)| *similarity >= LEAST_SIMILARITY)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate.to_owned())
}

/// ` (did you mean NAME?)` for an error's sentence, or nothing.
pub fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!(" (did you mean `{name}`?)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_name_finds_its_like() {
        let known = ["anomaly-dino", "musc", "inctrl"];
        for (name, expected) in [
            ("anomalydino", Some("anomaly-dino")),
            ("MUSC", Some("musc")),
            ("inctl", Some("inctrl")),
            ("zzz", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, known).as_deref(), expected, "{name}");
        }
        assert_eq!(did_you_mean(Some("musc")), " (did you mean `musc`?)");
        assert_eq!(did_you_mean(None), "");
    }
}
