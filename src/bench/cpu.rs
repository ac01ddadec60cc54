//! The CPU time of this process, from `/proc` where there is one. Where there is none there is no figure:
//! none is guessed.

use std::time::Duration;

/// Ticks of `/proc/<pid>/stat` a second: USER_HZ, part of Linux's ABI.
const TICKS_PER_SECOND: u64 = 100;

/// What all threads of this process used so far, in user and kernel.
pub fn used() -> Option<Duration> {
    read(&std::fs::read_to_string("/proc/self/stat").ok()?)
}

fn read(stat: &str) -> Option<Duration> {
    // The second field is a name in parentheses and may hold spaces and parentheses; see proc(5).
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let sum = ticks()? + ticks()?;
    Some(Duration::from_millis(sum * 1_000 / TICKS_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn the_name_of_a_process_does_not_shift_its_figures() {
        let stat = "17 (a ) b) S 1 17 17 0 -1 4194304 9 8 7 6 250 50 4 3 20 0 2 0 99";
        assert_eq!(read(stat).unwrap().as_millis(), 3_000);
        assert_eq!(read("17 (short) S 1"), None);
    }
}
