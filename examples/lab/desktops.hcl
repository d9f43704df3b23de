# The golden image that up.sh builds and imports; the text is the version it was published as.
image "tiny" {
  version = "1"
  os      = "linux"
}

# What one desktop is: small enough that three of them boot in seconds, even emulated. Without a network.
template "small" {
  image   = image.tiny
  cpus    = 1
  memory  = "96MiB"
  display = ["vnc"]
}

policy "gentle" {
  # One desktop at a time when the template or the image changes.
  rollout {
    max_unavailable = 1
  }
  # What someone changes behind the grid's back is put right, not only told.
  drift {
    domain = "enforce"
  }
}

pool "lab" {
  template = template.small
  desktops = 3
  hostname = "lab-{slot:02}"
  policies = [policy.gentle]
}
