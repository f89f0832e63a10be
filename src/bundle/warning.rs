//! What the reader of a bundle should know first, and what it means for the verdict.
//!
//! In `manifest.json` the sentences stand in `warnings`, and their kinds in `warning_kinds`, in the same order. Where that is missing, in
//! bundles of an older memtrap and in those with nothing but notes, a sentence's end tells its kind.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a warning of [`WarningKind::Mistaken`] ends with.
pub const ANOTHERS: &str = "the profiles may be of another process";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WarningKind {
    /// What answered may not be the process that is captured: each verdict is uncertain.
    Mistaken,
    /// For people only; also a kind that a later memtrap may have.
    #[serde(other)]
    Note,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub kind: WarningKind,
    /// One sentence.
    pub text: String,
}

impl Warning {
    /// Why what answered may not be the process that is captured.
    pub fn mistaken(why: &str) -> Warning {
        Warning { kind: WarningKind::Mistaken, text: format!("{why}: {ANOTHERS}") }
    }

    pub fn is_mistaken(&self) -> bool {
        self.kind == WarningKind::Mistaken
    }

    /// As an older memtrap has written it.
    pub(super) fn untold(text: String) -> Warning {
        let kind = if text.ends_with(ANOTHERS) { WarningKind::Mistaken } else { WarningKind::Note };
        Warning { kind, text }
    }
}

impl From<String> for Warning {
    fn from(text: String) -> Warning {
        Warning { kind: WarningKind::Note, text }
    }
}

impl From<&str> for Warning {
    fn from(text: &str) -> Warning {
        text.to_owned().into()
    }
}

/// As the fields of the manifest.
#[derive(Serialize, Deserialize)]
struct Listed {
    warnings: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    warning_kinds: Vec<WarningKind>,
}

pub(super) fn serialize<S: Serializer>(warnings: &[Warning], to: S) -> Result<S::Ok, S::Error> {
    let kinds = warnings.iter().filter(|_| warnings.iter().any(Warning::is_mistaken)).map(|w| w.kind).collect();
    Listed { warnings: warnings.iter().map(|w| w.text.clone()).collect(), warning_kinds: kinds }.serialize(to)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Warning>, D::Error> {
    let Listed { warnings, warning_kinds } = Listed::deserialize(from)?;
    let mut kinds = warning_kinds.into_iter();
    let with_kind = |text: String| match kinds.next() {
        Some(kind) => Warning { kind, text },
        None => Warning::untold(text),
    };
    Ok(warnings.into_iter().map(with_kind).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Bundle {
        #[serde(flatten, with = "super")]
        warnings: Vec<Warning>,
    }

    fn kinds(manifest: serde_json::Value) -> Vec<WarningKind> {
        serde_json::from_value::<Bundle>(manifest).unwrap().warnings.iter().map(|w| w.kind).collect()
    }

    #[test]
    fn a_kind_is_kept_beside_its_sentence_and_notes_need_none() {
        let note = Warning::from("the disk is nearly full");
        let written = serde_json::to_value(Bundle { warnings: vec![note.clone()] }).unwrap();
        assert_eq!(written, json!({"warnings": ["the disk is nearly full"]}));
        let both = Bundle { warnings: vec![note, Warning::mistaken("a proxy answers")] };
        let written = serde_json::to_value(&both).unwrap();
        assert_eq!(written["warning_kinds"], json!(["note", "mistaken"]));
        assert_eq!(serde_json::from_value::<Bundle>(written).unwrap().warnings, both.warnings);
    }

    #[test]
    fn the_kind_decides_and_where_there_is_none_the_end_of_the_sentence() {
        let said = [format!("a proxy answers: {ANOTHERS}"), "the disk is nearly full".to_owned()];
        assert_eq!(kinds(json!({"warnings": said})), [WarningKind::Mistaken, WarningKind::Note]);
        let told = json!({"warnings": said, "warning_kinds": ["note", "mistaken"]});
        assert_eq!(kinds(told), [WarningKind::Note, WarningKind::Mistaken]);
        let of_a_later = json!({"warnings": ["x", said[0]], "warning_kinds": ["graver"]});
        assert_eq!(kinds(of_a_later), [WarningKind::Note, WarningKind::Mistaken]);
    }
}
