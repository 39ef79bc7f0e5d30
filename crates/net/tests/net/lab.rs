//! A node in a namespace, with pods, a client outside, and small servers that say who they are.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use balsa_net::{NetError, Netns, NodeNetworkConfig, PodNetwork, PodNetworking as _};

static NUMBER: AtomicU32 = AtomicU32::new(0);
const LIMIT: Duration = Duration::from_secs(3);

pub(crate) fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

/// Namespaces that vanish with the value.
pub(crate) struct Lab {
    prefix: String,
    names: Vec<String>,
}

impl Lab {
    /// A namespace `node` with forwarding closed as Docker closes it, and no other.
    pub(crate) fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests make network namespaces: run them as root");
        for tool in ["ip", "nft", "iptables"] {
            let found = Command::new(tool).arg("-V").output().is_ok();
            assert!(found, "these tests need {tool}: install iproute2, nftables and iptables");
        }
        let prefix = format!("bt{}x{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut lab = Self { prefix, names: Vec::new() };
        lab.namespace("node");
        lab.exec("node", "ip link set lo up");
        for rule in
            ["-P FORWARD DROP", "-N DOCKER-USER", "-A DOCKER-USER -j RETURN", "-I FORWARD -j DOCKER-USER"]
        {
            lab.exec("node", &format!("iptables {rule}"));
        }
        lab
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(crate) fn namespace(&mut self, name: &str) -> Netns {
        let full = self.full(name);
        run(&format!("ip netns add {full}"));
        self.names.push(full.clone());
        Netns::named(&full)
    }

    pub(crate) fn netns(&self, name: &str) -> Netns {
        Netns::named(&self.full(name))
    }

    pub(crate) fn exec(&self, name: &str, command: &str) -> String {
        run(&format!("ip netns exec {} {command}", self.full(name)))
    }

    pub(crate) fn config(&self, node: &str, cidr: &str) -> NodeNetworkConfig {
        let mut config =
            NodeNetworkConfig::new("lab", node, cidr.parse().unwrap(), "10.244.0.0/16".parse().unwrap());
        config.service_cidr = Some("10.96.0.0/16".parse().unwrap());
        config.cluster_dns = Some(ip("10.96.0.10"));
        config.netns = self.netns("node");
        config
    }

    /// A pod with a server at TCP and UDP port 8080.
    pub(crate) async fn pod(&mut self, network: &PodNetwork, name: &str, address: &str) {
        let netns = self.namespace(name);
        network.attach(&netns, ip(address), &format!("uid-{name}")).await.unwrap();
        serve(&netns, name, 8080).await;
    }

    /// A machine outside, at 192.0.2.2; the node is 192.0.2.1 there and its default gateway.
    pub(crate) async fn outside(&mut self) {
        let netns = self.namespace("out");
        let (node, out) = (self.full("node"), self.full("out"));
        run(&format!("ip -n {node} link add up0 type veth peer name eth0 netns {out}"));
        for command in ["addr add 192.0.2.1/24 dev up0", "link set up0 up"] {
            run(&format!("ip -n {node} {command}"));
        }
        for command in ["addr add 192.0.2.2/24 dev eth0", "link set eth0 up", "link set lo up"] {
            run(&format!("ip -n {out} {command}"));
        }
        serve(&netns, "out", 8080).await;
    }

    /// What the server at `to` says to a client in `from`: `name client-address`.
    pub(crate) async fn ask(&self, from: &str, to: &str) -> Result<String, std::io::ErrorKind> {
        let to: SocketAddr = to.parse().unwrap();
        let asked = self.netns(from).run(move || Ok(ask_tcp(to))).await.unwrap();
        asked.map_err(|error| error.kind())
    }

    pub(crate) async fn who(&self, from: &str, to: &str) -> String {
        let said = self.ask(from, to).await.unwrap_or_else(|error| panic!("{from} asks {to}: {error:?}"));
        said.split(' ').next().unwrap_or_default().to_owned()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

pub(crate) fn ask_tcp(to: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

pub(crate) async fn serve(netns: &Netns, name: &str, port: u16) {
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let failed = move |source| NetError::Listen { address: (any, port).into(), source };
    let bind = move || {
        Ok((TcpListener::bind((any, port)).map_err(failed)?, UdpSocket::bind((any, port)).map_err(failed)?))
    };
    let (tcp, udp) = netns.run(bind).await.unwrap();
    serve_on(tcp, udp, name);
}

pub(crate) fn serve_on(tcp: TcpListener, udp: UdpSocket, name: &str) {
    let (said, name) = (name.to_owned(), name.to_owned());
    std::thread::spawn(move || {
        while let Ok((mut stream, from)) = tcp.accept() {
            let _ = write!(stream, "{said} {}", from.ip());
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((_, from)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(format!("{name} {}", from.ip()).as_bytes(), from);
        }
    });
}

pub(crate) fn run(command: &str) -> String {
    let words: Vec<&str> = command.split_whitespace().collect();
    let output = Command::new(words[0])
        .args(&words[1..])
        .output()
        .unwrap_or_else(|error| panic!("{command}: {error}"));
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
