# The grid of this directory. Everything else is in desktops.hcl; file names and their order mean nothing.
grid "lab" {
  timezone = "UTC"
}
