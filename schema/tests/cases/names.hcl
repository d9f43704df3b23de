pool "Lab" {
}

pool {
}

pool "a" "b" {
}

network "a" {
  user = true
}

network "a" {
  bridge = "br0"
}

grid "x" {
}

grid "y" {
}

locals {
  a = local.b
  b = local.a
  c = each.key
  d = nothing
  e = win11
}

locals {
  a = 1
}
