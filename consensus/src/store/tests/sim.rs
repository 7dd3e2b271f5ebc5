//! A disk that forgets, reorders and tears what was not synced, and refuses when told to.

use std::io;
use std::sync::{Arc, Mutex};

use super::super::StoreError;
use super::super::medium::{Block, Medium};

const SECTOR: usize = 512;
/// What Linux says when a disk is full.
const ENOSPC: i32 = 28;
const EIO: i32 = 5;

/// Numbers that depend on nothing but the seed.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[derive(Debug)]
enum Pending {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Debug)]
struct Bytes {
    durable: Vec<u8>,
    current: Vec<u8>,
    pending: Vec<Pending>,
    /// Changes until the power goes.
    budget: Option<u64>,
    full: bool,
    broken: bool,
    dice: Dice,
}

/// The disk; a clone is another handle on it.
#[derive(Debug, Clone)]
pub(crate) struct SimDisk(Arc<Mutex<Bytes>>);

impl SimDisk {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Bytes {
            durable: Vec::new(),
            current: Vec::new(),
            pending: Vec::new(),
            budget: None,
            full: false,
            broken: false,
            dice: Dice::new(seed),
        })))
    }

    pub(crate) fn from_image(image: Vec<u8>) -> Self {
        let disk = Self::new(0);
        disk.0.lock().unwrap().durable = image.clone();
        disk.0.lock().unwrap().current = image;
        disk
    }

    /// What is on the disk now, synced or not, as after the death of the process alone.
    pub(crate) fn image(&self) -> Vec<u8> {
        self.0.lock().unwrap().current.clone()
    }

    /// Lets the power go after so many changes.
    pub(crate) fn die_after(&self, changes: u64) {
        self.0.lock().unwrap().budget = Some(changes);
    }

    pub(crate) fn set_full(&self, full: bool) {
        self.0.lock().unwrap().full = full;
    }

    /// Writes fail as on a broken disk.
    pub(crate) fn set_broken(&self, broken: bool) {
        self.0.lock().unwrap().broken = broken;
    }

    /// The power comes back: of what was not synced, each sector is kept or lost by chance.
    pub(crate) fn power_up(&self) {
        let mut bytes = self.0.lock().unwrap();
        let mut image = bytes.durable.clone();
        for change in std::mem::take(&mut bytes.pending) {
            match change {
                Pending::Length(length) => {
                    if bytes.dice.below(2) == 0 {
                        image.resize(length, 0);
                    }
                }
                Pending::Write(at, data) => keep_some(&mut image, at, &data, &mut bytes.dice),
            }
        }
        bytes.current = image.clone();
        bytes.durable = image;
        bytes.budget = None;
    }
}

fn keep_some(image: &mut Vec<u8>, at: usize, data: &[u8], dice: &mut Dice) {
    let fate = dice.below(3);
    let mut done = 0;
    while done < data.len() {
        let place = at + done;
        let length = (SECTOR - place % SECTOR).min(data.len() - done);
        let kept = fate == 0 || (fate == 1 && dice.below(2) == 0);
        if kept {
            if image.len() < place + length {
                image.resize(place + length, 0);
            }
            image[place..place + length].copy_from_slice(&data[done..done + length]);
        }
        done += length;
    }
}

impl Bytes {
    fn spend(&mut self) -> io::Result<()> {
        if self.full {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        if self.broken {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        match self.budget.as_mut() {
            Some(0) => Err(io::Error::other("the power is gone")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Block for SimDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().current.len() as u64)
    }

    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.0.lock().unwrap();
        let at = at as usize;
        let found = bytes.current.get(at..at + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, at: u64, data: &[u8]) -> io::Result<()> {
        let mut bytes = self.0.lock().unwrap();
        let at = at as usize;
        let gone = bytes.budget == Some(0);
        if let Err(error) = bytes.spend() {
            if gone {
                // The write that the power cut caught may still reach the disk, whole or torn.
                bytes.pending.push(Pending::Write(at, data.to_vec()));
            }
            return Err(error);
        }
        if bytes.current.len() < at + data.len() {
            bytes.current.resize(at + data.len(), 0);
        }
        bytes.current[at..at + data.len()].copy_from_slice(data);
        bytes.pending.push(Pending::Write(at, data.to_vec()));
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut bytes = self.0.lock().unwrap();
        bytes.spend()?;
        bytes.current.resize(length as usize, 0);
        bytes.pending.push(Pending::Length(length as usize));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut bytes = self.0.lock().unwrap();
        bytes.spend()?;
        bytes.pending.clear();
        bytes.durable = bytes.current.clone();
        Ok(())
    }
}

impl Medium for SimDisk {
    fn create(&self) -> Result<Arc<dyn Block>, StoreError> {
        Ok(Arc::new(self.clone()))
    }

    fn publish(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn open(&self) -> Result<Arc<dyn Block>, StoreError> {
        Ok(Arc::new(self.clone()))
    }
}
