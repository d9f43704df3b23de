# Two hundred desktops of one image, on whatever servers there are.
template "small" {
  image  = image.linux
  cpus   = 1
  memory = "2GiB"
}

# Any desktop for anybody: when a server is lost, others grow in place of those that it held.
pool "class" {
  template = template.small
  desktops = 120
  hostname = "class-{slot:03}"
}

pool "office" {
  template = template.small
  desktops = 74
  hostname = "office-{slot:02}"
}

# To each their own: what is on such a desktop is somebody's, so it waits for its server.
pool "design" {
  template   = template.small
  desktops   = 6
  hostname   = "design-{slot:02}"
  assignment = "personal"
}
