//! The file: what waits is written as one group and synced once.

use std::{fs::File, io::Write, thread};

use tokio::sync::{mpsc, oneshot};

use crate::proto::{Acknowledged, Save};

const INBOX_JOBS_MAX: usize = 65_536;
const GROUP_JOBS_MAX: usize = 4_096;

/// Takes saves. Clones share the file.
#[derive(Clone)]
pub(crate) struct Journal(mpsc::Sender<Job>);

/// Bytes to make durable, and whom to tell.
struct Job {
    bytes: Vec<u8>,
    saves: u64,
    done: Done,
}

/// Who waits for a job.
pub(crate) enum Done {
    Once(oneshot::Sender<Acknowledged>),
    InOrder(mpsc::UnboundedSender<Acknowledged>),
}

impl Journal {
    pub(crate) async fn append(&self, saves: &[Save], done: Done) {
        let mut bytes = Vec::with_capacity(saves.iter().map(|save| save.json.len() + 64).sum());
        saves.iter().for_each(|save| encode(save, &mut bytes));
        let job = Job { bytes, saves: saves.len() as u64, done };
        self.0.send(job).await.map_err(drop).expect("the file's thread lives as long as its inbox");
    }
}

/// Starts the thread that owns the file.
pub(crate) fn start(file: File, sync: bool) -> Journal {
    let (sender, inbox) = mpsc::channel(INBOX_JOBS_MAX);
    thread::spawn(move || write_groups(file, sync, inbox));
    Journal(sender)
}

fn write_groups(mut file: File, sync: bool, mut inbox: mpsc::Receiver<Job>) {
    let (mut group, mut buffer, mut through) = (Vec::new(), Vec::new(), 0);
    while inbox.blocking_recv_many(&mut group, GROUP_JOBS_MAX) > 0 {
        if sync {
            buffer.clear();
            group.iter().for_each(|job| buffer.extend_from_slice(&job.bytes));
            file.write_all(&buffer).expect("the file takes the group");
            file.sync_data().expect("the file syncs");
        }
        for Job { saves, done, .. } in group.drain(..) {
            through += saves;
            let acknowledged = Acknowledged { through, saves };
            // A caller that has left doesn't matter.
            match done {
                Done::Once(caller) => drop(caller.send(acknowledged)),
                Done::InOrder(caller) => drop(caller.send(acknowledged)),
            }
        }
    }
}

fn encode(save: &Save, into: &mut Vec<u8>) {
    for part in [save.collection.as_bytes(), save.key.as_bytes(), &save.json] {
        into.extend_from_slice(&(part.len() as u32).to_le_bytes());
        into.extend_from_slice(part);
    }
}
