//! Tidiness is a test: the house's table of rooms stays true because these checks fail when it does not.
//!
//! Each check is a function from text to complaints, with a test on a planted violation beside the one on the
//! repository itself, so that it can be seen to fail. A complaint names the place and what to do instead. An
//! exception names its reason, and one that is no longer needed is a complaint too.

#[path = "tidy/attributes.rs"]
mod attributes;
#[path = "tidy/layout.rs"]
mod layout;
#[path = "tidy/licences.rs"]
mod licences;
#[path = "tidy/orphans.rs"]
mod orphans;
#[path = "tidy/purity.rs"]
mod purity;
#[path = "tidy/repository.rs"]
mod repository;
#[path = "tidy/rooms.rs"]
mod rooms;
#[path = "tidy/tokens.rs"]
mod tokens;
#[path = "tidy/words.rs"]
mod words;

/// Fails with every complaint, not only the first.
fn nothing_in(complaints: Vec<String>) {
    assert!(
        complaints.is_empty(),
        "{} complaints:\n  {}",
        complaints.len(),
        complaints.join("\n  ")
    );
}
