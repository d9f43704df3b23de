# What every function gives, where nothing is wrong: a server's labels show it. Labels are sorted; `join` keeps the order of
# a list.

locals {
  rooms  = { b202 = 4, a101 = 3 }
  merged = merge(local.rooms, { b202 = 5, c303 = 6 }, {})
  parts  = split(",", "Alpha,beta,,GAMMA")
  all    = concat([3, 1], [], [2, 1])
}

server "max" {
  labels = ["max=${max(3, 11, 7)}", "one=${max(-4)}", "spread=${max(local.all...)}"]
}

server "min" {
  labels = ["min=${min(3, -11, 7)}", "one=${min(4)}"]
}

server "merge" {
  labels = [for name, count in local.merged : "${name}=${count}"]
}

server "split" {
  labels = [join("+", local.parts), "length=${length(local.parts)}", join("+", split("", "abc")), join("+", split(", ", "a"))]
}

server "concat" {
  labels = [join("+", [for n in local.all : "${n}"]), "nothing=${length(concat())}"]
}

server "keys" {
  labels = [join("+", keys(local.rooms))]
}

server "values" {
  labels = [join("+", [for n in values(local.rooms) : "${n}"])]
}

server "contains" {
  labels = [
    "text=${contains(local.parts, "beta")}",
    "case=${contains(local.parts, "alpha")}",
    "number=${contains(local.all, 2)}",
    "kind=${contains(local.all, "2")}",
  ]
}

server "lower" {
  labels = [lower("RÄUME 12"), upper("räume 12")]
}

server "join" {
  labels = [join(", ", ["a", "b", "c"]), join("+", ["alone"]), "empty=${join("+", [])}"]
}

server "range" {
  labels = [
    "end=${join("+", [for n in range(4) : "${n}"])}",
    "start=${join("+", [for n in range(2, 5) : "${n}"])}",
    "step=${join("+", [for n in range(1, 8, 3) : "${n}"])}",
    "down=${join("+", [for n in range(3, 0) : "${n}"])}",
    "back=${join("+", [for n in range(9, 0, -4) : "${n}"])}",
    "negative=${join("+", [for n in range(-2) : "${n}"])}",
    "nothing=${length(range(5, 5))}",
  ]
}

server "cidrhost" {
  labels = [
    cidrhost("10.1.0.0/16", 0),
    cidrhost("10.1.0.0/16", 258),
    cidrhost("10.1.0.0/16", -1),
    cidrhost("10.9.9.9/32", 0),
    cidrhost("fd00:1::/64", 4097),
    cidrhost("fd00:1::/64", -1),
  ]
}

server "toset" {
  labels = [join("+", toset(["b", "a", "b"])), "length=${length("Größe")}"]
}

server "format" {
  labels = [
    format("%s has %d of %05d", "room", 3, 42),
    format("%.2f %x %t %v %%", 2.5, 255, true, "v"),
    format("%q", "a"),
  ]
}
