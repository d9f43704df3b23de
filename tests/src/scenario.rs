//! Scenario files: a story, its commands, and what came of each.
//!
//! A line that begins with `> ` is a command, and the lines after it, up to the next command, are what it gave. A
//! line that begins with `# ` tells the reader something. So a case needs no Rust, and its transcript is reviewed
//! like code: `UPDATE=1` writes it anew.
//!
//! | command | does |
//! |---|---|
//! | `servers N [FIELD=NUMBER ...]` | begins with N servers instead of one; each has so many `cpus`, MiB of `memory` and of `disk`; with `moves=1` running desktops can move between them |
//! | `image NAME VERSION [SERVER ...]` | imports a version on every server, or on those |
//! | `remove NAME VERSION` | takes a version out of the catalogue |
//! | `config` | the files from now on: the indented lines below it, which are kept as they are |
//! | `edit OLD -> NEW` | changes those files: every OLD in them becomes NEW; `\n` stands for a new line |
//! | `plan`, `plan markdown` | what those files would change |
//! | `rebalance [apply]` | what would move to level the load; with `apply`, it does |
//! | `rebalance stop` | what has not moved yet stays |
//! | `lose SERVER ...`, `lose-markdown SERVER ...` | what if those servers were lost |
//! | `apply [GATE ...]` | commits them; prints why it was refused otherwise |
//! | `settle`, `rounds N` | lets the grid work until nothing is left, or for N passes |
//! | `lead` | lets the leader decide, and no server hear of it yet |
//! | `desktops`, `findings`, `waits`, `drift` | looks |
//! | `copies IMAGE`, `orders` | which server holds which version, and who was told to copy from whom |
//! | `place ADDRESS` | where a desktop would go, or the next one of a pool, and why there |
//! | `domain DESKTOP` | the form in which a hypervisor has it |
//! | `revisions` | the configurations that are kept |
//! | `servers`, `told SERVER` | their parts; what the history tells of one |
//! | `kill server SERVER`, `cut SERVER` | it loses its power; or the others lose sight of it, and its desktops run on |
//! | `takeover` | how long after that it was lost, and others were ordered in place of its desktops |
//! | `cordon`, `uncordon`, `drain`, `undrain` SERVER | a person's word; `drain SERVER DURATION` waits no longer for people |
//! | `skew SERVER SECONDS` | its clock is that much ahead, as the others see it, or behind |
//! | `screen DESKTOP COUNT` | so many clients have its display open |
//! | `kill`, `off`, `undefine`, `unlink` DESKTOP | what others do to a desktop |
//! | `mute DESKTOP ...` | guests fall silent until they are started again, all before anybody looks |
//! | `people DESKTOP COUNT` | so many people are signed in; found out within a minute |
//! | `change DESKTOP FIELD=VALUE` | others change a domain: `cpus`, `memory` in MiB |
//! | `foreign NAME [SERVER]` | a domain that is not ours appears |
//! | `spoil DESKTOP`, `grow DESKTOP MIB` | a desktop's disk loses its header, or takes more room |
//! | `stray MEMBER` | a disk of a life that the grid does not have, such as `lab-001@1` |
//! | `spoil NAME VERSION [SERVER]` | an image's copies rot, or one does, and are noticed |
//! | `lose-copy NAME VERSION SERVER` | a copy is deleted by hand |
//! | `watchdog SERVER gone`, `watchdog SERVER back` | it is killed and cannot be started; or can again |
//! | `wire FROM TO cut`, `wire FROM TO whole` | one server cannot reach another, and can again |
//! | `dead NAME VERSION`, `mended NAME VERSION` | guests of a version do not come up when they are started; do again |
//! | `fill PERCENT [SERVER]` | others fill the disks, or one |
//! | `away SERVER`, `back SERVER` | a hypervisor stops answering; it, or the whole server, is back |
//! | `slow SERVER OPERATION DURATION` | its next `start`, `stop` or `define` takes that long |
//! | `crash SERVER` | the daemon is killed and started again |
//! | `elect SERVER` | another leads, in a new term |
//! | `restart`, `regrow` DESKTOP | a person asks for it |
//! | `backup`, `restore SERVER` | keeps the state; the grid goes on from it on that server, which may be a new one |
//! | `recover SERVER [SERVER ...]` | that server goes on alone; the others named are proven to be off |
//! | `discard LIFE SERVER` | a person gives up what is in quarantine there |
//! | `pause ADDRESS [DURATION]`, `resume ADDRESS` | a person stops work on something, and lets it go on |
//! | `turn-back DURATION` | every server's clock is set back, as when a wrong one is corrected |
//! | `wait DURATION` | time passes, and then the grid is given one pass |
//! | `live DURATION` | the grid goes on by itself, as its daemons do, which are started before and killed after it |

mod hands;
mod lives;
mod stage;
mod what_if;

use std::fmt::Write as _;

use stage::Stage;

/// A scenario that was read.
#[derive(Debug)]
pub struct Scenario {
    /// Comments and commands in their order.
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Comment(String),
    Command { line: String, block: String },
}

impl Scenario {
    /// Reads a scenario; what commands gave before is skipped.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let mut steps = Vec::new();
        // The files of a `config` end where what it gave begins.
        let mut in_block = false;
        for line in text.lines() {
            let indented = line.strip_prefix("    ").or(line.is_empty().then_some(""));
            if let Some(command) = line.strip_prefix("> ") {
                in_block = command.trim() == "config";
                let line = command.trim().to_owned();
                steps.push(Step::Command {
                    line,
                    block: String::new(),
                });
            } else if line.starts_with('#') {
                in_block = false;
                steps.push(Step::Comment(line.to_owned()));
            } else if let (true, Some(text), Some(Step::Command { block, .. })) =
                (in_block, indented, steps.last_mut())
            {
                let _ = writeln!(block, "{text}");
            } else {
                in_block = false;
            }
        }
        for step in &mut steps {
            if let Step::Command { block, .. } = step {
                block.truncate(block.trim_end().len());
            }
        }
        Self { steps }
    }

    /// Runs it, and writes it down again with what each command gave.
    ///
    /// # Errors
    /// When a command is not one, or a plan breaks a rule of the checker.
    pub fn run(&self) -> Result<String, String> {
        let mut stage = Stage::default();
        let mut transcript = String::new();
        for step in &self.steps {
            match step {
                Step::Comment(text) => {
                    let _ = writeln!(transcript, "{text}");
                }
                Step::Command { line, block } => {
                    let _ = writeln!(transcript, "\n> {line}");
                    for text in block.lines() {
                        let _ = writeln!(transcript, "{}", format!("    {text}").trim_end());
                    }
                    let given = stage
                        .command(line, block)
                        .map_err(|e| format!("`> {line}`: {e}"))?;
                    for text in given.lines() {
                        // Nothing a command prints can be taken for a command or a comment.
                        let _ = writeln!(transcript, "{}", format!("  {text}").trim_end());
                    }
                }
            }
        }
        Ok(transcript)
    }
}
