//! Colours of states, on a terminal whose user wants any.

use std::io::IsTerminal;

/// Whether what goes to `out` may have colours: a terminal that knows them, and `NO_COLOR` is not set.
pub fn is_wanted(out: &impl IsTerminal) -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    out.is_terminal() && set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb")
}

/// How urgent a state, an outcome or a cause is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Good,
    /// It takes its time, and needs nobody.
    Waits,
    Attention,
    Bad,
}

/// Of a state, an outcome, or `FIRES ...` by its name; `None`: no particular one.
pub fn tone(name: &str) -> Option<Tone> {
    Some(match name {
        "armed" | "complete" => Tone::Good,
        "waiting" | "warming" | "cooldown" => Tone::Waits,
        "pending" | "capturing" | "throttled" | "partial" | "interrupted" => Tone::Attention,
        "open" | "blind" => Tone::Bad,
        name if name.starts_with("FIRES ") => Tone::Bad,
        _ => return None,
    })
}

/// A piece of text in the colour of what `name` stands for.
pub fn painted(name: &str, text: &str) -> String {
    let code = match tone(name) {
        Some(Tone::Good) => "32",
        Some(Tone::Waits) => "36",
        Some(Tone::Attention) => "33",
        Some(Tone::Bad) => "1;31",
        None => return text.to_owned(),
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// A table of which one column holds names that have colours; what else could steer a terminal is shown escaped.
pub fn table(rows: &[Vec<String>], column: usize, width: Option<usize>, colours: bool) -> Vec<String> {
    let shown: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| crate::text::lines(cell)).collect()).collect();
    crate::layout::painted(&shown, width, |i, j, text| {
        let name = shown.get(i).and_then(|row| row.get(j)).filter(|_| colours && i > 0 && j == column);
        name.map_or_else(|| text.to_owned(), |name| painted(name, text))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::Outcome;
    use crate::incident::State;

    #[test]
    fn every_state_and_outcome_has_a_colour() {
        let quiet = [State::Waiting, State::Warming, State::Armed, State::Cooldown];
        let loud = [State::Pending, State::Capturing, State::Open, State::Throttled, State::Blind];
        for state in quiet.into_iter().chain(loud) {
            assert!(tone(state.name()).is_some(), "{}", state.name());
        }
        for outcome in [Outcome::Complete, Outcome::Partial, Outcome::Interrupted] {
            assert!(tone(outcome.name()).is_some(), "{}", outcome.name());
        }
        assert_eq!(tone("STATE"), None);
    }

    #[test]
    fn colours_take_no_columns_and_nothing_from_outside_makes_any() {
        let rows = [vec!["TARGET".into(), "STATE".into(), "X".into()], vec!["open".into(), "open".into(), "\x1b[2J".into()]];
        let plain = table(&rows, 1, Some(80), false);
        assert!(!plain.concat().contains('\x1b'));
        let shown = table(&rows, 1, Some(80), true);
        assert_eq!(shown[0], "TARGET  STATE  X\n");
        assert_eq!(shown[1].matches('\x1b').count(), 2, "{:?}", shown[1]);
        assert_eq!(shown[1].replace("\x1b[1;31m", "").replace("\x1b[0m", ""), plain[1]);
    }
}
