//! What stands between a user and the cluster: a proxy for connections, as offices have one, and `kubectl proxy`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Said, Tool};

/// Everything, watches and streams too, through a proxy that knows CONNECT only.
pub(crate) fn a_proxy_for_connections(tool: &Tool) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    let connected = Arc::new(AtomicUsize::new(0));
    let counted = connected.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let counted = counted.clone();
            std::thread::spawn(move || connect(client, &counted).ok());
        }
    });
    // What HTTPS_PROXY names is not asked for loopback addresses; what the kubeconfig names is.
    let text = std::fs::read_to_string(&tool.kubeconfig).unwrap();
    let kubeconfig = tool.folder().join("proxied.kubeconfig");
    let mut config: serde_json::Value = serde_yaml_ng::from_str(&text).unwrap();
    config["clusters"][0]["cluster"]["proxy-url"] = proxy.into();
    std::fs::write(&kubeconfig, config.to_string()).unwrap();
    streams_work(&Tool { program: tool.program.clone(), kubeconfig }, &[]);
    assert!(connected.load(Ordering::Relaxed) > 3, "{}: they went through it", tool.name());
}

/// One connection, to where its first line says.
fn connect(client: TcpStream, counted: &AtomicUsize) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let (mut first, mut line) = (String::new(), String::new());
    reader.read_line(&mut first)?;
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line)?;
    }
    let target = first.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).unwrap_or_default();
    let server = TcpStream::connect(target)?;
    counted.fetch_add(1, Ordering::Relaxed);
    (&client).write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    let (from_server, mut to_client) = (server.try_clone()?, client);
    std::thread::spawn(move || {
        std::io::copy(&mut &from_server, &mut to_client).ok();
        to_client.shutdown(Shutdown::Both)
    });
    std::io::copy(&mut reader, &mut &server).ok();
    server.shutdown(Shutdown::Write)
}

/// Without credentials, through somebody's `kubectl proxy`. It lets nobody exec unless it is told to.
pub(crate) fn a_proxy_of_kubectl(tool: &Tool) {
    let mut proxy = tool.command(["proxy", "--port=0", "--reject-paths=^$"]).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(proxy.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.split_whitespace().last().unwrap_or_default();
    let kubeconfig = tool.folder().join("nothing.kubeconfig");
    std::fs::write(&kubeconfig, "").unwrap();
    let server = format!("--server=http://{address}");
    streams_work(&Tool { program: tool.program.clone(), kubeconfig }, &[&server]);
    proxy.kill().unwrap();
    proxy.wait().unwrap();
}

fn streams_work(tool: &Tool, flags: &[&str]) {
    let run = |words: &[&str], input: &[u8]| -> Said { tool.with(flags.iter().chain(words), input) };
    let watched = run(&["get", "pod", "target", "-w", "--request-timeout=2s"], b"");
    assert!(String::from_utf8_lossy(&watched.out).contains("Running"), "{}: {}", tool.name(), watched.err);
    let said = run(&["exec", "target", "--", "sh", "-c", "echo out; exit 7"], b"");
    assert_eq!((said.code, &said.out[..]), (7, &b"out\n"[..]), "{}: {}", tool.name(), said.err);
    let typed = run(&["exec", "-i", "target", "--", "cat"], b"typed");
    assert_eq!((typed.code, &typed.out[..]), (0, &b"typed"[..]), "{}: {}", tool.name(), typed.err);
    let logs = run(&["logs", "ticker", "--tail=1"], b"");
    assert_eq!(&logs.out[..], b"tick\n", "{}: {}", tool.name(), logs.err);
}
