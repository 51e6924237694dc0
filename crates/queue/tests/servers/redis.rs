//! A private redis-server: on a port and in a folder of its own, gone with the process that started it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

/// What a restarted server still knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Nothing.
    None,
    /// All but the last second.
    EverySecond,
    /// All that it has confirmed.
    Always,
}

/// Runs the server until this process says so, or is gone: the pipe to its standard input ends with it, however it dies.
const KEEPER: &str = r#"
folder=$1; shift
"$@" >>"$folder/log" 2>&1 &
echo $!
read -r word
kill -9 $!
wait $! 2>/dev/null
[ "$word" = keep ] || rm -rf "$folder"
"#;

/// A running or killed server with its data.
#[derive(Debug)]
pub(crate) struct Redis {
    folder: PathBuf,
    port: u16,
    durability: Durability,
    options: Vec<String>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    keeper: Child,
    server: u32,
}

impl Redis {
    /// A server with nothing in it.
    pub(crate) fn start(durability: Durability) -> Self {
        Self::with(durability, &[])
    }

    /// The same, with options as on its command line.
    pub(crate) fn with(durability: Durability, options: &[&str]) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let last = LAST.fetch_add(1, Ordering::Relaxed);
        let folder = env::temp_dir().join(format!("manyhands-redis-{}-{last}", process::id()));
        fs::create_dir_all(&folder).unwrap();
        let options = options.iter().map(ToString::to_string).collect();
        let mut server = Self { folder, port: 0, durability, options, running: None };
        // Somebody else may take the port before the server does.
        for _ in 0..10 {
            server.port = free_port();
            if server.try_resume() {
                return server;
            }
        }
        panic!("could not start redis-server (is it installed? scripts/servers): {}", server.log());
    }

    /// Its address, without a database.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn folder(&self) -> &PathBuf {
        &self.folder
    }

    /// Kills it as `kill -9` does; its data stay.
    pub(crate) fn kill(&mut self) {
        let mut running = self.running.take().expect("it runs");
        running.end(b"keep\n");
    }

    /// Starts it again, on its port and with its data.
    pub(crate) fn resume(&mut self) {
        // The port may be in use for a moment by a connection that went out from it.
        let began = Instant::now();
        while !self.try_resume() {
            assert!(began.elapsed() < PATIENCE, "could not start redis-server again: {}", self.log());
        }
    }

    /// Stops it without ending it: it does not answer, and its connections stay.
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let server = self.running.as_ref().expect("it runs").server;
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {server}")]).status().unwrap();
        assert!(sent.success());
    }

    fn try_resume(&mut self) -> bool {
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "sh"])
            .arg(&self.folder)
            .args(["redis-server", "--bind", "127.0.0.1", "--save", "", "--port", &self.port.to_string()])
            .args(["--appendonly", if self.durability == Durability::None { "no" } else { "yes" }])
            .args([
                "--appendfsync",
                if self.durability == Durability::Always { "always" } else { "everysec" },
            ])
            .arg("--dir")
            .arg(&self.folder)
            .args(&self.options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(keeper.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let mut running = Running { keeper, server: line.trim().parse().unwrap() };
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if self.answers() {
                self.running = Some(running);
                return true;
            }
            if !fs::exists(format!("/proc/{}/exe", running.server)).unwrap_or(false) {
                break;
            }
            thread::sleep(Duration::from_millis(3));
        }
        running.end(b"keep\n");
        false
    }

    /// Whether it has read its data and says so; one that wants a password has.
    fn answers(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)) else { return false };
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut answer = [0; 5];
        stream.write_all(b"PING\r\n").is_ok()
            && stream.read_exact(&mut answer).is_ok()
            && matches!(&answer, b"+PONG" | b"-NOAU")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

const PATIENCE: Duration = Duration::from_secs(30);

impl Running {
    fn end(&mut self, word: &[u8]) {
        let mut input = self.keeper.stdin.take().unwrap();
        let _ = input.write_all(word);
        drop(input);
        let _ = self.keeper.wait();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.end(b"");
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A port that nobody listens on at this moment.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}
