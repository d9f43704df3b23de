variable "given" {
}

variable "number" {
  type    = number
  default = "x"
}

variable "what" {
  type    = text
  default = "x"
}

variable "refused" {
  default = "xx"
  validation {
    condition     = length(var.refused) == 1
    error_message = "one letter"
  }
}

network "n" {
  for_each = ["a", "a"]
  user     = true
}

network "m" {
  for_each = { "A B" = 1 }
  user     = true
}

network "both" {
  for_each = { a = 1 }
  count    = 2
  user     = true
}

network "c" {
  count = "x"
  user  = true
}

image "i" {
  for_each = { a = 1 }
  version  = "1"
  os       = "linux"
}

network "lab-a" {
  user = true
}

network "lab" {
  for_each = { a = 1 }
  user     = true
}

template "t" {
  image   = image.i
  memory  = "1GiB"
  network = network.lab
}

template "u" {
  image   = image.i
  memory  = "1GiB"
  network = network.lab["b"]
}

moved {
  from = network.lab-a
  to   = network.gone
}

moved {
  from = network.gone
  to   = network.gone
}

moved {
  from = pool.x
  to   = network.lab["a"]
}

moved {
  from = 1
}
