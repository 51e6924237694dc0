//! Servers that tests start for themselves.

// Each program of tests uses one of them.
#![allow(dead_code)]

pub(crate) mod postgres;
pub(crate) mod rabbitmq;
pub(crate) mod recorder;
pub(crate) mod redis;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, net, os::unix, process, thread};

/// How long a loaded machine may take to start a server.
const PATIENCE: Duration = Duration::from_secs(120);

/// Who runs the tests, as a name and as a process that is there as long as they are: each test may be a process of its own.
fn run() -> (String, u32) {
    match env::var("NEXTEST_RUN_ID") {
        Ok(run) => (run, unix::process::parent_id()),
        Err(_) => (process::id().to_string(), process::id()),
    }
}

/// The address of the server of this kind that all tests of this run share: the first who comes starts it in that folder,
/// so that it outlives this process, if the run does.
fn join(kind: &str, start: impl FnOnce(&Path, u32) -> String) -> String {
    let folder = env::temp_dir().join(format!("manyhands-{kind}-run-{}", run().0));
    let ready = folder.join("ready");
    if fs::create_dir(&folder).is_ok() {
        let url = start(&folder, run().1);
        fs::write(folder.join("url"), url).unwrap();
        fs::rename(folder.join("url"), &ready).unwrap();
    }
    let began = Instant::now();
    loop {
        if let Ok(url) = fs::read_to_string(&ready) {
            return url;
        }
        assert!(began.elapsed() < PATIENCE, "whoever was to start a server in {} has not", folder.display());
        thread::sleep(Duration::from_millis(20));
    }
}

/// A shell that kills these processes as soon as their owner is gone, however it went.
fn guard(folder: &Path, owner: u32, processes: &[u32]) -> Child {
    let script = r#"while kill -0 "$OWNER"; do sleep 0.2; done; kill -9 "$@"; rm -rf "$FOLDER""#;
    let mut command = Command::new("sh");
    command.args(["-c", script, "guard"]).args(processes.iter().map(u32::to_string));
    apart(&mut command).env("OWNER", owner.to_string()).env("FOLDER", folder).spawn().unwrap()
}

/// A command that has nothing of ours: neither our streams nor our signals.
fn apart(command: &mut Command) -> &mut Command {
    unix::process::CommandExt::process_group(command, 0);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

fn free_port() -> u16 {
    net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}
