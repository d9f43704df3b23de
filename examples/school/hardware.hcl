network "lab" {
  bridge = "br-lab"
}

image "win11" {
  version = "2026-11"
  os      = "windows"
  copies  = "all"
}

template "classroom" {
  image    = image.win11
  cpus     = 4
  memory   = "8GiB"
  firmware = "uefi-secure"
  tpm      = true
  network  = network.lab
  display  = ["vnc", "rdp"]
}
