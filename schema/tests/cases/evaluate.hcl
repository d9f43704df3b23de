locals {
  zero        = 1 % 0
  divide      = 1 / 0
  short       = false && 1 / 0
  shortest    = true || local.short
  chosen      = true ? 1 : 1 / 0
  word        = 1 + "a"
  flag        = !"a"
  index       = [1, 2][2]
  key         = { a = 1 }.b
  text        = "x${[1]}"
  arguments   = lower()
  kind        = join(",", "a")
  twice       = { for x in ["a", "a"] : x => 1 }
  block       = image.a.os
  large       = 9007199254740993
  larger      = 9007199254740992 + 1
  step        = range(1, 5, -1)
  many        = range(20000)
  network     = cidrhost("10.0.0.0/30", 4)
  format      = format("%d", "a")
  too_few     = format("%s %s", "a")
  secret      = "x${secret("a")}"
}

image "a" {
  version = "1"
  os      = "linux"
}
