variable "rooms" {
  type    = map(number)
  default = { a101 = 3, b202 = 4 }
}

variable "suffix" {
  type    = string
  default = "x"
  validation {
    condition     = length(var.suffix) == 1
    error_message = "one letter"
  }
}

locals {
  networks = toset(["lab", "office"])
  hosts    = { for name, count in var.rooms : name => "${upper(name)}-{slot}" }
}

network "n" {
  for_each = local.networks
  bridge   = "br-${each.key}"
}

image "lin" {
  version = "1"
  os      = "linux"
}

template "t" {
  count   = 2
  image   = image.lin
  cpus    = count.index + 1
  memory  = format("%dGiB", min(8, 2 * (count.index + 1)))
  network = [for name in keys(network.n) : network.n[name]]
}

pool "room" {
  for_each = var.rooms
  template = template.t[each.value % 2]
  desktops = each.value
  hostname = local.hosts[each.key]
}

pool "all" {
  template = template.t[1]
  desktops = length(network.n)
  hostname = <<-EOT
    %{~if true}all-{slot}%{else}no%{endif~}
  EOT
}

moved {
  from = pool.room["c303"]
  to   = pool.room["a101"]
}
