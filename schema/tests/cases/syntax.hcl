grid "school" {
  timezone = "Europe/Berlin"

window "evenings" {
  days = "mon-fri"
  from = "19:00"
  to   = "04:00"
}

image "win11" {
  version = "2026-11
  os      = "windows"
}

template "classroom" {
  image  = image.win11
  memory = "8GiB"
  cpus   = = 4
}

policy "pupils" {
  rollout {
    window = window.evening
  }
}

pool "a" {
  template = template.classroom
  desktops = 4 5
}

network "lab" { user = true, vlan = 4 }

locals {
  a = upper("x"
}

pool "b" {
  template = template.classroom
  desktops = uper(3)
}
