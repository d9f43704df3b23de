//! How full a disk is, and what follows from it.

use std::os::fd::AsFd;

use coppice_schema::known::DiskLevel;
use coppice_schema::units::Size;

/// Room on a file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// All of it.
    pub total: Size,
    /// What an ordinary process may still write: the reserve of the file system's administrator is not counted.
    pub free: Size,
}

/// From this many per cent on there are no new clones.
pub const HIGH: u8 = 80;

/// From this many per cent on idle pooled desktops are regrown.
pub const CRITICAL: u8 = 90;

/// A level is left only this many per cent below the mark at which it was entered, so that a disk that hovers at
/// a mark does not change its level with every write.
pub const HYSTERESIS: u8 = 2;

impl Space {
    pub(crate) fn of(fd: impl AsFd) -> rustix::io::Result<Self> {
        let found = rustix::fs::fstatvfs(fd)?;
        Ok(Self {
            total: Size(found.f_blocks.saturating_mul(found.f_frsize)),
            free: Size(found.f_bavail.saturating_mul(found.f_frsize)),
        })
    }

    /// Whether at least `percent` of it is used. A disk without any room is full.
    fn reaches(self, percent: u8) -> bool {
        let used = self.total.0.saturating_sub(self.free.0);
        u128::from(used) * 100 >= u128::from(self.total.0) * u128::from(percent)
    }

    /// The level, given the one `before`: entered at [`HIGH`] and [`CRITICAL`], left [`HYSTERESIS`] below.
    #[must_use]
    pub fn level(self, before: DiskLevel) -> DiskLevel {
        let critical = if before == DiskLevel::Critical {
            CRITICAL - HYSTERESIS
        } else {
            CRITICAL
        };
        let high = if before == DiskLevel::Fine {
            HIGH
        } else {
            HIGH - HYSTERESIS
        };
        if self.reaches(critical) {
            DiskLevel::Critical
        } else if self.reaches(high) {
            DiskLevel::High
        } else {
            DiskLevel::Fine
        }
    }
}
