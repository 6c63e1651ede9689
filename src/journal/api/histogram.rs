//! Times in buckets that are the same everywhere, so that those of several processes can be added.

/// The number of buckets for each power of two, in bits: a bucket is less than 1 % wide, which
/// gives two significant digits.
const FINE: u32 = 7;
/// A day, in microseconds. Longer times count as that.
const LONGEST: u64 = 24 * 60 * 60 * 1_000_000;

/// A histogram.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Up to the longest recorded time.
    buckets: Vec<u32>,
    count: u64,
    /// In microseconds.
    sum: u64,
}

/// The bucket of a time in microseconds.
fn bucket(time: u64) -> usize {
    // The number of low bits that the bucket ignores.
    let coarse = (u64::BITS - time.leading_zeros()).saturating_sub(FINE + 1);
    let bucket = (u64::from(coarse) << FINE) + (time >> coarse);
    usize::try_from(bucket).unwrap_or(usize::MAX)
}

/// The longest time of a bucket.
fn longest_in(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let coarse = (bucket >> FINE).saturating_sub(1);
    let shortest = (bucket - (coarse << FINE)) << coarse;
    shortest + (1 << coarse) - 1
}

impl Histogram {
    /// Adds a time in nanoseconds.
    pub fn record(&mut self, nanoseconds: u64) {
        let time = (nanoseconds / 1_000).min(LONGEST);
        self.put(bucket(time), 1);
        self.count += 1;
        self.sum += time;
    }

    fn put(&mut self, bucket: usize, count: u32) {
        if bucket >= self.buckets.len() {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] = self.buckets[bucket].saturating_add(count);
    }

    /// How many times there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The sum of the times in microseconds.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// Adds those of another one.
    pub fn add(&mut self, other: &Self) {
        if other.buckets.len() > self.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        for (it, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *it = it.saturating_add(*more);
        }
        self.count += other.count;
        self.sum += other.sum;
    }

    /// Removes those of an earlier state of this one.
    pub fn subtract(&mut self, earlier: &Self) {
        for (it, less) in self.buckets.iter_mut().zip(&earlier.buckets) {
            *it = it.saturating_sub(*less);
        }
        self.count = self.count.saturating_sub(earlier.count);
        self.sum = self.sum.saturating_sub(earlier.sum);
    }

    /// The times, in microseconds, that so many percent took at most; ascending.
    #[must_use]
    pub fn longest<const N: usize>(&self, percents: [u64; N]) -> [u64; N] {
        let mut seen = 0;
        let mut buckets = self.buckets.iter().enumerate();
        let mut time = 0;
        // Rounded up: that many tasks took no longer.
        percents.map(|percent| {
            let wanted = (self.count * percent).div_ceil(100);
            while seen < wanted
                && let Some((bucket, count)) = buckets.next()
            {
                seen += u64::from(*count);
                time = longest_in(bucket);
            }
            time
        })
    }

    /// How many times are above the bound before and up to each bound, in microseconds and
    /// ascending; and how many above the last one.
    #[must_use]
    pub fn within(&self, bounds: &[u64]) -> Vec<u64> {
        let mut found = Vec::with_capacity(bounds.len() + 1);
        let mut buckets = self.buckets.as_slice();
        let mut begin = 0;
        for bound in bounds {
            let bound = (*bound).min(LONGEST);
            let end = (bucket(bound) + 1).saturating_sub(begin).min(buckets.len());
            let (within, beyond) = buckets.split_at(end);
            found.push(within.iter().copied().map(u64::from).sum());
            buckets = beyond;
            begin += end;
        }
        found.push(buckets.iter().copied().map(u64::from).sum());
        found
    }

    /// As bytes: the sum, and for each bucket in use its distance from the one before and its count.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, self.sum);
        let mut next = 0;
        for (place, count) in self.buckets.iter().enumerate() {
            if *count > 0 {
                write(&mut bytes, (place - next) as u64);
                write(&mut bytes, u64::from(*count));
                next = place + 1;
            }
        }
        bytes
    }

    /// From `encode`.
    pub(crate) fn decode(bytes: &[u8]) -> Self {
        let mut found = Self::default();
        found.add_encoded(bytes);
        found
    }

    /// Adds what `encode` has made. What something else has written is left out.
    pub(crate) fn add_encoded(&mut self, mut bytes: &[u8]) {
        let sum = read(&mut bytes).unwrap_or_default();
        self.sum = self.sum.saturating_add(sum);
        let last = bucket(LONGEST);
        let mut next = 0;
        while let Some((gap, count)) = read(&mut bytes).zip(read(&mut bytes)) {
            let place = usize::try_from(gap).unwrap_or(usize::MAX);
            let place = place.saturating_add(next);
            if place > last {
                break;
            }
            self.put(place, u32::try_from(count).unwrap_or(u32::MAX));
            self.count = self.count.saturating_add(count);
            next = place + 1;
        }
    }
}

/// Seven bits in each byte, the lowest first; the eighth says that more follow.
fn write(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push((number & 0x7f) as u8);
}

fn read(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}
