# The grid, and the image of which its desktops are made.
grid "demo" {
  timezone = "UTC"
  # With any one server lost, the others still carry every pool. A plan that would end this is refused.
  tolerate_server_loss = 1
}

image "linux" {
  version = "1"
  os      = "linux"
  copies  = "all"
}
