//! What the numbers in `runtime.g.waitreason` mean: their order changes between releases.
//!
//! The table is made from the sources of each toolchain (`scripts/go-wait-reasons`), and a test compares it with the toolchains.

const TABLE: &str = include_str!("waitreasons.tsv");

/// The reasons of one minor release, by number.
#[derive(Debug)]
pub struct WaitReasons(Vec<&'static str>);

impl WaitReasons {
    /// None at all for a release that the table does not know: a wrong reason is worse than none.
    pub fn of(minor: u32) -> WaitReasons {
        let mut lines = TABLE.lines();
        let column = lines.next().and_then(|head| head.split('\t').position(|cell| cell.parse() == Ok(minor)));
        let reasons = column.map(|column| lines.map(|line| line.split('\t').nth(column).unwrap_or_default()).collect());
        WaitReasons(reasons.unwrap_or_default())
    }

    pub fn name(&self, number: u64) -> Option<&'static str> {
        let name = usize::try_from(number).ok().and_then(|n| self.0.get(n)).copied();
        name.filter(|name| !name.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_means_what_its_release_says() {
        assert_eq!(WaitReasons::of(21).name(9), Some("select"));
        assert_eq!(WaitReasons::of(27).name(9), Some("GC scavenge wait"), "the order changed in 1.26");
        assert_eq!((WaitReasons::of(27).name(0), WaitReasons::of(27).name(9_999), WaitReasons::of(99).name(9)), (None, None, None));
    }
}
