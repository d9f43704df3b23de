//! How long a server may take for an order.

use coppice_schema::known::Task;
use coppice_schema::units::Span;

/// How long a server may take for `task`, retries included, before the leader takes it back.
///
/// Taking an order back frees nothing: it only lets the plan look again. Too short, and a slow server is disturbed;
/// too long, and a desktop waits for a server that will never do it.
#[must_use]
pub fn limit(task: &Task) -> Span {
    match task {
        // Overlay, definition and power-on take a second or two each; the rest is for a hypervisor that restarts,
        // and for some ten retries.
        Task::Create { .. } | Task::Start { .. } => Span::minutes(10),
        // As above; and where the copy has to be read and written, 100 GB at 100 MB/s take a quarter of an hour.
        Task::Restore { .. } => Span::minutes(30),
        // Nothing waits behind it.
        Task::Redefine { .. } => Span::minutes(5),
        // Guests are asked twice, a minute each at most, and a Windows guest that installs updates takes its time.
        Task::Stop { .. } | Task::Restart { .. } => Span::minutes(15),
        // A disk that is busy elsewhere may hold the removal up.
        Task::Remove { .. } => Span::minutes(10),
        // An overlay, as above.
        Task::Receive { .. } => Span::minutes(10),
        // 500 GB at 100 MB/s, an hour and a half, and what waits for its turn before it.
        Task::Send { .. } => Span::hours(4),
        // Somebody waits for it: it is told again rather sooner than later.
        Task::Enter { .. } | Task::Stay { .. } => Span::minutes(5),
        // 500 GB at 60 MB/s, what a loaded disk array reads, are two hours and twenty minutes.
        Task::VerifyImage { .. } => Span::hours(4),
        Task::DropImage { .. } => Span::minutes(5),
        // 500 GB over a gigabit take an hour and a quarter, and behind a limit much longer. What has arrived when it is
        // taken back stays, and the next order goes on from there.
        Task::CopyImage { .. } => Span::hours(12),
    }
}
