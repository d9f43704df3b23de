pool "p0" {
  desktops = = 1
}

pool "p1" {
  desktops = = 1
}

pool "p2" {
  desktops = = 1
}

pool "p3" {
  desktops = = 1
}

pool "p4" {
  desktops = = 1
}

pool "p5" {
  desktops = = 1
}

pool "p6" {
  desktops = = 1
}

pool "p7" {
  desktops = = 1
}

pool "p8" {
  desktops = = 1
}

pool "p9" {
  desktops = = 1
}

pool "p10" {
  desktops = = 1
}

pool "p11" {
  desktops = = 1
}

pool "p12" {
  desktops = = 1
}

pool "p13" {
  desktops = = 1
}

pool "p14" {
  desktops = = 1
}

pool "p15" {
  desktops = = 1
}

pool "p16" {
  desktops = = 1
}

pool "p17" {
  desktops = = 1
}

pool "p18" {
  desktops = = 1
}

pool "p19" {
  desktops = = 1
}

pool "p20" {
  desktops = = 1
}

pool "p21" {
  desktops = = 1
}
