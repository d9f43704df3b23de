grid "school" {
  timezone       = "Europe/Berln"
  keep_revisions = 0
  address        = "10.0.0.300"
}

window "a" {
  days = "mon-fry"
  from = "24:00"
  to   = "7:00"
}

window "b" {
  cron     = "0 25 * * *"
  duration = "8x"
}

window "c" {
  cron     = "0 0 30 2 *"
  duration = "8h"
}

window "d" {
  days = "mon"
  cron = "0 0 * * *"
}

window "e" {
  days = "mon"
  from = "10:00"
}

image "a" {
  version = "x"
  source  = "a.img"
  os      = "linux"
  digest  = "abc"
  agent   = false
}

template "t" {
  image   = image.a
  memory  = "8MiB"
  cpus    = 0
  display = []
  disk    = "10G"
  network = [network.n, network.n, image.a]
}

network "n" {
  bridge = "br0"
  user   = true
  vlan   = 5000
}

network "o" {
}

server "r1-*" {
  keep_free_memory = "10%"
  labels           = "gpu"
}
