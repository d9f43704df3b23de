pool "lab" {
  desktops = 1]
}
