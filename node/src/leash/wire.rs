//! What guard and leash say to each other: fixed frames over two pipes, small enough that a write is atomic.

use crate::clock::Reading;

/// Length of a frame from the guard: number, kind, two deadlines.
pub(super) const FRAME: usize = 32;
/// Length of an answer: the number of the frame that is in force now.
pub(super) const ECHO: usize = 8;

/// What the leash has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// Nothing: the guard holds no lease, and the instance is no primary of ours.
    Idle,
    /// End the instance when the guard dies.
    Bound,
    /// End the instance when the guard dies, and when either clock reaches its deadline.
    Until(Reading),
    /// End the instance now, and whatever of it starts, until told otherwise.
    Now,
}

/// A numbered duty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) number: u64,
    pub(super) duty: Duty,
}

impl Frame {
    pub(super) fn encode(self) -> [u8; FRAME] {
        let (kind, at): (u64, Reading) = match self.duty {
            Duty::Idle => (0, Reading { boot: 0, raw: 0 }),
            Duty::Bound => (1, Reading { boot: 0, raw: 0 }),
            Duty::Until(at) => (2, at),
            Duty::Now => (3, Reading { boot: 0, raw: 0 }),
        };
        let mut bytes = [0; FRAME];
        for (slot, word) in bytes.chunks_exact_mut(8).zip([self.number, kind, at.boot, at.raw]) {
            slot.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }

    /// `None` for anything that no guard of this build writes.
    pub(super) fn decode(bytes: &[u8; FRAME]) -> Option<Self> {
        let mut words = bytes.chunks_exact(8).filter_map(|word| word.try_into().ok().map(u64::from_be_bytes));
        let (number, kind) = (words.next()?, words.next()?);
        let at = Reading { boot: words.next()?, raw: words.next()? };
        let duty = match kind {
            0 => Duty::Idle,
            1 => Duty::Bound,
            2 => Duty::Until(at),
            3 => Duty::Now,
            _ => return None,
        };
        Some(Self { number, duty })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_as_they_went() {
        for duty in [Duty::Idle, Duty::Bound, Duty::Now, Duty::Until(Reading { boot: 5, raw: u64::MAX })] {
            let frame = Frame { number: 7, duty };
            assert_eq!(Frame::decode(&frame.encode()), Some(frame));
        }
        assert_eq!(Frame::decode(&[9; FRAME]), None);
    }

    #[test]
    fn fuzz_frames() {
        mesh_fuzz::fuzz!("frames", |bytes| {
            let mut frame = [0; FRAME];
            for (slot, byte) in frame.iter_mut().zip(bytes) {
                *slot = *byte;
            }
            let Some(read) = Frame::decode(&frame) else { return };
            assert_eq!(Frame::decode(&read.encode()), Some(read));
            assert_eq!(frame[..16], read.encode()[..16], "another number or kind");
        });
    }
}
