template "lab" {
  image       = image.lab
  memory      = "1GiB"
  libvirt_xml = file("extra.xml")
}

image "lab" {
  source = "lab.img"
  os     = "other"
  digest = "0000000000000000000000000000000000000000000000000000000000000000"
}

image "away" {
  source = "away.img"
  os     = "other"
}

image "known" {
  source = "known.img"
  os     = "other"
  digest = "0000000000000000000000000000000000000000000000000000000000000000"
}

pool "lab" {
  template = template.lab
  desktops = 2
}
