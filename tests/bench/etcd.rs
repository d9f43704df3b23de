//! Three etcd of our own on loopback, and a client that speaks to them as etcd's own does: gRPC, without TLS, which is to
//! etcd's advantage.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

/// The part of etcd's `PutRequest` that is used; the numbers are of its `rpc.proto`.
#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// The part of its answer that is checked.
#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(int64, tag = "3")]
    revision: i64,
}

/// They end with this.
pub(crate) struct Etcd {
    processes: Vec<Child>,
    clients: Vec<String>,
}

impl Etcd {
    /// Starts three members in `place` and waits until they agree.
    ///
    /// # Errors
    /// In words, why there are none here.
    pub(crate) async fn start(place: &Path) -> Result<Self, String> {
        let ports = crate::ports::free(6)?;
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let (peers, clients) = ports.split_at(3);
        let names = ["a", "b", "c"];
        let members: Vec<String> = names.iter().zip(peers).map(|(n, p)| format!("{n}={}", url(*p))).collect();
        let mut etcd = Self {
            processes: Vec::new(),
            clients: clients.iter().map(|port| url(*port)).collect(),
        };
        for ((name, peer), client) in names.iter().zip(peers).zip(clients) {
            let dir = place.join(format!("etcd-{name}"));
            std::fs::create_dir_all(&dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
            let log = std::fs::File::create(dir.join("said")).map_err(|e| e.to_string())?;
            let process = Command::new("etcd")
                .arg("--data-dir")
                .arg(dir.join("data"))
                .args(["--name", name, "--initial-cluster-state", "new", "--initial-cluster"])
                .arg(members.join(","))
                .args(["--initial-advertise-peer-urls", &url(*peer), "--listen-peer-urls", &url(*peer)])
                .args(["--advertise-client-urls", &url(*client), "--listen-client-urls", &url(*client)])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .map_err(|e| format!("etcd does not start: {e}"))?;
            etcd.processes.push(process);
        }
        let begun = Instant::now();
        loop {
            match etcd.client().await {
                Ok(mut client) => match client.put("warm", b"").await {
                    Ok(_) => return Ok(etcd),
                    Err(why) if begun.elapsed() > Duration::from_secs(60) => return Err(why),
                    Err(_) => {}
                },
                Err(why) if begun.elapsed() > Duration::from_secs(60) => return Err(why),
                Err(_) => {}
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// A connection to a member; to the leader of a fresh cluster as likely as not, which forwards nothing.
    pub(crate) async fn client(&self) -> Result<Client, String> {
        let first = self.clients.first().cloned().unwrap_or_default();
        let endpoint = Endpoint::from_shared(first).map_err(|e| e.to_string())?;
        let channel = endpoint.connect().await.map_err(|e| format!("etcd does not answer: {e}"))?;
        Ok(Client(Grpc::new(channel)))
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(Child::id).collect()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // It may have ended by itself.
            let _ended = process.kill();
            let _waited = process.wait();
        }
    }
}

/// Clones share one connection.
#[derive(Clone)]
pub(crate) struct Client(Grpc<Channel>);

impl Client {
    /// Durable on a majority when it returns: the revision that it made.
    pub(crate) async fn put(&mut self, key: &str, value: &[u8]) -> Result<i64, String> {
        let request = PutRequest {
            key: key.as_bytes().to_vec(),
            value: value.to_vec(),
        };
        self.0.ready().await.map_err(|e| format!("etcd is gone: {e}"))?;
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
        let codec = ProstCodec::<PutRequest, PutResponse>::default();
        let answer = self.0.unary(tonic::Request::new(request), path, codec).await;
        let answer = answer.map_err(|e| format!("etcd refused: {e}"))?.into_inner();
        answer.header.map(|h| h.revision).ok_or_else(|| "etcd answered without a revision".to_owned())
    }
}
