gird "school" {
}

pool "lab" {
  template = template.clasroom
  desktop  = 3
  desktops = "3"
  hostnam  = "x"
  schedule {
  }
}

template "classroom" {
  image   = "win11"
  cpus    = 4.5
  memory  = 8
  tpm     = "true"
  display = "vnc"
  network = network.nowhere
  cpu     = 2
}

image "win11" {
  version = "2026-11"
  os      = "windws"
  keep    = 100000
}

name = 1
