network "n" {
  user = true
}

image "i" {
  version     = "1"
  os          = "windows"
  agent       = false
  ready_after = "60s"
}

template "t" {
  image  = image.i
  memory = "1GiB"
}

policy "p" {
  rollout {
  }
  drift {
  }
}

pool "p" {
  template = template.t
  desktops = 1
  policies = [policy.p]
}
