locals {
  long = join("", [for x in range(9999) : "a text of 120 characters, so that ten thousand of them are more than one mebibyte in all, which nobody writes by hand"])
}
