//! Shared objects that are loaded below the daemon, compiled from the C beside this.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Compiles `NAME.c`; panics with what the compiler says.
pub(super) fn compile(name: &str) -> PathBuf {
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.so"));
    let made = library.with_extension(format!("{}", std::process::id()));
    let source = format!("{}/tests/campaigns/{name}.c", env!("CARGO_MANIFEST_DIR"));
    let status = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&made).arg(&source).status();
    assert!(status.expect("there is a C compiler: the allocator needs it too").success(), "{source} compiles");
    // Another process may be running from the one that is there.
    std::fs::rename(&made, &library).expect("renamed");
    library
}
