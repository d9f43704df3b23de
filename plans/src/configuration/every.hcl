# Every word of the language once, for the test beside it.

grid "school" {
  timezone             = "Europe/Berlin"
  tolerate_server_loss = 1
  lost_after           = "10s"
  image_bandwidth      = "100MiB"
  image_window         = window.nights
  address              = "10.0.0.9"
  keep_revisions       = 20
  certificate {
    CERTIFICATE
  }
}

window "nights" {
  days = "mon-fri"
  from = "19:30"
  to   = "04:00"
}

window "exams" {
  cron     = "0 8 * * 1"
  duration = "4h"
  deny     = true
}

network "lab" {
  bridge = "br-lab"
  vlan   = 7
}

network "inside" {
  libvirt = "default"
}

network "out" {
  user = true
}

directory "ad" {
  type            = "ad"
  uri             = ["ldap://dc1.school.example"]
  domain          = "school.example"
  ca_file         = "ca.pem"
  start_tls       = true
  bind_user       = "svc@school.example"
  bind_password   = secret("ad-bind")
  base_dn         = "dc=school,dc=example"
  user_filter     = "(objectClass=user)"
  user_attr       = "sAMAccountName"
  id_attr         = "objectGUID"
  group_base_dn   = "ou=groups,dc=school,dc=example"
  group_filter    = "(objectClass=group)"
  member_attr     = "member"
  nested_groups   = false
  require_group   = "Pupils"
  connect_timeout = "2s"
  timeout         = "4s"
  page_size       = 100
  cache_ttl       = "30s"
  totp            = "optional"
  computers {
    ou            = "ou=desktops,dc=school,dc=example"
    bind_user     = "joiner@school.example"
    bind_password = secret("ad-join")
  }
}

location "room12" {
  clients  = ["10.1.0.0/16"]
  printers = ["printer12"]
}

image "tiny" {
  version     = "1"
  digest      = "0000000000000000000000000000000000000000000000000000000000000001"
  os          = "linux"
  copies      = 2
  keep        = 3
  agent       = false
  ready_after = "30s"
  protect     = true
  update {
    days    = "sat,sun"
    from    = "01:30"
    script  = "apt-get -y upgrade"
    test    = "true"
    timeout = "1h"
  }
}

image "file" {
  source = "file.qcow2"
  os     = "linux"
  update {
    cron   = "0 1 * * *"
    script = "apt-get -y upgrade"
  }
}

template "desk" {
  image       = image.tiny
  cpus        = 2
  memory      = "96MiB"
  disk        = "1GiB"
  disk_limit  = "2GiB"
  firmware    = "uefi"
  tpm         = true
  network     = [network.lab, network.out]
  display     = ["vnc", "rdp"]
  video       = "virtio"
  cache       = "none"
  libvirt_xml = "<devices/>"
  guest {
    hostname     = false
    script       = "echo"
    join         = directory.ad
    profile_path = "/srv/{user}"
    specialize   = "<unattend/>"
  }
}

policy "rules" {
  refresh {
    on       = "logoff"
    every    = "7d"
    max_age  = "14d"
    deadline = "2d"
    warn     = "1h"
    at {
      days = "sun"
      from = "02:00"
    }
  }
  rollout {
    max_unavailable      = "20%"
    max_surge            = 1
    canary               = 1
    healthy_after        = "1m"
    pause_after_failures = 2
    rollback             = false
    window               = window.nights
  }
  power {
    spare          = 1
    powered_on_max = 3
    schedule "lessons" {
      days           = "mon-fri"
      from           = "07:30"
      to             = "16:00"
      spare          = 2
      powered_on_max = 4
    }
  }
  session {
    idle_disconnect     = "20m"
    disconnected_logoff = "10m"
    max_duration        = "8h"
    warn                = "5m"
    per_user            = 2
  }
  channels {
    clipboard  = "both"
    usb        = ["*"]
    printers   = true
    drives     = true
    audio      = true
    microphone = true
    smartcards = true
  }
  drift {
    domain = "warn"
    disk   = "warn"
    image  = "warn"
    server = "enforce"
  }
}

policy "moments" {
  refresh {
    at {
      cron = "0 3 * * *"
    }
  }
}

pool "lab" {
  template   = template.desk
  desktops   = 4
  slots      = 6
  hostname   = "lab-{slot:02}"
  assignment = "pooled"
  policies   = [policy.rules]
  entitled   = [group(directory.ad, "Pupils")]
  hours      = window.nights
  servers    = ["fast"]
  protect    = true
  booking "exam" {
    from     = "2026-11-23 08:00"
    to       = "2026-11-23 10:00"
    template = template.desk
    entitled = [group(directory.ad, "Class 12")]
  }
}

pool "mine" {
  template     = template.desk
  desktops     = 2
  assignment   = "personal"
  copies       = 1
  max_copy_age = "1h"
}

server "s*" {
  labels           = ["fast"]
  keep_free_memory = "1GiB"
  keep_free_disk   = "10GiB"
  cordon           = true
}
