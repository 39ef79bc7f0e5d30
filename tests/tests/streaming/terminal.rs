//! A shell in a container, typed into from a terminal: `exec -it` and `attach -it` as fingers have them.

use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};

use balsa_testkit::{Cluster, wait_until};

use crate::{PATIENCE, Tool};

/// A terminal with a command on it, by `script`.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    shown: Arc<Mutex<String>>,
}

impl Terminal {
    fn run(tool: &Tool, script: &str) -> Self {
        let mut child = Command::new("script")
            .args(["-qefc", script, "/dev/null"])
            .env("KUBECONFIG", &tool.kubeconfig)
            .env("KUBECACHEDIR", tool.folder().join("kubectl-cache"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let shown = Arc::new(Mutex::new(String::new()));
        let told = shown.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut buffer) {
                told.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        Self { child, keys, shown }
    }

    fn presses(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// A line, once the shell listens: what is typed before is shown twice by any terminal, or lost.
    #[track_caller]
    fn types(&mut self, line: &str) {
        let orders = regex::Regex::new("\u{1b}\\[[0-9;]*[A-Za-z]").unwrap();
        wait_until("the shell has a prompt", PATIENCE, || {
            let screen = self.screen();
            // It also asks where the cursor is, and clears what is behind it.
            let told = orders.replace_all(&screen, "");
            if told.trim_end().ends_with("~ #") { Ok(()) } else { Err(screen.escape_debug().to_string()) }
        });
        self.presses(line);
        self.presses("\r");
    }

    fn screen(&self) -> String {
        self.shown.lock().unwrap().clone()
    }

    #[track_caller]
    fn shows(&self, text: &str) {
        wait_until(&format!("the terminal shows {text:?}"), PATIENCE, || {
            let screen = self.screen();
            if screen.contains(text) { Ok(()) } else { Err(screen) }
        });
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What is typed is shown once and done once; the size of the window goes along, Ctrl-C reaches what runs there and
/// not what runs here; and in the end the terminal is as it was.
///
/// What is looked for is never what was typed, for that is shown too: `a""b` types what is shown as `ab`.
pub(crate) fn a_shell_is_typed_into(tool: &Tool) {
    let terminal = Terminal::run(tool, &script(&format!("{} exec -it target -- sh", tool.name())));
    a_session_is_held(tool, terminal, "it ended with 5");
}

/// The same of a shell that is the container's own process: it was there before, and says nothing until a key is
/// pressed. When it ends so does the container, and with its exit code.
pub(crate) fn a_container_is_typed_into(cluster: &Cluster, tool: &Tool, image: &str) {
    cluster.apply(&include_str!("shell.yaml").replace("IMAGE", image));
    cluster.balsa(["wait", "pod/shell", "--for=condition=Ready", "--timeout=120s"]).ok();
    let mut terminal = Terminal::run(tool, &script(&format!("{} attach -it shell", tool.name())));
    terminal.shows("If you don't see a command prompt, try pressing enter.");
    terminal.presses("\r");
    // How the process ended is the pod's to tell.
    a_session_is_held(tool, terminal, "it ended with 0");
    wait_until("the container has ended as its shell did", PATIENCE, || {
        let code = "{.status.containerStatuses[0].state.terminated.exitCode}";
        match cluster.value("default", "pod/shell", code)? {
            code if code == "5" => Ok(()),
            code => Err(code),
        }
    });
    cluster.balsa(["delete", "pod", "shell", "--timeout=120s"]).ok();
}

/// A command between two looks at the terminal.
fn script(command: &str) -> String {
    format!("stty rows 33 cols 101; tty; {command}; echo \"it ended with $?\"; stty -a")
}

/// `ended`: what is told of its end, after the shell in it has ended with 5.
fn a_session_is_held(tool: &Tool, mut terminal: Terminal, ended: &str) {
    let name = tool.name();
    terminal.shows("/dev/pts/");
    let device = terminal.screen().lines().find(|line| line.starts_with("/dev/")).unwrap().trim().to_owned();
    terminal.types("until [ \"$(stty size)\" = '33 101' ]; do true; done; tty && echo its si\"\"ze");
    terminal.shows("its size");

    let resized = Command::new("stty").args(["-F", &device, "rows", "44", "cols", "144"]).status().unwrap();
    assert!(resized.success());
    terminal.types("until [ \"$(stty size)\" = '44 144' ]; do true; done; echo re\"\"sized");
    terminal.shows("resized");

    terminal.types("echo sl\"\"eeping; sleep 1000");
    terminal.shows("sleeping");
    terminal.presses("\u{3}");
    terminal.types("echo still $((40 + 2))");
    terminal.shows("still 42");
    let screen = terminal.screen();
    assert_eq!(screen.matches("echo still").count(), 1, "{name} shows what is typed twice: {screen}");

    terminal.types("exit 5");
    terminal.shows(ended);
    terminal.shows(" icanon");
    terminal.shows(" echo ");
    assert_eq!(terminal.child.wait().unwrap().code(), Some(0), "{}", terminal.screen());
    let screen = terminal.screen();
    assert!(!screen.contains("-icanon") && !screen.contains("-echo "), "{name} left it raw: {screen}");
}
