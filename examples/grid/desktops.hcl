# The golden image, with a whole copy on every server: a desktop can be grown on each of them at any time.
image "tiny" {
  version = "1"
  os      = "linux"
  copies  = "all"
}

# What one desktop is: small enough that six of them boot in seconds, even emulated. Without a network.
template "small" {
  image   = image.tiny
  cpus    = 1
  memory  = "96MiB"
  display = ["vnc"]
}

variable "desktops" {
  type        = number
  description = "How many desktops there are to be."
  default     = 6
}

# Two desktops a server. Where they go is decided by load; when a server is lost, its two grow again elsewhere.
pool "class" {
  template = template.small
  desktops = var.desktops
  hostname = "class-{slot:02}"
}
