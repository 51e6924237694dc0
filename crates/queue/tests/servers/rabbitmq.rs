//! A private `RabbitMQ`: in a folder and on ports of its own, gone with the process that started it.
//!
//! It takes some seconds to start, so the tests of one run share [`RabbitMq::shared`], each with queues of its own
//! names; a test that kills a server starts one for itself.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use std::{env, fs, mem, process, thread};

use super::{PATIENCE, apart, free_port, guard, join};

/// Not the one in the PATH, which changes the user and the folder.
const PROGRAM: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// A running or stopped server with its data.
pub(crate) struct RabbitMq {
    folder: PathBuf,
    owner: u32,
    port: u16,
    tls: u16,
    distribution: u16,
    mapper: u16,
    running: Option<Running>,
}

/// The processes of a server, and who ends them when this process is gone.
struct Running {
    server: Child,
    mapper: Child,
    guard: Child,
}

impl RabbitMq {
    /// The address of the server that all tests of this run share.
    pub(crate) fn shared() -> &'static str {
        addresses().0
    }

    /// Its address through TLS, by this name of its machine.
    pub(crate) fn shared_through_tls(host: &str) -> String {
        format!("amqps://guest:guest@{host}:{}//", addresses().1)
    }

    /// A server for one test, with nothing in it.
    pub(crate) fn start() -> Self {
        let name = format!("manyhands-rabbitmq-{}-{}", process::id(), free_port());
        Self::start_in(env::temp_dir().join(name), process::id())
    }

    /// A server that ends with the process `owner`, if nobody ends it before.
    fn start_in(folder: PathBuf, owner: u32) -> Self {
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("plugins"), "[].").unwrap();
        let cookie = folder.join(".erlang.cookie");
        fs::write(&cookie, "manyhands").unwrap();
        fs::set_permissions(&cookie, fs::Permissions::from_mode(0o400)).unwrap();
        let [port, tls, distribution, mapper] = [(); 4].map(|()| free_port());
        let files = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/tls");
        // By two names, of which its certificate has one.
        let config = format!(
            "listeners.ssl.1 = 127.0.0.1:{tls}\nlisteners.ssl.2 = 127.0.0.2:{tls}\n\
             ssl_options.cacertfile = {files}/ca.pem\nssl_options.certfile = {files}/server.pem\n\
             ssl_options.keyfile = {files}/server.key\nloopback_users = none\n"
        );
        fs::write(folder.join("rabbitmq.conf"), config).unwrap();
        let mut server = Self { folder, owner, port, tls, distribution, mapper, running: None };
        server.resume();
        server
    }

    /// Its address, of the virtual host `/`.
    pub(crate) fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}//", self.port)
    }

    /// The port that it listens on.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Starts it again with the data that it has.
    pub(crate) fn resume(&mut self) {
        assert!(self.running.is_none(), "it is running");
        let mapper =
            apart(Command::new("epmd").args(["-address", "127.0.0.1", "-port", &self.mapper.to_string()]))
                .spawn()
                .expect("could not start epmd: is rabbitmq-server installed (scripts/servers)?");
        let output = fs::File::create(self.folder.join("output")).unwrap();
        let server = apart(&mut self.command(PROGRAM))
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .expect("could not start rabbitmq-server: is it installed (scripts/servers)?");
        let guard = guard(&self.folder, self.owner, &[server.id(), mapper.id()]);
        self.running = Some(Running { server, mapper, guard });
        self.wait_until_it_answers();
    }

    /// Ends it at once, as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        for process in [&mut running.guard, &mut running.server, &mut running.mapper] {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Runs a command of `rabbitmqctl`. Takes a second or two.
    pub(crate) fn control(&self, arguments: &[&str]) {
        let output = self.command("/usr/lib/rabbitmq/bin/rabbitmqctl").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(&self.folder)
            .env("HOME", &self.folder)
            .env("ERL_EPMD_PORT", self.mapper.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODENAME", "manyhands@localhost")
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", self.distribution.to_string())
            .env("RABBITMQ_MNESIA_BASE", self.folder.join("data"))
            .env("RABBITMQ_LOG_BASE", self.folder.join("log"))
            .env("RABBITMQ_PID_FILE", self.folder.join("pid"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", self.folder.join("plugins"))
            .env("RABBITMQ_CONFIG_FILE", self.folder.join("rabbitmq.conf"))
            .env("RABBITMQ_CONF_ENV_FILE", self.folder.join("none"))
            .env("RABBITMQ_GENERATED_CONFIG_DIR", self.folder.join("generated"))
            // One process instead of a shell with a child, so that a kill meets the server itself.
            .env("RUNNING_UNDER_SYSTEMD", "true")
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 2:2 +sbwt none +A 2 +B i");
        command
    }

    fn wait_until_it_answers(&mut self) {
        let start = Instant::now();
        while !answers(self.port) {
            let said = || fs::read_to_string(self.folder.join("output")).unwrap_or_default();
            let running = self.running.as_mut().unwrap();
            if let Some(status) = running.server.try_wait().unwrap() {
                panic!("rabbitmq-server has ended with {status}: {}", said());
            }
            assert!(start.elapsed() < PATIENCE, "rabbitmq-server does not answer: {}", said());
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The address of the shared server, and its port for TLS.
fn addresses() -> (&'static str, &'static str) {
    static SHARED: OnceLock<String> = OnceLock::new();
    let both = SHARED.get_or_init(|| {
        join("rabbitmq", |folder, owner| {
            let server = RabbitMq::start_in(folder.into(), owner);
            let both = format!("{} {}", server.url(), server.tls);
            mem::forget(server);
            both
        })
    });
    both.split_once(' ').unwrap()
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Whether a server on that port greets a client.
fn answers(port: u16) -> bool {
    let greet = || -> std::io::Result<u8> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"AMQP\0\0\x09\x01")?;
        let mut first = [0];
        stream.read_exact(&mut first)?;
        Ok(first[0])
    };
    greet().is_ok_and(|first| first == 1)
}
