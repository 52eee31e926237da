//! Compiles the contract in `proto/` without protoc.

use std::{env, path::PathBuf};

use prost::Message;

const FILES: [&str; 4] =
    ["forebay/v1/save.proto", "forebay/v1/save_service.proto", "forebay/v1/admin_service.proto", "forebay/v1/error_reason.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    // For the reflection service.
    let set = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("forebay.v1.binpb");
    std::fs::write(set, descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".forebay.v1.Save").compile_fds(descriptors)?;
    Ok(())
}
