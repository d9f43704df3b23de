grid "school" {
  timezone             = "Europe/Berlin"
  tolerate_server_loss = 1
}

window "evenings" {
  days = "mon-fri"
  from = "19:00"
  to   = "04:00"
}

directory "ad" {
  type          = "ad"
  uri           = ["ldaps://dc1.school.example", "ldaps://dc2.school.example"]
  ca_file       = "ad-ca.pem"
  bind_user     = "svc-coppice@school.example"
  bind_password = secret("ad-bind")
}

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

policy "pupils" {
  refresh {
    on = "logoff"
  }
  session {
    idle_disconnect     = "20m"
    disconnected_logoff = "10m"
    max_duration        = "8h"
  }
  rollout {
    max_unavailable = "20%"
    canary          = 1
    window          = window.evenings
  }
  power {
    spare = 4
    schedule "lessons" {
      days  = "mon-fri"
      from  = "07:30"
      to    = "16:00"
      spare = 30
    }
  }
}

pool "room12" {
  template   = template.classroom
  desktops   = 32
  hostname   = "ROOM12-{slot:02}"
  assignment = "pooled"
  policies   = [policy.pupils]
  entitled   = [group(directory.ad, "Pupils"), user(directory.ad, "t.weber")]
}
