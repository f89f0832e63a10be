//! Local time for the `Time:` line, from the bytes of a time zone file (TZif, RFC 9636).
//!
//! Only what one line needs: no leap seconds, no conversion from local time.

/// A time zone: where its clocks stood when, and what that was called.
#[derive(Clone, Debug, PartialEq)]
pub struct Zone {
    /// In seconds since the epoch, ascending, with the index of the kind that holds from then on.
    transitions: Vec<(i64, usize)>,
    /// At least one.
    kinds: Vec<Kind>,
    /// After the last transition.
    rule: Option<Rule>,
}

#[derive(Clone, Debug, PartialEq)]
struct Kind {
    /// East of Greenwich, in seconds.
    offset: i64,
    is_dst: bool,
    name: String,
}

/// A POSIX `TZ` string, such as `CET-1CEST,M3.5.0,M10.5.0/3`.
#[derive(Clone, Debug, PartialEq)]
struct Rule {
    standard: Kind,
    /// With the days on which it begins and ends.
    summer: Option<(Kind, Change, Change)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Change {
    day: Day,
    /// Local seconds after midnight; may lie outside of the day.
    time: i64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Day {
    /// 1 to 365, February 29 is never counted.
    Julian(i64),
    /// 0 to 365.
    OfYear(i64),
    /// The week 5 is the last; weekday 0 is Sunday.
    Weekday { month: i64, week: i64, weekday: i64 },
}

impl Zone {
    pub fn utc() -> Zone {
        Zone { transitions: Vec::new(), kinds: vec![Kind { offset: 0, is_dst: false, name: "UTC".into() }], rule: None }
    }

    /// `None` if the bytes are no time zone file.
    pub fn parse(bytes: &[u8]) -> Option<Zone> {
        let mut data = Bytes(bytes);
        let (version, counts) = data.header()?;
        if version < b'2' {
            return data.zone(&counts, 4);
        }
        // The first block is for readers that know 32 bits only.
        data.take(counts.block(4)?)?;
        let (_, counts) = data.header()?;
        let mut zone = data.zone(&counts, 8)?;
        let footer = std::str::from_utf8(data.0).ok()?.strip_prefix('\n')?;
        zone.rule = Rule::parse(footer.split('\n').next()?);
        Some(zone)
    }

    /// `2006-01-02 15:04:05 MST`, for seconds since the epoch.
    pub(super) fn date(&self, seconds: i64) -> String {
        let (offset, name) = self.at(seconds);
        let local = seconds.saturating_add(offset);
        let (year, month, day) = civil(local.div_euclid(DAY));
        let clock = local.rem_euclid(DAY);
        format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} {name}", clock / 3600, clock / 60 % 60, clock % 60)
    }

    fn at(&self, seconds: i64) -> (i64, &str) {
        let after = self.transitions.partition_point(|(from, _)| *from <= seconds);
        let kind = match after.checked_sub(1).and_then(|i| self.transitions.get(i)) {
            _ if after == self.transitions.len() && self.rule.is_some() => self.rule.as_ref().map(|rule| rule.at(seconds)),
            Some((_, kind)) => self.kinds.get(*kind),
            None => self.kinds.iter().find(|kind| !kind.is_dst).or(self.kinds.first()),
        };
        kind.map(|kind| (kind.offset, kind.name.as_str())).unwrap_or((0, "UTC"))
    }
}

const DAY: i64 = 86_400;

/// Year, month and day of a number of days since the epoch, in the Gregorian calendar.
fn civil(days: i64) -> (i64, i64, i64) {
    // Years that begin in March have their leap day at the end.
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// The inverse of [`civil`].
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year - 719_468
}

struct Bytes<'a>(&'a [u8]);

struct Counts {
    ut: usize,
    standard: usize,
    leap: usize,
    time: usize,
    kind: usize,
    chars: usize,
}

impl Counts {
    fn block(&self, width: usize) -> Option<usize> {
        let times = self.time.checked_mul(width + 1)?;
        let leaps = self.leap.checked_mul(width + 4)?;
        [self.kind.checked_mul(6)?, self.chars, leaps, self.standard, self.ut].into_iter().try_fold(times, usize::checked_add)
    }
}

impl<'a> Bytes<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn header(&mut self) -> Option<(u8, Counts)> {
        if self.take(4)? != b"TZif" {
            return None;
        }
        let version = *self.take(16)?.first()?;
        let mut count = || self.take(4).and_then(|b| b.try_into().ok()).map(|b| u32::from_be_bytes(b) as usize);
        Some((version, Counts { ut: count()?, standard: count()?, leap: count()?, time: count()?, kind: count()?, chars: count()? }))
    }

    fn zone(&mut self, counts: &Counts, width: usize) -> Option<Zone> {
        if counts.block(width)? > self.0.len() || counts.kind == 0 {
            return None;
        }
        let times = self.take(counts.time * width)?;
        let indexes = self.take(counts.time)?;
        let kinds = self.take(counts.kind * 6)?;
        let names = self.take(counts.chars)?;
        self.take(counts.leap * (width + 4) + counts.standard + counts.ut)?;
        let kinds = kinds
            .chunks_exact(6)
            .map(|kind| {
                let offset = i64::from(i32::from_be_bytes(kind.get(..4)?.try_into().ok()?));
                let name = names.get(usize::from(*kind.get(5)?)..)?.split(|b| *b == 0).next()?;
                Some(Kind { offset, is_dst: *kind.get(4)? != 0, name: String::from_utf8_lossy(name).into_owned() })
            })
            .collect::<Option<Vec<Kind>>>()?;
        let transitions = times
            .chunks_exact(width)
            .zip(indexes)
            .map(|(time, index)| {
                let time = match width {
                    4 => i64::from(i32::from_be_bytes(time.try_into().ok()?)),
                    _ => i64::from_be_bytes(time.try_into().ok()?),
                };
                Some((time, usize::from(*index)))
            })
            .collect::<Option<Vec<_>>>()?;
        Some(Zone { transitions, kinds, rule: None })
    }
}

impl Rule {
    fn parse(text: &str) -> Option<Rule> {
        let mut text = Text(text);
        let standard = Kind { name: text.name()?, offset: -text.time()?, is_dst: false };
        if text.0.is_empty() {
            return Some(Rule { standard, summer: None });
        }
        let name = text.name()?;
        let offset = if text.0.starts_with(',') { standard.offset + 3600 } else { -text.time()? };
        let summer = (Kind { name, offset, is_dst: true }, text.change()?, text.change()?);
        text.0.is_empty().then_some(Rule { standard, summer: Some(summer) })
    }

    fn at(&self, seconds: i64) -> &Kind {
        let Some((summer, start, end)) = &self.summer else { return &self.standard };
        let (year, ..) = civil(seconds.div_euclid(DAY));
        let start = start.in_year(year) - self.standard.offset;
        let end = end.in_year(year) - summer.offset;
        // In the southern hemisphere the year begins in summer.
        let is_summer = if start < end { (start..end).contains(&seconds) } else { !(end..start).contains(&seconds) };
        if is_summer { summer } else { &self.standard }
    }
}

impl Change {
    /// In seconds since the epoch, as if local time were UTC.
    fn in_year(&self, year: i64) -> i64 {
        let first = days(year, 1, 1);
        let is_leap = days(year, 3, 1) - days(year, 2, 1) == 29;
        let day = match self.day {
            Day::Julian(n) => first + n - 1 + i64::from(is_leap && n >= 60),
            Day::OfYear(n) => first + n,
            Day::Weekday { month, week, weekday } => {
                let first = days(year, month, 1);
                let next = if month == 12 { days(year + 1, 1, 1) } else { days(year, month + 1, 1) };
                // The epoch was a Thursday.
                let day = first + (weekday - (first + 4)).rem_euclid(7) + (week - 1) * 7;
                if day >= next { day - 7 } else { day }
            }
        };
        day * DAY + self.time
    }
}

/// The rest of a rule.
struct Text<'a>(&'a str);

impl Text<'_> {
    fn eat(&mut self, c: char) -> bool {
        self.0.strip_prefix(c).map(|rest| self.0 = rest).is_some()
    }

    /// Letters, or anything between `<` and `>`.
    fn name(&mut self) -> Option<String> {
        let (name, rest) = match self.0.strip_prefix('<') {
            Some(quoted) => quoted.split_once('>')?,
            None => self.0.split_at_checked(self.0.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(self.0.len()))?,
        };
        self.0 = rest;
        (name.len() >= 3).then(|| name.to_owned())
    }

    fn number(&mut self, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
        let (digits, rest) = self.0.split_at_checked(self.0.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.0.len()))?;
        self.0 = rest;
        digits.parse().ok().filter(|n| range.contains(n))
    }

    /// `[+-]hh[:mm[:ss]]` in seconds.
    fn time(&mut self) -> Option<i64> {
        let sign = if self.eat('-') { -1 } else { 1 };
        if sign == 1 {
            self.eat('+');
        }
        let mut seconds = self.number(0..=167)? * 3600;
        for unit in [60, 1] {
            if self.eat(':') {
                seconds += self.number(0..=59)? * unit;
            }
        }
        Some(sign * seconds)
    }

    fn change(&mut self) -> Option<Change> {
        if !self.eat(',') {
            return None;
        }
        let day = if self.eat('M') {
            let month = self.number(1..=12)?;
            let week = self.eat('.').then(|| self.number(1..=5))??;
            let weekday = self.eat('.').then(|| self.number(0..=6))??;
            Day::Weekday { month, week, weekday }
        } else if self.eat('J') {
            Day::Julian(self.number(1..=365)?)
        } else {
            Day::OfYear(self.number(0..=365)?)
        };
        let time = if self.eat('/') { self.time()? } else { 2 * 3600 };
        Some(Change { day, time })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_rule(rule: &str) -> Zone {
        Zone { rule: Some(Rule::parse(rule).unwrap()), ..Zone::utc() }
    }

    #[test]
    fn utc_needs_no_file() {
        assert_eq!(Zone::utc().date(1_795_421_616), "2026-11-23 08:13:36 UTC");
        assert_eq!(Zone::utc().date(-1), "1969-12-31 23:59:59 UTC");
        assert_eq!(Zone::utc().date(951_782_400), "2000-02-29 00:00:00 UTC");
    }

    #[test]
    fn summer_time_follows_the_rule() {
        let berlin = with_rule("CET-1CEST,M3.5.0,M10.5.0/3");
        assert_eq!(berlin.date(1_774_745_999), "2026-03-29 01:59:59 CET");
        assert_eq!(berlin.date(1_774_746_000), "2026-03-29 03:00:00 CEST");
        assert_eq!(berlin.date(1_792_889_999), "2026-10-25 02:59:59 CEST");
        assert_eq!(berlin.date(1_792_890_000), "2026-10-25 02:00:00 CET");
        let sydney = with_rule("AEST-10AEDT,M10.1.0,M4.1.0/3");
        assert_eq!(sydney.date(1_767_225_600), "2026-01-01 11:00:00 AEDT");
        assert_eq!(sydney.date(1_782_864_000), "2026-07-01 10:00:00 AEST");
        assert_eq!(with_rule("<+0545>-5:45").date(0), "1970-01-01 05:45:00 +0545");
        assert_eq!(with_rule("EST5EDT,J60/0,J300/0").date(1_772_341_200), "2026-03-01 01:00:00 EDT");
    }

    #[test]
    fn a_zone_file_is_read() {
        // One change: from LMT to CST in 1901, and a rule for what follows.
        let block = |width: usize| {
            let mut b = b"TZif2".to_vec();
            b.extend([0; 15]);
            for count in [0u32, 0, 0, 1, 2, 8] {
                b.extend(count.to_be_bytes());
            }
            b.extend(&(-2_000_000_000i64).to_be_bytes()[8 - width..]);
            b.push(1);
            b.extend(29_143i32.to_be_bytes());
            b.extend([0, 0]);
            b.extend(28_800i32.to_be_bytes());
            b.extend([0, 4]);
            b.extend(b"LMT\0CST\0");
            b
        };
        let file = [block(4), block(8), b"\nCST-8\n".to_vec()].concat();
        let zone = Zone::parse(&file).unwrap();
        assert_eq!(zone.date(1_795_421_616), "2026-11-23 16:13:36 CST");
        assert_eq!(zone.date(-2_000_000_001), "1906-08-17 04:32:22 LMT");
        for cut in 0..file.len() {
            let _ = Zone::parse(&file[..cut]);
        }
        assert_eq!(Zone::parse(b"UTC0"), None);
    }
}
