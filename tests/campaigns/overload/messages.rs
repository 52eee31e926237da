//! Messages that are small as they come and large or deep as they are read.

use std::{
    net::SocketAddr,
    process::{Command, Stdio},
    sync::LazyLock,
};

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::timeout;
use tonic::Code;

use crate::support::{
    HANG,
    http2::Connection,
    saves::{batch, request, set_text},
};

use super::{ATTACKERS, MESSAGE_BYTES_MAX, MIB};

/// What one message may be once it is read: two bytes are a part of a key, which takes 24, and a list that grows takes twice that
/// while it does.
pub(super) const DECODED_BYTES_MAX: u64 = MESSAGE_BYTES_MAX / 2 * 24 * 3;

/// A message that is to be refused.
#[derive(Clone, Debug)]
pub(super) struct Message {
    /// The method of SaveService that it is for.
    method: &'static str,
    encoding: Option<&'static str>,
    /// As it is sent, with its prefix.
    bytes: Bytes,
    /// How.
    code: Code,
}

impl Message {
    fn plain(method: &'static str, bytes: &[u8], code: Code) -> Self {
        Self { method, encoding: None, bytes: prefixed(false, bytes), code }
    }

    fn compressed(encoding: Option<&'static str>, bytes: &[u8], code: Code) -> Self {
        Self { method: "Save", encoding, bytes: prefixed(true, bytes), code }
    }
}

fn prefixed(compressed: bool, bytes: &[u8]) -> Bytes {
    let length = u32::try_from(bytes.len()).expect("a message").to_be_bytes();
    [&[u8::from(compressed)][..], &length, bytes].concat().into()
}

/// As protobuf has them, and as JSON in them.
pub(super) fn deep_and_wide() -> Vec<Message> {
    use prost::Message as _;
    /// The most that is read.
    const BYTES: usize = MESSAGE_BYTES_MAX as usize;
    const BODY_BYTES: usize = 100 << 10;
    /// A group that nobody knows begins; it never ends.
    const BEGIN_GROUP: u8 = 15 << 3 | 3;
    let empty_saves = [1 << 3 | 2, 0].repeat(BYTES / 2);
    let keys = [2 << 3 | 2, 0].repeat(BYTES / 4);
    let keyed = [&[1 << 3 | 2][..], &varint(keys.len()), &keys].concat();
    let save = |json: &str| request(set_text("things", &["1"], json)).encode_to_vec();
    let members: String = (0..BODY_BYTES / 10).map(|n| format!(r#""m{n}":1,"#)).collect();
    let deep = format!(r#"{{"filler":{}"#, "[".repeat(BODY_BYTES));
    let unknown = batch((0..200).map(|n| set_text(&format!("nobody{n}"), &["1"], "{}")).collect()).encode_to_vec();
    let endless =
        Message { method: "Save", encoding: None, bytes: Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff, 0]), code: Code::InvalidArgument };
    vec![
        Message::plain("Save", &[BEGIN_GROUP; 200], Code::Internal),
        Message::plain("Save", &vec![BEGIN_GROUP; BYTES], Code::InvalidArgument),
        Message::plain("SaveBatch", &vec![BEGIN_GROUP; BYTES], Code::InvalidArgument),
        Message::plain("SaveBatch", &empty_saves, Code::InvalidArgument),
        Message::plain("Save", &keyed, Code::InvalidArgument),
        Message::plain("Save", &save(&deep), Code::InvalidArgument),
        Message::plain("Save", &save(&format!("{{{members}\"m\":1}}")), Code::InvalidArgument),
        Message::plain("SaveBatch", &unknown, Code::InvalidArgument),
        Message::plain("Save", &vec![0; BYTES + 1], Code::InvalidArgument),
        endless,
    ]
}

/// A number as protobuf has it.
fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(value & 0x7f).expect("seven bits");
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// As many zeros as fit into 64 KiB, as gzip and zstd have them: no compression is taken. And the first without a word about what it is.
pub(super) fn bombs() -> Vec<Message> {
    vec![
        Message::compressed(Some("gzip"), &GZIP, Code::Unimplemented),
        Message::compressed(Some("zstd"), &zstd(), Code::Unimplemented),
        Message::compressed(None, &GZIP, Code::Internal),
    ]
}

/// Some 60 MiB of zeros.
static GZIP: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let zeros = format!("head -c {} /dev/zero | gzip -9", 60 * MIB);
    let gzip = Command::new("sh").args(["-c", &zeros]).stderr(Stdio::inherit()).output().expect("there is a shell");
    assert!(gzip.status.success() && gzip.stdout.len() < 1 << 16, "{}, {} bytes", gzip.status, gzip.stdout.len());
    gzip.stdout
});

/// Two gigabytes of zeros: a frame of blocks that are one byte each, repeated.
fn zstd() -> Vec<u8> {
    const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    /// No size, no checksum; then a window of 128 KiB, which is how long a block may be.
    const HEADER: [u8; 2] = [0, 7 << 3];
    const REPEATED: u32 = 1 << 1;
    const BLOCK_BYTES: u32 = 128 << 10;
    const BLOCKS: usize = 16 << 10;
    let block = (BLOCK_BYTES << 3 | REPEATED).to_le_bytes();
    let last = [1 | 0x02, 0, 0, 0];
    [&MAGIC[..], &HEADER, &[block[0], block[1], block[2], 0].repeat(BLOCKS - 1), &last].concat()
}

/// All of them from several connections at once, each refused as it should; how many there were.
pub(super) async fn send(address: SocketAddr, messages: Vec<Message>) -> u64 {
    let sent = (0..ATTACKERS).map(|_| async {
        for message in &messages {
            let code = timeout(HANG, answer(address, message)).await.expect("it is answered");
            assert_eq!(code, message.code, "{} bytes to {}, {:?}", message.bytes.len(), message.method, message.encoding);
        }
    });
    join_all(sent).await;
    (ATTACKERS * messages.len()) as u64
}

async fn answer(address: SocketAddr, message: &Message) -> Code {
    let encoding = message.encoding.map(|encoding| ("grpc-encoding", encoding));
    let connection = Connection::open(address).await;
    connection.call_with(message.method, encoding).await.end(message.bytes.clone()).await.code()
}
