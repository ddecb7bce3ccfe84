//! Settings behind a name or path, `PATH,name=value,...`. A path may have commas itself: settings
//! are read from the end, and a value holds no `/`, so that `PATH,name=value/` names a folder.

/// What stands before the settings, and the settings in their order.
pub fn split_settings(text: &str) -> (&str, Vec<(&str, &str)>) {
    let mut rest = text;
    let mut settings = Vec::new();
    while let Some((before, setting)) = last_setting(rest) {
        settings.push(setting);
        rest = before;
    }
    settings.reverse();
    (rest, settings)
}

fn last_setting(text: &str) -> Option<(&str, (&str, &str))> {
    let (before, last) = text.rsplit_once(',')?;
    let (name, value) = last.split_once('=')?;
    let in_name = |c: char| c.is_ascii_lowercase() || c == '-';
    let is_setting = !name.is_empty() && name.chars().all(in_name) && !value.contains(['/', '\\']);
    is_setting.then_some((before, (name, value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_from_the_end() {
        let none: &[(&str, &str)] = &[];
        for (text, rest, settings) in [
            ("/data/a", "/data/a", none),
            ("a,b-c=1,d=", "a", &[("b-c", "1"), ("d", "")]),
            ("a,b/c,seed=1", "a,b/c", &[("seed", "1")]),
            ("a,b=1/", "a,b=1/", none),
            ("a,b=1/c,d=2", "a,b=1/c", &[("d", "2")]),
            ("a,B=1", "a,B=1", none),
            ("a,=1", "a,=1", none),
            ("", "", none),
        ] {
            assert_eq!(split_settings(text), (rest, settings.to_vec()), "{text}");
        }
    }
}
