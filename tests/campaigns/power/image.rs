//! A file that remembers every write to it and every flush, in order: the image of a file system, mounted over a loop device, whose
//! power can be cut afterwards at any moment.
//!
//! It is served over FUSE: the loop driver turns the flushes of the file system above into syncs of this file. What was written
//! before a flush is certain; of what was written after the last one each sector is there or not, as it happens. Disks promise no
//! more, whatever order the file system asked for.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::Duration,
};

use fastrand::Rng;

use crate::support::disk::as_root;

use super::{
    disk::write_file,
    trace::{Time, now},
};

/// What happened to the image.
#[derive(Debug)]
enum Event {
    Write { at: usize, bytes: Vec<u8> },
    Flush,
}

/// Events with their moments, in order. A flush has its moment before it is answered.
type Events = Vec<(Time, Event)>;

/// The image, served until this is dropped.
pub(super) struct Image {
    directory: PathBuf,
    events: Arc<Mutex<Events>>,
    server: Option<JoinHandle<()>>,
}

/// All that was written to an image.
pub(super) struct Written {
    bytes: usize,
    events: Events,
}

const NAME: &str = "image";

impl Image {
    /// An empty image of so many bytes, in this directory.
    pub(super) fn serve(directory: &Path, bytes: usize) -> Self {
        fs::create_dir(directory).expect("made");
        let device = File::options().read(true).write(true).open("/dev/fuse").expect("this test serves a file: it needs /dev/fuse");
        let options = "fd=0,rootmode=40000,user_id=0,group_id=0,allow_other";
        let mut mount = as_root("mount");
        mount.args(["-i", "-t", "fuse", "-o", options, "forebay-test"]).arg(directory);
        let mounted = mount.stdin(Stdio::from(device.try_clone().expect("a second handle"))).status().expect("mount runs");
        assert!(mounted.success(), "this test mounts a file of its own: it needs root or sudo without a password: {mounted}");
        // Only now: before it is mounted there is nothing to serve.
        let events = Arc::new(Mutex::new(Vec::new()));
        let mut server = Server { device, content: vec![0; bytes], events: Arc::clone(&events) };
        let server = thread::spawn(move || server.run());
        Self { directory: directory.to_owned(), events, server: Some(server) }
    }

    /// Where the image is.
    pub(super) fn path(&self) -> PathBuf {
        self.directory.join(NAME)
    }

    /// Ends it: everything that was written.
    pub(super) fn end(mut self) -> Written {
        let bytes = usize::try_from(fs::metadata(self.path()).expect("it is served").len()).expect("a small image");
        self.unmount();
        let events = std::mem::take(&mut *self.events.lock().expect("the server doesn't panic"));
        Written { bytes, events }
    }

    fn unmount(&mut self) {
        if let Some(server) = self.server.take() {
            // The loop device lets go of it a little after what was mounted there.
            let unmounted = (0..50).any(|_| {
                let status = as_root("umount").arg("-q").arg(&self.directory).status().expect("umount runs");
                thread::sleep(Duration::from_millis(if status.success() { 0 } else { 100 }));
                status.success()
            });
            assert!(unmounted || thread::panicking(), "{} can't be unmounted", self.directory.display());
            if unmounted {
                server.join().expect("the server doesn't panic");
            }
        }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        self.unmount();
    }
}

impl Written {
    /// The moments of its flushes from then on.
    pub(super) fn flushes(&self, from: Time) -> Vec<Time> {
        self.events.iter().filter(|(at, event)| *at >= from && matches!(event, Event::Flush)).map(|(at, _)| *at).collect()
    }

    /// The moments of everything.
    pub(super) fn moments(&self, from: Time) -> Vec<Time> {
        self.events.iter().map(|(at, _)| *at).filter(|at| *at >= from).collect()
    }

    /// Makes the image that a power cut at this moment leaves. `sector` bytes are written as one; of those that were not flushed,
    /// `kept` of a hundred are there.
    pub(super) fn cut(&self, at: Time, sector: usize, kept: u8, random: &mut Rng, into: &Path) {
        let until = self.events.partition_point(|(moment, _)| *moment <= at);
        let events = &self.events[..until];
        let flushed = events.iter().rposition(|(_, event)| matches!(event, Event::Flush)).map_or(0, |last| last + 1);
        let mut content = vec![0; self.bytes];
        // Of a sector that was written more than once, it may be there as it was in between.
        let mut reached = HashMap::<usize, bool>::new();
        for (number, (_, event)) in events.iter().enumerate() {
            let Event::Write { at, bytes } = event else { continue };
            for (n, part) in bytes.chunks(sector).enumerate() {
                let place = at + n * sector;
                let keeps = reached.entry(place).or_insert(true);
                if number >= flushed {
                    *keeps = *keeps && random.u8(..100) < kept;
                    if !*keeps {
                        continue;
                    }
                }
                content[place..place + part.len()].copy_from_slice(part);
            }
        }
        write_file(into, &content);
    }
}

/// One file in one directory, for one mount.
struct Server {
    device: File,
    content: Vec<u8>,
    events: Arc<Mutex<Events>>,
}

const ROOT: u64 = 1;
const FILE: u64 = 2;
const WRITE_BYTES_MAX: u32 = 128 << 10;
const HEADER_BYTES: usize = 40;
/// Seconds for which the kernel need not ask again.
const FOREVER: u64 = 1 << 30;

/// What the kernel is told of a request that this can't serve: it does without.
const NOT_SERVED: i32 = -38;
const NOT_THERE: i32 = -2;

impl Server {
    /// Until it is unmounted.
    fn run(&mut self) {
        let mut buffer = vec![0; WRITE_BYTES_MAX as usize + (8 << 10)];
        loop {
            let length = match self.device.read(&mut buffer) {
                Ok(length) => length,
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::NotFound) => continue,
                // ENODEV: unmounted.
                Err(_) => return,
            };
            let request = &buffer[..length];
            let (opcode, unique, node) = (u32_at(request, 4), u64_at(request, 8), u64_at(request, 16));
            let answer = match self.answer(opcode, node, &request[HEADER_BYTES..]) {
                Some(answer) => answer,
                None => continue,
            };
            let (error, body) = answer.map_or_else(|error| (error, Vec::new()), |body| (0, body));
            let mut message = Vec::with_capacity(16 + body.len());
            message.extend_from_slice(&u32::try_from(16 + body.len()).expect("short").to_le_bytes());
            message.extend_from_slice(&error.to_le_bytes());
            message.extend_from_slice(&unique.to_le_bytes());
            message.extend_from_slice(&body);
            // A request that was given up has nobody waiting.
            let _ = self.device.write(&message);
        }
    }

    /// Requests by their numbers in linux/fuse.h; none for those that want no answer.
    fn answer(&mut self, opcode: u32, node: u64, body: &[u8]) -> Option<Result<Vec<u8>, i32>> {
        Some(match opcode {
            // FORGET, INTERRUPT, DESTROY, BATCH_FORGET
            2 | 36 | 38 | 42 => return None,
            // LOOKUP
            1 => match body.strip_suffix(b"\0") {
                Some(name) if name == NAME.as_bytes() => {
                    let head = numbers(&[FILE, 0, FOREVER, FOREVER, 0]);
                    Ok([head, self.attributes(FILE)].concat())
                }
                _ => Err(NOT_THERE),
            },
            // GETATTR, SETATTR
            3 | 4 => Ok([numbers(&[FOREVER, 0]), self.attributes(node)].concat()),
            // OPEN, OPENDIR
            14 | 27 => Ok(numbers(&[0, 0])),
            // READ
            15 => {
                let at = usize::try_from(u64_at(body, 8)).expect("a small image").min(self.content.len());
                let end = (at + u32_at(body, 16) as usize).min(self.content.len());
                Ok(self.content[at..end].to_vec())
            }
            // WRITE
            16 => {
                let at = usize::try_from(u64_at(body, 8)).expect("a small image");
                self.write(at, &body[40..40 + u32_at(body, 16) as usize]);
                Ok(numbers(&[u64::from(u32_at(body, 16))]))
            }
            // STATFS
            17 => Ok(vec![0; 80]),
            // RELEASE, FLUSH (of a handle, at its close), RELEASEDIR
            18 | 25 | 29 => Ok(Vec::new()),
            // FSYNC
            20 => {
                self.note(Event::Flush);
                Ok(Vec::new())
            }
            // INIT: version 7.31, reads and writes of up to this many bytes.
            26 => {
                let versions = [7u32, 31, WRITE_BYTES_MAX, 1 << 5].map(u32::to_le_bytes).concat();
                let sizes = [16 | 12 << 16, WRITE_BYTES_MAX, 1, 0].map(u32::to_le_bytes).concat();
                Ok([versions, sizes, vec![0; 32]].concat())
            }
            // READDIR: nobody lists it.
            28 => Ok(Vec::new()),
            _ => Err(NOT_SERVED),
        })
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.content.len(), "a loop device doesn't write behind its end");
        self.content[at..at + bytes.len()].copy_from_slice(bytes);
        self.note(Event::Write { at, bytes: bytes.to_vec() });
    }

    fn note(&self, event: Event) {
        self.events.lock().expect("no panic").push((now(), event));
    }

    /// `struct fuse_attr`.
    fn attributes(&self, node: u64) -> Vec<u8> {
        let (mode, bytes) = if node == ROOT { (0o040_755, 0) } else { (0o100_666, self.content.len() as u64) };
        let numbers = numbers(&[node, bytes, bytes / 512, 0, 0, 0]);
        let rest = [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0].map(u32::to_le_bytes).concat();
        [numbers, rest].concat()
    }
}

fn numbers(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}
