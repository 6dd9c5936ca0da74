"""A proxy auto-configuration (PAC) file as the list of proxies: found, fetched, evaluated in a process of its own."""
