//! Lists of images and labels, lists of results, and how data sets are named.

use std::fs;
use std::path::Path;
use std::str::FromStr;
use std::sync::OnceLock;

use anomalens_datasets::{DataRef, DataSet, read_shots};
use anomalens_evaluation::{ResultFolder, ResultRecord};
use anomalens_vision::{Image, Limits};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A small data set, whose images and masks the lists name.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.png", "b.png", "mask.png"] {
            let image = Image::new(9, 7, vec![200; 9 * 7 * 3]).unwrap();
            fs::write(folder.path().join(name), image.to_png().unwrap()).unwrap();
        }
        fs::write(folder.path().join("manifest.csv"), &manifests()[0]).unwrap();
        folder
    });
    folder.path()
}

/// Opens a data set that `bytes` list, its masks too.
fn data_set(layout: &str, name: &str, bytes: &[u8]) -> bool {
    let root = folder();
    // Each call has a file of its own, beside the images.
    let file = tempfile::Builder::new()
        .suffix(name)
        .tempfile_in(root)
        .unwrap();
    fs::write(file.path(), bytes).unwrap();
    let reference = DataRef::from_str(&format!("{layout}:{}", file.path().display())).unwrap();
    match DataSet::open(&reference) {
        Ok(data) => {
            for sample in &data.samples {
                let _ = sample.mask.open(&Limits::default());
            }
            true
        }
        Err(error) => {
            let _ = error.to_string();
            false
        }
    }
}

pub(crate) fn data_ref(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else {
        return false;
    };
    match DataRef::from_str(text) {
        Ok(reference) => {
            assert_eq!(
                DataRef::from_str(&reference.to_string()).ok(),
                Some(reference),
                "what is shown names the same"
            );
            true
        }
        Err(error) => {
            let _ = error.to_string();
            false
        }
    }
}

pub(crate) fn data_refs() -> Vec<Vec<u8>> {
    [
        "folder:/data/a,mask-threshold=127",
        "coco:a,b/c.json",
        "mvtec:../x,mask-threshold=0",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

pub(crate) fn manifest(bytes: &[u8]) -> bool {
    data_set("manifest", ".csv", bytes)
}

pub(crate) fn manifests() -> Vec<Vec<u8>> {
    [
        "path,label,mask,class,split,kind\na.png,normal,,nut,train,\nb.png,anomalous,mask.png,nut,test,dent\n",
        "path;label\na.png;0\nb.png;1\n",
        "{\"path\": \"a.png\", \"label\": \"good\"}\n{\"path\": \"b.png\", \"label\": 1, \"mask\": null}\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

pub(crate) fn coco(bytes: &[u8]) -> bool {
    data_set("coco", ".json", bytes)
}

pub(crate) fn coco_files() -> Vec<Vec<u8>> {
    let file = |segmentation: Value| {
        let file = json!({
            "images": [
                { "id": 1, "file_name": "a.png", "width": 9, "height": 7 },
                { "id": 2, "file_name": "b.png", "width": 9, "height": 7 },
            ],
            "annotations": [
                { "id": 5, "image_id": 2, "category_id": 3, "bbox": [1, 1, 4, 3.5],
                  "segmentation": segmentation },
            ],
            "categories": [{ "id": 3, "name": "dent" }],
        });
        file.to_string().into_bytes()
    };
    vec![
        file(json!([[1, 1, 6, 1, 6, 5.5]])),
        file(json!({ "size": [7, 9], "counts": [10, 20, 33] })),
        file(json!({ "size": [7, 9], "counts": ":d0Q1" })),
        file(json!([])),
    ]
}

pub(crate) fn meta(bytes: &[u8]) -> bool {
    data_set("meta", "meta.json", bytes)
}

pub(crate) fn meta_files() -> Vec<Vec<u8>> {
    let entry = |image: &str, mask: &str, anomaly: u8| {
        json!({ "img_path": image, "mask_path": mask, "cls_name": "nut", "specie_name": "dent",
                "anomaly": anomaly })
    };
    let file = json!({
        "train": { "nut": [entry("a.png", "", 0)] },
        "test": { "nut": [entry("b.png", "mask.png", 1)] },
    });
    vec![file.to_string().into_bytes()]
}

pub(crate) fn shots(bytes: &[u8]) -> bool {
    static DATA: OnceLock<DataSet> = OnceLock::new();
    let data = DATA.get_or_init(|| {
        let reference = format!("manifest:{}", folder().display());
        DataSet::open(&DataRef::from_str(&reference).unwrap()).unwrap()
    });
    crate::in_file("shots.txt", bytes, |path| read_shots(path, data).is_ok())
}

pub(crate) fn shot_lists() -> Vec<Vec<u8>> {
    vec![b"a.png\n".to_vec(), b"\n\na.png".to_vec(), vec![]]
}

/// The records of an earlier run, which the next one reads.
pub(crate) fn results(bytes: &[u8]) -> bool {
    let identity = json!({ "method": "lens" });
    let folder = tempfile::tempdir().unwrap();
    ResultFolder::<ResultRecord>::open(folder.path(), &identity).unwrap();
    fs::write(folder.path().join("results.jsonl"), bytes).unwrap();
    match ResultFolder::<ResultRecord>::open(folder.path(), &identity) {
        Ok(_) => true,
        Err(error) => {
            let _ = error.to_string();
            false
        }
    }
}

pub(crate) fn result_lists() -> Vec<Vec<u8>> {
    let line = |name: &str| {
        json!({
            "image": name,
            "score": 0.25,
            "anomalous": true,
            "probability": 0.5,
            "regions": [{ "x": 1, "y": 2, "width": 3, "height": 4, "area": 9, "peak": 0.5, "outer": { "x": 0, "y": 1, "width": 9, "height": 8 } }],
            "heat_map": "heat-maps/a.png.png",
            "overlay": "overlays/a.png.png",
        })
    };
    let error = json!({ "image": "b.png", "error": "it is empty" });
    vec![
        format!("{}\n{}\n{error}\n", line("a.png"), line("c.png")).into_bytes(),
        format!("{}\n{{\"image\": \"cut", line("a.png")).into_bytes(),
        vec![],
    ]
}
