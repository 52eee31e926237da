//! Whom Postgres runs as when we are root, which it refuses to be.

use std::{fs, os::unix::fs::chown, path::Path};

use super::SandboxError;

/// A user without privileges.
#[derive(Clone, Copy, Debug)]
pub(crate) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl User {
    /// Nobody in particular if we aren't root.
    pub(super) fn unprivileged() -> Result<Option<Self>, SandboxError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let passwd = fs::read_to_string("/etc/passwd").map_err(SandboxError::io("read /etc/passwd"))?;
        let found = ["postgres", "nobody"].iter().find_map(|name| Self::named(&passwd, name));
        found.map(Some).ok_or(SandboxError::NoUser)
    }

    /// `name:password:uid:gid:...`
    fn named(passwd: &str, name: &str) -> Option<Self> {
        let mut fields = passwd.lines().map(|line| line.split(':')).find(|fields| fields.clone().next() == Some(name))?;
        Some(Self { uid: fields.nth(2)?.parse().ok()?, gid: fields.next()?.parse().ok()? })
    }

    pub(super) fn own(self, path: &Path) -> std::io::Result<()> {
        chown(path, Some(self.uid), Some(self.gid))
    }
}
