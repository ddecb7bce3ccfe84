//! Where the data sets of a suite lie below a folder.

use std::path::{Path, PathBuf};

use anomalens_datasets::{DataRef, layout};

/// What folders of data sets are usually called, apart from the layout's own name: by their archives,
/// by the papers' code. Capitals, spaces, `-` and `_` do not matter.
const USUAL: [(&str, &[&str]); 25] = [
    ("aitex", &["aitex fabric", "aitex fabric image database"]),
    ("br35h", &["br35h brain tumor detection 2020"]),
    ("brainmri", &["brain tumor dataset", "brain mri images"]),
    ("btad", &["btech dataset transformed", "btech"]),
    ("cifar10", &["cifar10 png", "cifar 10 pictures"]),
    (
        "cifar10-multi",
        &["cifar10", "cifar10 png", "cifar 10 pictures"],
    ),
    ("covid-19", &["covid 19 radiography dataset"]),
    ("cvc-clinicdb", &["clinicdb"]),
    ("cvc-colondb", &["colondb"]),
    ("dagm", &["dagm2007", "dagm kaggleupload"]),
    ("dtd-synthetic", &["dtd"]),
    ("elpv", &["elpv dataset"]),
    (
        "endo",
        &["endotect", "endotect 2020 segmentation test dataset"],
    ),
    ("headct", &["head ct hemorrhage"]),
    ("isic", &["isic 2016", "isbi"]),
    ("kvasir", &["kvasir seg"]),
    ("magnetic-tile", &["magnetic tile defect datasets", "mtd"]),
    ("mnist", &["mnist png", "mnist pictures"]),
    ("mpdd", &["mpdd anomaly"]),
    ("mvtec", &["mvtec ad", "mvtec anomaly detection", "mvtecad"]),
    ("sdd", &["kolektorsdd", "kolektorsdd boxes"]),
    ("textile", &["textile defects"]),
    ("tn3k", &["thyroid tn3k"]),
    ("tn3k-training", &["tn3k", "thyroid tn3k"]),
    ("visa", &["visa 20220922"]),
];

/// Why there is no folder of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Absent {
    /// No folder has one of its names.
    NotFound,
    /// There is one, which is not laid out as it should be.
    Unfit(String),
}

/// The data set `name` below `root`: a folder called as the layout or as is usual for it, that
/// looks like the layout.
///
/// # Errors
/// Why there is none.
pub fn locate(root: &Path, name: &str) -> Result<DataRef, Absent> {
    let unfit = |error: anomalens_datasets::Error| Absent::Unfit(error.to_string());
    let layout = layout(name).map_err(unfit)?;
    let mut folders: Vec<PathBuf> = std::fs::read_dir(root)
        .map_err(|error| Absent::Unfit(format!("cannot read {}: {error}", root.display())))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir() && is_called(path, name))
        .collect();
    // The layout's own name before others.
    folders.sort_by_key(|path| (!path.ends_with(name), path.clone()));
    let mut reason = Absent::NotFound;
    for root in folders {
        match layout.recognise(&root) {
            Ok(()) => return Ok(DataRef::new(layout, root)),
            Err(error) => reason = Absent::Unfit(error.to_string()),
        }
    }
    Err(reason)
}

/// Whether the folder `path` may hold the data set `name`.
fn is_called(path: &Path, name: &str) -> bool {
    let Some(folder) = path.file_name().and_then(|folder| folder.to_str()) else {
        return false;
    };
    usual_names(name).any(|usual| plain(usual) == plain(folder))
}

/// The names that the data set `name` is looked for under, its layout's first.
pub fn usual_names(name: &str) -> impl Iterator<Item = &str> {
    let others = USUAL.iter().find(|(layout, _)| *layout == name);
    std::iter::once(name).chain(others.into_iter().flat_map(|(_, names)| *names).copied())
}

/// Small letters and digits alone.
fn plain(name: &str) -> String {
    let kept = name.chars().filter(|c| c.is_alphanumeric());
    kept.flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // test code
mod tests {
    use super::*;

    #[test]
    fn folders_are_found_by_usual_names_and_checked() {
        let root = tempfile::tempdir().unwrap();
        for folder in [
            "brain_mri/no",
            "brain_mri/yes",
            "BRAIN_TUMOR-dataset/no",
            "Head-CT",
        ] {
            std::fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        let found = |name| locate(root.path(), name).map(|data| data.root);
        // A folder of a usual name that is not whole does not hide the one that is.
        assert_eq!(found("brainmri"), Ok(root.path().join("brain_mri")));
        assert!(
            matches!(found("headct"), Err(Absent::Unfit(reason)) if reason.contains("Head-CT"))
        );
        assert_eq!(found("sdd"), Err(Absent::NotFound));
        assert!(matches!(
            locate(Path::new("/nowhere"), "sdd"),
            Err(Absent::Unfit(_))
        ));
    }
}
