//! SHA-256 in hexadecimal, also cut short where it names what is too long or too strange for a name.

use ring::digest::{SHA256, digest};

/// Two lowercase digits a byte.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The first `bytes` bytes (at most 32) of the SHA-256 of `content`.
pub fn short(content: impl AsRef<[u8]>, bytes: usize) -> String {
    let mut hex = hex(digest(&SHA256, content.as_ref()).as_ref());
    hex.truncate(bytes.saturating_mul(2));
    hex
}

#[cfg(test)]
mod tests {
    use super::*;

    // FIPS 180-2, appendix B.1
    #[test]
    fn the_published_example_comes_out() {
        assert_eq!(short("abc", 4), "ba7816bf");
        assert_eq!(short("abc", 99), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
