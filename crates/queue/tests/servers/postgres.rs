//! A private `PostgreSQL`: in a folder and on a port of its own, gone with the process that started it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use super::{PATIENCE, apart, free_port, guard, join};

/// A running or killed server with its data.
pub(crate) struct Postgres {
    folder: PathBuf,
    owner: u32,
    port: u16,
    running: Option<(Child, Child)>,
}

impl Postgres {
    /// The address of the server that all tests of this run share.
    pub(crate) fn shared() -> &'static str {
        static SHARED: OnceLock<String> = OnceLock::new();
        SHARED.get_or_init(|| {
            join("postgres", |folder, owner| {
                let server = Self::start_in(folder.into(), owner);
                let url = server.url();
                std::mem::forget(server);
                url
            })
        })
    }

    /// A server for one test, with nothing in it.
    pub(crate) fn start() -> Self {
        let name = format!("manyhands-postgres-{}-{}", process::id(), free_port());
        Self::start_in(env::temp_dir().join(name), process::id())
    }

    fn start_in(folder: PathBuf, owner: u32) -> Self {
        fs::create_dir_all(&folder).unwrap();
        let data = folder.join("data");
        fs::create_dir(&data).unwrap();
        fs::write(folder.join("password"), "secret").unwrap();
        if is_root() {
            done(Command::new("chown").args(["-R", "postgres"]).arg(&folder));
        }
        done(
            as_other("initdb")
                .args(["--no-sync", "--auth=scram-sha-256", "--username=guest", "--pwfile"])
                .arg(folder.join("password"))
                .arg("--pgdata")
                .arg(&data)
                .current_dir(&folder),
        );
        certify(&data);
        let mut server = Self { folder, owner, port: free_port(), running: None };
        server.resume();
        server
    }

    /// Its address.
    pub(crate) fn url(&self) -> String {
        format!("postgresql://guest:secret@127.0.0.1:{}/postgres", self.port)
    }

    /// Starts it again with the data that it has.
    pub(crate) fn resume(&mut self) {
        assert!(self.running.is_none(), "it is running");
        let mut command = as_other("postgres");
        command.arg("-D").arg(self.folder.join("data")).args([
            "-h",
            "127.0.0.1,127.0.0.2", // its certificate has one of them
            "-p",
            &self.port.to_string(),
            "-k",
        ]);
        command.arg(&self.folder).args(["-c", "shared_buffers=16MB", "-c", "ssl=on"]);
        let server = apart(&mut command).current_dir(&self.folder).spawn().unwrap();
        let guard = guard(&self.folder, self.owner, &[server.id()]);
        self.running = Some((server, guard));
        let began = Instant::now();
        let pid = self.folder.join("data/postmaster.pid");
        while !fs::read_to_string(&pid).is_ok_and(|text| text.contains("ready")) {
            assert!(began.elapsed() < PATIENCE, "postgres does not answer");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it at once, with its children, so that it has to recover: the signal that `kill -9` of each would be.
    pub(crate) fn kill(&mut self) {
        let Some((mut server, mut guard)) = self.running.take() else { return };
        guard.kill().unwrap();
        guard.wait().unwrap();
        done(Command::new("kill").args(["-QUIT", &server.id().to_string()]));
        server.wait().unwrap();
        let _ = fs::remove_file(self.folder.join("data/postmaster.pid"));
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Gives a server its certificate, and a key that nobody else may read.
fn certify(data: &Path) {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/tls");
    for end in ["crt", "key"] {
        let file = data.join("server").with_extension(end);
        fs::copy(files.join(if end == "key" { "server.key" } else { "server.pem" }), &file).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        if is_root() {
            done(Command::new("chown").arg("postgres").arg(&file));
        }
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|of| std::os::unix::fs::MetadataExt::uid(&of) == 0)
}

/// A program of the newest `PostgreSQL` here, by a user who is not root, as it demands.
fn as_other(program: &str) -> Command {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("is postgresql installed (scripts/servers)?");
    let number = |path: &Path| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let newest = versions.map(|entry| entry.unwrap().path()).max_by_key(|path| number(path)).unwrap();
    let program = newest.join("bin").join(program);
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
    command
}

fn done(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
