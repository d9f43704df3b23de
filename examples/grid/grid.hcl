# The grid of this directory: three servers that act as one. Everything else is in desktops.hcl.
variable "address" {
  description = "An address in the servers' network that none of them has of its own."
  default     = "10.77.43.100"
}

grid "class" {
  timezone = "UTC"
  # Held by whichever server leads: clients know this one address.
  address = var.address
  # With any one server lost, the other two still carry every pool. A plan that would end this is refused.
  tolerate_server_loss = 1
}
