//! A TIFF writer for tests: one strip a page, little-endian, any fields.

/// Fields of 16-bit numbers, and the bytes of the strip.
#[derive(Clone)]
pub(crate) struct Page {
    pub(crate) width: u16,
    pub(crate) height: u16,
    /// Tag and values of further fields.
    pub(crate) fields: Vec<(u16, Vec<u16>)>,
    pub(crate) strip: Vec<u8>,
}

/// A page of grey samples of 16 bits.
pub(crate) fn grey16(width: u16, height: u16, samples: &[u16]) -> Page {
    Page {
        width,
        height,
        fields: vec![(258, vec![16]), (262, vec![1])],
        strip: samples.iter().flat_map(|s| s.to_le_bytes()).collect(),
    }
}

impl Page {
    pub(crate) fn with(mut self, tag: u16, values: &[u16]) -> Self {
        self.fields.retain(|(other, _)| *other != tag);
        self.fields.push((tag, values.to_vec()));
        self
    }
}

pub(crate) fn file(pages: &[Page]) -> Vec<u8> {
    let mut bytes = b"II*\0\x08\0\0\0".to_vec();
    for (i, page) in pages.iter().enumerate() {
        let mut fields = page.fields.clone();
        fields.push((256, vec![page.width]));
        fields.push((257, vec![page.height]));
        fields.push((278, vec![page.height]));
        fields.sort();
        let count = fields.len() + 2;
        let mut extra_at = bytes.len() + 2 + 12 * count + 4;
        let mut extra = vec![];
        let mut entries: Vec<(u16, [u8; 12])> = vec![];
        for (tag, values) in &fields {
            let value_bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let mut entry = [0; 12];
            entry[..2].copy_from_slice(&tag.to_le_bytes());
            entry[2] = 3;
            entry[4..8].copy_from_slice(&(values.len() as u32).to_le_bytes());
            if value_bytes.len() <= 4 {
                entry[8..8 + value_bytes.len()].copy_from_slice(&value_bytes);
            } else {
                entry[8..].copy_from_slice(&(extra_at as u32).to_le_bytes());
                extra_at += value_bytes.len();
                extra.extend(value_bytes);
            }
            entries.push((*tag, entry));
        }
        for (tag, value) in [(273, extra_at), (279, page.strip.len())] {
            let mut entry = [0; 12];
            entry[..2].copy_from_slice(&u16::to_le_bytes(tag));
            entry[2] = 4;
            entry[4] = 1;
            entry[8..].copy_from_slice(&(value as u32).to_le_bytes());
            entries.push((tag, entry));
        }
        entries.sort();
        bytes.extend((count as u16).to_le_bytes());
        bytes.extend(entries.iter().flat_map(|(_, entry)| entry));
        let end = extra_at + page.strip.len();
        let next = if i + 1 < pages.len() { end as u32 } else { 0 };
        bytes.extend(next.to_le_bytes());
        bytes.extend(extra);
        bytes.extend(&page.strip);
    }
    bytes
}
