image "win" {
  version = "1"
  os      = "windows"
}

image "lin" {
  version = "1"
  os      = "linux"
}

template "win" {
  image   = image.win
  memory  = "4GiB"
  display = ["vnc"]
}

template "lin" {
  image   = image.lin
  memory  = "4GiB"
  display = ["spice"]
}

window "freeze" {
  days = "daily"
  from = "08:00"
  to   = "16:00"
  deny = true
}

policy "one" {
  refresh {
    every = "7d"
  }
  power {
    spare = 20
    schedule "lessons" {
      days  = "mon-fri"
      from  = "07:30"
      to    = "16:00"
      spare = 30
    }
    schedule "early" {
      days           = "fri"
      from           = "22:00"
      to             = "07:31"
      spare          = 3
      powered_on_max = 2
    }
    schedule "monday" {
      days  = "sun"
      from  = "23:00"
      to    = "08:00"
      spare = 3
    }
  }
  rollout {
    window = window.freeze
  }
}

policy "two" {
  refresh {
    on      = "never"
    max_age = "30d"
    every   = "1d"
  }
  channels {
    clipboard = "both"
    printers  = true
    usb       = ["046d:c52b", "mouse"]
  }
}

pool "room12" {
  template = template.win
  desktops = 10
  hostname = "CLASSROOM-TWELVE-{slot:02}"
  policies = [policy.one, policy.two]
}

pool "a" {
  template = template.lin
  desktops = 10
  hostname = "pc-{slot}"
  slots    = 5
}

pool "b" {
  template = template.lin
  desktops = 12
  hostname = "PC-{slot}"
}

pool "c" {
  template = template.lin
  desktops = 12
  hostname = "pc-{solt}"
}

pool "d" {
  template = template.lin
  desktops = 12
  hostname = "pc"
}

pool "e_f" {
  template   = template.lin
  desktops   = 12
  assignment = "personal"
  policies   = [policy.one]
  copies     = 1
}

pool "g" {
  template = template.lin
  desktops = 12
  copies   = 1
}

pool "h" {
  template = template.lin
  desktops = 50
  policies = [policy.two]
}
