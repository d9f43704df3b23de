//! Servers of a grid as processes of their own on loopback, with simulated hypervisors and all else real.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::Value;

use crate::cost;
use crate::etcd::ports;
use crate::http::{Api, Credentials};

const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Servers {
    program: PathBuf,
    place: PathBuf,
    servers: Vec<Server>,
    credentials: Option<Credentials>,
}

struct Server {
    address: SocketAddr,
    data: PathBuf,
    process: Option<Child>,
}

impl Servers {
    /// A grid of so many; all of them take part when this returns.
    pub(crate) async fn start(place: &Path, many: usize) -> Result<Self, String> {
        let this = std::env::current_exe().map_err(|e| e.to_string())?;
        let program = this.with_file_name("coppice");
        if !program.exists() {
            let what = program.display();
            return Err(format!(
                "there is no {what}: cargo build --release -p coppice"
            ));
        }
        std::fs::create_dir_all(place).map_err(|e| e.to_string())?;
        let mut grid = Self {
            program,
            place: place.to_owned(),
            servers: Vec::new(),
            credentials: None,
        };
        let hypervisor = ["--hypervisor", "sim://?boot=1ms"];
        for (n, address) in ports(many)?.into_iter().enumerate() {
            let (data, name) = (place.join(n.to_string()), format!("host-{n}"));
            let at = data.display().to_string();
            let listen = address.to_string();
            if n == 0 {
                let init = ["init", "--data", &at, "--name", &name, "--listen", &listen];
                grid.run(&[&init[..], &hypervisor].concat())?;
            } else {
                let token = grid.run(&["token", "create", "--role", "server"])?;
                let through = grid.address(0)?.to_string();
                let join = ["join", &through, token.trim(), "--data", &at];
                let named = ["--name", &name, "--listen", &listen];
                grid.run(&[&join[..], &named, &hypervisor].concat())?;
            }
            grid.servers.push(Server {
                address,
                data: data.clone(),
                process: None,
            });
            grid.begin(n)?;
            if n == 0 {
                let ca = std::fs::read(data.join("ca.pem")).map_err(|e| e.to_string())?;
                let token = std::fs::read_to_string(data.join("admin.token"));
                let token = token.map_err(|e| e.to_string())?;
                grid.credentials = Some(Credentials::new(&ca, &token)?);
            }
        }
        grid.until(0, "every server takes part", |status| {
            let voters = if many < 3 {
                many
            } else if many < 5 {
                3
            } else {
                5
            };
            let parts = |part: &str| {
                of(status, "servers")
                    .filter(|s| s["log"]["part"] == part)
                    .count()
            };
            let ready =
                of(status, "servers").filter(|s| s["current"] == true && s["state"] == "ready");
            ready.count() == many && parts("leader") + parts("voter") == voters
        })
        .await?;
        Ok(grid)
    }

    /// Runs a command that must succeed, and returns what it printed.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .current_dir(&self.place)
            .env_clear()
            .env("HOME", &self.place);
        if let Some(first) = self.servers.first() {
            command
                .env("COPPICE_SERVER", format!("https://{}", first.address))
                .env("COPPICE_CA_FILE", first.data.join("ca.pem"))
                .env("COPPICE_TOKEN_FILE", first.data.join("admin.token"));
        }
        let output = command
            .stdin(Stdio::null())
            .output()
            .map_err(|e| format!("cannot run coppice: {e}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("coppice {} failed: {said}", arguments.join(" ")))
    }

    /// Starts server `n`, and waits until it is ready.
    pub(crate) fn begin(&mut self, n: usize) -> Result<(), String> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.place.join(format!("{n}.log")));
        let server = self.servers.get_mut(n).ok_or("no such server")?;
        let mut process = Command::new(&self.program)
            .args(["serve", "--config"])
            .arg(server.data.join("coppice.toml"))
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.map_err(|e| e.to_string())?)
            .spawn()
            .map_err(|e| format!("cannot run coppice: {e}"))?;
        let out = process.stdout.take();
        server.process = Some(process);
        let mut line = String::new();
        let mut out = BufReader::new(out.ok_or("no output")?);
        let read = out.read_line(&mut line);
        match read {
            Ok(bytes) if bytes > 0 => Ok(()),
            Ok(_) | Err(_) => Err(format!("server {n} does not start: see {n}.log")),
        }
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, n: usize) -> Result<(), String> {
        let server = self.servers.get_mut(n).ok_or("no such server")?;
        if let Some(mut process) = server.process.take() {
            process.kill().map_err(|e| e.to_string())?;
            process.wait().map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    fn pid(&self, n: usize) -> Result<u32, String> {
        let process = self.servers.get(n).and_then(|s| s.process.as_ref());
        Ok(process.ok_or("no such server runs")?.id())
    }

    /// Seconds of processors that server `n` has taken.
    pub(crate) fn processors(&self, n: usize) -> Result<f64, String> {
        cost::taken(self.pid(n)?)
    }

    /// GiB of memory that server `n` has.
    pub(crate) fn resident(&self, n: usize) -> Result<f64, String> {
        let path = format!("/proc/{}/status", self.pid(n)?);
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kib: f64 = kib
            .and_then(|kib| kib.parse().ok())
            .ok_or_else(|| format!("{path} does not say how much memory it has"))?;
        Ok(kib / (1 << 20) as f64)
    }

    pub(crate) fn address(&self, n: usize) -> Result<SocketAddr, String> {
        let server = self.servers.get(n).ok_or("no such server")?;
        Ok(server.address)
    }

    /// A connection to server `n`.
    pub(crate) async fn connect(&self, n: usize) -> Result<Api, String> {
        let credentials = self.credentials.as_ref().ok_or("no token yet")?;
        Api::connect(self.address(n)?, credentials).await
    }

    /// Asks server `n` how all stand, until it is so; tells when that was.
    pub(crate) async fn until(
        &self,
        n: usize,
        what: &str,
        mut is: impl FnMut(&Value) -> bool,
    ) -> Result<Instant, String> {
        let begun = Instant::now();
        let mut last = String::new();
        loop {
            if let Ok(mut api) = self.connect(n).await {
                while let Ok(status) = api.ask(Method::GET, "/status", &[]).await {
                    if is(&status) {
                        return Ok(Instant::now());
                    }
                    last = status.to_string();
                    if begun.elapsed() > PATIENCE {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("it is not so that {what}: {last}"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Which server leads, as server `n` says.
    pub(crate) async fn leader(&self, n: usize) -> Result<usize, String> {
        let mut leads = None;
        self.until(n, "a server leads", |status| {
            let leader = of(status, "servers").find(|s| s["log"]["part"] == "leader");
            let name = leader.and_then(|s| s["name"].as_str());
            leads = name.and_then(|name| name.strip_prefix("host-")?.parse().ok());
            leads.is_some()
        })
        .await?;
        leads.ok_or_else(|| "nobody leads".to_owned())
    }
}

/// A list in an answer.
pub(crate) fn of<'a>(answer: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    answer[list].as_array().into_iter().flatten()
}

impl Drop for Servers {
    fn drop(&mut self) {
        for server in &mut self.servers {
            if let Some(mut process) = server.process.take() {
                let _ended = process.kill();
                let _waited = process.wait();
            }
        }
    }
}
