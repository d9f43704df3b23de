use crate::desired::{Certificate, Grid};
use crate::diagnostic::{Problem, Report};
use crate::fields::Fields;

pub(super) fn grid(fields: &Fields, report: &Report) -> Grid {
    let default = Grid::default();
    Grid {
        name: fields.name.clone(),
        timezone: fields.text("timezone").unwrap_or(default.timezone),
        tolerate_server_loss: fields
            .count("tolerate_server_loss")
            .and_then(|count| u8::try_from(count).ok())
            .unwrap_or(default.tolerate_server_loss),
        lost_after: fields.span("lost_after").unwrap_or(default.lost_after),
        fence_after: fields.span("fence_after").unwrap_or(default.fence_after),
        image_bandwidth: fields.size("image_bandwidth"),
        image_window: fields
            .name("image_window")
            .and_then(|name| super::known(&name)),
        address: fields.address("address"),
        certificate: fields
            .inner("certificate")
            .and_then(|certificate| self::certificate(certificate, report)),
        keep_revisions: fields
            .count("keep_revisions")
            .unwrap_or(default.keep_revisions),
    }
}

fn certificate(fields: &Fields, report: &Report) -> Option<Certificate> {
    match (fields.inner("files"), fields.inner("acme")) {
        (Some(files), None) => Some(Certificate::Files {
            certificate: files.text("certificate_file")?,
            key: files.secret("key")?,
        }),
        (None, Some(acme)) => {
            let (directory, domains) = (acme.text("directory")?, acme.texts("domains")?);
            if !directory.starts_with("https://") {
                let problem = Problem::error(
                    "V0210",
                    acme.place("directory"),
                    "`directory` must begin with https://",
                );
                report.push(problem);
            }
            if domains.is_empty() {
                let problem =
                    Problem::error("V0204", acme.place("domains"), "a certificate for no name");
                report.push(problem.help("name at least one in `domains`"));
            }
            Some(Certificate::Acme {
                directory,
                email: acme.text("email")?,
                domains,
            })
        }
        (Some(files), Some(acme)) => {
            let problem = Problem::error("V0211", acme.at, "`acme` beside `files`");
            report.push(
                problem
                    .also(files.at, "`files` is here")
                    .help("remove one of them"),
            );
            None
        }
        (None, None) => {
            let problem =
                Problem::error("V0204", fields.at, "`certificate` needs `files` or `acme`");
            report.push(
                problem.help(
                    "without the block the portal's certificate is issued by the grid's own CA",
                ),
            );
            None
        }
    }
}
