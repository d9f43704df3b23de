//! What the tests ask for.

/// A configuration with one pool of linked clones.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    /// How many; `None`: there is no pool.
    pub(crate) desktops: Option<u32>,
    /// Memory of each, in MiB.
    pub(crate) memory: u32,
    /// Version of the image.
    pub(crate) version: u32,
}

impl Wanted {
    /// So many, of the first version.
    pub(crate) fn of(desktops: u32) -> Self {
        Self {
            desktops: Some(desktops),
            memory: 96,
            version: 1,
        }
    }

    /// As text.
    pub(crate) fn text(self) -> String {
        let Self {
            desktops,
            memory,
            version,
        } = self;
        let pool = desktops.map_or(String::new(), |desktops| {
            format!(
                r#"
pool "lab" {{
  template = template.small
  desktops = {desktops}
  hostname = "lab-{{slot:02}}"
  policies = [policy.gentle]
}}
"#
            )
        });
        format!(
            r#"grid "lab" {{
  timezone = "UTC"
}}

image "tiny" {{
  version = "{version}"
  os      = "linux"
}}

template "small" {{
  image   = image.tiny
  cpus    = 1
  memory  = "{memory}MiB"
  display = ["vnc"]
}}

policy "gentle" {{
  rollout {{
    max_unavailable = 1
  }}
  drift {{
    domain = "enforce"
  }}
}}
{pool}"#
        )
    }
}
