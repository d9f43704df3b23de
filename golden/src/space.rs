//! How much room a disk has.

use std::os::fd::AsFd;

use coppice_schema::units::Size;

/// Room on a file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// All that ordinary processes may use: the reserve of the file system's administrator is not counted, so that
    /// what is used is the same share of it as `df` shows.
    pub total: Size,
    /// What an ordinary process may still write.
    pub free: Size,
}

impl Space {
    pub(crate) fn of(fd: impl AsFd) -> rustix::io::Result<Self> {
        let found = rustix::fs::fstatvfs(fd)?;
        let blocks = [found.f_blocks, found.f_bfree, found.f_bavail];
        let [all, unused, free] = blocks.map(|count| Size(count.saturating_mul(found.f_frsize)));
        Ok(Self::without_reserve(all, unused, free))
    }

    /// Of a file system of that size, what is `unused` is `free` only in part: the rest is its administrator's.
    fn without_reserve(all: Size, unused: Size, free: Size) -> Self {
        let reserve = unused.0.saturating_sub(free.0);
        Self {
            total: Size(all.0.saturating_sub(reserve)),
            free,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_does_not_count_as_used() {
        let gib = |n: u64| Size(n << 30);
        // 44 of 252 are used, and no more than 48 may be written: `df` calls that 48 %.
        let space = Space::without_reserve(gib(252), gib(208), gib(48));
        assert_eq!((space.total, space.free), (gib(92), gib(48)));
        let none = Space::without_reserve(gib(100), gib(100), gib(100));
        assert_eq!((none.total, none.free), (gib(100), gib(100)));
    }
}
