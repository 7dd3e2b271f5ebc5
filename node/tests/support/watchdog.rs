//! A watchdog device that resets nothing: the kernel's protocol, spoken by a file system in user space, with the moment at which
//! a real one would have reset the host. Needs `/dev/fuse`, and root to mount.
#![allow(clippy::unwrap_used)]

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, IoctlFlags, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyOpen, ReplyWrite, Request, SessionACL, WriteFlags,
};

const NAME: &str = "watchdog7";
const DEVICE: INodeNo = INodeNo(2);
const NOTHING: Duration = Duration::from_secs(0);

/// What the device knows.
#[derive(Debug)]
pub struct State {
    /// Shortest timeout that its driver takes, in seconds.
    pub least: i32,
    pub timeout: i32,
    /// Armed, and put off last at this moment.
    pub armed: Option<Instant>,
    pub open: bool,
    /// Put off so often.
    pub kicks: u64,
    /// Since the last write: the magic letter.
    letter: bool,
}

impl State {
    /// When the host would have been reset, if that has come.
    pub fn reset(&self) -> Option<Instant> {
        let at = self.armed? + Duration::from_secs(u64::try_from(self.timeout).unwrap());
        (at <= Instant::now()).then_some(at)
    }
}

#[derive(Clone)]
struct Device(Arc<Mutex<State>>);

fn attr(ino: INodeNo, kind: FileType, perm: u16) -> FileAttr {
    FileAttr {
        ino,
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        flags: 0,
        blksize: 512,
    }
}

impl Filesystem for Device {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == NAME {
            reply.entry(&NOTHING, &attr(DEVICE, FileType::RegularFile, 0o666), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let of = if ino == DEVICE {
            attr(ino, FileType::RegularFile, 0o666)
        } else {
            attr(ino, FileType::Directory, 0o755)
        };
        reply.attr(&NOTHING, &of);
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let mut state = self.0.lock().unwrap();
        if state.open {
            return reply.error(Errno::EBUSY);
        }
        // To open it is to arm it.
        (state.open, state.letter) = (true, false);
        state.armed = Some(Instant::now());
        reply.opened(FileHandle(1), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut state = self.0.lock().unwrap();
        if state.reset().is_none() {
            state.armed = Some(Instant::now());
        }
        state.kicks += 1;
        state.letter = data.contains(&b'V');
        reply.written(u32::try_from(data.len()).unwrap());
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        let mut state = self.0.lock().unwrap();
        state.open = false;
        if state.letter {
            state.armed = None;
        }
        reply.ok();
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        command: u32,
        input: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        let mut state = self.0.lock().unwrap();
        // As <linux/watchdog.h> has them.
        match command {
            0x8028_5700 => {
                let mut info = [0_u8; 40];
                info[..4].copy_from_slice(&0x8180_u32.to_ne_bytes());
                info[8..16].copy_from_slice(b"pretence");
                reply.ioctl(0, &info);
            }
            0xc004_5706 => {
                let wanted = i32::from_ne_bytes(input.try_into().unwrap());
                if wanted < state.least {
                    return reply.error(Errno::EINVAL);
                }
                state.timeout = wanted;
                state.armed = Some(Instant::now());
                reply.ioctl(0, &wanted.to_ne_bytes());
            }
            0x8004_5707 => reply.ioctl(0, &state.timeout.to_ne_bytes()),
            _ => reply.error(Errno::ENOTTY),
        }
    }
}

/// A device in a directory of its own, until it is dropped.
pub struct Pretence {
    pub path: PathBuf,
    pub state: Arc<Mutex<State>>,
    // In this order: a directory that is still mounted cannot be removed.
    _session: BackgroundSession,
    _dir: tempfile::TempDir,
}

impl Pretence {
    pub fn new(least: i32) -> Self {
        let dir = tempfile::Builder::new().prefix("mesh-watchdog-").tempdir().unwrap();
        let state = State { least, timeout: 60, armed: None, open: false, kicks: 0, letter: false };
        let state = Arc::new(Mutex::new(state));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("mesh-watchdog".to_owned())];
        config.acl = SessionACL::All;
        let session = fuser::spawn_mount(Device(Arc::clone(&state)), dir.path(), &config)
            .expect("no file system in user space: needs root and /dev/fuse");
        Self { path: dir.path().join(NAME), state, _session: session, _dir: dir }
    }
}
