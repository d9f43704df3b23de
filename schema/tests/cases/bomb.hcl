locals {
  bomb = [for a in range(10000) : [for b in range(10000) : a * b]]
}

network "n" {
  user = true
}
