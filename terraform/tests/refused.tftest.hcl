# What the topology module refuses.

variables {
  cluster   = "example"
  domain    = "example.com"
  versions  = { relay = "0.2.0", backend = "0.2.0", witness = "0.2.0" }
  directory = { base = "o=isp" }
}

run "cluster_name" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    cluster = "Example"
  }
  expect_failures = [var.cluster]
}

run "domain_without_dot" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    domain = "localhost"
  }
  expect_failures = [var.domain]
}

run "no_relay" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    relays = 0
  }
  expect_failures = [var.relays]
}

run "half_a_relay" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    relays = 1.5
  }
  expect_failures = [var.relays]
}

run "no_pair" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    pairs = 0
  }
  expect_failures = [var.pairs]
}

run "too_many_pairs" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    pairs = 65
  }
  expect_failures = [var.pairs]
}

run "no_site" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    sites = []
  }
  expect_failures = [var.sites]
}

run "site_twice" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    sites = [{ name = "a", cidr = "10.1.0.0/16" }, { name = "a", cidr = "10.2.0.0/16" }]
  }
  expect_failures = [var.sites]
}

run "sites_overlap" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    sites = [{ name = "a", cidr = "10.0.0.0/16" }, { name = "b", cidr = "10.0.4.0/22" }]
  }
  expect_failures = [var.sites]
}

run "site_too_small" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    sites = [{ name = "a", cidr = "10.1.0.0/24" }]
  }
  expect_failures = [var.sites]
}

run "site_not_its_first_address" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    sites = [{ name = "a", cidr = "10.1.0.1/16" }]
  }
  expect_failures = [var.sites]
}

run "site_ipv6" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    sites = [{ name = "a", cidr = "fd00::/16" }]
  }
  expect_failures = [var.sites]
}

run "no_failure_domain" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    sites = [{ name = "a", cidr = "10.1.0.0/16", failure_domains = [] }]
  }
  expect_failures = [var.sites]
}

run "unknown_role" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    relay_roles = { default = ["mx", "web"] }
  }
  expect_failures = [var.relay_roles]
}

run "role_of_nobody" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    relay_roles = { relay9 = ["mx"] }
  }
  expect_failures = [output.cluster]
}

run "nobody_takes_mail" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    relay_roles = { default = ["proxy"] }
  }
  expect_failures = [output.cluster]
}

run "witness_site_unknown" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    witness_site = "moon"
  }
  expect_failures = [output.cluster]
}

run "generation_of_nobody" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    generations = { relay1 = 1 }
  }
  expect_failures = [output.cluster]
}

run "versions_far_apart" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    versions = { relay = "0.4.0", backend = "0.2.0", witness = "0.2.0" }
  }
  expect_failures = [var.versions]
}

run "versions_other_major" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    versions = { relay = "1.0.0", backend = "0.9.0", witness = "0.9.0" }
  }
  expect_failures = [var.versions]
}

run "version_is_a_word" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    versions = { relay = "latest", backend = "latest", witness = "latest" }
  }
  expect_failures = [var.versions]
}

run "port_0" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    ports = { raft = 0 }
  }
  expect_failures = [var.ports]
}

run "port_twice" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    ports = { imap = 993 }
  }
  expect_failures = [var.ports]
}

run "port_in_the_ten" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    ports = { raft = 2430 }
  }
  expect_failures = [var.ports]
}

run "directory_base" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    directory = { base = "isp" }
  }
  expect_failures = [var.directory]
}

run "directory_by_name" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    directory = { base = "o=isp", addresses = ["ldap.example.com"] }
  }
  expect_failures = [var.directory]
}

run "directory_url" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    directory = { base = "o=isp", urls = ["http://10.77.2.5"] }
  }
  expect_failures = [var.directory]
}

run "directory_bind_without_password_file" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    directory = { base = "o=isp", bind_dn = "cn=relay,o=isp" }
  }
  expect_failures = [var.directory]
}

run "resolver" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    resolvers = ["dns.example.com"]
  }
  expect_failures = [var.resolvers]
}

run "management_from_everywhere" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    management = ["0.0.0.0/0"]
  }
  expect_failures = [var.management]
}

run "public_address_of_nobody" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    public_addresses = { relay9 = "192.0.2.1" }
  }
  expect_failures = [output.cluster]
}

run "relative_state" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    state_dir = "state/{node}"
  }
  expect_failures = [var.state_dir]
}

run "options_of_nobody" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    options = { relais = {} }
  }
  expect_failures = [var.options]
}

run "options_no_map" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    options = "none"
  }
  expect_failures = [var.options]
}

run "hosts_two_for_a_pair" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    relays = 1
    hosts = {
      edge = { site = "a", zone = "dmz", address = "10.77.1.50" }
      m1   = { site = "a", zone = "data", address = "10.77.2.51" }
      m2   = { site = "a", zone = "data", address = "10.77.2.52" }
    }
  }
  expect_failures = [output.pairs]
}

run "witness_beside_its_replica" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    relays = 1
    hosts = {
      edge = { site = "a", zone = "dmz", address = "10.77.1.50" }
      m1   = { site = "a", zone = "data", address = "10.77.2.51" }
      m2   = { site = "a", zone = "data", address = "10.77.2.52" }
      m3   = { site = "a", zone = "data", address = "10.77.2.53" }
    }
    placement = { pair1 = { a = "m1", b = "m2", witness = "m1" } }
  }
  expect_failures = [output.pairs]
}

run "hosts_too_few_for_relays" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    relays = 2
    hosts = {
      edge = { site = "a", zone = "dmz", address = "10.77.1.50" }
      m1   = { site = "a", zone = "data", address = "10.77.2.51" }
      m2   = { site = "a", zone = "data", address = "10.77.2.52" }
      m3   = { site = "a", zone = "data", address = "10.77.2.53" }
    }
  }
  expect_failures = [output.nodes]
}

run "host_outside_its_zone" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    relays = 1
    hosts = {
      edge = { site = "a", zone = "dmz", address = "10.77.2.50" }
      m1   = { site = "a", zone = "data", address = "10.77.2.51" }
      m2   = { site = "a", zone = "data", address = "10.77.2.52" }
      m3   = { site = "a", zone = "data", address = "10.77.2.53" }
    }
  }
  expect_failures = [output.nodes]
}

run "placement_without_hosts" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    placement = { pair1 = { a = "m1", b = "m2", witness = "m3" } }
  }
  expect_failures = [output.pairs]
}

run "witness_site_full" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    witness_site = "south"
    sites        = [{ name = "north", cidr = "10.10.0.0/16", failure_domains = ["1", "2", "3"] }, { name = "south", cidr = "10.20.0.0/16" }]
  }
  expect_failures = [output.pairs]
}

run "zone_outside_the_domain" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    dns_zone = { name = "mx.example.org" }
  }
  expect_failures = [var.dns_zone]
}

run "zone_name_outside_the_zone" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    dns_zone = { name = "mx.example.com", names = ["imap.example.com"] }
  }
  expect_failures = [var.dns_zone]
}

run "zone_without_time" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    dns_zone = { name = "mx.example.com", ttl = 0 }
  }
  expect_failures = [var.dns_zone]
}

run "zone_of_unlike_relays" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    relay_roles = { relay2 = ["outbound"] }
    dns_zone    = { name = "mx.example.com" }
  }
  expect_failures = [output.cluster]
}
