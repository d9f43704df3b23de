pool "lab" {
  template = template.lab
  desktops = 2
}
