//! Panics in tasks: the runtime turns them into errors that nobody may look at, so they are caught where they begin.

use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    static FIRST: RefCell<Option<String>> = const { RefCell::new(None) };
    static WATCHED: RefCell<bool> = const { RefCell::new(false) };
    static KNOWN_MET: RefCell<u64> = const { RefCell::new(0) };
}

/// Assertions of openraft's own that are wrong, by file and words; they are not there where debug assertions are off. A server
/// that meets one ends, and is started again as a daemon would be.
///
/// A snapshot that arrives at a follower which has more by now moves the cursor of its log back. Nothing comes of it.
const KNOWN: [(&str, &str); 1] = [("io_progress.rs", "new_submitted")];

/// From now on panics of this thread are kept, and not printed.
pub fn watch() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !WATCHED.with_borrow(|watched| *watched) {
                before(info);
                return;
            }
            let what = info.to_string().replace('\n', " ");
            if is_known(&what) {
                KNOWN_MET.with_borrow_mut(|met| *met += 1);
            } else {
                FIRST.with_borrow_mut(|first| first.get_or_insert(what).len());
            }
        }));
    });
    WATCHED.set(true);
    FIRST.set(None);
    KNOWN_MET.set(0);
}

/// Whether a known assertion was met that was not asked for yet.
#[must_use]
pub fn was_known() -> bool {
    KNOWN_MET.with_borrow_mut(|met| {
        let was = *met > 0;
        *met = met.saturating_sub(1);
        was
    })
}

fn is_known(what: &str) -> bool {
    let is = |(file, words): &(&str, &str)| what.contains(file) && what.contains(words);
    KNOWN.iter().any(is)
}

/// The first panic since.
#[must_use]
pub fn newest() -> Option<String> {
    FIRST.with_borrow(|first| first.as_ref().map(|what| format!("panic: {what}")))
}

/// Panics of this thread are nobody's business again.
pub fn let_go() {
    WATCHED.set(false);
}
