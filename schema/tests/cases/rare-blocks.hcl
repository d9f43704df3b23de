grid "g" {
  certificate {
    acme {
      directory = "http://acme.example"
      email     = "a@b.example"
      domains   = []
    }
  }
}

image "nothing" {
  os = "linux"
}

image "outside" {
  source = "../outside.img"
  os     = "linux"
}

image "fine" {
  version = "1"
  os      = "linux"
}

template "desk" {
  image  = image.fine
  memory = "1GiB"
}

network "bad-bridge" {
  bridge = "br/0 of the school"
}

network "no-user" {
  user = false
}

network "user-vlan" {
  user = true
  vlan = 7
}

policy "warned" {
  refresh {
    every    = "7d"
    warn     = "2h"
    deadline = "1h"
  }
  refresh {
    every = "1d"
  }
}

policy "by-cron" {
  refresh {
    at {
      cron = "0 3 31 4 *"
    }
  }
}

pool "twice" {
  template     = template.desk
  desktops     = 1
  policies     = [policy.by-cron, policy.by-cron]
  max_copy_age = "1d"
}

pool "kiosks" {
  template   = template.desk
  desktops   = 1
  assignment = "client"

  booking "exam" {
    from = "2026-11-24 10:00"
    to   = "2026-11-24 09:00"
  }
}

pool "many" {
  count    = 11
  template = template.desk
  desktops = 1
  slots    = 20000
}
