//! How much memory this worker may use, so that a network that cannot fit is refused with a reason instead of
//! getting the worker killed; and how much it used.

use std::fs;

/// Bytes that this process may use: the machine's memory, or less if its control group says so. `None` where neither
/// can be told.
pub fn limit() -> Option<u64> {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let group =
        number("/sys/fs/cgroup/memory.max").or_else(|| number("/sys/fs/cgroup/memory/memory.limit_in_bytes"));
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| kilobytes(&text, "MemTotal:"));
    group.into_iter().chain(machine).min()
}

/// The most bytes of memory that this process had at once. `None` where that cannot be told.
pub fn peak() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// The bytes of a line like `MemTotal: N kB`.
fn kilobytes(text: &str, label: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_read_off_its_line() {
        let total = |text: &str| kilobytes(text, "MemTotal:");
        assert_eq!(total("MemTotal:       24576 kB\nMemFree: 1 kB\n"), Some(24576 * 1024));
        assert_eq!(total("MemFree: 1 kB\n"), None);
        assert_eq!(total("MemTotal: many kB\n"), None);
        assert!(cfg!(not(target_os = "linux")) || peak().is_some_and(|bytes| bytes > 1 << 20));
    }
}
