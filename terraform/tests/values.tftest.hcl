# What the topology module refuses in single values: what would reach a file, a path or
# a firewall as something else than it looks.

variables {
  cluster   = "example"
  domain    = "example.com"
  versions  = { relay = "0.2.0", backend = "0.2.0", witness = "0.2.0" }
  directory = { base = "o=isp" }
}

run "seed_with_a_slash" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    seed = "a/b"
  }
  expect_failures = [var.seed]
}

run "seed_with_a_line_break" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    seed = "a\nb"
  }
  expect_failures = [var.seed]
}

run "version_of_dots" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    versions = { relay = "0.2.0-..", backend = "0.2.0", witness = "0.2.0" }
  }
  expect_failures = [var.versions]
}

run "version_that_ends_in_a_hyphen" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    versions = { relay = "0.2.0", backend = "0.2.0-rc1-", witness = "0.2.0" }
  }
  expect_failures = [var.versions]
}

run "version_with_a_zero_before" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    versions = { relay = "0.02.0", backend = "0.2.0", witness = "0.2.0" }
  }
  expect_failures = [var.versions]
}

run "version_with_a_line_break" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    versions = { relay = "0.2.0\n", backend = "0.2.0", witness = "0.2.0" }
  }
  expect_failures = [var.versions]
}

run "half_a_port" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    ports = { lmtp = 2424.5 }
  }
  expect_failures = [var.ports]
}

run "half_a_directory_port" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    directory = { base = "o=isp", ports = [389.5] }
  }
  expect_failures = [var.directory]
}

run "half_a_second" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    dns_ttl = 60.5
  }
  expect_failures = [var.dns_ttl]
}

run "base_with_a_line_break" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    directory = { base = "o=isp\nx" }
  }
  expect_failures = [var.directory]
}

run "url_with_a_line_break" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    directory = { base = "o=isp", urls = ["ldap://a\nb"] }
  }
  expect_failures = [var.directory]
}

run "bind_dn_with_a_line_break" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    directory = { base = "o=isp", bind_dn = "cn=a\n", password_file = "p" }
  }
  expect_failures = [var.directory]
}

run "password_file_with_a_line_break" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    directory = { base = "o=isp", bind_dn = "cn=a", password_file = "p\n" }
  }
  expect_failures = [var.directory]
}

run "public_address_twice" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    public_addresses = { relay1 = "198.51.100.1", relay2 = "198.51.100.1" }
  }
  expect_failures = [var.public_addresses]
}

run "ipv6_of_a_site_only" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    public_addresses6 = { relay1 = "fd00::1" }
  }
  expect_failures = [var.public_addresses6]
}

run "ipv6_twice" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    public_addresses6 = { relay1 = "2001:db8::1", relay2 = "2001:db8:0:0:0:0:0:1" }
  }
  expect_failures = [var.public_addresses6]
}

run "state_dir_that_climbs" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    state_dir = "/var/lib/../{node}"
  }
  expect_failures = [var.state_dir]
}

run "state_dir_with_another_brace" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    state_dir = "/var/lib/{host}"
  }
  expect_failures = [var.state_dir]
}

run "operator_dir_that_climbs" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    operator_dir = "/etc/postern/.."
  }
  expect_failures = [var.operator_dir]
}

run "options_no_section" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    options = { relay = { smtp = "no" } }
  }
  expect_failures = [var.options]
}

run "options_of_a_list" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    options = { relay = { smtp = [1] } }
  }
  expect_failures = [var.options]
}

run "options_tier_no_map" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    options = { relay = "no" }
  }
  expect_failures = [var.options]
}

run "options_node" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    options = { backend = { node = "x" } }
  }
  expect_failures = [var.options]
}

run "options_groups" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    options = { backend = { groups = [] } }
  }
  expect_failures = [var.options]
}

run "options_with_a_dot" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    options = { relay = { "smtp.listen" = { x = 1 } } }
  }
  expect_failures = [var.options]
}

run "options_in_capitals" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    options = { relay = { SMTP = { listen = [":2525"] } } }
  }
  expect_failures = [var.options]
}

run "options_key_in_capitals" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    options = { relay = { smtp = { Listen = [":2525"] } } }
  }
  expect_failures = [var.options]
}

run "options_listen" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    options = { relay = { imap = { tls_listen = [":994"] } } }
  }
  expect_failures = [var.options]
}

run "options_admin" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    options = { witness = { admin = { listen = ":1" } } }
  }
  expect_failures = [var.options]
}

run "options_directory" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    options = { relay = { directory = { urls = ["ldap://elsewhere"] } } }
  }
  expect_failures = [var.options]
}

run "options_password" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    options = { relay = { directory = { password = "x" } } }
  }
  expect_failures = [var.options]
}

run "options_resolvers" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    options = { relay = { dns = { servers = ["192.0.2.1:53"] } } }
  }
  expect_failures = [var.options]
}

run "one_directory_for_two_nodes" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    relays    = 1
    pairs     = 2
    state_dir = "/var/lib/postern"
    sites     = [{ name = "a", cidr = "10.77.0.0/16", failure_domains = ["1", "2", "3"] }]
    hosts = {
      edge = { site = "a", zone = "dmz", address = "10.77.1.50" }
      m1   = { site = "a", zone = "data", address = "10.77.2.51", failure_domain = "1" }
      m2   = { site = "a", zone = "data", address = "10.77.2.52", failure_domain = "2" }
      m3   = { site = "a", zone = "data", address = "10.77.2.53", failure_domain = "3" }
    }
    placement = { pair2 = { a = "m2", b = "m3", witness = "m1" } }
  }
  expect_failures = [output.nodes]
}

# What is allowed all the same.
run "values_that_are_right" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    seed             = "2026-11"
    versions         = { relay = "0.2.0+4f1c2d3a9b77.dirty", backend = "0.2.1-rc1", witness = "0.2.0~beta-2" }
    state_dir        = "/srv/mail.d/{tier}-{node}"
    public_addresses = { relay1 = "198.51.100.1", relay2 = "198.51.100.2" }
    options = {
      relay   = { smtp = { max_size = "10MB" }, directory = { timeout = "3s" }, gossip = { advertise = "198.51.100.1:7946" }, retry = { schedule = ["5m"] } }
      backend = { log = { level = "debug" } }
      witness = {}
    }
  }
  assert {
    condition     = output.nodes["pair1-a"].dir == "/srv/mail.d/backend-pair1-a"
    error_message = "state_dir"
  }
  assert {
    condition     = yamldecode(output.configs["relay1"]).smtp.max_size == "10MB" && yamldecode(output.configs["relay1"]).smtp.listen == [":25"]
    error_message = "options are merged"
  }
}
