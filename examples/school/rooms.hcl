pool "room12" {
  template   = template.classroom
  desktops   = 32
  hostname   = "ROOM12-{slot:02}"
  assignment = "pooled"
  policies   = [policy.pupils]
  entitled   = [group(directory.ad, "Pupils"), user(directory.ad, "t.weber")]
}
