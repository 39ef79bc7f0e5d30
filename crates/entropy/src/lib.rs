//! Stands in for the C library's `getrandom` and `clock_gettime` in whatever links it: for simulations,
//! where one seed decides everything.
//!
//! The order of the standard library's hash maps and the branch that tokio's `select!` looks at first
//! follow from random numbers that no interface reaches: the standard library draws them from the
//! system. It asks by way of a weak symbol, so that a program may answer itself. And not everything asks
//! tokio for the time: h2 forgets streams that were reset after a second of the machine's clock. Only test
//! programs may depend on this: keys drawn here would be everybody's.

use std::cell::Cell;
use std::fs::File;
use std::io::Read as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The seed, and zero while there is none.
static SEED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// What all clocks of a thread show, where that is simulated.
    static CLOCK: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// From now on all clocks of this thread show that time, until they are set again.
pub fn set_clock(now: Duration) {
    CLOCK.set(Some(now));
}

/// From now on every draw of this process is the same, and another one for another seed. What a thread has
/// drawn before stays: begin a new thread afterwards.
pub fn seed(seed: u64) {
    // Every draw, not the sequence of draws: that other threads draw as well changes nothing.
    SEED.store(mix(seed) | 1, Ordering::SeqCst);
}

/// Spreads the bits of a number over all of it (the finalizer of SplitMix64).
fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

fn fill(bytes: &mut [u8]) -> std::io::Result<()> {
    let mut number = SEED.load(Ordering::SeqCst);
    if number == 0 {
        return File::open("/dev/urandom")?.read_exact(bytes);
    }
    for piece in bytes.chunks_mut(8) {
        number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
        piece.copy_from_slice(&mix(number).to_le_bytes()[..piece.len()]);
    }
    Ok(())
}

/// What `getrandom(2)` does, from the seed if there is one.
///
/// # Safety
/// `buffer` points to `length` bytes that may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    if buffer.is_null() || length == 0 {
        return 0;
    }
    // SAFETY: the caller promises that these bytes are there; they are made bytes before they are a slice.
    let bytes = unsafe {
        buffer.write_bytes(0, length);
        std::slice::from_raw_parts_mut(buffer, length)
    };
    match fill(bytes) {
        Ok(()) => isize::try_from(length).unwrap_or(isize::MAX),
        Err(_) => -1,
    }
}

/// What `clock_gettime(2)` does; on a thread whose clock is set, what was set.
///
/// # Safety
/// `to` points to a `timespec` that may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, to: *mut libc::timespec) -> libc::c_int {
    // A thread that is ending has no clock of its own any more.
    let Ok(Some(now)) = CLOCK.try_with(Cell::get) else {
        // SAFETY: the caller promises what the system call asks for.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, to) } as libc::c_int;
    };
    let (seconds, rest) = (now.as_secs() as libc::time_t, libc::c_long::from(now.subsec_nanos()));
    // SAFETY: the caller promises that it may be written.
    unsafe { to.write(libc::timespec { tv_sec: seconds, tv_nsec: rest }) };
    0
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the system's clock is what is tested")]
mod tests {
    use std::hash::{BuildHasher as _, RandomState};
    use std::time::{Duration, Instant, SystemTime};

    /// In threads of their own, as each thread draws once and keeps that.
    fn hash_of_a_new_thread() -> Option<u64> {
        std::thread::spawn(|| RandomState::new().hash_one("balsa")).join().ok()
    }

    #[test]
    fn clocks_stand_still_where_they_are_set_and_go_on_elsewhere() {
        let set = std::thread::spawn(|| {
            super::set_clock(Duration::from_secs(1000));
            let (then, before) = (SystemTime::now(), Instant::now());
            super::set_clock(Duration::from_secs(1007));
            (then.duration_since(SystemTime::UNIX_EPOCH).ok(), before.elapsed())
        });
        assert_eq!(set.join().ok(), Some((Some(Duration::from_secs(1000)), Duration::from_secs(7))));
        let year = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs());
        assert!(year > 1_700_000_000, "another thread has the machine's clock");
    }

    #[test]
    fn hash_maps_follow_the_seed() {
        assert_ne!(hash_of_a_new_thread(), hash_of_a_new_thread(), "the system's own without a seed");
        super::seed(7);
        let first = hash_of_a_new_thread();
        assert_eq!(hash_of_a_new_thread(), first);
        super::seed(8);
        assert_ne!(hash_of_a_new_thread(), first);
    }
}
