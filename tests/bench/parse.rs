//! Row 4: parse and validate 10,000 blocks, beside hashicorp/hcl in Go.
//!
//! Both read the same texts from memory. Go (`hcl.go`) parses them and decodes every block by gohcl into structs:
//! attributes evaluated with references and templates, unknown and missing ones found, types converted. Coppice
//! does all of that and more: sizes, times and shares become what they mean and are checked against their ranges,
//! references lead to blocks that are there, policies are merged, host names of all desktops are unique. Both keep
//! the place of everything, and have to point at the same line of a text that is wrong.

use std::path::{Path, PathBuf};
use std::process::Command;

use coppice_schema::{Bundle, SourceText, load};

use crate::cost::{self, By, Cost, Turns, Whose};
use crate::line::{Comparison, Line};
use crate::{Bench, Row, say};

pub(crate) const ROW: Row = Row {
    number: 4,
    packages: &["golang-go", "golang-github-hashicorp-hcl-v2-dev"],
    measure,
};

const GO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/bench/hcl.go");

/// Passes in each turn; one more before them is for the caches, and not counted.
const PASSES: u32 = 3;

/// Blocks of one group, see [`group`].
const GROUP: u32 = 10;

fn measure(bench: &Bench) -> Result<Vec<Line>, String> {
    let groups = bench.size(10_000) / GROUP;
    let texts = texts(groups);
    let bytes: usize = texts.iter().map(|source| source.text.len()).sum();
    let megabytes = f64::from(u32::try_from(bytes).map_err(|e| e.to_string())?) / 1e6;
    say(&format!(
        "row 4: {} blocks, {megabytes:.2} MB in {} files",
        groups * GROUP,
        texts.len()
    ));
    let bundle = Bundle {
        texts,
        ..Bundle::default()
    };
    let wanted = Content {
        pools: groups * 5,
        desktops: groups * 5 * 3,
    };
    let go = match Go::build(&bench.place, &bundle) {
        Ok(go) => Some(go),
        Err(why) => {
            say(&format!("row 4: no comparison with hashicorp/hcl: {why}"));
            None
        }
    };
    let mut ours = Turns::new("Coppice", megabytes);
    let mut peer = Turns::new("hashicorp/hcl", megabytes);
    let mut limit = Turns::new("looking at every byte", megabytes);
    for round in 1..=bench.rounds {
        say(&format!("row 4: round {round} of {}", bench.rounds));
        limit.costs.extend(passes(|| scan(&bundle))?);
        ours.costs.extend(passes(|| coppice(&bundle, wanted))?);
        if let Some(go) = &go {
            peer.costs.extend(go.passes(wanted)?);
        }
    }
    if let Some(go) = &go {
        agree_on_what_is_wrong(&bench.place, go, &bundle)?;
    }
    for turns in [&ours, &peer, &limit] {
        say(&format!("row 4: {}", turns.describe("MB a second")));
    }
    let line = |metric, by| {
        Comparison {
            row: ROW.number,
            metric,
            unit: "MB/s",
            by,
            ours: &ours,
            peer: go.as_ref().map(|_| &peer),
            limit: Some(&limit),
            target: 5.0,
        }
        .line()
    };
    Ok(vec![
        line(
            "parse and validate 10,000 blocks, CPU, beside hashicorp/hcl",
            By::Processors,
        )?,
        line(
            "parse and validate 10,000 blocks, wall, beside hashicorp/hcl",
            By::Wall,
        )?,
    ])
}

/// What there is to find, so that nobody is fast by leaving out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Content {
    pools: u32,
    desktops: u32,
}

/// Ten blocks, of the kinds that a configuration is made of, with what else stands in those.
fn group(n: u32) -> String {
    let mut text = format!(
        r#"
window "w{n:04}" {{
  days = "mon-fri"
  from = "19:00"
  to   = "04:00"
}}

network "n{n:04}" {{
  bridge = "br-${{local.site}}"
  vlan   = {vlan}
}}

image "i{n:04}" {{
  version = "2026-11"
  os      = "linux"
  keep    = 3
}}

# Hardware of group {n}.
template "t{n:04}" {{
  image   = image.i{n:04}
  cpus    = 4
  memory  = "8GiB"
  disk    = "60GiB"
  network = [network.n{n:04}]
  display = ["vnc", "spice"]
}}

policy "p{n:04}" {{
  rollout {{
    max_unavailable = "20%"
    canary          = 1
    healthy_after   = "5m"
    window          = window.w{n:04}
  }}
  power {{
    spare = 2
    schedule "lessons" {{
      days  = "mon-fri"
      from  = "07:30"
      to    = "16:00"
      spare = 3
    }}
  }}
}}
"#,
        vlan = n % 4000 + 1,
    );
    for pool in 1..=5 {
        text += &format!(
            r#"
pool "g{n:04}-{pool}" {{
  template   = template.t{n:04}
  desktops   = 3
  slots      = 2 * 3
  hostname   = "${{local.site}}-{n:04}-{pool}-{{slot:02}}"
  assignment = "pooled"
  policies   = [policy.p{n:04}]
  servers    = ["rack-{rack}", "ssd"]
  protect    = {pool} == 1
}}
"#,
            rack = n % 7,
        );
    }
    text
}

fn texts(groups: u32) -> Vec<SourceText> {
    // A file holds at most 1 MiB.
    const IN_A_FILE: u32 = 250;
    let named = |number: u32, text| SourceText {
        path: format!("{number:02}.hcl"),
        text,
    };
    let head = "locals {\n  site = \"north\"\n}\n".to_owned();
    let files = (0..groups.div_ceil(IN_A_FILE)).map(|file| {
        let first = file * IN_A_FILE;
        let text = (first..groups.min(first + IN_A_FILE)).map(group).collect();
        named(file + 1, text)
    });
    std::iter::once(named(0, head)).chain(files).collect()
}

/// A turn of this process.
fn passes(work: impl Fn() -> Result<(), String>) -> Result<Vec<Cost>, String> {
    work()?;
    (0..PASSES)
        .map(|_| Ok(cost::of(Whose::Mine, &work)?.0))
        .collect()
}

fn coppice(bundle: &Bundle, wanted: Content) -> Result<(), String> {
    let loaded = load(bundle);
    let Some(desired) = loaded.desired else {
        return Err(format!("it is refused: {:?}", loaded.diagnostics.first()));
    };
    let found = Content {
        pools: u32::try_from(desired.pools.len()).map_err(|e| e.to_string())?,
        desktops: desired.pools.values().map(|pool| pool.desktops).sum(),
    };
    if found != wanted || !loaded.diagnostics.is_empty() {
        let said = loaded.diagnostics.first();
        return Err(format!("{found:?} found instead of {wanted:?}; {said:?}"));
    }
    Ok(())
}

fn scan(bundle: &Bundle) -> Result<(), String> {
    let lines = |source: &SourceText| source.text.bytes().filter(|byte| *byte == b'\n').count();
    let lines: usize = bundle.texts.iter().map(lines).sum();
    if std::hint::black_box(lines) == 0 {
        return Err("nothing to look at".to_owned());
    }
    Ok(())
}

/// The peer, built, and the texts as files.
struct Go {
    program: PathBuf,
    files: Vec<PathBuf>,
}

impl Go {
    fn build(place: &Path, bundle: &Bundle) -> Result<Self, String> {
        let program = place.join("hcl");
        let output = Command::new("go")
            .args(["build", "-o"])
            .arg(&program)
            .arg(GO)
            // Debian's packages are a GOPATH; nothing is fetched.
            .env("GO111MODULE", "off")
            .env("GOPATH", "/usr/share/gocode")
            .env("GOCACHE", place.join("go-cache"))
            .env("GOFLAGS", "")
            .output()
            .map_err(|e| format!("cannot run go: {e}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("go cannot build {GO}: {}", said.trim()));
        }
        let files = files(place, "texts", bundle)?;
        Ok(Self { program, files })
    }

    fn run(&self, passes: u32, files: &[PathBuf]) -> Result<String, String> {
        let output = Command::new(&self.program)
            .arg(passes.to_string())
            .args(files)
            .output()
            .map_err(|e| format!("cannot run {}: {e}", self.program.display()))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// A turn: it measures each of its passes itself, so that its start counts for nothing.
    fn passes(&self, wanted: Content) -> Result<Vec<Cost>, String> {
        let said = self.run(PASSES + 1, &self.files)?;
        let pass = |line: &str| {
            let figures: Vec<u32> = line.split(' ').filter_map(|f| f.parse().ok()).collect();
            let [wall, processors, pools, desktops] = figures[..] else {
                return Err(format!("the program in Go said {line:?}"));
            };
            let found = Content { pools, desktops };
            if found != wanted {
                return Err(format!("Go found {found:?} instead of {wanted:?}"));
            }
            Ok(Cost {
                wall: f64::from(wall) / 1e6,
                processors: f64::from(processors) / 1e6,
            })
        };
        said.lines().skip(1).map(pass).collect()
    }
}

fn files(place: &Path, name: &str, bundle: &Bundle) -> Result<Vec<PathBuf>, String> {
    let place = place.join(name);
    let cannot = |e: std::io::Error| format!("cannot write into {}: {e}", place.display());
    std::fs::create_dir_all(&place).map_err(cannot)?;
    let write = |source: &SourceText| {
        let path = place.join(&source.path);
        std::fs::write(&path, &source.text).map_err(cannot)?;
        Ok(path)
    };
    bundle.texts.iter().map(write).collect()
}

/// One word is wrong: both must refuse it, and say where.
fn agree_on_what_is_wrong(place: &Path, go: &Go, bundle: &Bundle) -> Result<(), String> {
    let mut wrong = bundle.clone();
    let last = wrong.texts.last_mut().ok_or("no text")?;
    let at = last.text.rfind("desktops").ok_or("no pool")?;
    last.text.replace_range(at..at + 8, "desktpos");
    let line = last.text[..at].lines().count();
    let expected = format!("{}:{line}", last.path);
    let loaded = load(&wrong);
    let ours = loaded
        .diagnostics
        .iter()
        .map(|d| format!("{}:{}", d.path, d.line));
    let ours: Vec<String> = ours.collect();
    let theirs = match go.run(1, &files(place, "wrong", &wrong)?) {
        Ok(_) => return Err("hashicorp/hcl accepts a text that is wrong".to_owned()),
        Err(said) => said,
    };
    if !ours.contains(&expected) || !theirs.contains(&expected) {
        return Err(format!(
            "what is wrong at {expected} is found at {ours:?} by Coppice, and by hashicorp/hcl so: {theirs}"
        ));
    }
    Ok(())
}
