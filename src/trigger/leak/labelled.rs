//! Made-up weeks of services, each with its label: healthy, or leaking since when and with how long to the limit. Seeded; no two seeds are alike.
//!
//! Hourly floors are made directly, as shares of the limit. Load has a rhythm of days, weekends and a different height each day; noise, gaps in which memtrap
//! was down, and single outliers lie over everything.

/// The kinds, the healthy first.
pub const KINDS: [&str; 17] = [
    "flat",
    "daily and weekly load",
    "load and deploys",
    "cache that fills exponentially",
    "cache that fills under load",
    "cache that is full at once",
    "growth of a logarithm",
    "sawtooth",
    "step",
    "load that ends a week of holidays",
    "leak",
    "leak under load",
    "leak under load and deploys",
    "leak that begins later",
    "leak while traffic grows",
    "leak beside a cache that fills",
    "leak under a sawtooth",
];
pub const HEALTHY: usize = 10;
const DAY: usize = 24;

/// xorshift64*.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03 | 1);
        (0..8).for_each(|_| _ = random.unit());
        random
    }

    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// As often between 1 and 2 as between 2 and 4.
    fn scale(&mut self, low: f64, high: f64) -> f64 {
        self.between(low.ln(), high.ln()).exp()
    }

    fn chance(&mut self, share: f64) -> bool {
        self.unit() < share
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().max(1e-12).ln()).sqrt() * (self.unit() * std::f64::consts::TAU).cos()
    }
}

/// One hour: the floor as a share of the limit, `None` where memtrap was down.
pub struct Hour {
    pub floor: Option<f64>,
    /// Another process begins.
    pub deployed: bool,
}

/// Weeks of one service.
pub struct Weeks {
    pub hours: Vec<Hour>,
    pub leak: Option<Leaks>,
    pub about: String,
}

/// When each life's leak begins, hours after the process, and how many days it takes to the limit.
#[derive(Clone, Copy)]
pub struct Leaks {
    pub after_hours: f64,
    pub days: f64,
}

/// How load moves memory.
struct Load {
    share: f64,
    weekend: f64,
    unrest: f64,
    hour: f64,
    weekday: f64,
    night: f64,
    growth: f64,
    holidays: f64,
    today: f64,
}

impl Load {
    fn make(kind: &str, r: &mut Random) -> Load {
        let busy = kind.contains("load") || kind.contains("traffic");
        Load {
            share: if busy {
                r.between(0.02, 0.2)
            } else if r.chance(0.3) {
                r.between(0.0, 0.05)
            } else {
                0.0
            },
            weekend: r.between(0.5, 1.0),
            unrest: r.between(0.0, 0.08),
            hour: r.between(0.0, 24.0),
            weekday: r.between(0.0, 7.0),
            night: r.between(0.1, 0.4),
            growth: if kind.contains("traffic") { r.between(0.0, 0.015) } else { 0.0 },
            holidays: if kind.contains("holidays") { r.between(5.0, 8.0) } else { 0.0 },
            today: 1.0,
        }
    }

    /// At this hour, as a share of the limit.
    fn at(&mut self, hour: usize, r: &mut Random) -> f64 {
        let day = hour as f64 / DAY as f64;
        if hour.is_multiple_of(DAY) {
            self.today = 1.0 + self.unrest * r.normal();
        }
        let clock = ((hour as f64 + self.hour) % 24.0) / 24.0;
        let shape = self.night + (1.0 - self.night) * (0.5 - 0.5 * (clock * std::f64::consts::TAU).cos()).powf(1.3);
        let weekend = if (day + self.weekday) % 7.0 >= 5.0 || day < self.holidays { self.weekend } else { 1.0 };
        self.share * shape * self.today * weekend * (1.0 + self.growth * day)
    }
}

/// What fills up with the age of a process.
enum Filling {
    Nothing,
    Exponential { share: f64, days: f64 },
    Linear { share: f64, days: f64 },
    Logarithm { share: f64, days: f64 },
}

impl Filling {
    fn make(kind: &str, room: f64, r: &mut Random) -> Filling {
        match kind {
            "cache that fills exponentially" | "cache that fills under load" => {
                Filling::Exponential { share: room * r.between(0.05, 0.4), days: r.scale(0.1, 5.0) }
            }
            "leak beside a cache that fills" => Filling::Exponential { share: r.between(0.03, 0.2), days: r.scale(0.1, 1.5) },
            // large within two days, or for days a small part of what is free: else nothing tells it from a leak
            "cache that is full at once" if r.chance(0.5) => Filling::Linear { share: r.between(0.05, 0.3), days: r.between(0.1, 1.8) },
            "cache that is full at once" => Filling::Linear { share: room * r.between(0.03, 0.1), days: r.between(1.0, 6.0) },
            "growth of a logarithm" => Filling::Logarithm { share: r.between(0.005, 0.04), days: r.scale(0.04, 1.0) },
            _ => Filling::Nothing,
        }
    }

    fn share(&self) -> f64 {
        match self {
            Filling::Exponential { share, .. } | Filling::Linear { share, .. } => *share,
            Filling::Nothing | Filling::Logarithm { .. } => 0.0,
        }
    }

    fn at(&self, age: f64) -> f64 {
        match self {
            Filling::Nothing => 0.0,
            Filling::Exponential { share, days } => share * (1.0 - (-age / days).exp()),
            Filling::Linear { share, days } => share * (age / days).min(1.0),
            Filling::Logarithm { share, days } => share * (1.0 + age / days).ln(),
        }
    }
}

/// So many days of a service of this kind, or until it has reached its limit.
pub fn weeks(kind: usize, seed: u64, days: usize) -> Weeks {
    let mut random = Random::new(seed * 64 + kind as u64);
    let (r, kind) = (&mut random, KINDS[kind]);
    let base = r.between(0.2, 0.6);
    let noise = r.scale(0.0005, 0.01);
    let mut load = Load::make(kind, r);
    let filling = Filling::make(kind, 1.0 - base, r);
    let (is_leak, deploys) = (kind.starts_with("leak"), kind.contains("deploys"));
    let per_day = if is_leak { r.scale(if deploys { 0.01 } else { 0.001 }, 0.05) } else { 0.0 };
    let later = if kind == "leak that begins later" { r.between(2.0, 15.0) } else { 0.0 };
    let to_limit = (1.0 - base - filling.share() - load.share * load.night) / per_day;
    // a leak that each deploy ends before it can be told from anything does no harm
    let deploy_each = match (deploys, is_leak) {
        (false, _) => f64::INFINITY,
        (true, false) => r.between(1.0, 10.0),
        (true, true) => (to_limit * 0.3).max(3.0) * r.between(1.0, 2.0),
    };
    let (warm, warm_days) = (if deploys { r.between(0.01, 0.1) } else { 0.0 }, r.scale(0.02, 0.25));
    let tooth = if kind.contains("sawtooth") { r.between(0.02, 0.3) } else { 0.0 };
    let tooth_hours = r.scale(0.1, 6.0);
    let step_at = if kind == "step" { r.between(1.0, 25.0) } else { f64::INFINITY };
    let (step, down_at) = (r.between(0.02, 0.2), step_at + if r.chance(0.5) { r.between(3.0, 20.0) } else { f64::INFINITY });
    let gap_count = if r.chance(0.3) { 1 + (r.unit() * 3.0) as usize } else { 0 };
    let gaps: Vec<(f64, f64)> = (0..gap_count).map(|_| (r.between(0.0, 30.0), r.scale(0.05, 2.0))).collect();

    let (mut born, mut next, mut own) = (0.0, deploy_each * r.between(0.7, 1.3), base);
    let mut hours = Vec::new();
    for hour in 0..days * DAY {
        let day = hour as f64 / DAY as f64;
        let deployed = day >= next;
        if deployed {
            (born, next, own) = (day, day + deploy_each * r.between(0.7, 1.3), base * r.between(0.95, 1.05));
        }
        let age = day - born;
        let warmed = warm * (1.0 - (-(age + 0.02) / warm_days).exp());
        let stepped = if day >= step_at && day < down_at { step } else { 0.0 };
        let swing = if tooth_hours < 1.0 { 0.0 } else { tooth * (hour as f64 / tooth_hours).fract() };
        let outlier = if r.chance(0.02) { noise * 5.0 * r.unit() } else { 0.0 };
        let leaked = per_day * (age - later).max(0.0);
        let floor = own + load.at(hour, r) + filling.at(age) + warmed + stepped + swing + leaked + noise * r.normal() + outlier;
        if is_leak && floor >= 1.0 {
            break;
        }
        let is_down = gaps.iter().any(|(from, days)| day >= *from && day < from + days);
        hours.push(Hour { floor: (!is_down).then_some(floor.clamp(0.001, 1.0)), deployed });
    }
    let leak = is_leak.then_some(Leaks { after_hours: later * DAY as f64, days: to_limit });
    let fills = match filling {
        Filling::Nothing => String::new(),
        Filling::Exponential { share, days } | Filling::Linear { share, days } | Filling::Logarithm { share, days } => {
            format!(", fills {share:.3} in {days:.2} days")
        }
    };
    let about = format!("{kind}, seed {seed}: base {base:.2}, noise {noise:.4}, load {:.2}, {per_day:.4} a day{fills}", load.share);
    Weeks { hours, leak, about }
}
