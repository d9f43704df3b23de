locals {
  many_values = [for x in range(300) : range(4000)]
}
