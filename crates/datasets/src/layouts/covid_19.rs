//! COVID-19: chest X-rays, of which AnomalyCLIP takes all for the test; every folder but the one of
//! normal images is anomalous. Newer releases have the images in a folder within, beside outlines
//! of the lungs, which are no masks of anomalies.

use crate::error::Error;
use crate::layouts::{ALL_TEST, About, Layout, Published, scan_images};
use crate::listing::{below, list};
use crate::sample::GOOD;
use crate::scan::Scan;

pub(super) const LAYOUT: Layout = Layout {
    name: "covid-19",
    summary: "COVID-19 Radiography, chest X-rays of the healthy and the ill",
    expects: "NORMAL/* (normal), COVID-19/* or COVID/* and others (anomalous); or the images in a \
        folder images within these",
    split: ALL_TEST,
    about: Some(About {
        title: "COVID-19 Radiography Database",
        licence: "stated on the owners' page; none comes with the files",
        citation: "M. E. H. Chowdhury et al., Can AI Help in Screening Viral and COVID-19 \
            Pneumonia?, IEEE Access, 2020",
        obtain: "www.kaggle.com/datasets/tawsifurrahman/covid19-radiography-database",
        published: Published::Test([1341, 219]),
        published_in: "the owners' first release, normal and COVID-19; what AnomalyCLIP took is \
            not told",
    }),
    missing: |root| {
        let folders = list(root)?.folders;
        let ill = |name: &String| name.to_lowercase().starts_with("covid");
        let there = folders.iter().any(|name| is_normal(name)) && folders.iter().any(ill);
        Ok((!there).then(|| "NORMAL or COVID-19 is missing".to_owned()))
    },
    scan,
};

fn is_normal(folder: &str) -> bool {
    folder.eq_ignore_ascii_case("normal")
}

fn scan(scan: &mut Scan) -> Result<(), Error> {
    for folder in scan.folders_in("")? {
        let within = below(&folder, "images");
        let images = scan.first_there(&[&within, &folder]);
        let kind = if is_normal(&folder) { GOOD } else { &folder };
        scan_images(scan, images, "chest", kind)?;
    }
    Ok(())
}
