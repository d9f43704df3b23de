# The three things that a card can be plugged into.

network "room" {
  bridge = "br-lab"
}

network "exam" {
  bridge = "br-lab"
  vlan   = 12
}

network "nat" {
  libvirt = "default"
}

network "dmz" {
  libvirt = "ovs"
  vlan    = 4094
}

network "alone" {
  user = true
}
