variable "name" {
}

variable "many" {
  type = list(number)
}

variable "list" {
  type = list(string)
}

variable "names" {
  default = "x"
}
