//! What runs clusters: servers and agents as processes, all in one, and taking it all away again.

pub(crate) mod admin;
pub(crate) mod detach;
pub(crate) mod down;
pub(crate) mod host;
pub(crate) mod layout;
pub(crate) mod node;
pub(crate) mod progress;
pub(crate) mod ranges;
pub(crate) mod servers;
pub(crate) mod sweep;
pub(crate) mod up;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Waits for Ctrl-C or SIGTERM. A second one ends the process at once.
pub(crate) async fn stop_signal() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    balsa_rt::spawn(balsa_rt::TaskKind::Helper, impatience(terminate, interrupt));
    Ok(())
}

/// Ends the process at the next signal, however far it is.
async fn impatience(mut terminate: Signal, mut interrupt: Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    std::process::exit(130)
}
