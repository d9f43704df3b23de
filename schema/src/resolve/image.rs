use crate::desired::{Image, ImageUpdate, Origin, Os};
use crate::diagnostic::{Problem, Report};
use crate::evaluate::Evaluator;
use crate::fields::Fields;
use crate::inputs;

pub(super) fn image(fields: &Fields, e: &Evaluator<'_>, file: usize) -> Option<Image> {
    let report = e.report;
    let origin = origin(fields, e, file);
    let agent = fields.flag("agent");
    if !agent && !fields.says("ready_after") && !fields.failed("agent") {
        let problem = Problem::error(
            "V0204",
            fields.place("agent"),
            "an image without agent needs `ready_after`",
        );
        report.push(problem.help(
            "how long after its start does a desktop count as ready? such as ready_after = \"60s\"",
        ));
    }
    let update = match fields.inner("update") {
        Some(inner) => Some(update(inner, report)?),
        None => None,
    };
    Some(Image {
        origin: origin?,
        digest: fields.digest("digest"),
        os: match fields.word("os")? {
            "linux" => Os::Linux,
            "windows" => Os::Windows,
            _ => Os::Other,
        },
        copies: fields.copies("copies")?,
        keep: fields.count("keep")?,
        agent,
        ready_after: fields.span("ready_after"),
        update,
        protect: fields.flag("protect"),
    })
}

fn origin(fields: &Fields, e: &Evaluator<'_>, file: usize) -> Option<Origin> {
    let report = e.report;
    match (fields.says("version"), fields.says("source")) {
        (true, false) => fields.version("version").map(Origin::Version),
        (false, true) => source(fields, e, file),
        (true, true) => {
            let problem =
                Problem::error("V0211", fields.place("source"), "`source` beside `version`");
            report.push(
                problem
                    .also(fields.place("version"), "`version` is here")
                    .help("keep one of them"),
            );
            None
        }
        (false, false) => {
            let problem = Problem::error("V0204", fields.at, "`image` needs `version` or `source`");
            report.push(
                problem.help("`version` names one that was imported with `coppice image import`"),
            );
            None
        }
    }
}

fn source(fields: &Fields, e: &Evaluator<'_>, file: usize) -> Option<Origin> {
    let (path, at) = (fields.text("source")?, fields.place("source"));
    let from = e.program.paths.get(file).copied().unwrap_or_default();
    let Some(key) = inputs::beside(from, &path) else {
        let problem = Problem::error(
            "V0307",
            at,
            "`source` must be a relative path inside the directory",
        );
        e.report.push(
            problem.help("no `..`, no leading `/`; or import the image and name its `version`"),
        );
        return None;
    };
    let found = e.program.bundle.sources.get(&key).copied().flatten();
    match (found, fields.digest("digest")) {
        (Some(found), Some(said)) if found != said => {
            let message = format!("the source is not what `digest` says: its BLAKE3 is {found}");
            let problem =
                Problem::error("V0415", at, message).also(fields.place("digest"), "said here");
            e.report.push(
                problem.help(
                    "another file, or a file that was changed: correct the digest or the file",
                ),
            );
        }
        (None, None) => {
            let problem = Problem::warning("V0502", at, format!("source not here: `{key}`"));
            e.report.push(problem.help("a plan uses the version that was published; add `digest` to say which bytes are meant"));
        }
        (None, Some(_)) => {
            let problem = Problem::note("V0502", at, format!("source not here: `{key}`"));
            e.report
                .push(problem.help("`digest` says which bytes are meant"));
        }
        (Some(_), _) => {}
    }
    Some(Origin::Source {
        path,
        digest: found,
    })
}

fn update(fields: &Fields, report: &Report) -> Option<ImageUpdate> {
    let at = super::site::recurrence(fields, report);
    Some(ImageUpdate {
        at: at?,
        script: fields.text("script")?,
        test: fields.text("test"),
        timeout: fields.span("timeout")?,
    })
}
