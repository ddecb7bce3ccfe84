//! Names of pictures, of which no two are equal whatever the images are called.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use anomalens_base::ContentHash;

/// Longest name of a picture's file without its ending, in bytes: file systems take 255.
const LONGEST: usize = 200;

/// Endings of what is written under a name.
const ENDINGS: [&str; 3] = ["png", "npy", "tiff"];

/// Names that Windows keeps for devices.
const DEVICES: [&str; 6] = ["con", "prn", "aux", "nul", "com", "lpt"];

/// For each of `images` (the name that it should have, and its path, which no other has), a relative
/// path without ending that is fit for every file system. An ordinary name stays as it is; what
/// cannot stay, and what would be equal to another in upper or lower case, gets a part of its
/// path's hash. The name of an image depends on which others there are, not on their order.
pub fn picture_names<'a>(images: impl IntoIterator<Item = (&'a Path, &'a Path)>) -> Vec<PathBuf> {
    let images: Vec<(&Path, &Path)> = images.into_iter().collect();
    let plain: Vec<(PathBuf, bool)> = images.iter().map(|(name, _)| plain(name)).collect();
    let folded = |path: &Path| path.to_string_lossy().to_lowercase();
    let mut uses: HashMap<String, usize> = HashMap::new();
    for (name, _) in &plain {
        *uses.entry(folded(name)).or_default() += 1;
    }
    let folders = plain.iter().flat_map(|(name, _)| name.ancestors().skip(1));
    let folders: HashSet<String> = folders.map(folded).collect();
    let is_taken = |name: &Path| {
        let name = folded(name);
        let folder = |ending: &&str| folders.contains(&format!("{name}.{ending}"));
        uses.get(&name).is_some_and(|&uses| uses > 1) || ENDINGS.iter().any(folder)
    };
    images
        .iter()
        .zip(&plain)
        .map(|((_, path), (name, changed))| {
            let hash = ContentHash::of_bytes(path.as_os_str().as_encoded_bytes()).short();
            match *changed || is_taken(name) {
                true => appended(name, &format!("~{hash}")),
                false => name.clone(),
            }
        })
        .collect()
}

/// The relative path of `image` in plain characters, and whether it lost anything.
fn plain(image: &Path) -> (PathBuf, bool) {
    let mut changed = false;
    let mut name = PathBuf::new();
    for component in image.components() {
        match component {
            Component::Normal(part) => name.push(plain_part(part, &mut changed)),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
            Component::ParentDir => {
                name.push("_");
                changed = true;
            }
        }
    }
    if name.as_os_str().is_empty() {
        name.push("_");
        changed = true;
    }
    (name, changed)
}

fn plain_part(part: &OsStr, changed: &mut bool) -> String {
    let text = part.to_string_lossy();
    let is_plain =
        |c: char| !c.is_control() && !"<>:\"/\\|?*~\u{fffd}".contains(c) && !is_direction(c);
    let mut name: String = text
        .chars()
        .map(|c| if is_plain(c) { c } else { '_' })
        .collect();
    let stem = name.split('.').next().unwrap_or_default().to_lowercase();
    let stem = stem.trim_end_matches(|c: char| c.is_ascii_digit());
    if DEVICES.contains(&stem) || name.starts_with(['.', '-', '=']) {
        name.insert(0, '_');
    }
    if name.ends_with(['.', ' ']) {
        name.push('_');
    }
    while name.len() > LONGEST {
        name.pop();
    }
    *changed |= name != text;
    name
}

/// Characters that change the direction of a text and so what its reader sees.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn appended(path: &Path, text: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(text);
    name.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(images: &[&str]) -> Vec<String> {
        let names = picture_names(
            images
                .iter()
                .map(|&image| (Path::new(image), Path::new(image))),
        );
        let text = |name: PathBuf| name.to_str().unwrap().to_owned();
        names.into_iter().map(text).collect()
    }

    #[test]
    fn ordinary_names_stay() {
        for image in [
            "a.png",
            "photos/a b.png",
            "photos/Teil ä (2).jpeg",
            "图/零件.png",
        ] {
            assert_eq!(names(&[image]), [image]);
        }
        assert_eq!(names(&["./a.png", "/b/c.png"]), ["a.png", "b/c.png"]);
    }

    #[test]
    fn names_that_cannot_stay_are_told_apart() {
        let long = format!("{}.png", "x".repeat(250));
        for image in [
            "a:b.png",
            "a\nb.png",
            "../a.png",
            "con.png",
            "COM1.png",
            ".a.png",
            "-a.png",
            "=a.png",
            "a.png.",
            "a\u{202e}gnp.png",
            "a~b.png",
            &long,
        ] {
            let [name] = names(&[image]).try_into().unwrap();
            assert!(name.contains('~') && name != *image, "{image}: {name}");
            assert!(name.len() < 255, "{name}");
        }
        for pair in [
            ["A.png", "a.png"],
            ["/a.png", "a.png"],
            ["a?.png", "a*.png"],
        ] {
            let [first, second] = names(&pair).try_into().unwrap();
            assert_ne!(first.to_lowercase(), second.to_lowercase());
        }
        // A picture and a folder of pictures cannot have one name.
        let [picture, _] = names(&["a", "a.png/b"]).try_into().unwrap();
        assert_ne!(picture, "a");
    }

    #[test]
    fn images_of_one_name_in_two_folders_are_told_apart() {
        let images = [
            ("x.png", "A/x.png"),
            ("x.png", "B/x.png"),
            ("2/x.png", "A/2/x.png"),
        ];
        let images = images.map(|(name, path)| (Path::new(name), Path::new(path)));
        let names: HashSet<PathBuf> = picture_names(images).into_iter().collect();
        assert_eq!(names.len(), 3, "{names:?}");
        assert!(names.contains(Path::new("2/x.png")));
    }

    #[cfg(unix)]
    #[test]
    fn bytes_that_are_no_text_are_told_apart() {
        use std::os::unix::ffi::OsStrExt;
        let images = [
            &b"teil_\xe4.jpg"[..],
            b"teil_\xf6.jpg",
            b"teil_\xef\xbf\xbd.jpg",
        ];
        let images = images.map(|bytes| Path::new(OsStr::from_bytes(bytes)));
        let names: HashSet<PathBuf> = picture_names(images.map(|image| (image, image)))
            .into_iter()
            .collect();
        assert_eq!(names.len(), 3, "{names:?}");
    }

    proptest! {
        #[test]
        fn no_two_are_equal_and_order_does_not_matter(
            images in proptest::collection::hash_set("[a-bA-B.~_ /:]{1,6}", 1..12)
        ) {
            // One path written in two ways is one image.
            let mut images: Vec<PathBuf> = images
                .iter()
                .map(|text| Path::new(text).components().collect::<PathBuf>())
                .collect();
            images.sort();
            images.dedup();
            let names = picture_names(images.iter().map(|i| (i.as_path(), i.as_path())));
            let folded: HashSet<String> = names
                .iter()
                .map(|name| name.to_string_lossy().to_lowercase())
                .collect();
            prop_assert_eq!(folded.len(), images.len(), "{:?} {:?}", images, names);
            for name in &names {
                prop_assert!(name.is_relative() && !name.starts_with(".."), "{name:?}");
            }
            images.reverse();
            let mut backwards = picture_names(images.iter().map(|i| (i.as_path(), i.as_path())));
            backwards.reverse();
            prop_assert_eq!(names, backwards);
        }
    }
}
