//! What a message would make is told as others' code tells it: never less, and of whole messages never more.
#![expect(clippy::unwrap_used, reason = "what is wrong here fails the test")]

mod links;
mod traffic_control;

use guard_common::rtnetlink::{About, Bytes, Found, Kind, Reading, STEPS, makes_nothing};

/// The reader as the kernel side calls it. Behind the end stands what must make no difference.
fn read_with(bytes: &[u8], wanted: u32, behind: u8, mark: impl Fn(About, Kind) -> u32) -> Found {
    let mut reading = Reading::new(bytes.len() as u32, wanted);
    let whole = (0..STEPS).any(|_| {
        let at = reading.at() as usize;
        let byte = |index: usize| bytes.get(at + index).copied().unwrap_or(behind);
        let word =
            |index: usize| u32::from_le_bytes([0_usize, 1, 2, 3].map(|of| byte(4 * index + of)));
        let words: Bytes = [0_usize, 1, 2, 3, 4].map(word);
        reading.step(&words, &mark)
    });
    reading.found(whole)
}

/// Whether the kernel side looks at no more than the first bytes.
fn is_passed_over(bytes: &[u8]) -> bool {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    match (word(0), word(4)) {
        (Some(first), Some(second)) => makes_nothing([first, second], bytes.len() as u32),
        _ => false,
    }
}

/// The messages of one send, as far as the kernel reads them.
fn each_message(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut all = Vec::new();
    while bytes.len() >= 16 {
        let length = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
        if length < 16 || length > bytes.len() {
            break;
        }
        all.push(&bytes[..length]);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    all
}

fn attribute(kind: u16, held: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + held.len()) as u16).to_le_bytes().to_vec();
    bytes.extend(kind.to_le_bytes());
    bytes.extend(held);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// xorshift64: the same cases in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % end
    }

    fn of<'t>(&mut self, all: &[&'t [u8]]) -> &'t [u8] {
        all[self.below(all.len())]
    }
}

/// Cuts it off, turns bits over, or puts in bytes that mean something.
fn damage(bytes: &mut Vec<u8>, random: &mut Random, telling: &[u8]) {
    for _ in 0..=random.below(2) {
        let at = random.below(bytes.len());
        match random.below(4) {
            0 => bytes.truncate(at.max(1)),
            1 => bytes[at] ^= 1 << random.below(8),
            _ => bytes[at] = telling[random.below(telling.len())],
        }
    }
}
