//! Ends the private Postgres (or another server of the bench) when we can't: after SIGKILL, or an exit that drops nothing.

use std::{
    io::{self, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
};

use super::User;

/// A shell that reads process ids from a pipe of ours. When the pipe ends, which the kernel sees to however we end, it stops
/// the last one and removes the directory. (`PR_SET_PDEATHSIG` would follow the death of the *thread* that started Postgres.)
#[derive(Debug)]
pub(crate) struct Guard(Child);

/// `kill -0` also succeeds on a dead process that nobody has collected, so the wait is bounded.
const SCRIPT: &str = r#"
server=0
while read -r id; do server=$id; done
if [ "$server" != 0 ] && kill -QUIT "$server" 2>/dev/null; then
    turns=100
    while [ $turns -gt 0 ] && kill -0 "$server" 2>/dev/null; do sleep 0.05; turns=$((turns - 1)); done
fi
rm -rf -- "$1"
"#;

impl Guard {
    pub(crate) fn spawn(directory: &Path, user: Option<User>) -> io::Result<Self> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT, "forebay-sandbox-guard"]).arg(directory).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        if let Some(user) = user {
            command.uid(user.uid).gid(user.gid);
        }
        command.spawn().map(Self)
    }

    /// From now on this process ends with us.
    pub(crate) fn watch(&mut self, id: u32) {
        self.tell(id);
    }

    /// The process has ended: its id may soon be another's.
    pub(crate) fn forget(&mut self) {
        self.tell(0);
    }

    /// A guard that has died itself can't be helped; the sandbox then ends by being dropped only.
    fn tell(&mut self, id: u32) {
        if let Some(pipe) = &mut self.0.stdin {
            let _ = writeln!(pipe, "{id}");
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[cfg(test)]
impl Guard {
    /// As if we were gone.
    pub(super) fn end_pipe(&mut self) -> Option<std::process::ChildStdin> {
        self.0.stdin.take()
    }

    pub(super) fn wait(&mut self) -> std::process::ExitStatus {
        self.0.wait().expect("the guard ends")
    }
}
