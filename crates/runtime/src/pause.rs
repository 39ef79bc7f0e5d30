//! The pause program: the first process of every sandbox, and its image.
//!
//! It holds a pod's namespaces, reaps what is orphaned in a shared process namespace, and ends on
//! SIGTERM or SIGINT. It is so small that it is written here in machine code: no compiler for
//! another target is needed, on no machine, and the bytes are the same wherever Balsa is built.
//!
//! ```text
//!         rt_sigprocmask(SIG_BLOCK, {INT, TERM, CHLD}, NULL, 8)
//! reap:   while wait4(-1, NULL, WNOHANG, NULL) > 0 {}
//!         signal = rt_sigtimedwait({INT, TERM, CHLD}, NULL, NULL, 8)
//!         if signal is not TERM and not INT goto reap
//!         exit_group(0)
//! ```
//!
//! Blocking instead of handling matters: the first process of a namespace never gets a signal whose
//! disposition is the default, but one that is blocked stays pending and can be waited for.

use bytes::Bytes;

use crate::PAUSE_IMAGE;
use crate::archive::ImageBuilder;
use crate::error::{Error, Result};

/// Where the program is loaded: the usual place of a program that is not relocated.
const BASE: u32 = 0x40_0000;
const HEADERS: usize = 64 + 2 * 56;
const SIGINT: u8 = 2;
const SIGTERM: u8 = 15;
const SIGCHLD: u8 = 17;
/// Signal n is bit n-1.
const MASK: u64 = 1 << (SIGINT - 1) | 1 << (SIGTERM - 1) | 1 << (SIGCHLD - 1);

/// The program as an ELF file for `architecture`, named as Go does.
pub fn program(architecture: &str) -> Result<Vec<u8>> {
    let (machine, listing) = match architecture {
        "amd64" => (62u16, x86_64()),
        "arm64" => (183u16, aarch64()),
        other => {
            return Err(Error::Invalid { message: format!("there is no pause program for {other}") });
        }
    };
    Ok(elf(machine, &assemble(&listing)))
}

/// The image archive with the program, called [`PAUSE_IMAGE`].
pub fn archive(architecture: &str) -> Result<Bytes> {
    ImageBuilder::new(PAUSE_IMAGE)
        .architecture(architecture)
        .file("/pause", 0o755, program(architecture)?)
        .entrypoint(["/pause"])
        .build()
}

/// A line of the listing.
enum Line {
    /// A place to branch to.
    Label(&'static str),
    /// An instruction without an address in it.
    Code(Vec<u8>),
    /// An instruction that branches: its opcode and where to.
    Branch(u32, &'static str, BranchForm),
    /// An instruction sequence that loads the address of the mask.
    MaskAddress(fn(u32) -> Vec<u8>),
}

#[derive(Clone, Copy)]
enum BranchForm {
    /// Opcode, then the distance from its end in one byte.
    X86Short,
    /// Distance in words from its start, in bits 5 to 23.
    ArmConditional,
}

impl BranchForm {
    fn encode(self, opcode: u32, distance: i32) -> Vec<u8> {
        match self {
            Self::X86Short => vec![opcode as u8, (distance - 2) as i8 as u8],
            Self::ArmConditional => (opcode | ((distance / 4) as u32 & 0x7_ffff) << 5).to_le_bytes().to_vec(),
        }
    }
}

/// Two passes: where everything is, then the bytes. The mask follows the code, on a multiple of eight.
fn assemble(listing: &[Line]) -> Vec<u8> {
    let mut labels = Vec::new();
    let mut size = 0usize;
    for line in listing {
        match line {
            Line::Label(name) => labels.push((*name, size)),
            other => size += encode(other, 0, 0).len(),
        }
    }
    let mask_at = (HEADERS + size).next_multiple_of(8);
    let mut code = Vec::with_capacity(size + 16);
    for line in listing {
        let target = match line {
            Line::Branch(_, to, _) => labels.iter().find(|(name, _)| name == to).map_or(0, |(_, at)| *at),
            _ => 0,
        };
        let distance = target as i32 - code.len() as i32;
        code.extend(encode(line, distance, BASE + mask_at as u32));
    }
    code.resize(mask_at - HEADERS, 0);
    code.extend(MASK.to_le_bytes());
    code
}

fn encode(line: &Line, distance: i32, mask: u32) -> Vec<u8> {
    match line {
        Line::Label(_) => Vec::new(),
        Line::Code(bytes) => bytes.clone(),
        Line::Branch(opcode, _, form) => form.encode(*opcode, distance),
        Line::MaskAddress(load) => load(mask),
    }
}

fn x86_64() -> Vec<Line> {
    use BranchForm::X86Short;
    let code = |bytes: &[u8]| Line::Code(bytes.to_vec());
    vec![
        code(&[0xb8, 14, 0, 0, 0]),      // mov eax, rt_sigprocmask
        code(&[0x31, 0xff]),             // xor edi, edi          SIG_BLOCK
        Line::MaskAddress(mov_esi),      // mov esi, mask
        code(&[0x31, 0xd2]),             // xor edx, edx
        code(&[0x41, 0xba, 8, 0, 0, 0]), // mov r10d, 8
        code(&[0x0f, 0x05]),             // syscall
        Line::Label("reap"),
        code(&[0xb8, 61, 0, 0, 0]),           // mov eax, wait4
        code(&[0x83, 0xcf, 0xff]),            // or edi, -1            any child
        code(&[0x31, 0xf6]),                  // xor esi, esi
        code(&[0xba, 1, 0, 0, 0]),            // mov edx, WNOHANG
        code(&[0x45, 0x31, 0xd2]),            // xor r10d, r10d
        code(&[0x0f, 0x05]),                  // syscall
        code(&[0x85, 0xc0]),                  // test eax, eax
        Line::Branch(0x7f, "reap", X86Short), // jg reap
        code(&[0xb8, 128, 0, 0, 0]),          // mov eax, rt_sigtimedwait
        Line::MaskAddress(mov_edi),           // mov edi, mask
        code(&[0x31, 0xf6]),                  // xor esi, esi
        code(&[0x31, 0xd2]),                  // xor edx, edx          no time limit
        code(&[0x41, 0xba, 8, 0, 0, 0]),      // mov r10d, 8
        code(&[0x0f, 0x05]),                  // syscall
        code(&[0x83, 0xf8, SIGTERM]),         // cmp eax, SIGTERM
        Line::Branch(0x74, "exit", X86Short), // je exit
        code(&[0x83, 0xf8, SIGINT]),          // cmp eax, SIGINT
        Line::Branch(0x75, "reap", X86Short), // jne reap           SIGCHLD, or interrupted
        Line::Label("exit"),
        code(&[0x31, 0xff]),         // xor edi, edi
        code(&[0xb8, 231, 0, 0, 0]), // mov eax, exit_group
        code(&[0x0f, 0x05]),         // syscall
    ]
}

fn mov_esi(address: u32) -> Vec<u8> {
    [&[0xbe][..], &address.to_le_bytes()].concat()
}

fn mov_edi(address: u32) -> Vec<u8> {
    [&[0xbf][..], &address.to_le_bytes()].concat()
}

fn aarch64() -> Vec<Line> {
    use BranchForm::ArmConditional;
    const EQ: u32 = 0x5400_0000;
    const NE: u32 = 0x5400_0001;
    const GT: u32 = 0x5400_000c;
    let word = |word: u32| Line::Code(word.to_le_bytes().to_vec());
    let movz = |register: u32, value: u32| word(0xd280_0000 | value << 5 | register);
    let compare_x0 = |value: u8| word(0xf100_001f | u32::from(value) << 10);
    let svc = || word(0xd400_0001);
    vec![
        Line::MaskAddress(load_x19), // movz x19, low; movk x19, high, lsl 16
        movz(8, 135),                // mov x8, rt_sigprocmask
        movz(0, 0),                  // mov x0, SIG_BLOCK
        word(0xaa13_03e1),           // mov x1, x19
        movz(2, 0),
        movz(3, 8),
        svc(),
        Line::Label("reap"),
        movz(8, 260),      // mov x8, wait4
        word(0x9280_0000), // mov x0, -1            any child
        movz(1, 0),
        movz(2, 1), // mov x2, WNOHANG
        movz(3, 0),
        svc(),
        compare_x0(0),
        Line::Branch(GT, "reap", ArmConditional),
        movz(8, 137),      // mov x8, rt_sigtimedwait
        word(0xaa13_03e0), // mov x0, x19
        movz(1, 0),
        movz(2, 0), // no time limit
        movz(3, 8),
        svc(),
        compare_x0(SIGTERM),
        Line::Branch(EQ, "exit", ArmConditional),
        compare_x0(SIGINT),
        Line::Branch(NE, "reap", ArmConditional), // SIGCHLD, or interrupted
        Line::Label("exit"),
        movz(0, 0),
        movz(8, 94), // mov x8, exit_group
        svc(),
    ]
}

fn load_x19(address: u32) -> Vec<u8> {
    let low = 0xd280_0013 | (address & 0xffff) << 5;
    let high = 0xf2a0_0013 | (address >> 16) << 5;
    [low.to_le_bytes(), high.to_le_bytes()].concat()
}

/// One read-and-execute segment that is the whole file, and a stack that is not executable.
fn elf(machine: u16, code: &[u8]) -> Vec<u8> {
    let size = (HEADERS + code.len()) as u64;
    let entry = u64::from(BASE) + HEADERS as u64;
    let mut file = Vec::with_capacity(size as usize);
    file.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]); // 64 bit, little endian
    for half in [2u16, machine] {
        file.extend(half.to_le_bytes()); // an executable, for this machine
    }
    file.extend(1u32.to_le_bytes()); // version
    for long in [entry, 64, 0] {
        file.extend(long.to_le_bytes()); // entry, program headers, no section headers
    }
    file.extend(0u32.to_le_bytes()); // flags
    for half in [64u16, 56, 2, 64, 0, 0] {
        file.extend(half.to_le_bytes()); // header sizes and counts
    }
    segment(&mut file, 1, 5, [0, u64::from(BASE), u64::from(BASE), size, size, 0x1000]);
    segment(&mut file, 0x6474_e551, 6, [0, 0, 0, 0, 0, 16]);
    file.extend(code);
    file
}

fn segment(file: &mut Vec<u8>, kind: u32, flags: u32, fields: [u64; 6]) {
    file.extend(kind.to_le_bytes());
    file.extend(flags.to_le_bytes());
    for field in fields {
        file.extend(field.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::hex;
    use sha2::{Digest as _, Sha256};
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{Child, Command};
    use std::time::{Duration, Instant};

    /// What is behind a tag never changes: a new program needs a new tag in [`PAUSE_IMAGE`]. These
    /// are the sums of what an assembler makes of the listings.
    #[test]
    fn the_program_behind_the_tag_is_frozen() {
        for (architecture, expected) in [
            ("amd64", "b8a92c778033176863597ead57b8b4b0037da58dee770b98c521d3b54919d3d3"),
            ("arm64", "58e6e246ba596937e8751de9e3a9c773b5e4ca04eadb48f6719db41a51323a85"),
        ] {
            let found = hex(&Sha256::digest(program(architecture).unwrap()));
            assert_eq!(found, expected, "{architecture}");
        }
    }

    #[test]
    fn other_machines_are_refused_by_name() {
        assert!(program("s390x").unwrap_err().to_string().contains("s390x"));
    }

    /// Runs the program of this machine as it is, with one child to reap.
    #[test]
    fn it_reaps_and_ends_on_sigterm_and_sigint() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pause");
        let architecture = crate::archive::go_architecture(std::env::consts::ARCH);
        std::fs::write(&path, program(architecture).unwrap()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        for signal in [nix::sys::signal::SIGTERM, nix::sys::signal::SIGINT] {
            let script = "sleep 0.3 & exec \"$0\"";
            let child = Command::new("/bin/sh").args(["-c", script, path.to_str().unwrap()]).spawn().unwrap();
            let mut child = Killed(child);
            child.wait_until("it waits for signals", |pid| {
                let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
                status.contains("Name:\tpause") && status.contains("State:\tS")
            });
            child.wait_until("it has reaped its child", |pid| {
                std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap().is_empty()
            });
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.0.id() as i32), signal).unwrap();
            let status = child.0.wait().unwrap();
            assert_eq!((status.code(), status.signal()), (Some(0), None));
        }
    }

    /// A child that does not outlive its test.
    struct Killed(Child);

    impl Killed {
        fn wait_until(&mut self, what: &str, is_so: impl Fn(u32) -> bool) {
            let deadline = Instant::now() + Duration::from_secs(10);
            while !is_so(self.0.id()) {
                assert_eq!(self.0.try_wait().unwrap(), None, "it ended before {what}");
                assert!(Instant::now() < deadline, "not within ten seconds: {what}");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    impl Drop for Killed {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}
