variable "known" {
  default = 1
}

locals {
  right       = 1
  kind        = image
  variable    = var.knwon
  other       = local.rihgt
  key         = { for x in ["a"] : [x] => 1 }
  through     = [for x in 1 : x]
  no_element  = [1, 2]["a"]
  spread      = max(1...)
  left_over   = format("%s", "a", "b")
  exact       = 9007199254740991 * 3
  too_large   = 1e308 * 10.5

  inner {
  }
}

network "by-number" {
  for_each = 1
  user     = true
}

network "by-numbers" {
  for_each = [1, 2]
  user     = true
}

locals "named" {
}
