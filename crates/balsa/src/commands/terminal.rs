//! The user's terminal while a command in a container has it: raw, and put back at the end.

use std::os::fd::AsFd as _;

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// The terminal in raw mode: every key goes to the command. Dropping it puts the terminal back.
pub(crate) struct Raw(Termios);

impl Raw {
    /// Makes the terminal raw; `None` when standard input is none.
    pub(crate) fn enter() -> Option<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(stdin.as_fd()).ok()?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &self.0);
    }
}

/// Width and height of the terminal.
pub(crate) fn size() -> Option<(u32, u32)> {
    let (rows, columns) = console::Term::stdout().size_checked()?;
    Some((u32::from(columns), u32::from(rows)))
}
