//! The part of Python's pickle format in which PyTorch describes tensors.
//!
//! A pickle is a program for a stack machine. Here it only builds a tree of plain values: a call is
//! kept as the name and the arguments of what would be called, and a name that the reader of the
//! tree does not expect is refused. Values stand in one list and refer to each other by index, so
//! that sharing costs nothing and hostile nesting cannot exhaust the call stack.

use std::collections::HashMap;

/// More values than any checkpoint's description has; PyTorch needs about twelve per tensor.
const MOST_VALUES: usize = 1 << 20;

/// The index of a value in its pickle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id(usize);

/// A value of a pickle.
#[derive(Debug)]
pub(super) enum Value<'a> {
    Int(i64),
    Text(&'a str),
    Global(&'a str, &'a str),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A reference to something outside the pickle: a tensor's storage.
    Persistent(Id),
    Call {
        callable: Id,
        arguments: Id,
    },
    /// An instance of a class, and the state that it was given.
    Object {
        state: Option<Id>,
    },
    /// Anything that no tensor needs: booleans, floats, bytes, none.
    Other,
}

/// A pickle that was read to its end.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    values: Vec<Value<'a>>,
    root: Id,
}

impl<'a> Pickle<'a> {
    /// Reads a pickle; `expected` says which names (module, name) may occur in it.
    ///
    /// Says what is wrong with a pickle that is damaged or uses what no state dict needs.
    pub(super) fn read(bytes: &'a [u8], expected: fn(&str, &str) -> bool) -> Result<Self, String> {
        Self::read_first(bytes, expected).map(|(pickle, _)| pickle)
    }

    /// The same of a pickle that other bytes may follow, and its length.
    pub(super) fn read_first(
        bytes: &'a [u8],
        expected: fn(&str, &str) -> bool,
    ) -> Result<(Self, usize), String> {
        let mut machine = Machine {
            input: Input { bytes, at: 0 },
            expected,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        };
        let root = loop {
            let at = machine.input.at;
            match machine.check_sizes().and_then(|()| machine.step()) {
                Ok(None) => {}
                Ok(Some(root)) => break root,
                Err(reason) => return Err(format!("pickle, byte {at}: {reason}")),
            }
        };
        let pickle = Self {
            values: machine.values,
            root,
        };
        Ok((pickle, machine.input.at))
    }

    /// All values, in the order in which they were made.
    pub(super) fn values(&self) -> impl Iterator<Item = &Value<'a>> {
        self.values.iter()
    }

    pub(super) fn root(&self) -> &Value<'a> {
        self.get(self.root)
    }

    pub(super) fn get(&self, id: Id) -> &Value<'a> {
        &self.values[id.0]
    }
}

struct Machine<'a> {
    input: Input<'a>,
    expected: fn(&str, &str) -> bool,
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack at which a sequence of items begins.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    /// What a single byte of the pickle can make larger stays within bounds.
    fn check_sizes(&self) -> Result<(), String> {
        let sizes = [self.stack.len(), self.marks.len(), self.memo.len()];
        match sizes.iter().all(|&size| size <= MOST_VALUES) {
            true => Ok(()),
            false => Err(format!("more than {MOST_VALUES} values")),
        }
    }

    /// Executes one instruction. Gives the result at the last one.
    fn step(&mut self) -> Result<Option<Id>, String> {
        match self.input.byte()? {
            // PROTO, FRAME
            0x80 => drop(self.input.byte()?),
            0x95 => drop(self.input.take(8)?),
            // STOP
            b'.' => return self.pop().map(Some),
            // POP
            b'0' => drop(self.pop()?),
            b'(' => self.marks.push(self.stack.len()),
            // NONE, NEWTRUE, NEWFALSE, BINFLOAT
            b'N' | 0x88 | 0x89 => self.push(Value::Other)?,
            b'G' => {
                self.input.take(8)?;
                self.push(Value::Other)?;
            }
            // BINBYTES, SHORT_BINBYTES
            b'B' => {
                let length = self.input.length()?;
                self.input.take(length)?;
                self.push(Value::Other)?;
            }
            b'C' => {
                let length = self.input.byte()?;
                self.input.take(length.into())?;
                self.push(Value::Other)?;
            }
            // BININT, BININT1, BININT2, LONG1
            b'J' => {
                let value = i32::from_le_bytes(self.input.array()?);
                self.push(Value::Int(value.into()))?;
            }
            b'K' => {
                let value = self.input.byte()?;
                self.push(Value::Int(value.into()))?;
            }
            b'M' => {
                let value = u16::from_le_bytes(self.input.array()?);
                self.push(Value::Int(value.into()))?;
            }
            0x8a => {
                let length = self.input.byte()?;
                let value = long(self.input.take(length.into())?)?;
                self.push(Value::Int(value))?;
            }
            // BINUNICODE, SHORT_BINUNICODE
            b'X' => {
                let length = self.input.length()?;
                let text = utf8(self.input.take(length)?)?;
                self.push(Value::Text(text))?;
            }
            0x8c => {
                let length = self.input.byte()?;
                let text = utf8(self.input.take(length.into())?)?;
                self.push(Value::Text(text))?;
            }
            // GLOBAL, STACK_GLOBAL
            b'c' => {
                let (module, name) = (self.input.line()?, self.input.line()?);
                self.global(module, name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (self.value(module), self.value(name)) {
                    (&Value::Text(module), &Value::Text(name)) => self.global(module, name)?,
                    _ => return Err("a name that is no text".to_owned()),
                }
            }
            // EMPTY_TUPLE, TUPLE, TUPLE1 to TUPLE3
            b')' => self.push(Value::Tuple(vec![]))?,
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Tuple(items))?;
            }
            count @ 0x85..=0x87 => {
                let mut items = vec![];
                for _ in 0x84..count {
                    items.push(self.pop()?);
                }
                items.reverse();
                self.push(Value::Tuple(items))?;
            }
            // EMPTY_LIST, APPEND, APPENDS
            b']' => self.push(Value::List(vec![]))?,
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.append(items)?;
            }
            // EMPTY_DICT, SETITEM, SETITEMS
            b'}' => self.push(Value::Dict(vec![]))?,
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set_items(&items)?;
            }
            // BINPUT, LONG_BINPUT, MEMOIZE
            b'q' => {
                let index = self.input.byte()?;
                self.memorise(index.into())?;
            }
            b'r' => {
                let index = u32::from_le_bytes(self.input.array()?);
                self.memorise(index)?;
            }
            0x94 => self.memorise(u32::try_from(self.memo.len()).unwrap_or(u32::MAX))?,
            // BINGET, LONG_BINGET
            b'h' => {
                let index = self.input.byte()?;
                self.recall(index.into())?;
            }
            b'j' => {
                let index = u32::from_le_bytes(self.input.array()?);
                self.recall(index)?;
            }
            // BINPERSID
            b'Q' => {
                let id = self.pop()?;
                self.push(Value::Persistent(id))?;
            }
            // REDUCE, NEWOBJ, BUILD
            b'R' => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                let value = match self.value(callable) {
                    Value::Global("collections", "OrderedDict" | "defaultdict") => {
                        Value::Dict(vec![])
                    }
                    _ => Value::Call {
                        callable,
                        arguments,
                    },
                };
                self.push(value)?;
            }
            0x81 => {
                let (_arguments, _class) = (self.pop()?, self.pop()?);
                self.push(Value::Object { state: None })?;
            }
            b'b' => {
                let given = self.pop()?;
                let target = self.top()?;
                // Attributes of a dictionary, such as a state dict's versions, are not needed.
                if let Value::Object { state } = &mut self.values[target.0] {
                    *state = Some(given);
                }
            }
            other => {
                return Err(format!(
                    "the instruction 0x{other:02x} does not occur in a state dict"
                ));
            }
        }
        Ok(None)
    }

    fn value(&self, id: Id) -> &Value<'a> {
        &self.values[id.0]
    }

    fn push(&mut self, value: Value<'a>) -> Result<(), String> {
        if self.values.len() == MOST_VALUES {
            return Err(format!("more than {MOST_VALUES} values"));
        }
        self.stack.push(Id(self.values.len()));
        self.values.push(value);
        Ok(())
    }

    fn global(&mut self, module: &'a str, name: &'a str) -> Result<(), String> {
        if !(self.expected)(module, name) {
            return Err(format!(
                "it refers to `{module}.{name}`, which a state dict does not need; nothing of the \
                 file was executed (load it where you trust it, and save its state dict alone)"
            ));
        }
        self.push(Value::Global(module, name))
    }

    fn top(&self) -> Result<Id, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.last() {
            Some(&id) if self.stack.len() > floor => Ok(id),
            _ => Err("the stack is empty".to_owned()),
        }
    }

    fn pop(&mut self) -> Result<Id, String> {
        let id = self.top()?;
        self.stack.pop();
        Ok(id)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or("no mark on the stack")?;
        Ok(self.stack.split_off(mark))
    }

    fn append(&mut self, items: Vec<Id>) -> Result<(), String> {
        let target = self.top()?;
        match &mut self.values[target.0] {
            Value::List(list) => list.extend(items),
            _ => return Err("items for what is no list".to_owned()),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Result<(), String> {
        let target = self.top()?;
        let (pairs, rest) = items.as_chunks::<2>();
        match &mut self.values[target.0] {
            Value::Dict(dict) if rest.is_empty() => {
                dict.extend(pairs.iter().map(|&[key, value]| (key, value)));
            }
            _ => return Err("items for what is no dictionary".to_owned()),
        }
        Ok(())
    }

    fn memorise(&mut self, index: u32) -> Result<(), String> {
        let id = self.top()?;
        self.memo.insert(index, id);
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Result<(), String> {
        let id = self
            .memo
            .get(&index)
            .ok_or_else(|| format!("nothing was remembered as {index}"))?;
        self.stack.push(*id);
        Ok(())
    }
}

/// The bytes of a pickle that are still to be read.
struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let taken = self
            .bytes
            .get(self.at..)
            .and_then(|rest| rest.get(..count))
            .ok_or("it ends too early")?;
        self.at += count;
        Ok(taken)
    }

    fn array<const SIZE: usize>(&mut self) -> Result<[u8; SIZE], String> {
        let taken = self.take(SIZE)?;
        taken.try_into().map_err(|_| "it ends too early".to_owned())
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.array().map(|[byte]| byte)
    }

    fn length(&mut self) -> Result<usize, String> {
        let length = u32::from_le_bytes(self.array()?);
        usize::try_from(length).map_err(|error| error.to_string())
    }

    /// A line without its end.
    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.bytes[self.at..];
        let length = rest
            .iter()
            .position(|&byte| byte == b'\n')
            .ok_or("it ends within a name")?;
        let line = utf8(self.take(length)?)?;
        self.take(1)?;
        Ok(line)
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|_| "a text that is not UTF-8".to_owned())
}

/// A whole number in two's complement, little-endian, of at most eight bytes.
fn long(bytes: &[u8]) -> Result<i64, String> {
    let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
    let mut word = [if negative { 0xff } else { 0 }; 8];
    word.get_mut(..bytes.len())
        .ok_or("a number of more than 64 bits")?
        .copy_from_slice(bytes);
    Ok(i64::from_le_bytes(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Pickle<'_>, String> {
        Pickle::read(bytes, |module, _| module == "known")
    }

    #[test]
    fn values_are_read() {
        type Case<'a> = (&'a str, &'a [u8], fn(&Value<'_>) -> bool);
        let cases: [Case; 8] = [
            ("byte", b"\x80\x02K\x07.", |v| matches!(v, Value::Int(7))),
            ("negative", b"J\xfe\xff\xff\xff.", |v| {
                matches!(v, Value::Int(-2))
            }),
            ("long", b"\x8a\x05\x00\x00\x00\x00\x01.", |v| {
                matches!(v, Value::Int(0x1_0000_0000))
            }),
            ("empty long", b"\x8a\x00.", |v| matches!(v, Value::Int(0))),
            ("text", b"X\x02\0\0\0ab.", |v| {
                matches!(v, Value::Text("ab"))
            }),
            ("class", b"cknown\nA\n.", |v| {
                matches!(v, Value::Global("known", "A"))
            }),
            (
                "tuple of two",
                b"K\x01K\x02\x86.",
                |v| matches!(v, Value::Tuple(items) if items.len() == 2),
            ),
            (
                "dictionary",
                b"}(K\x01K\x02K\x03K\x04u.",
                |v| matches!(v, Value::Dict(items) if items.len() == 2),
            ),
        ];
        for (case, bytes, expected) in cases {
            assert!(expected(read(bytes).expect(case).root()), "{case}");
        }
    }

    #[test]
    fn damaged_pickles_are_refused() {
        let cases: [(&str, &[u8], &str); 12] = [
            ("empty", b"", "ends too early"),
            ("cut text", b"X\xff\xff\xff\xffab", "ends too early"),
            ("cut name", b"cknown\nA", "within a name"),
            ("unknown name", b"cos\nsystem\n.", "os.system"),
            (
                "unknown name on the stack",
                b"\x8c\x02os\x8c\x04exec\x93.",
                "os.exec",
            ),
            ("unknown instruction", b"iknown\nA\n.", "0x69"),
            ("nothing there", b".", "stack is empty"),
            ("below a mark", b"K\x01(0.", "stack is empty"),
            ("no mark", b"t.", "no mark"),
            ("nothing remembered", b"h\x05.", "remembered as 5"),
            ("key without value", b"}(K\x01u.", "no dictionary"),
            ("too long a number", b"\x8a\x09aaaaaaaaa.", "64 bits"),
        ];
        for (case, bytes, expected) in cases {
            let reason = read(bytes).expect_err(case);
            assert!(reason.contains(expected), "{case}: {reason}");
        }
    }

    #[test]
    fn hostile_size_and_nesting_do_no_harm() {
        let nested = [b"]".repeat(100_000), b"a".repeat(99_999), b".".to_vec()].concat();
        assert!(read(&nested).is_ok());
        let many = [b"N".repeat(MOST_VALUES + 1), b".".to_vec()].concat();
        assert!(read(&many).unwrap_err().contains("more than"));
    }
}
