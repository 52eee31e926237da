//! A disk as far as a program may rely on it: what was written is there for whoever looks, but after a power cut only what was
//! synced, before that sync began, is there for certain.
//!
//! Of everything else each sector, each change of a file's length and each change of a name is there or not, as it happens. That is
//! more than file systems do that order their changes, and all that the standards promise: `sync_file_range` promises nothing here,
//! and a file's sync nothing about its name. Only a renaming is never half done.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use fastrand::Rng;

use super::trace::{Act, Call, Time};

/// What becomes of things of one kind that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Lost,
    Kept,
    /// Each as it happens.
    Drawn,
}

/// What a power cut does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) data: Fate,
    pub(crate) lengths: Fate,
    pub(crate) names: Fate,
    /// Bytes that are written as one.
    pub(crate) sector: usize,
}

impl Loss {
    pub(crate) fn draw(random: &mut Rng) -> Self {
        use Fate::{Drawn, Kept, Lost};
        let (data, lengths, names) = match random.u8(..8) {
            0 => (Lost, Lost, Lost),
            1 => (Lost, Kept, Kept),
            2 => (Kept, Kept, Lost),
            3 => (Kept, Lost, Kept),
            4 => (Drawn, Kept, Kept),
            _ => (Drawn, Drawn, Drawn),
        };
        Self { data, lengths, names, sector: if random.bool() { 512 } else { 4096 } }
    }
}

/// A directory and what is below it.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    nodes: Vec<Node>,
    /// Changes of names that are not synced, oldest first.
    renamings: Vec<Renaming>,
    /// How many changes of names there have been.
    changes: usize,
}

type NodeId = usize;

const ROOT: NodeId = 0;

#[derive(Clone, Debug)]
enum Node {
    Directory { now: BTreeMap<String, NodeId>, certain: BTreeMap<String, Certain> },
    File { now: Vec<u8>, certain: Vec<u8>, pending: Vec<Change> },
}

/// Under a name, as of which change.
#[derive(Clone, Copy, Debug)]
struct Certain {
    change: usize,
    node: Option<NodeId>,
}

/// A change of a file.
#[derive(Clone, Debug)]
struct Change {
    ends: Time,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Bytes { at: usize, bytes: Vec<u8> },
    Length(usize),
}

/// Names that change together, and the directories whose sync has not yet made that certain.
#[derive(Clone, Debug)]
struct Renaming {
    number: usize,
    ends: Time,
    names: Vec<(NodeId, String, Option<NodeId>)>,
    unsynced: BTreeSet<NodeId>,
}

impl Disk {
    /// An empty directory.
    pub(crate) fn empty() -> Self {
        Self { nodes: vec![Node::directory()], renamings: Vec::new(), changes: 0 }
    }

    /// A directory as it is, all of it certain.
    pub(crate) fn of(path: &Path) -> Self {
        let mut disk = Self::empty();
        disk.load(path, ROOT);
        disk
    }

    fn load(&mut self, path: &Path, into: NodeId) {
        for entry in fs::read_dir(path).expect("readable") {
            let path = entry.expect("readable").path();
            let name = path.file_name().and_then(|name| name.to_str()).expect("our names are text").to_owned();
            let node = if path.is_dir() {
                let node = self.add(Node::directory());
                self.load(&path, node);
                node
            } else {
                let bytes = fs::read(&path).expect("readable");
                self.add(Node::File { now: bytes.clone(), certain: bytes, pending: Vec::new() })
            };
            let Node::Directory { now, certain } = &mut self.nodes[into] else { unreachable!("it is a directory") };
            now.insert(name.clone(), node);
            certain.insert(name, Certain { change: 0, node: Some(node) });
        }
    }

    /// Takes calls up to a moment: those that have begun by then, and syncs that have ended. The calls before them have been taken.
    pub(crate) fn play(&mut self, calls: &[Call], after: Time, until: Time) {
        let mut moments: Vec<(Time, &Call)> = Vec::new();
        for call in calls {
            let at = if matches!(call.act, Act::Sync(_)) { call.ends } else { call.begins };
            if after < at && at <= until {
                moments.push((at, call));
            }
        }
        moments.sort_by_key(|(at, _)| *at);
        moments.into_iter().for_each(|(_, call)| self.take(call));
    }

    fn take(&mut self, call: &Call) {
        match &call.act {
            Act::Open { path, truncate } => match self.find(path) {
                None => {
                    let node = self.add(Node::File { now: Vec::new(), certain: Vec::new(), pending: Vec::new() });
                    self.rename(call.ends, vec![self.entry(path, Some(node))]);
                }
                Some(node) if *truncate => self.change(node, call.ends, What::Length(0)),
                Some(_) => {}
            },
            Act::MakeDirectory(path) => {
                let node = self.add(Node::directory());
                self.rename(call.ends, vec![self.entry(path, Some(node))]);
            }
            Act::Write { path, at, bytes } => {
                let at = usize::try_from(*at).expect("a small file");
                self.change(self.known(path), call.ends, What::Bytes { at, bytes: bytes.clone() });
            }
            Act::SetLength { path, length } => {
                let length = usize::try_from(*length).expect("a small file");
                self.change(self.known(path), call.ends, What::Length(length));
            }
            Act::Rename { from, to } => {
                let node = self.known(from);
                self.rename(call.ends, vec![self.entry(from, None), self.entry(to, Some(node))]);
            }
            Act::Remove(path) => self.rename(call.ends, vec![self.entry(path, None)]),
            Act::Sync(path) => {
                // Gone while it was being synced: it has nothing to promise.
                if let Some(node) = self.find(path) {
                    self.sync(node, call.begins);
                }
            }
            Act::Copy(_) => {}
        }
    }

    fn add(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn find(&self, path: &Path) -> Option<NodeId> {
        let mut node = ROOT;
        for part in path.components() {
            let Node::Directory { now, .. } = &self.nodes[node] else { return None };
            node = *now.get(part.as_os_str().to_str().expect("our names are text"))?;
        }
        Some(node)
    }

    fn known(&self, path: &Path) -> NodeId {
        self.find(path).unwrap_or_else(|| panic!("{} was never made", path.display()))
    }

    fn entry(&self, path: &Path, node: Option<NodeId>) -> (NodeId, String, Option<NodeId>) {
        let directory = self.known(path.parent().expect("below the root"));
        (directory, path.file_name().and_then(|name| name.to_str()).expect("our names are text").to_owned(), node)
    }

    fn rename(&mut self, ends: Time, names: Vec<(NodeId, String, Option<NodeId>)>) {
        for (directory, name, node) in &names {
            let Node::Directory { now, .. } = &mut self.nodes[*directory] else { unreachable!("it holds names") };
            match node {
                Some(node) => now.insert(name.clone(), *node),
                None => now.remove(name),
            };
        }
        self.changes += 1;
        let unsynced = names.iter().map(|(directory, ..)| *directory).collect();
        self.renamings.push(Renaming { number: self.changes, ends, names, unsynced });
    }

    fn change(&mut self, node: NodeId, ends: Time, what: What) {
        let Node::File { now, pending, .. } = &mut self.nodes[node] else { panic!("a directory is written to") };
        what.apply(now);
        pending.push(Change { ends, what });
    }

    /// A sync that began then, and has ended.
    fn sync(&mut self, node: NodeId, began: Time) {
        match &mut self.nodes[node] {
            Node::File { certain, pending, .. } => {
                pending.retain(|change| {
                    let synced = change.ends <= began;
                    if synced {
                        change.what.apply(certain);
                    }
                    !synced
                });
            }
            Node::Directory { .. } => {
                for renaming in self.renamings.iter_mut().filter(|renaming| renaming.ends <= began) {
                    renaming.unsynced.remove(&node);
                }
                for renaming in self.renamings.extract_if(.., |renaming| renaming.unsynced.is_empty()) {
                    renaming.apply(&mut self.nodes);
                }
            }
        }
    }

    /// Writes what is there after a power cut at this moment.
    pub(crate) fn cut(&self, loss: Loss, random: &mut Rng, into: &Path) {
        let mut left = self.nodes.clone();
        for renaming in &self.renamings {
            if loss.names.keeps(random) {
                renaming.apply(&mut left);
            }
        }
        write_directory(&left, ROOT, loss, random, into);
    }

    /// Every file's path and content, for whoever looks now.
    pub(crate) fn now(&self) -> BTreeMap<PathBuf, &[u8]> {
        let (mut found, mut directories) = (BTreeMap::new(), vec![(PathBuf::new(), ROOT)]);
        while let Some((path, node)) = directories.pop() {
            match &self.nodes[node] {
                Node::Directory { now, .. } => directories.extend(now.iter().map(|(name, node)| (path.join(name), *node))),
                Node::File { now, .. } => drop(found.insert(path, &now[..])),
            }
        }
        found
    }
}

impl Node {
    fn directory() -> Self {
        Self::Directory { now: BTreeMap::new(), certain: BTreeMap::new() }
    }
}

impl Renaming {
    /// Makes it certain, unless something later under the same name is.
    fn apply(&self, nodes: &mut [Node]) {
        for (directory, name, node) in &self.names {
            let Node::Directory { certain, .. } = &mut nodes[*directory] else { unreachable!("it holds names") };
            if certain.get(name).is_none_or(|known| known.change < self.number) {
                certain.insert(name.clone(), Certain { change: self.number, node: *node });
            }
        }
    }
}

impl What {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Bytes { at, bytes } => {
                content.resize(content.len().max(at + bytes.len()), 0);
                content[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            Self::Length(length) => content.resize(*length, 0),
        }
    }

    fn length(&self, before: usize) -> usize {
        match self {
            Self::Bytes { at, bytes } => before.max(at + bytes.len()),
            Self::Length(length) => *length,
        }
    }
}

impl Fate {
    fn keeps(self, random: &mut Rng) -> bool {
        match self {
            Self::Lost => false,
            Self::Kept => true,
            Self::Drawn => random.bool(),
        }
    }

    /// Up to which of so many changes in a row: a sector, or a length, was written back once in between, at the end, or never.
    fn reached(self, changes: usize, random: &mut Rng) -> usize {
        match self {
            Self::Lost => 0,
            Self::Kept => changes,
            Self::Drawn => random.usize(..=changes),
        }
    }
}

fn write_directory(nodes: &[Node], directory: NodeId, loss: Loss, random: &mut Rng, into: &Path) {
    fs::create_dir_all(into).expect("made");
    let Node::Directory { certain, .. } = &nodes[directory] else { unreachable!("it is a directory") };
    for (name, node) in certain.iter().filter_map(|(name, certain)| Some((name, certain.node?))) {
        let path = into.join(name);
        match &nodes[node] {
            Node::Directory { .. } => write_directory(nodes, node, loss, random, &path),
            Node::File { certain, pending, .. } => write_file(&path, &content(certain, pending, loss, random)),
        }
    }
}

/// A file of which some of what is pending was written back.
fn content(certain: &[u8], pending: &[Change], loss: Loss, random: &mut Rng) -> Vec<u8> {
    let reached = loss.lengths.reached(pending.len(), random);
    let length = pending[..reached].iter().fold(certain.len(), |length, change| change.what.length(length));
    let mut content = certain.to_vec();
    let mut sectors = HashMap::<usize, usize>::new();
    for (number, change) in pending.iter().enumerate() {
        let (at, bytes) = match &change.what {
            What::Bytes { at, bytes } => (*at, bytes.clone()),
            What::Length(length) => (*length, vec![0; content.len().saturating_sub(*length)]),
        };
        content.resize(content.len().max(at + bytes.len()), 0);
        let mut done = 0;
        while done < bytes.len() {
            let sector = (at + done) / loss.sector;
            let end = ((sector + 1) * loss.sector - at).min(bytes.len());
            if number < *sectors.entry(sector).or_insert_with(|| loss.data.reached(pending.len(), random)) {
                content[at + done..at + end].copy_from_slice(&bytes[done..end]);
            }
            done = end;
        }
    }
    content.resize(length, 0);
    content
}

/// Long stretches of zeros are left out: most of a store's file is not yet written.
pub(crate) fn write_file(path: &Path, content: &[u8]) {
    const BLOCK: usize = 16 << 10;
    const ZEROS: [u8; BLOCK] = [0; BLOCK];
    let mut file = File::create(path).expect("made");
    if content.len() <= BLOCK {
        return file.write_all(content).expect("written");
    }
    file.set_len(content.len() as u64).expect("made so long");
    for (n, block) in content.chunks(BLOCK).enumerate().filter(|(_, block)| **block != ZEROS[..block.len()]) {
        file.write_all_at(block, (n * BLOCK) as u64).expect("written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Loss = Loss { data: Fate::Lost, lengths: Fate::Lost, names: Fate::Lost, sector: 512 };

    /// What is left, by path, after these acts in a row.
    fn left(acts: &[Act], loss: Loss) -> BTreeMap<PathBuf, Vec<u8>> {
        let calls: Vec<_> = acts.iter().zip(1..).map(|(act, n)| Call { begins: 10 * n, ends: 10 * n + 5, act: act.clone() }).collect();
        let (mut disk, home) = (Disk::empty(), crate::support::directory());
        disk.play(&calls, 0, Time::MAX - 1);
        disk.cut(loss, &mut Rng::with_seed(1), home.path());
        Disk::of(home.path()).now().into_iter().map(|(path, bytes)| (path, bytes.to_vec())).collect()
    }

    fn open(path: &str) -> Act {
        Act::Open { path: path.into(), truncate: false }
    }

    fn write(path: &str, at: u64, bytes: &[u8]) -> Act {
        Act::Write { path: path.into(), at, bytes: bytes.to_vec() }
    }

    fn sync(path: &str) -> Act {
        Act::Sync(path.into())
    }

    fn file(path: &str, bytes: &[u8]) -> BTreeMap<PathBuf, Vec<u8>> {
        BTreeMap::from([(path.into(), bytes.to_vec())])
    }

    #[test]
    fn a_name_and_its_content_are_certain_by_syncs_of_their_own() {
        let mut acts = vec![open("a"), write("a", 0, b"one"), sync("a")];
        assert_eq!(left(&acts, NOTHING), BTreeMap::new(), "its name was not synced");
        acts.push(sync(""));
        assert_eq!(left(&acts, NOTHING), file("a", b"one"));
        acts.push(write("a", 1, b"xxxx"));
        assert_eq!(left(&acts, NOTHING), file("a", b"one"));
        assert_eq!(left(&acts, Loss { lengths: Fate::Kept, ..NOTHING }), file("a", b"one\0\0"), "the length alone");
        assert_eq!(left(&acts, Loss { data: Fate::Kept, ..NOTHING }), file("a", b"oxx"), "the bytes without the length");
        acts.push(Act::SetLength { path: "a".into(), length: 1 });
        assert_eq!(left(&acts, Loss { data: Fate::Kept, lengths: Fate::Kept, ..NOTHING }), file("a", b"o"));
    }

    #[test]
    fn a_renaming_is_certain_when_both_directories_are_synced_and_never_half_done() {
        let made = [Act::MakeDirectory("d".into()), open("d/a"), write("d/a", 0, b"one"), sync("d/a"), sync("d"), sync("")];
        let moved = [Act::Rename { from: "d/a".into(), to: "b".into() }, sync("d")];
        let mut acts = [&made[..], &moved[..]].concat();
        assert_eq!(left(&acts, NOTHING), file("d/a", b"one"));
        assert_eq!(left(&acts, Loss { names: Fate::Kept, ..NOTHING }), file("b", b"one"));
        acts.push(sync(""));
        assert_eq!(left(&acts, NOTHING), file("b", b"one"));
        acts.push(Act::Remove("b".into()));
        assert_eq!(left(&acts, NOTHING), file("b", b"one"), "that it was removed was not synced");
    }

    #[test]
    fn sectors_are_written_back_each_for_itself() {
        let zeros = [open("a"), write("a", 0, &[0; 4096]), sync("a"), sync("")];
        let acts = [&zeros[..], &[write("a", 0, &[1; 4096]), write("a", 0, &[2; 4096])]].concat();
        let left = left(&acts, Loss { data: Fate::Drawn, ..NOTHING }).remove(Path::new("a")).expect("there");
        let sectors: BTreeSet<_> = left.chunks(512).map(|sector| (sector[0], sector.iter().all(|byte| *byte == sector[0]))).collect();
        assert_eq!(sectors, BTreeSet::from([(0, true), (1, true), (2, true)]));
    }

    #[test]
    fn a_sync_promises_nothing_about_what_was_still_being_written_when_it_began() {
        let call = |begins, ends, act| Call { begins, ends, act };
        let calls = [call(1, 2, open("a")), call(3, 4, sync("")), call(5, 9, write("a", 0, b"late")), call(6, 20, sync("a"))];
        let (mut disk, home) = (Disk::empty(), crate::support::directory());
        disk.play(&calls, 0, 100);
        disk.cut(NOTHING, &mut Rng::with_seed(1), home.path());
        assert_eq!(Disk::of(home.path()).now(), BTreeMap::from([("a".into(), &[][..])]));
    }
}
