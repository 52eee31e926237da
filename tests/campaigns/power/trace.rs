//! What strace wrote down of a daemon: the calls that change what is below one directory, or make it durable.
//!
//! A call that this can't read is a panic, never passed over: what is rebuilt from a trace must be all that was there.

use std::{
    collections::HashMap,
    path::{Component, Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// Nanoseconds since 1970.
pub(crate) type Time = u64;

/// What strace is told: every call that may change a file, whole, with its moments and the paths of its descriptors.
pub(super) const OPTIONS: [&str; 8] = [
    "-xx",
    "-s",
    "67108864",
    "--absolute-timestamps=unix,ns",
    "--syscall-times=ns",
    "--signal=none",
    "-e",
    "trace=open,openat,openat2,creat,mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,rmdir,link,linkat,symlink,symlinkat,\
     write,writev,pwrite64,pwritev,pwritev2,copy_file_range,sendfile,truncate,ftruncate,fallocate,lseek,fsync,fdatasync,sync,syncfs",
];

/// A call on the directory. Paths are relative to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) begins: Time,
    /// `Time::MAX` if the process ended in it.
    pub(crate) ends: Time,
    pub(crate) act: Act,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Opens a file, which is made if there is none.
    Open {
        path: PathBuf,
        truncate: bool,
    },
    MakeDirectory(PathBuf),
    Write {
        path: PathBuf,
        at: u64,
        bytes: Vec<u8>,
    },
    SetLength {
        path: PathBuf,
        length: u64,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Remove(PathBuf),
    /// A file or a directory.
    Sync(PathBuf),
    /// A file is copied. What of? The copies of a journal are for its audit alone, and nobody reads them later.
    Copy(PathBuf),
}

/// Now, by the clock of strace.
pub(super) fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_nanos()).expect("a few centuries")
}

/// The calls of one process on `root`, in the order in which they began.
pub(super) fn read(trace: &str, root: &Path) -> Vec<Call> {
    let mut lines = merge(trace);
    lines.sort_by_key(|line| line.begins);
    let mut reader = Reader { root, positions: HashMap::new() };
    let calls = lines.iter().filter_map(|line| {
        let act = reader.act(line)?;
        Some(Call { begins: line.begins, ends: line.ends, act })
    });
    calls.collect()
}

/// A call, whole: strace writes those in two pieces that others come between.
#[derive(Debug)]
struct Line<'a> {
    begins: Time,
    ends: Time,
    name: &'a str,
    arguments: &'a str,
    /// What it returned; nothing if the process ended in it.
    result: &'a str,
}

fn merge(trace: &str) -> Vec<Line<'_>> {
    let (mut begun, mut lines) = (HashMap::<&str, (Time, &str)>::new(), Vec::new());
    for line in trace.lines() {
        let (thread, rest) = line.split_once(' ').expect("a thread");
        let (time, text) = rest.trim_start().split_once(' ').expect("a moment");
        if text.starts_with("+++") {
            continue;
        }
        let time = nanoseconds(time);
        // Detached: strace ended before the call did.
        if let Some(text) = text.strip_suffix(" <unfinished ...>").or_else(|| text.strip_suffix(" <detached ...>")) {
            begun.insert(thread, (time, text));
        } else if text.starts_with("<... ") {
            let (begins, before) = begun.remove(thread).expect("what is resumed was begun");
            let (_, after) = text.split_once(" resumed>").expect("resumed");
            lines.push(Line::new(begins, before, after));
        } else {
            lines.push(Line::new(time, text, ""));
        }
    }
    lines.extend(begun.into_values().map(|(begins, text)| Line::new(begins, text, ") = ? <0.0>")));
    lines
}

impl<'a> Line<'a> {
    /// `before` is the call, or the part of it in front of `after`: name and arguments, at least, as no string has been cut.
    fn new(begins: Time, before: &'a str, after: &'a str) -> Self {
        let (name, rest) = before.split_once('(').unwrap_or_else(|| panic!("no call: {before}"));
        let (arguments, result) = match after {
            "" => rest.rsplit_once("= ").unwrap_or_else(|| panic!("no end: {before}")),
            after => (rest, after.split_once("= ").unwrap_or_else(|| panic!("no end: {after}")).1),
        };
        let arguments = arguments.trim_end().trim_end_matches(')').trim_end_matches(" <unfinished ...>");
        let (result, took) = result.rsplit_once(" <").unwrap_or((result, "0.0>"));
        let ends = match result {
            "?" => Time::MAX,
            _ => begins + nanoseconds(took.trim_end_matches('>')),
        };
        Self { begins, ends, name, arguments, result: if result == "?" { "" } else { result } }
    }

    fn argument(&self, n: usize) -> &'a str {
        self.arguments.split(", ").nth(n).unwrap_or_else(|| panic!("argument {n} of {}({})", self.name, self.arguments))
    }

    fn number(&self, n: usize) -> u64 {
        self.argument(n).parse().unwrap_or_else(|_| panic!("{} of {}", self.argument(n), self.name))
    }

    /// How many bytes it took: of a write that nobody saw the end of, all of them.
    fn taken(&self, asked: usize) -> usize {
        if self.result.is_empty() { asked } else { self.result.parse().expect("a count") }
    }
}

struct Reader<'a> {
    root: &'a Path,
    /// Where open files are written next.
    positions: HashMap<u32, u64>,
}

impl Reader<'_> {
    fn act(&mut self, line: &Line<'_>) -> Option<Act> {
        // A call that failed changed nothing.
        if line.result.starts_with('-') {
            return None;
        }
        match line.name {
            "open" | "openat" | "creat" | "openat2" => self.open(line),
            "mkdir" => Some(Act::MakeDirectory(self.path(line.argument(0))?)),
            "mkdirat" => Some(Act::MakeDirectory(self.path_at(line, 0)?)),
            "rename" => self.rename(self.path(line.argument(0)), self.path(line.argument(1))),
            "renameat" | "renameat2" => self.rename(self.path_at(line, 0), self.path_at(line, 2)),
            "unlink" | "rmdir" => Some(Act::Remove(self.path(line.argument(0))?)),
            "unlinkat" => Some(Act::Remove(self.path_at(line, 0)?)),
            "write" | "pwrite64" => self.write(line),
            "ftruncate" => Some(Act::SetLength { path: self.file(line.argument(0))?, length: line.number(1) }),
            "lseek" => self.seek(line),
            // Takes room and writes nothing.
            "fallocate" if line.argument(1) == "FALLOC_FL_KEEP_SIZE" => None,
            // Injected, it returned and did nothing.
            "fsync" | "fdatasync" if line.result.contains("INJECTED") => None,
            "fsync" | "fdatasync" => Some(Act::Sync(self.file(line.argument(0))?)),
            "copy_file_range" => Some(Act::Copy(self.file(line.argument(2))?)),
            _ => {
                let of_journal = line.arguments.split(", ").any(|argument| self.file(argument).or_else(|| self.path(argument)).is_some());
                assert!(!of_journal, "a call that nobody reads: {}({})", line.name, line.arguments);
                None
            }
        }
    }

    fn open(&mut self, line: &Line<'_>) -> Option<Act> {
        let (descriptor, path) = descriptor(line.result)?;
        self.positions.insert(descriptor, 0);
        let path = self.below(&path)?;
        assert!(!line.arguments.contains("O_APPEND") && line.name != "openat2", "{}({})", line.name, line.arguments);
        let makes = line.name == "creat" || line.arguments.contains("O_CREAT");
        makes.then(|| Act::Open { path, truncate: line.name == "creat" || line.arguments.contains("O_TRUNC") })
    }

    fn rename(&self, from: Option<PathBuf>, to: Option<PathBuf>) -> Option<Act> {
        assert_eq!(from.is_some(), to.is_some(), "nothing is moved in or out");
        Some(Act::Rename { from: from?, to: to? })
    }

    fn write(&mut self, line: &Line<'_>) -> Option<Act> {
        let path = self.file(line.argument(0))?;
        let (descriptor, _) = descriptor(line.argument(0))?;
        let mut bytes = unquote(line.argument(1));
        bytes.truncate(line.taken(bytes.len()));
        let at = match line.name {
            "write" => {
                let position = self.positions.entry(descriptor).or_default();
                let at = *position;
                *position += bytes.len() as u64;
                at
            }
            _ => line.number(3),
        };
        Some(Act::Write { path, at, bytes })
    }

    fn seek(&mut self, line: &Line<'_>) -> Option<Act> {
        let (descriptor, _) = descriptor(line.argument(0))?;
        self.positions.insert(descriptor, line.result.parse().expect("a position"));
        None
    }

    /// The file of a descriptor, if it is below the directory and still has a name.
    fn file(&self, argument: &str) -> Option<PathBuf> {
        if argument.ends_with("(deleted)") {
            return None;
        }
        self.below(&descriptor(argument)?.1)
    }

    fn path(&self, argument: &str) -> Option<PathBuf> {
        argument.starts_with('"').then(|| self.below(&text(argument)))?
    }

    /// A path that may be relative to the directory in front of it.
    fn path_at(&self, line: &Line<'_>, n: usize) -> Option<PathBuf> {
        let name = text(line.argument(n + 1));
        match line.argument(n).strip_prefix("AT_FDCWD") {
            Some(_) => self.below(&name),
            None => self.below(&descriptor(line.argument(n))?.1.join(name)),
        }
    }

    fn below(&self, path: &Path) -> Option<PathBuf> {
        let path = path.strip_prefix(self.root).ok()?;
        assert!(path.components().all(|part| matches!(part, Component::Normal(_))), "a plain path: {}", path.display());
        Some(path.to_owned())
    }
}

/// `12<path>`: number and path.
fn descriptor(argument: &str) -> Option<(u32, PathBuf)> {
    let (number, path) = argument.split_once('<')?;
    let path = path.strip_suffix('>')?;
    Some((number.parse().ok()?, text(path)))
}

fn text(quoted: &str) -> PathBuf {
    PathBuf::from(String::from_utf8(unquote(quoted)).expect("our paths are text"))
}

/// The bytes of a string, all of which strace shows as `\xNN`.
fn unquote(quoted: &str) -> Vec<u8> {
    let digits = quoted.trim_matches('"').as_bytes();
    let byte = |four: &[u8]| match four {
        [b'\\', b'x', high, low] => hexadecimal(*high) << 4 | hexadecimal(*low),
        _ => panic!("no hexadecimal string: {quoted}"),
    };
    digits.chunks(4).map(byte).collect()
}

fn hexadecimal(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => panic!("no hexadecimal digit: {digit}"),
    }
}

/// Seconds with up to nine places behind the point.
fn nanoseconds(text: &str) -> Time {
    let (seconds, fraction) = text.split_once('.').unwrap_or_else(|| panic!("no time: {text}"));
    let fraction: Time = format!("{fraction:0<9}").parse().expect("nanoseconds");
    seconds.parse::<Time>().expect("seconds") * 1_000_000_000 + fraction
}

#[test]
fn calls_are_read_as_strace_writes_them() {
    let hex = |text: &str| text.bytes().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
    let (db, root, tmp) = (hex("/j/segments/1/db"), hex("/j"), hex("/tmp/x"));
    let trace = [
        format!("7 5.000000001 openat(AT_FDCWD<{tmp}>, \"{db}\", O_RDWR|O_CREAT|O_CLOEXEC, 0600) = 9<{db}> <0.000000002>"),
        format!("7 5.000000010 write(9<{db}>, \"\\x00\\xff\", 2) = 2 <0.000000001>"),
        format!("7 5.000000020 write(9<{db}>, \"\\x01\\x02\\x03\", 3 <unfinished ...>"),
        format!("8 5.000000021 fdatasync(10<{db}>) = 0 <0.000000003>"),
        "7 5.000000030 <... write resumed>) = 1 <0.000000010>".to_owned(),
        format!("8 5.000000031 pwrite64(9<{db}>, \"\\x07\", 1, 512) = -1 ENOSPC (No space left on device) <0.000000001>"),
        format!("8 5.000000032 fsync(11<{root}>) = 0 (INJECTED) <0.000000001>"),
        format!("8 5.000000033 write(3<{tmp}>, \"\\x07\", 1) = 1 <0.000000001>"),
        format!("8 5.000000034 unlinkat(11<{root}>, \"{}\", AT_REMOVEDIR) = 0 <0.000000001>", hex("old")),
        format!("9 5.000000040 pwrite64(9<{db}>, \"\\x07\", 1, 512 <unfinished ...>"),
        "9 5.000000041 +++ killed by SIGKILL +++".to_owned(),
    ];
    let path = PathBuf::from("segments/1/db");
    let at = |n: Time| 5_000_000_000 + n;
    let call = |begins, ends, act| Call { begins: at(begins), ends: at(ends), act };
    let expected = [
        call(1, 3, Act::Open { path: path.clone(), truncate: false }),
        call(10, 11, Act::Write { path: path.clone(), at: 0, bytes: vec![0, 255] }),
        call(20, 30, Act::Write { path: path.clone(), at: 2, bytes: vec![1] }),
        call(21, 24, Act::Sync(path.clone())),
        call(34, 35, Act::Remove("old".into())),
        Call { begins: at(40), ends: Time::MAX, act: Act::Write { path, at: 512, bytes: vec![7] } },
    ];
    assert_eq!(read(&trace.join("\n"), Path::new("/j")), expected);
}
