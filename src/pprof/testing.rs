//! Writes small profiles for tests.

use std::io::Write;

/// A protobuf message being written.
#[derive(Clone, Default)]
pub struct Pb(pub Vec<u8>);

impl Pb {
    fn varint(&mut self, mut v: u64) {
        while v >= 0x80 {
            self.0.push(v as u8 | 0x80);
            v >>= 7;
        }
        self.0.push(v as u8);
    }

    pub fn int(mut self, field: u64, v: i64) -> Pb {
        self.varint(field << 3);
        self.varint(v as u64);
        self
    }

    pub fn len(mut self, field: u64, bytes: &[u8]) -> Pb {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn message(self, field: u64, message: Pb) -> Pb {
        self.len(field, &message.0)
    }

    pub fn packed(self, field: u64, values: &[i64]) -> Pb {
        let mut inner = Pb::default();
        values.iter().for_each(|v| inner.varint(*v as u64));
        self.message(field, inner)
    }
}

/// A profile told by its stacks: function names, the innermost first, and values. A name `a<b` is a location where
/// `a` was inlined into `b`.
pub fn profile(types: &[(&str, &str)], stacks: &[(&[&str], &[i64])]) -> Pb {
    profile_with(types, stacks, &[])
}

/// With header fields that are texts, such as 7 for `drop_frames`.
pub fn profile_with(types: &[(&str, &str)], stacks: &[(&[&str], &[i64])], header: &[(u64, &str)]) -> Pb {
    let mut strings = vec![String::new()];
    let mut intern = |s: &str| match strings.iter().position(|t| t == s) {
        Some(i) => i as i64,
        None => {
            strings.push(s.to_owned());
            strings.len() as i64 - 1
        }
    };
    let mut out = Pb::default();
    for (kind, unit) in types {
        out = out.message(1, Pb::default().int(1, intern(kind)).int(2, intern(unit)));
    }
    for (field, text) in header {
        out = out.int(*field, intern(text));
    }
    let (mut functions, mut locations) = (Vec::<String>::new(), Vec::<String>::new());
    for (frames, values) in stacks {
        let ids: Vec<i64> = frames
            .iter()
            .map(|frame| match locations.iter().position(|l| l == frame) {
                Some(i) => i as i64 + 1,
                None => {
                    locations.push(frame.to_string());
                    locations.len() as i64
                }
            })
            .collect();
        out = out.message(2, Pb::default().packed(1, &ids).packed(2, values));
    }
    for (i, location) in locations.iter().enumerate() {
        let mut message = Pb::default().int(1, i as i64 + 1);
        for name in location.split('<') {
            let function = functions.iter().position(|f| f == name).unwrap_or_else(|| {
                functions.push(name.to_owned());
                functions.len() - 1
            });
            message = message.message(4, Pb::default().int(1, function as i64 + 1).int(2, 10));
        }
        out = out.message(4, message);
    }
    for (i, name) in functions.iter().enumerate() {
        let (name, file) = (intern(name), intern(&format!("/src/{name}.go")));
        out = out.message(5, Pb::default().int(1, i as i64 + 1).int(2, name).int(3, name).int(4, file));
    }
    strings.iter().fold(out, |out, s| out.len(6, s.as_bytes()))
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(bytes).unwrap();
    gz.finish().unwrap()
}
