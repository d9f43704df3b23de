locals {
  template = "${join("", [for x in range(8000) : "a text of 120 characters, so that eight thousand of them are less than one mebibyte in all, and two more."])}${join("", [for x in range(8000) : "a text of 120 characters, so that eight thousand of them are less than one mebibyte in all, and two more."])}"
}
