//! The unmodified kubectl, and what a program answered.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A command that takes longer than this hangs.
const LIMIT_SECONDS: &str = "240";

/// kubectl: `KUBECTL`, or the one in `PATH`.
pub fn kubectl_program() -> String {
    std::env::var("KUBECTL").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "kubectl".to_owned())
}

/// Whether there is a kubectl. Suites that speak through it have to say so when they leave something out.
pub fn has_kubectl() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = kubectl_program();
    std::env::split_paths(&path).any(|folder| folder.join(&program).is_file())
}

/// All kubectl programs that are here, oldest first: those of `KUBECTL_DIR` that are called `kubectl.1.27` and so
/// on, else those beside the one of `KUBECTL` or `PATH`, else that one alone. None where there is none.
pub fn kubectl_programs() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = kubectl_program();
    let found = std::env::split_paths(&path).map(|folder| folder.join(&program)).find(|path| path.is_file());
    let own = found.and_then(|program| program.canonicalize().ok());
    let folder = std::env::var_os("KUBECTL_DIR").map(PathBuf::from);
    let folder = folder.or_else(|| Some(own.as_ref()?.parent()?.to_owned()));
    let entries = folder.and_then(|folder| std::fs::read_dir(folder).ok()).into_iter().flatten().flatten();
    let is_one = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("kubectl.1."))
    };
    let mut programs: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_one).collect();
    programs.sort();
    if programs.is_empty() { own.into_iter().collect() } else { programs }
}

/// What a program answered.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command line, to show when an expectation fails.
    pub command: String,
    /// The exit code; -1 after a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output of a command that had to succeed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.code == 0, "{self}");
        self.stdout
    }

    /// Standard error of a command that had to fail.
    #[track_caller]
    pub fn fails(self) -> String {
        assert!(self.code != 0, "this should have failed: {self}");
        self.stderr
    }

    /// Standard output, or what to say about the failure: for conditions that are waited for.
    pub fn result(self) -> Result<String, String> {
        if self.code == 0 { Ok(self.stdout) } else { Err(self.to_string()) }
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ended with {}\n{}{}", self.command, self.code, self.stdout, self.stderr)
    }
}

/// Beside the data directory that the kubeconfig lies in.
pub(crate) fn cache_of(kubeconfig: &Path) -> PathBuf {
    let home = kubeconfig.parent().and_then(Path::parent).unwrap_or_else(|| Path::new("/tmp"));
    home.join("kubectl-cache")
}

/// Runs `program` to its end, with `input` on standard input.
pub(crate) fn run<I, S>(program: &str, arguments: I, kubeconfig: Option<&Path>, input: &str) -> Output
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new("timeout");
    command.args([LIMIT_SECONDS, program]).args(arguments);
    if let Some(path) = kubeconfig {
        // What kubectl remembers of a server must not outlive it: ports are used again.
        command.env("KUBECONFIG", path).env("KUBECACHEDIR", cache_of(path));
    }
    let shown: Vec<_> = command.get_args().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let shown = shown.join(" ");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{shown}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        // A program may end without reading what it was given.
        scope.spawn(move || stdin.write_all(input.as_bytes()).ok());
        child.wait_with_output().unwrap()
    });
    Output {
        command: shown,
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
