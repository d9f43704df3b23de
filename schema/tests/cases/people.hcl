directory "plain" {
  type = "ldap"
  uri  = ["ldap://dc1.school.example", "dc2"]
}

directory "tls" {
  type          = "openldap"
  uri           = ["ldap://dc1.school.example"]
  start_tls     = true
  bind_user     = "svc"
  bind_password = "hunter2"
  ca_file       = "missing.pem"
}

directory "sso" {
  type = "oidc"
  uri  = ["http://login.school.example"]
}

directory "here" {
  type = "local"
  uri  = ["ldaps://x"]
}

directory "none" {
  type      = "ad"
  bind_user = "x"
}

locals {
  up   = "../x"
  text = file("../secret.pem")
  more = file(local.up)
}

pool "p" {
  template = template.t
  desktops = 1
  entitled = [group(directory.tls, "Pupils"), user("tls", "t.weber"), everyone(), location.lab, "all"]
}

template "t" {
  image  = image.i
  memory = "1GiB"
}

image "i" {
  version = "1"
  os      = "linux"
}

location "lab" {
  clients = ["10.1.0.0/16", "10.1.2.3/16"]
}

grid "g" {
  certificate {
    files {
      certificate_file = "${"a"}.pem"
      key              = secret("Bad Name")
    }
    acme {
      email   = "a@b"
      domains = []
    }
  }
}
