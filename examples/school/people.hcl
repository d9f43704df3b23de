directory "ad" {
  type          = "ad"
  uri           = ["ldaps://dc1.school.example", "ldaps://dc2.school.example"]
  ca_file       = "ad-ca.pem"
  bind_user     = "svc-coppice@school.example"
  bind_password = secret("ad-bind")
}
