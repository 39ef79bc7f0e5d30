//! Short, stable names for kernel objects: FNV-1a, so that they are the same in every release.

/// 64 bits of FNV-1a over `text`.
pub(crate) fn fnv(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// `digits` (at most 16) hexadecimal digits of the hash of `text`.
pub(crate) fn short(text: &str, digits: usize) -> String {
    let mut hex = format!("{:016x}", fnv(text));
    hex.truncate(digits);
    hex
}
