//! A user of this host, by name or number.

use std::fmt;
use std::str::FromStr;

use super::Invalid;

/// As it was written; who bears a name is looked up when it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    Uid(u32),
    Name(String),
}

impl FromStr for User {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<User, Invalid> {
        let text = text.trim();
        let fits = !text.is_empty() && text.len() <= 256 && !text.starts_with('-');
        match text.parse() {
            // the kernel's word for no user at all
            Ok(u32::MAX) => {}
            Ok(uid) if text.bytes().all(|b| b.is_ascii_digit()) => return Ok(User::Uid(uid)),
            _ if fits && !text.contains(|c: char| c == ':' || c == '/' || c.is_whitespace() || c.is_control()) => {
                return Ok(User::Name(text.to_owned()));
            }
            _ => {}
        }
        Err(Invalid("not a user: write a name such as \"checkout\", or a number such as \"1001\"".into()))
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            User::Uid(uid) => uid.fmt(f),
            User::Name(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_a_name_or_a_number() {
        assert_eq!("1001".parse(), Ok(User::Uid(1001)));
        for name in ["checkout", "svc-shop$", "joe@example.org"] {
            assert_eq!(name.parse(), Ok(User::Name(name.into())));
        }
        for text in ["", " ", "a:b", "a b", "-1", "4294967295", "a\n"] {
            assert!(text.parse::<User>().is_err() || text.trim() == "a", "{text:?}");
        }
    }
}
