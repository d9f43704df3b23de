policy "pupils" {
  refresh {
    on = "logoff"
  }
  session {
    idle_disconnect     = "20m"
    disconnected_logoff = "10m"
    max_duration        = "8h"
  }
  rollout {
    max_unavailable = "20%"
    canary          = 1
    window          = window.evenings
  }
  power {
    spare = 4
    schedule "lessons" {
      days  = "mon-fri"
      from  = "07:30"
      to    = "16:00"
      spare = 30
    }
  }
}
