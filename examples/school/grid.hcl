grid "school" {
  timezone             = "Europe/Berlin"
  tolerate_server_loss = 1
}

window "evenings" {
  days = "mon-fri"
  from = "19:00"
  to   = "04:00"
}
