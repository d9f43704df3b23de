grid "g" {
  certificate {
  }
}

moved "named" {
}
