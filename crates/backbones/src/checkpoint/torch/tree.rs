//! The tensors in what a PyTorch pickle describes: a state dict, or a tree of modules.

use std::ops::Range;

use super::pickle::{Id, Pickle, Value};
use crate::checkpoint::data::Data;
use crate::checkpoint::stored::{Element, Stored};

/// Keys under which state dicts are nested, the first one there counts: OpenCLIP, InCTRL,
/// AnomalyCLIP, APRIL-GAN.
const USUAL_KEYS: [&str; 4] = [
    "state_dict",
    "model_state",
    "prompt_learner",
    "trainable_linearlayer",
];

/// What `DistributedDataParallel` puts before each name.
const PARALLEL_PREFIX: &str = "module.";

/// Modules nest less deep than this in a TorchScript archive.
const DEEPEST: usize = 64;

/// More modules and tensors than an archive has, by all paths that lead to them.
const MOST_VISITS: usize = 1 << 20;

/// More bytes than all names have together: a pickle may use one long text as often as it likes.
const MOST_TEXT: usize = 16 << 20;

/// Where the numbers of tensors are.
pub(super) trait Storages {
    /// The file.
    fn data(&self) -> &Data;

    /// The bytes of the storage `key`.
    fn storage(&self, key: &str) -> Result<Range<usize>, String>;
}

/// What a pickle describes, with the storages that it refers to.
pub(super) struct Tree<'a> {
    pub(super) storages: &'a dyn Storages,
    pub(super) pickle: &'a Pickle<'a>,
}

impl Tree<'_> {
    /// The tensors of the dictionary `items`, or of the one that is nested in it.
    pub(super) fn state_dict(&self, items: &[(Id, Id)]) -> Result<Vec<(String, Stored)>, String> {
        if self.holds_tensors(items) {
            return self.tensors(items);
        }
        let nested = self.nested(items);
        let usual = USUAL_KEYS
            .iter()
            .find_map(|usual| nested.iter().find(|(key, _)| key == usual));
        match (usual, &nested[..]) {
            (Some((_, items)), _) | (None, [(_, items)]) => self.tensors(items),
            (None, []) => Err("it holds no tensors by name".to_owned()),
            (None, several) => {
                let keys: Vec<_> = several.iter().map(|(key, _)| *key).collect();
                Err(format!(
                    "it holds several state dicts, and none of them has a usual name: {}",
                    keys.join(", ")
                ))
            }
        }
    }

    /// The tensors of all dictionaries that are nested in `items`, the key and a dot before their names.
    pub(super) fn state_dicts(&self, items: &[(Id, Id)]) -> Result<Vec<(String, Stored)>, String> {
        let (mut all, mut text) = (vec![], Text::default());
        for (key, items) in self.nested(items) {
            for (name, stored) in self.tensors(items)? {
                text.spend(key.len() + 1 + name.len())?;
                all.push((format!("{key}.{name}"), stored));
            }
        }
        match all.is_empty() {
            true => Err("it holds no dictionaries of tensors by name".to_owned()),
            false => Ok(all),
        }
    }

    fn holds_tensors(&self, items: &[(Id, Id)]) -> bool {
        items.iter().any(|&(_, value)| self.is_tensor(value))
    }

    /// The dictionaries of tensors in `items`, by their keys.
    fn nested(&self, items: &[(Id, Id)]) -> Vec<(&str, &[(Id, Id)])> {
        let nested = items.iter().filter_map(|&(key, value)| {
            match (self.pickle.get(key), self.pickle.get(value)) {
                (&Value::Text(key), Value::Dict(items)) if self.holds_tensors(items) => {
                    Some((key, &items[..]))
                }
                _ => None,
            }
        });
        nested.collect()
    }

    fn tensors(&self, items: &[(Id, Id)]) -> Result<Vec<(String, Stored)>, String> {
        let (mut tensors, mut text) = (vec![], Text::default());
        for &(key, value) in items {
            if let (&Value::Text(name), true) = (self.pickle.get(key), self.is_tensor(value)) {
                text.spend(name.len())?;
                tensors.push((name, self.tensor(name, value)?));
            }
        }
        let parallel = tensors
            .iter()
            .all(|(name, _)| name.starts_with(PARALLEL_PREFIX));
        let skipped = if parallel { PARALLEL_PREFIX.len() } else { 0 };
        Ok(tensors
            .into_iter()
            .map(|(name, stored)| (name[skipped..].to_owned(), stored))
            .collect())
    }

    /// The tensors of the module at the root and of all modules in it, by dotted path.
    pub(super) fn module(&self) -> Result<Vec<(String, Stored)>, String> {
        let (mut tensors, mut visits, mut text) = (vec![], 0, Text::default());
        // Modules that are still to be looked at: path, attributes, depth. The last comes next.
        let mut waiting = vec![(String::new(), self.attributes(self.pickle.root()), 0)];
        while let Some((path, attributes, depth)) = waiting.pop() {
            if depth > DEEPEST {
                return Err(format!("modules more than {DEEPEST} deep, at `{path}`"));
            }
            let mut inner = vec![];
            for &(key, value) in attributes {
                visits += 1;
                if visits > MOST_VISITS {
                    return Err(format!("more than {MOST_VISITS} attributes of modules"));
                }
                let object = match self.pickle.get(value) {
                    object @ Value::Object { .. } => Some(object),
                    _ if self.is_tensor(value) => None,
                    _ => continue,
                };
                let &Value::Text(key) = self.pickle.get(key) else {
                    continue;
                };
                text.spend(path.len() + 1 + key.len())?;
                let name = if path.is_empty() {
                    key.to_owned()
                } else {
                    format!("{path}.{key}")
                };
                match object {
                    Some(object) => inner.push((name, self.attributes(object), depth + 1)),
                    None => {
                        let stored = self.tensor(&name, value)?;
                        tensors.push((name, stored));
                    }
                }
            }
            waiting.extend(inner.into_iter().rev());
        }
        if tensors.is_empty() {
            return Err("its modules hold no tensors".to_owned());
        }
        Ok(tensors)
    }

    fn attributes(&self, value: &Value<'_>) -> &[(Id, Id)] {
        match value {
            Value::Object { state: Some(state) } => match self.pickle.get(*state) {
                Value::Dict(items) => items,
                _ => &[],
            },
            _ => &[],
        }
    }

    /// The function of `torch._utils` that `value` calls, and its arguments.
    fn rebuild(&self, value: Id) -> Option<(&str, &[Id])> {
        let &Value::Call {
            callable,
            arguments,
        } = self.pickle.get(value)
        else {
            return None;
        };
        match (self.pickle.get(callable), self.pickle.get(arguments)) {
            (Value::Global("torch._utils", function), Value::Tuple(arguments)) => {
                Some((function, arguments))
            }
            _ => None,
        }
    }

    fn is_tensor(&self, value: Id) -> bool {
        self.rebuild(value).is_some()
    }

    fn tensor(&self, name: &str, value: Id) -> Result<Stored, String> {
        self.view(value)
            .map_err(|reason| format!("tensor `{name}`: {reason}"))
    }

    fn view(&self, value: Id) -> Result<Stored, String> {
        let odd = || "it is described in an unknown way".to_owned();
        let (storage, offset, shape, strides) = match self.rebuild(value) {
            Some(("_rebuild_tensor_v2", &[storage, offset, shape, strides, ..])) => {
                (storage, offset, shape, strides)
            }
            Some(("_rebuild_parameter", &[data, ..])) => match self.rebuild(data) {
                Some(("_rebuild_tensor_v2", &[storage, offset, shape, strides, ..])) => {
                    (storage, offset, shape, strides)
                }
                _ => return Err(odd()),
            },
            _ => return Err(odd()),
        };
        let (element, bytes) = self.storage(storage)?;
        let numbers = |id: Id| match self.pickle.get(id) {
            Value::Tuple(items) => items
                .iter()
                .map(|&id| self.number(id))
                .collect::<Option<Vec<usize>>>(),
            _ => None,
        };
        Stored::view(
            self.storages.data(),
            bytes,
            element,
            self.number(offset).ok_or_else(odd)?,
            numbers(shape).ok_or_else(odd)?,
            numbers(strides).ok_or_else(odd)?,
        )
    }

    /// The type of a storage's elements, and where they are.
    fn storage(&self, value: Id) -> Result<(Element, Range<usize>), String> {
        let reference = reference(self.pickle, self.pickle.get(value))
            .ok_or("its storage is described in an unknown way")?;
        let (key, element) = (reference.key, reference.element?);
        let range = self.storages.storage(key)?;
        match reference.count.checked_mul(element.size()) {
            Some(bytes) if bytes <= range.len() => Ok((element, range.start..range.start + bytes)),
            _ => Err(format!(
                "data/{key} has {} bytes, too few for {} elements of {} bytes",
                range.len(),
                reference.count,
                element.size()
            )),
        }
    }

    fn number(&self, id: Id) -> Option<usize> {
        number(self.pickle, id)
    }
}

fn number(pickle: &Pickle<'_>, id: Id) -> Option<usize> {
    match pickle.get(id) {
        &Value::Int(value) => usize::try_from(value).ok(),
        _ => None,
    }
}

/// A reference to a storage.
pub(super) struct Reference<'a> {
    pub(super) key: &'a str,
    pub(super) count: usize,
    /// The type of its elements, or why it is not known.
    pub(super) element: Result<Element, String>,
}

/// The reference that `value` is: `("storage", type, key, device, count)`, and before PyTorch 1.6
/// which part of the storage is meant, of which only the whole is known here.
pub(super) fn reference<'a>(pickle: &'a Pickle<'a>, value: &Value<'_>) -> Option<Reference<'a>> {
    let &Value::Persistent(reference) = value else {
        return None;
    };
    let Value::Tuple(parts) = pickle.get(reference) else {
        return None;
    };
    let (class, key, count) = match parts[..] {
        [_, class, key, _, count] => (class, key, count),
        [_, class, key, _, count, part] if matches!(pickle.get(part), Value::Other) => {
            (class, key, count)
        }
        _ => return None,
    };
    let (&Value::Global("torch", class), &Value::Text(key)) = (pickle.get(class), pickle.get(key))
    else {
        return None;
    };
    Some(Reference {
        key,
        count: number(pickle, count)?,
        element: element(class).ok_or_else(|| format!("a {class} is not supported")),
    })
}

/// The length of all names so far.
#[derive(Default)]
struct Text(usize);

impl Text {
    fn spend(&mut self, length: usize) -> Result<(), String> {
        self.0 = self.0.saturating_add(length);
        match self.0 <= MOST_TEXT {
            true => Ok(()),
            false => Err(format!("names of more than {MOST_TEXT} bytes together")),
        }
    }
}

fn element(class: &str) -> Option<Element> {
    match class {
        "HalfStorage" => Some(Element::F16),
        "BFloat16Storage" => Some(Element::Bf16),
        "FloatStorage" => Some(Element::F32),
        "DoubleStorage" => Some(Element::F64),
        "IntStorage" => Some(Element::I32),
        "LongStorage" => Some(Element::I64),
        "ByteStorage" | "BoolStorage" => Some(Element::U8),
        _ => None,
    }
}
