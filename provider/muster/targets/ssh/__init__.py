"""SSH hosts: one connection and one hub per host, a queue at the first of them."""
